"""Causal Luna attention: three equal forms, an oracle in loops, the past alone, padding, states and pieces."""

from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from growth import describe, find_largest_array
from hypothesis import given
from hypothesis import strategies as st
from models import (
    EMB_DIM,
    PACK_LENGTH,
    assert_gradients_match,
    build,
    draw_array,
    draw_mask,
    jit_quickly,
    make_key,
    make_luna_config,
    precise,
    raises_naming,
    widen,
)
from oracles.causal import causal_luna
from tolerances import TOLERANCE, assert_close

from luna_jax.attention.causal_luna import CausalLunaAttention
from luna_jax.causal import elu_plus_1, run_pieces, softplus_base_2

VARIANTS = {
    "untied": {"tie_kv": False, "weight": "softplus"},
    "tied": {"tie_kv": True, "weight": "softplus"},
    "elu": {"tie_kv": True, "weight": "elu"},
}
LENGTHS = (1, 2, 17, 63)


@cache
def build_causal(variant="untied", dtype="float32", chunk_size=8, **changes):
    types = {"dtype": dtype, "param_dtype": "float64" if dtype == "float64" else "float32"}
    settings = VARIANTS[variant] | {"num_heads": 2, "chunk_size": chunk_size} | types | changes
    return build(lambda rngs: CausalLunaAttention(EMB_DIM, **settings, rngs=rngs))


def draw_inputs(length, num_rows=2):
    return draw_array(1, num_rows, length, EMB_DIM), draw_array(2, num_rows, PACK_LENGTH, EMB_DIM)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_gradients_are_the_oracles(variant, length):
    x, p = draw_inputs(length)
    masks = {"x_mask": draw_mask(4, 2, length), "p_mask": draw_mask(3, 2, PACK_LENGTH)}
    cotangent = draw_array(5, 2, length, EMB_DIM) * masks["x_mask"][..., None]
    with precise("float64"):
        apply, params = build_causal(variant, "float64")

        def loss(tree):
            return (apply(tree["params"], tree["x"], tree["p"], **masks)[0] * cotangent).sum()

        def oracle_loss(tree):
            options = VARIANTS[variant] | {"num_heads": 2}
            options.pop("tie_kv")
            return (causal_luna(tree["params"], tree["x"], tree["p"], **options, **masks) * cotangent).sum()

        assert_gradients_match(loss, oracle_loss, {"x": x, "p": p, "params": widen(params)})


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_outputs_are_the_oracles_in_every_dtype(dtype):
    x, p = draw_inputs(17)
    with precise(dtype):
        apply, params = build_causal("untied", dtype)
        x, p = jnp.asarray(x, dtype), jnp.asarray(p, dtype)
        y, packed = jit_quickly(apply)(params, x, p)
        assert y.dtype == dtype
        assert packed is None
        expected = causal_luna(widen(params), np.asarray(x, np.float64), np.asarray(p, np.float64), num_heads=2)
        assert_close(y, expected, dtype, what="y")


@pytest.mark.parametrize(("length", "chunk_size"), [(2, 3), (17, 5), (63, 8), (63, 64), (1000, 7), (1000, 96)])
def test_chunks_are_the_recurrence_and_the_reference(length, chunk_size):
    """Outputs and gradients in float64: in chunks, with a state for every position, and position by position."""
    x, p = draw_inputs(length)
    mask = draw_mask(4, 2, length)
    cotangent = draw_array(5, 2, length, EMB_DIM) * mask[..., None]
    with precise("float64"):
        apply, params = build_causal("untied", "float64")

        def run_whole(apply, params, x, p):
            return apply(params, x, p, x_mask=mask)[0]

        def run_steps(params, x, p):
            def step(state, position):
                x_t, real = position
                y, state = apply(params, x_t[:, None], state, x_mask=real[:, None], method="attend")
                return state, y[:, 0]

            start = apply(params, p, method="start")
            return jnp.moveaxis(jax.lax.scan(step, start, (jnp.moveaxis(x, 1, 0), mask.T))[1], 0, 1)

        def differentiate(run):
            return jit_quickly(jax.value_and_grad(lambda *args: (run(*args) * cotangent).sum(), argnums=(0, 1, 2)))(
                params, x, p
            )

        expected = differentiate(run_steps)
        forms = {"chunks": chunk_size, "every position": None}
        for name, form in forms.items():
            value, gradients = differentiate(partial(run_whole, build_causal("untied", "float64", form)[0]))
            assert abs(value - expected[0]) <= 1e-10 * max(1.0, abs(expected[0])), name
            for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected[1]), strict=True):
                assert_close(ours, theirs, "float64", what=name)


