"""The pure functions against loops in float64, and what they promise about masks, dtypes and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import draw_array, draw_mask, jit_quickly, make_key, precise
from oracles import attention
from tolerances import TOLERANCE, assert_close

from luna_jax import ops

DTYPES = ["float64", "float32"]


def apply_attend_oracle(query, key, value, mask):
    """Heads [B,N,H,K] through the oracle, which scales the query itself."""
    merged = [array.reshape(*array.shape[:2], -1) for array in (query * query.shape[-1] ** 0.5, key, value)]
    return attention.attend_in_heads(*merged, query.shape[2], mask).reshape(query.shape)


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
@pytest.mark.parametrize(("length", "context"), [(1, 1), (2, 17), (17, 2), (63, 5)])
def test_attend_is_softmax_attention_per_head(length, context, dtype):
    mask = draw_mask(1, 3, context)
    with precise(dtype):
        arrays = [jnp.asarray(draw_array(size, 3, size, 2, 4), dtype) for size in (length, context, context)]
        result = jit_quickly(ops.attend)(*arrays, jnp.asarray(mask))
        assert result.dtype == dtype
        assert_close(result, apply_attend_oracle(*(np.asarray(array, np.float64) for array in arrays), mask), dtype)


def test_heads_are_consecutive_parts_of_the_width():
    x = jnp.arange(24.0).reshape(1, 2, 12)
    heads = ops.split_heads(x, 3)
    assert heads.shape == (1, 2, 3, 4)
    assert heads[0, 1, 2].tolist() == [20.0, 21.0, 22.0, 23.0]
    assert (ops.merge_heads(heads) == x).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_softmax_is_the_softmax_over_real_positions(dtype):
    scores, mask = draw_array(0, 4, 9), draw_mask(2, 4, 9)
    with precise(dtype):
        result = ops.masked_softmax(jnp.asarray(scores, dtype), jnp.asarray(mask))
        expected = [attention.softmax_over_real(*pair) for pair in zip(scores, mask, strict=True)]
        assert_close(result, expected, dtype)
        assert (np.asarray(result)[~mask] == 0).all()
        everywhere = ops.masked_softmax(jnp.asarray(scores, dtype), None)
        assert_close(everywhere, [attention.softmax_over_real(row, np.ones(9, bool)) for row in scores], dtype)


@jit_quickly
def differentiate_masked_softmax(scores, mask, weights):
    """(softmax, gradient of its weighted sum)."""

    def total(scores):
        return (ops.masked_softmax(scores, mask) * weights).sum()

    return ops.masked_softmax(scores, mask), jax.grad(total)(scores)


def test_masked_softmax_of_a_row_without_real_positions_is_zero_with_zero_gradient():
    scores, mask = jnp.asarray([[1.0, 2.0], [1e30, -1e30]]), jnp.asarray([[False, False], [True, False]])
    result, gradient = differentiate_masked_softmax(scores, mask, jnp.asarray([[3.0, 5.0], [3.0, 5.0]]))
    assert result.tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert gradient.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@given(garbage=st.sampled_from([1e30, -1e30, float("nan"), float("inf"), float("-inf")]), seed=st.integers(0, 9))
def test_masked_scores_may_hold_anything(garbage, seed):
    scores, weights, mask = draw_array(seed, 3, 7), draw_array(seed + 1, 3, 7), draw_mask(seed, 3, 7)
    clean, clean_gradient = differentiate_masked_softmax(scores, mask, weights)
    spoiled, gradient = differentiate_masked_softmax(np.where(mask, scores, garbage), mask, weights)
    assert (np.asarray(spoiled) == clean).all()
    assert (np.asarray(gradient) == clean_gradient).all()
    assert (np.asarray(gradient)[~mask] == 0).all()


def test_softmax_of_bfloat16_scores_runs_in_float32():
    """Scores 256 and 257: bfloat16 cannot hold 257 and would call it a draw."""
    query = jnp.asarray([16.0, 1.0], jnp.bfloat16).reshape(1, 1, 1, 2)
    key = jnp.asarray([[16.0, 0.0], [16.0, 1.0]], jnp.bfloat16).reshape(1, 2, 1, 2)
    value = jnp.asarray([0.0, 1.0], jnp.bfloat16).reshape(1, 2, 1, 1) * jnp.ones((1, 2, 1, 2), jnp.bfloat16)
    result = ops.attend(query, key, value)
    assert result.dtype == jnp.bfloat16
    assert np.abs(np.asarray(result, np.float64) - 1 / (1 + np.exp(-1.0))).max() < TOLERANCE["bfloat16"]
    assert ops.masked_softmax(jnp.zeros((1, 2), jnp.bfloat16), None).dtype == jnp.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_mean_counts_real_positions_only(dtype):
    x, mask = draw_array(3, 3, 6, 2), draw_mask(4, 3, 6)
    with precise(dtype):
        spoiled = jnp.asarray(np.where(mask[..., None], x, np.nan), dtype)
        result = ops.masked_mean(spoiled, jnp.asarray(mask))
        assert_close(result, [row[real].mean(0) for row, real in zip(x, mask, strict=True)], dtype)
        gradient = jax.grad(lambda x: ops.masked_mean(x, jnp.asarray(mask)).sum())(spoiled)
        assert (np.asarray(gradient)[~mask] == 0).all()


def test_masked_mean_of_nothing_is_zero():
    assert (ops.masked_mean(jnp.ones((1, 3, 2)), jnp.zeros((1, 3), bool)) == 0).all()


def test_masked_mean_counts_beyond_the_integers_of_bfloat16():
    """257 is no bfloat16: a sum or a count that is kept in it would drift far."""
    ones = jnp.ones((1, 2001, 1), jnp.bfloat16)
    assert abs(float(ops.masked_mean(ones, jnp.ones((1, 2001), bool))[0, 0]) - 1.0) <= 2.0**-7


def test_sinusoid_table_has_sines_then_cosines():
    table = ops.sinusoid_table(5, 8)
    for position in range(5):
        for column in range(4):
            angle = position * 10000.0 ** (-column / 3)
            assert abs(table[position, column] - np.sin(angle)) < 1e-12
            assert abs(table[position, 4 + column] - np.cos(angle)) < 1e-12


def test_sinusoid_table_of_odd_width_ends_with_zeros():
    assert ops.sinusoid_table(3, 5).shape == (3, 5)
    assert (ops.sinusoid_table(3, 5)[:, -1] == 0).all()


def test_dropout_zeroes_at_its_rate_and_keeps_the_mean():
    x = jnp.full((200, 500), 2.0)
    dropped = ops.dropout(x, 0.3, make_key(0))
    kept = np.asarray(dropped != 0)
    assert abs(kept.mean() - 0.7) < 5 * (0.3 * 0.7 / x.size) ** 0.5
    np.testing.assert_allclose(np.asarray(dropped)[kept], 2.0 / 0.7, rtol=1e-6)
    assert (dropped == ops.dropout(x, 0.3, make_key(0))).all()
    assert (dropped != ops.dropout(x, 0.3, make_key(1))).any()


def test_dropout_without_key_or_rate_is_the_identity():
    x = jnp.arange(6.0).reshape(1, 2, 3)
    assert ops.dropout(x, 0.5, None) is x
    assert ops.dropout(x, 0.0, make_key(0)) is x


def test_dropout_gradient_is_zero_where_it_dropped():
    x = jnp.ones((40, 5))
    gradient = jax.grad(lambda x: ops.dropout(x, 0.5, make_key(0)).sum())(x)
    assert (gradient == ops.dropout(x, 0.5, make_key(0))).all()
