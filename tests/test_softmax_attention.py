"""Softmax attention against loops in float64, in every implementation that a CPU has."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from models import (
    EMB_DIM,
    assert_gradients_match,
    build,
    draw_array,
    draw_mask,
    jit_quickly,
    list_equations,
    make_key,
    precise,
    raises_naming,
    widen,
)
from oracles import attention
from tolerances import TOLERANCE, assert_close

from luna_jax.attention.softmax import SoftmaxAttention

IMPLEMENTATIONS = ["xla", "unfused"]


@cache
def build_softmax(implementation="xla", dtype="float32", **changes):
    settings = {"num_heads": 2, "implementation": implementation, "dtype": dtype} | changes
    settings["param_dtype"] = "float64" if dtype == "float64" else "float32"
    return build(lambda rngs: SoftmaxAttention(EMB_DIM, **settings, rngs=rngs))


# the kernels behind "xla" take their softmax in float32, so float64 does not go through them
@pytest.mark.parametrize(("implementation", "dtype"), [("xla", "float32"), ("xla", "float64"), ("unfused", "float32")])
@pytest.mark.parametrize("length", [1, 2, 17, 63])
def test_outputs_and_gradients_are_the_oracles(length, implementation, dtype):
    x, x_mask, cotangent = draw_array(1, 2, length, EMB_DIM), draw_mask(2, 2, length), draw_array(3, 2, length, EMB_DIM)
    cotangent = (cotangent * x_mask[..., None]).astype(dtype)
    with precise(dtype):
        apply, params = build_softmax(implementation, dtype)

        def loss(tree):
            y, p = apply(tree["params"], tree["x"], None, x_mask=x_mask)
            assert p is None
            return (y * cotangent).sum()

        def oracle_loss(tree):
            return (
                attention.softmax_attention(tree["params"], tree["x"], num_heads=2, x_mask=x_mask) * cotangent
            ).sum()

        assert_gradients_match(loss, oracle_loss, {"x": x, "params": widen(params)}, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_outputs_are_the_oracles_in_every_dtype(implementation, dtype):
    with precise(dtype):
        x, x_mask = jnp.asarray(draw_array(1, 2, 17, EMB_DIM), dtype), draw_mask(2, 2, 17)
        apply, params = build_softmax(implementation, dtype, num_heads=4)
        y, _ = jit_quickly(apply)(params, x, None, x_mask=x_mask)
        assert y.dtype == dtype
        expected = attention.softmax_attention(widen(params), np.asarray(x, np.float64), num_heads=4, x_mask=x_mask)
        assert_close(y, expected, dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_softmax_of_bfloat16_runs_in_float32(implementation):
    apply, params = build_softmax(implementation, "bfloat16")
    x = jnp.asarray(draw_array(1, 2, 17, EMB_DIM), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda: apply(params, x, None, x_mask=draw_mask(2, 2, 17)))().jaxpr
    exponentials = [equation for equation in list_equations(jaxpr) if equation.primitive.name == "exp"]
    assert [equation.outvars[0].aval.dtype.name for equation in exponentials] == ["float32"]


def test_dropout_falls_on_the_probabilities():
    apply, params = build_softmax(dropout_rate=0.5)
    x = draw_array(1, 2, 17, EMB_DIM)

    def run(key):
        return apply(params, x, None, deterministic=False, rngs=nnx.Rngs(dropout=key))[0]

    equations = list(list_equations(jax.make_jaxpr(run)(make_key(0)).jaxpr))
    draws = [equation.outvars[0].aval.shape for equation in equations if equation.primitive.name == "random_bits"]
    assert draws == [(2, 2, 17, 17)]
    first, again, other = (np.asarray(jit_quickly(run)(make_key(seed))) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_dropout_keeps_the_expected_value():
    apply, params = build_softmax(dropout_rate=0.4)
    num_rows = 4000
    x = np.broadcast_to(draw_array(1, 1, 5, EMB_DIM), (num_rows, 5, EMB_DIM))
    x_mask = np.broadcast_to(np.arange(5) < 3, (num_rows, 5))

    @jit_quickly
    def run(key, x, x_mask):
        dropped, _ = apply(params, x, None, x_mask=x_mask, deterministic=False, rngs=nnx.Rngs(dropout=key))
        return dropped, apply(params, x[:1], None, x_mask=x_mask[:1])[0]

    draws, expected = (np.asarray(array, np.float64) for array in run(make_key(0), x, x_mask))
    assert draws.std(0).max() > 0.05
    assert (np.abs(draws.mean(0) - expected[0]) <= 5 * draws.std(0) / num_rows**0.5 + 1e-6).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_deterministic_ignores_the_rate(implementation):
    x, x_mask = draw_array(1, 2, 17, EMB_DIM), draw_mask(2, 2, 17)
    plain, params = build_softmax(implementation)
    dropping, _ = build_softmax(implementation, dropout_rate=0.5)
    expected, _ = jit_quickly(plain)(params, x, None, x_mask=x_mask)
    assert (jit_quickly(dropping)(params, x, None, x_mask=x_mask)[0] == expected).all()


@cache
def compile_softmax(implementation):
    apply, params = build_softmax(implementation)

    def loss(params, x, x_mask):
        y, _ = apply(params, x, None, x_mask=x_mask)
        y = jnp.where(x_mask[..., None], y, 0.0)
        return (y * draw_array(3, *x.shape)).sum(), y

    compiled = jit_quickly(jax.grad(loss, argnums=(0, 1), has_aux=True))
    return lambda x, x_mask: jax.tree.map(np.asarray, compiled(params, x, x_mask))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(seed=st.integers(0, 99), garbage=st.sampled_from([1e30, -1e30, 1e9, -3.0]))
def test_padding_holds_any_garbage_and_gets_no_gradient(implementation, seed, garbage):
    x, x_mask = draw_array(seed, 2, 9, EMB_DIM), draw_mask(seed, 2, 9)
    clean = compile_softmax(implementation)(x, x_mask)
    spoiled = compile_softmax(implementation)(np.where(x_mask[..., None], x, garbage), x_mask)
    for actual, expected in zip(jax.tree.leaves(spoiled), jax.tree.leaves(clean), strict=True):
        assert (actual == expected).all()
    assert (spoiled[0][1][~x_mask] == 0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(seed=st.integers(0, 99))
def test_a_row_does_not_depend_on_its_batch_mates(implementation, seed):
    x, x_mask = draw_array(seed, 2, 9, EMB_DIM), draw_mask(seed, 2, 9)
    other, other_mask = np.stack([x[0], 100 * x[1]]), np.stack([x_mask[0], np.roll(x_mask[1], 1)])
    _, expected = compile_softmax(implementation)(x, x_mask)
    assert (compile_softmax(implementation)(other, other_mask)[1][0] == expected[0]).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_row_without_a_real_position_is_finite_and_so_is_its_gradient(implementation):
    x, x_mask = draw_array(1, 2, 9, EMB_DIM), np.stack([np.ones(9, bool), np.zeros(9, bool)])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(compile_softmax(implementation)(x, x_mask)))
    apply, params = build_softmax(implementation)
    assert np.isfinite(jit_quickly(apply)(params, x, None, x_mask=x_mask)[0]).all()


MISTAKES = {
    "p": ({"p": np.ones((2, 5, EMB_DIM), np.float32)}, ["p=None", "packed"]),
    "p_mask": ({"p_mask": np.ones((2, 5), bool)}, ["p_mask=None"]),
    "float_mask": ({"x_mask": np.ones((2, 4), np.float32)}, ["x_mask", "float32", "bool"]),
    "short_mask": ({"x_mask": np.ones((2, 3), bool)}, ["x_mask", "(2, 3)", "(2, 4)"]),
    "narrow_x": ({"x": np.ones((2, 4, 7), np.float32)}, ["x", "(2, 4, 7)", "8"]),
    "no_rngs": ({"deterministic": False}, ["deterministic=False", "rngs"]),
}


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_call_names_the_value_and_the_remedy(mistake):
    changes, words = MISTAKES[mistake]
    apply, params = build_softmax(dropout_rate=0.1)
    with raises_naming(words):
        apply(params, **({"x": np.ones((2, 4, EMB_DIM), np.float32), "p": None} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 3}, ["num_heads=3", "emb_dim=8"]),
        ({"dropout_rate": 1.5}, ["dropout_rate=1.5", "[0, 1)"]),
        ({"implementation": "flash"}, ["'flash'", "xla", "cudnn", "unfused"]),
        ({"implementation": "cudnn", "dropout_rate": 0.1}, ["cudnn", "dropout", "0.1", "xla"]),
    ],
)
def test_a_mistaken_setting_names_the_value_and_the_choices(changes, words):
    with raises_naming(words):
        SoftmaxAttention(EMB_DIM, **({"num_heads": 2} | changes), rngs=nnx.Rngs(0))