@pytest.mark.parametrize("position", [0, 7, 8, 15])
def test_no_gradient_comes_from_the_future(position):
    """Exactly zero, at both sides of a chunk's border; and every position of the past has one."""
    x, p = draw_inputs(17)
    apply, params = build_causal()
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(apply(params, x, jnp.asarray(p, jnp.float32))[0][:, position])))
    found = np.asarray(jit_quickly(gradient)(jnp.asarray(x, jnp.float32)))
    assert not found[:, position + 1 :].any()
    assert np.abs(found[:, : position + 1]).max(axis=-1).min() > 0


@cache
def compile_padded():
    """(x, mask) -> (y, the gradient of x where real positions alone have a cotangent)."""
    apply, params = build_causal()
    _, p = draw_inputs(17)
    p = jnp.asarray(p, jnp.float32)

    def run(x, mask):
        y = apply(params, x, p, x_mask=mask)[0]
        return jnp.sum(jnp.where(mask[..., None], jnp.sin(y), 0.0)), y

    return jit_quickly(jax.value_and_grad(run, has_aux=True))


@given(seed=st.integers(0, 99), place=st.integers(0, 16), garbage=st.floats(-1e30, 1e30))
def test_what_stands_at_padding_does_not_matter(seed, place, garbage):
    """Wherever padding stands and whatever it holds, real positions are the same, and it has no gradient."""
    x, mask = jnp.asarray(draw_inputs(17)[0], jnp.float32), np.random.default_rng(seed).random((2, 17)) < 0.7
    mask[:, place] = True
    (_, expected), _ = compile_padded()(x, mask)
    (_, spoiled), gradient = compile_padded()(jnp.where(mask[..., None], x, jnp.float32(garbage)), mask)
    assert (np.asarray(spoiled)[mask] == np.asarray(expected)[mask]).all()
    assert not np.asarray(gradient)[~mask].any()


def test_padding_is_neither_summed_nor_counted():
    """Real positions among padding are what they are without it."""
    x, p = (jnp.asarray(array, jnp.float32) for array in draw_inputs(17))
    mask = np.random.default_rng(5).random((2, 17)) < 0.6
    (_, expected), _ = compile_padded()(x, mask)
    apply, params = build_causal()
    alone = jit_quickly(lambda x: apply(params, x, p[:1])[0])(x[:1, mask[0]])
    np.testing.assert_allclose(alone[0], np.asarray(expected)[0][mask[0]], atol=1e-5)


