"""The encoder layer against the oracle: norm placement, activations, dropout places, and both attentions."""

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
    MLP_DIM,
    PACK_LENGTH,
    assert_gradients_match,
    build,
    draw_array,
    draw_mask,
    jit_quickly,
    list_equations,
    make_key,
    make_layer_config,
    make_luna_config,
    make_softmax_config,
    precise,
    raises_naming,
    read_layer,
    widen,
)
from oracles import encoder
from tolerances import assert_close

from luna_jax.layers import EncoderLayer

ATTENTIONS = {"luna": make_luna_config(), "softmax": make_softmax_config()}


@cache
def build_layer(attention="luna", dtype="float32", **changes):
    config = make_layer_config(ATTENTIONS[attention], dtype, **changes)
    return build(lambda rngs: EncoderLayer(config, rngs=rngs))


def draw_inputs(attention, length):
    """(arrays, masks) of two rows; no p for softmax attention."""
    arrays = {"x": draw_array(1, 2, length, EMB_DIM)}
    masks = {"x_mask": draw_mask(2, 2, length)}
    if attention == "luna":
        arrays["p"] = draw_array(3, 2, PACK_LENGTH, EMB_DIM)
        masks["p_mask"] = draw_mask(4, 2, PACK_LENGTH)
    return arrays, masks


def run_oracle(params, arrays, masks, **settings):
    settings = encoder.Settings(num_heads=2, num_pack_heads=4, **settings)
    return encoder.encoder_layer(read_layer(params), arrays["x"], arrays.get("p"), settings, **masks)


def weigh(x, p):
    """A scalar in which every output entry has its own weight."""
    total = (x * draw_array(8, *x.shape)).sum()
    return total if p is None else total + (p * draw_array(9, *p.shape)).sum()


CASES = [("luna", "post", "gelu", length) for length in (1, 2, 17, 63)]
CASES += [("luna", "pre", "relu", 17), ("softmax", "post", "relu", 17), ("softmax", "pre", "gelu", 2)]


@pytest.mark.parametrize(("attention", "norm", "activation", "length"), CASES)
def test_outputs_and_gradients_are_the_oracles(attention, norm, activation, length):
    with precise("float64"):
        arrays, masks = draw_inputs(attention, length)
        apply, params = build_layer(attention, "float64", norm=norm, activation=activation)

        def loss(tree):
            return weigh(*apply(tree["params"], **tree["arrays"], **masks))

        def oracle_loss(tree):
            return weigh(*run_oracle(tree["params"], tree["arrays"], masks, norm=norm, activation=activation))

        tree = {"arrays": arrays, "params": widen(params)}
        assert_gradients_match(loss, oracle_loss, tree)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_outputs_are_the_oracles_in_lower_precision(attention, norm, dtype):
    arrays, masks = draw_inputs(attention, 17)
    apply, params = build_layer(attention, dtype, norm=norm)
    inputs = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    x, p = jit_quickly(apply)(params, **inputs, **masks)
    expected_x, expected_p = run_oracle(widen(params), widen(inputs), masks, norm=norm)
    assert x.dtype == dtype
    assert_close(x, expected_x, dtype, what="x")
    if attention == "softmax":
        assert p is None
    else:
        assert p.dtype == dtype
        assert_close(p, expected_p, dtype, what="p")


def test_gelu_and_norms_of_bfloat16_run_in_float32():
    apply, params = build_layer("luna", "bfloat16")
    arrays, masks = draw_inputs("luna", 17)
    inputs = {name: jnp.asarray(array, jnp.bfloat16) for name, array in arrays.items()}
    equations = list(list_equations(jax.make_jaxpr(lambda: apply(params, **inputs, **masks))().jaxpr))
    for names, count in ((("erf", "erfc"), 1), (("rsqrt",), 3)):
        dtypes = [each.outvars[0].aval.dtype.name for each in equations if each.primitive.name in names]
        assert dtypes == ["float32"] * count


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_dropout_falls_on_both_attention_outputs_inside_and_behind_the_feed_forward(norm):
    apply, params = build_layer(norm=norm, dropout_rate=0.5, activation_dropout_rate=0.25)
    arrays, masks = draw_inputs("luna", 17)

    def run(key):
        return apply(params, **arrays, **masks, deterministic=False, rngs=nnx.Rngs(dropout=key))

    equations = list_equations(jax.make_jaxpr(run)(make_key(0)).jaxpr)
    draws = [equation.outvars[0].aval.shape for equation in equations if equation.primitive.name == "random_bits"]
    assert sorted(draws) == sorted([(2, 17, EMB_DIM), (2, PACK_LENGTH, EMB_DIM), (2, 17, MLP_DIM), (2, 17, EMB_DIM)])
    results = [jit_quickly(run)(make_key(seed)) for seed in (0, 0, 1)]
    for first, again, other in zip(*results, strict=True):
        assert (np.asarray(first) == again).all()
        assert (np.asarray(first) != other).any()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_deterministic_ignores_every_rate(attention):
    arrays, masks = draw_inputs(attention, 17)
    plain, params = build_layer(attention)
    dropping, _ = build_layer(attention, dropout_rate=0.5, activation_dropout_rate=0.5)
    expected = jax.tree.leaves(jit_quickly(plain)(params, **arrays, **masks))
    actual = jax.tree.leaves(jit_quickly(dropping)(params, **arrays, **masks))
    assert all(
        (np.asarray(a) == b).all() for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    )


