"""Softmax attention in chunks against the unfused form: the same numbers, in memory linear in the length.

Of both sequences, or of the long one alone, as Luna's two attentions have it.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from growth import describe, find_largest_array
from models import (
    EMB_DIM,
    build,
    draw_array,
    draw_mask,
    jit_quickly,
    make_key,
    precise,
    raises_naming,
    widen,
)
from oracles import attention
from tolerances import assert_close, assert_gradient_close

from luna_jax.attention import chunked
from luna_jax.attention.chunked import attend_in_chunks, choose_chunk, pack_in_chunks, unpack_in_chunks
from luna_jax.attention.softmax import CPU_CHUNK, SoftmaxAttention
from luna_jax.ops import attend


@cache
def compile_gradients(attention, dtype="float64", **options):
    """(y, gradients of query, key and value) of the function under a random cotangent; options as they are."""

    def loss(heads, mask, cotangent):
        y = attention(*heads, mask, **options)
        return (y * cotangent).sum(), y

    compiled = jit_quickly(jax.value_and_grad(loss, has_aux=True))

    def run(heads, mask, cotangent):
        heads, cotangent = jax.tree.map(partial(jnp.asarray, dtype=dtype), (heads, cotangent))
        (_, y), gradients = compiled(heads, None if mask is None else jnp.asarray(mask), cotangent)
        return y, gradients

    return run


def draw_heads(length, context_length):
    query, cotangent = (draw_array(seed, 2, length, 2, 4) for seed in (1, 2))
    return [query * 2, *(draw_array(seed, 2, context_length, 2, 4) for seed in (3, 4))], cotangent


@pytest.mark.parametrize(
    ("form", "length", "context_length", "options", "dtype"),
    [
        (attend_in_chunks, 1, 1, {"chunk_size": 8, "causal": False}, "float64"),
        (attend_in_chunks, 63, 50, {"chunk_size": 7, "causal": True}, "float64"),
        (attend_in_chunks, 17, 17, {"chunk_size": 5, "causal": True}, "float32"),
        (pack_in_chunks, 5, 50, {"chunk_size": 16}, "float64"),
        (pack_in_chunks, 63, 17, {"chunk_size": 5}, "float64"),
        (unpack_in_chunks, 50, 5, {"chunk_size": 16}, "float64"),
        (unpack_in_chunks, 63, 17, {"chunk_size": 99}, "float32"),
    ],
)
def test_outputs_and_gradients_are_those_of_the_unfused_form(form, length, context_length, options, dtype):
    heads, cotangent = draw_heads(length, context_length)
    mask = None if length == 63 else draw_mask(5, 2, context_length)
    with precise(dtype):
        causal = options.get("causal", False)
        expected = compile_gradients(attend, dtype, causal=causal)(heads, mask, cotangent)
        actual = compile_gradients(form, dtype, **options)(heads, mask, cotangent)
    assert_close(actual[0], expected[0], dtype)
    for ours, theirs in zip(actual[1], expected[1], strict=True):
        assert_gradient_close(ours, theirs, dtype, unit=max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize(
    ("form", "options"),
    [(attend_in_chunks, {"causal": True}), (pack_in_chunks, {}), (unpack_in_chunks, {})],
)
def test_scores_of_any_size_and_rows_that_see_nothing_are_finite(form, options):
    heads, cotangent = draw_heads(17, 17)
    heads[0] *= 1e4
    mask = draw_mask(5, 2, 17)
    mask[0, :12], mask[1] = False, False
    y, gradients = compile_gradients(form, "float32", chunk_size=5, **options)(heads, mask, cotangent)
    expected, _ = compile_gradients(attend, "float32", **options)(heads, mask, cotangent)
    assert_close(y, expected, "float32")
    assert (np.asarray(y)[0, :12] == 0).all() == ("causal" in options)
    assert (np.asarray(y)[1] == 0).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert all((np.asarray(gradient)[1] == 0).all() for gradient in gradients)


@pytest.mark.parametrize("form", [attend_in_chunks, pack_in_chunks, unpack_in_chunks])
def test_dropout_drops_probabilities_by_the_rate_and_keeps_the_expected_value(form):
    num_rows, length, rate = 3000, 6, 0.25
    # with one-hot values the outputs are the dropped probabilities themselves
    rows = draw_array(1, 1, length, 1, length), draw_array(2, 1, length, 1, length), np.eye(length)[None, :, None, :]
    heads = [jnp.asarray(np.broadcast_to(x, (num_rows, length, 1, length)), jnp.float32) for x in rows]

    @jit_quickly
    def run(heads, key):
        dropped = form(*heads, chunk_size=2, dropout_rate=rate, dropout_key=key)
        return dropped, attend(*(x[:1] for x in heads))

    draws, expected = (np.asarray(array, np.float64) for array in run(heads, make_key(0)))
    kept = draws > 0
    assert abs(kept.mean() - (1 - rate)) < 0.01
    assert_close(draws[kept], np.broadcast_to(expected / (1 - rate), draws.shape)[kept], "float32")
    assert np.abs(draws.mean(0) - expected[0]).max() < 0.05
    flat = kept.reshape(num_rows, -1)
    correlations = np.corrcoef(flat, rowvar=False) - np.eye(flat.shape[1])
    assert np.abs(correlations).max() < 0.1, "two pairs of chunks were dropped by the same draw"


@pytest.mark.parametrize("form", [attend_in_chunks, pack_in_chunks, unpack_in_chunks])
def test_the_backward_pass_drops_what_the_forward_pass_dropped(form):
    length, options = 12, {"chunk_size": 5, "dropout_rate": 0.5, "dropout_key": make_key(0)}
    heads, cotangent = draw_heads(length, length)
    with precise("float64"):
        heads, direction = [jnp.asarray(x) for x in heads], jnp.asarray(draw_array(7, 2, length, 2, 4))

        def move(step):
            moved = [x + step * direction for x in heads]
            return (form(*moved, **options) * cotangent).sum()

        value_and_slope = jit_quickly(jax.value_and_grad(move))
        (after, _), (before, _), (_, slope) = (value_and_slope(step) for step in (1e-5, -1e-5, 0.0))
        assert abs((after - before) / 2e-5 - slope) < 1e-6 * abs(slope)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.1])
def test_no_array_is_larger_than_the_query(dropout_rate):
    length = 1024

    def loss(heads):
        options = {"causal": True, "dropout_rate": dropout_rate, "dropout_key": make_key(0)}
        return attend_in_chunks(*heads, jnp.ones((1, length), bool), chunk_size=16, **options).sum()

    assert find_largest_array(loss, [describe((1, length, 2, 8))] * 3) == length * 2 * 8


@pytest.mark.parametrize(("form", "lengths"), [(pack_in_chunks, (8, 1024)), (unpack_in_chunks, (1024, 8))])
def test_no_array_has_as_many_entries_as_scores(form, lengths):
    def loss(heads):
        return form(*heads, chunk_size=16, dropout_rate=0.1, dropout_key=make_key(0)).sum()

    shapes = [describe((1, length, 2, 2)) for length in (lengths[0], lengths[1], lengths[1])]
    assert find_largest_array(loss, shapes) <= 1024 * 2 * 2 + 1024 / 16 * 2 * 2 * 8
    assert find_largest_array(lambda heads: attend(*heads).sum(), shapes) >= 8 * 1024 * 2


@pytest.mark.parametrize(("scores", "wanted"), [(2 * 4 * 256, 512), (2**20, 64), (2**21, 64), (3, 2**18)])
def test_a_chunk_is_a_power_of_two_whose_scores_stay_in_the_cache(scores, wanted):
    assert choose_chunk(scores) == wanted


def test_elsewhere_a_chunk_is_larger(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose_chunk(32 * 8 * 256) == 1024
    assert chunked.SCORES_AT_ONCE.keys() == {"cpu"}


def test_on_a_cpu_the_fused_kernel_is_chunks():
    apply, params = build(lambda rngs: SoftmaxAttention(EMB_DIM, num_heads=2, implementation="xla", rngs=rngs))
    length = CPU_CHUNK + 22
    x, x_mask = draw_array(1, 2, length, EMB_DIM), draw_mask(2, 2, length)
    y = jit_quickly(lambda x: apply(params, x, None, x_mask=x_mask)[0])(jnp.asarray(x, "float32"))
    assert_close(y, attention.softmax_attention(widen(params), x, num_heads=2, x_mask=x_mask), "float32")

    def loss(x):
        return apply(params, x, None)[0].sum()

    assert find_largest_array(loss, describe((2, length, EMB_DIM))) < 2 * 2 * length**2
    short = describe((2, CPU_CHUNK, EMB_DIM))
    assert find_largest_array(loss, short) == 2 * 2 * CPU_CHUNK**2


def test_the_module_computes_and_drops_in_chunks():
    settings = {"num_heads": 2, "implementation": "chunked", "chunk_size": 5, "dropout_rate": 0.5, "dtype": "bfloat16"}
    apply, params = build(lambda rngs: SoftmaxAttention(EMB_DIM, **settings, rngs=rngs))
    x, x_mask = jnp.asarray(draw_array(1, 2, 17, EMB_DIM), "bfloat16"), draw_mask(2, 2, 17)

    def run(x):
        dropped, _ = apply(params, x, None, x_mask=x_mask, deterministic=False, rngs=nnx.Rngs(dropout=make_key(0)))
        return apply(params, x, None, x_mask=x_mask)[0], dropped

    y, dropped = jit_quickly(run)(x)
    expected = attention.softmax_attention(widen(params), np.asarray(x, np.float64), num_heads=2, x_mask=x_mask)
    assert_close(y, expected, "bfloat16")
    assert (y != dropped).any()
    assert find_largest_array(lambda x: sum(y.sum() for y in run(x)), x) < 2 * 2 * 17 * 17


def test_a_mistaken_chunk_size_names_the_value_and_what_is_allowed():
    with raises_naming(["chunk_size=0", "whole number", "at least 1"]):
        SoftmaxAttention(EMB_DIM, num_heads=2, implementation="chunked", chunk_size=0, rngs=nnx.Rngs(0))