@pytest.mark.parametrize(("cuts", "chunk_size"), [([], 7), ([0, 13], 5), ([1, 2, 39], 64), ([20, 20, 33], 8)])
def test_pieces_are_the_whole(cuts, chunk_size):
    """A state that goes out of one piece and into the next, pieces of no position too: outputs and the last state."""
    x, p = draw_inputs(40)
    mask = draw_mask(4, 2, 40)
    with precise("float64"):
        apply, params = build_causal("tied", "float64", chunk_size)

        def run(x, borders):
            pieces = [(x[:, a:b], mask[:, a:b]) for a, b in pairwise(borders)]

            def attend(state, piece):
                return apply(params, piece[0], state, x_mask=piece[1], method="attend")

            return run_pieces(attend, apply(params, p, method="start"), pieces)

        whole, after = jit_quickly(partial(run, borders=[0, 40]))(jnp.asarray(x))
        parts, after_parts = jit_quickly(partial(run, borders=[0, *cuts, 40]))(jnp.asarray(x))
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole[0], atol=1e-12)
        for ours, theirs in zip(after_parts, after, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
        assert after.count.tolist() == mask.sum(1).tolist()


@pytest.mark.parametrize("kept", [1, 2, None])
def test_gradients_flow_through_the_last_pieces(kept):
    x, p = draw_inputs(20)
    with precise("float64"):
        apply, params = build_causal("untied", "float64", 3)

        def loss(x):
            pieces = [x[:, begin : begin + 5] for begin in range(0, 20, 5)]
            state = apply(params, p, method="start")
            step = lambda state, piece: apply(params, piece, state, method="attend")  # noqa: E731
            outputs, _ = run_pieces(step, state, pieces, gradient_pieces=kept)
            return jnp.sum(jnp.sin(outputs[-1]))

        def truncated(x):
            x = (
                x
                if kept is None
                else jnp.concatenate([jax.lax.stop_gradient(x[:, : 20 - 5 * kept]), x[:, 20 - 5 * kept :]], axis=1)
            )
            return jnp.sum(jnp.sin(apply(params, x, p)[0][:, -5:]))

        expected = jit_quickly(jax.grad(truncated))(jnp.asarray(x))
        np.testing.assert_allclose(jit_quickly(jax.grad(loss))(jnp.asarray(x)), expected, atol=1e-12)
        reached = np.abs(np.asarray(expected)).max(axis=(0, 2)) > 0
        assert reached.tolist() == [kept is None or position >= 20 - 5 * kept for position in range(20)]
    with raises_naming(["gradient_pieces=0", "at least 1"]):
        run_pieces(lambda state, piece: (piece, state), 0, [1], gradient_pieces=0)


def test_dropout_falls_on_both_weights_and_not_on_the_chunks():
    """The draws are the same in any chunks; the mean over draws comes near the output without; no key, an error."""
    x, p = (jnp.asarray(array, jnp.float32) for array in draw_inputs(17))

    def run(chunk_size, seed):
        apply = built[chunk_size]
        return apply(params, x, p, deterministic=False, rngs=nnx.Rngs(dropout=make_key(seed)))[0]

    built = {size: build_causal("untied", "float32", size, dropout_rate=0.4)[0] for size in (4, 17)}
    apply, params = built[4], build_causal()[1]
    first = np.asarray(jit_quickly(partial(run, 4))(0))
    np.testing.assert_allclose(np.asarray(jit_quickly(partial(run, 17))(0)), first, atol=1e-5)
    assert np.abs(np.asarray(jit_quickly(partial(run, 4))(1)) - first).max() > 1e-2
    apply, params = build_causal("untied", "float32", 4, dropout_rate=0.4)
    with raises_naming(["deterministic=False", "rngs"]):
        apply(params, x, p, deterministic=False)


def test_the_largest_array_grows_with_the_length_alone():
    """In chunks nothing has N x N or N x K x L entries; with every position's state something has the latter."""

    def measure(chunk_size, length):
        apply, params = build_causal("untied", "float32", chunk_size, num_heads=1)
        x, p = describe((1, length, EMB_DIM)), describe((1, PACK_LENGTH, EMB_DIM))
        return find_largest_array(lambda params, x, p: jnp.sum(apply(params, x, p)[0]), params, x, p)

    assert measure(8, 512) == 2 * measure(8, 256) == 512 * EMB_DIM
    assert measure(None, 512) == 512 * EMB_DIM * PACK_LENGTH


def test_weights_are_one_at_zero():
    z = jnp.asarray([-30.0, -1.0, 0.0, 1.0, 200.0])
    np.testing.assert_allclose(softplus_base_2(z), np.log2(1 + 2.0 ** np.asarray(z, np.float64)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(elu_plus_1(z), [np.exp(-30), np.exp(-1), 1, 2, 201], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("variant", "num_projections"), [("tied", 5), ("untied", 6)])
def test_parameters_are_five_or_six_square_projections(variant, num_projections):
    _, params = build_causal(variant)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_projections * (EMB_DIM**2 + EMB_DIM)


MISTAKES = {
    "heads": ({"num_heads": 3}, ["num_heads=3", "emb_dim=8"]),
    "weight": ({"weight": "softmax"}, ["weight='softmax'", "softplus", "elu"]),
    "chunk": ({"chunk_size": 0}, ["chunk_size=0", "at least 1"]),
    "rate": ({"dropout_rate": 1.0}, ["dropout_rate=1.0", "[0, 1)"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_construction(name, unchecked_shapes):
    changes, words = MISTAKES[name]
    with raises_naming(words):
        CausalLunaAttention(EMB_DIM, **({"num_heads": 2} | changes), rngs=nnx.Rngs(0))


def test_mistakes_of_a_configuration():
    with raises_naming(["causal=True", "contextual_pack=False"]):
        make_luna_config(causal=True)
    with raises_naming(["num_pack_heads", "num_heads=2"]):
        make_luna_config(causal=True, contextual_pack=False)
    assert not make_luna_config(causal=True, contextual_pack=False, num_pack_heads=2).updates_pack


def test_mistakes_of_a_call(unchecked_shapes):
    apply, params = build_causal()
    x, p = (jnp.asarray(array, jnp.float32) for array in draw_inputs(5))
    for arguments, words in [
        ((x, None), ["pack query p", "None"]),
        ((x[..., :4], p), ["x has shape (2, 5, 4)"]),
        ((x, p[..., :4]), ["p has shape"]),
    ]:
        with raises_naming(words):
            apply(params, *arguments)
    with raises_naming(["x_mask has dtype float32"]):
        apply(params, x, p, x_mask=jnp.ones((2, 5)))