def test_dropout_in_the_residual_keeps_its_expected_value():
    """Pre-norm adds the dropped parts to the residual, so the mean over keys of x1 = x + dropped Y_X is known."""
    config = make_layer_config(norm="pre", dropout_rate=0.4)
    apply, params = build(lambda rngs: EncoderLayer(config, rngs=rngs))
    params["feed_forward"] = jax.tree.map(jnp.zeros_like, params["feed_forward"])
    num_rows = 4000
    x, p = (np.broadcast_to(draw_array(seed, 1, 5, EMB_DIM), (num_rows, 5, EMB_DIM)) for seed in (1, 2))

    @jit_quickly
    def run(key, x, p):
        return apply(params, x, p, deterministic=False, rngs=nnx.Rngs(dropout=key)), apply(params, x[:1], p[:1])

    for draws, expected in zip(*run(make_key(0), x, p), strict=True):
        draws = np.asarray(draws, np.float64)
        assert draws.std(0).min() > 0
        assert (np.abs(draws.mean(0) - expected[0]) <= 5 * draws.std(0) / num_rows**0.5 + 1e-6).all()


@cache
def compile_layer(norm):
    apply, params = build_layer(norm=norm)

    def loss(params, arrays, masks):
        x, p = apply(params, **arrays, **masks)
        x, p = jnp.where(masks["x_mask"][..., None], x, 0.0), jnp.where(masks["p_mask"][..., None], p, 0.0)
        return weigh(x, p), (x, p)

    compiled = jit_quickly(jax.grad(loss, argnums=(0, 1), has_aux=True))
    return lambda arrays, masks: jax.tree.map(np.asarray, compiled(params, arrays, masks))


# the variance of 1e15 is still a float32, that of 1e30 is none
@pytest.mark.parametrize("norm", ["post", "pre"])
@given(seed=st.integers(0, 99), garbage=st.sampled_from([1e15, -1e15, 1e6, -3.0]))
def test_padding_holds_any_garbage_and_gets_no_gradient(norm, seed, garbage):
    arrays, _ = draw_inputs("luna", 9)
    masks = {"x_mask": draw_mask(seed, 2, 9), "p_mask": draw_mask(seed + 1, 2, PACK_LENGTH)}
    spoiled = {name: np.where(masks[f"{name}_mask"][..., None], array, garbage) for name, array in arrays.items()}
    clean, actual = compile_layer(norm)(arrays, masks), compile_layer(norm)(spoiled, masks)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(clean), strict=True):
        assert (left == right).all()
    for name, gradient in actual[0][1].items():
        assert (gradient[~masks[f"{name}_mask"]] == 0).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "middle"}, ["norm='middle'", "post", "pre"]),
        ({"activation": "swish"}, ["activation='swish'", "gelu", "relu"]),
        ({"dropout_rate": 1.0}, ["dropout_rate=1.0", "[0, 1)"]),
        ({"activation_dropout_rate": -1.0}, ["activation_dropout_rate=-1.0", "[0, 1)"]),
    ],
)
def test_a_mistaken_setting_names_the_value_and_the_choices(changes, words):
    with raises_naming(words):
        make_layer_config(**changes)


def test_training_without_rngs_is_refused():
    apply, params = build_layer()
    arrays, masks = draw_inputs("luna", 2)
    with pytest.raises(ValueError, match="deterministic=False needs rngs"):
        apply(params, **arrays, **masks, deterministic=False)
