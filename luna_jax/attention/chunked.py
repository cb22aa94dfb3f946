"""Softmax attention without the N x N array (Rabe and Staats 2021, arXiv 2112.05682, sections 2 and 3).

Per query, over chunks c of keys, one after the other, with s_m = q . k_m and the maximum a of what was seen so far:

    a' = max(a, max_m s_m)      l' = l e^(a - a') + sum_m e^(s_m - a')      v' = v e^(a - a') + sum_m e^(s_m - a') v_m

and the output is v / l at the end: softmax attention to rounding, in any chunks. Queries go in chunks too, so that
T x T scores are all there is at a time, and the backward pass computes them anew (`jax.checkpoint`).

Where one of the two sequences is short, as Luna's packed one is, the long one alone goes in chunks: `pack_in_chunks`
where it is the context, `unpack_in_chunks` where it asks. Then L x T scores are all there is at a time.
"""

from functools import partial

import jax
import jax.numpy as jnp

from luna_jax.attention.blocks import fill_mask, merge_blocks, split_blocks
from luna_jax.axes import Array, ContextHeads, ContextMask, Heads, PackMask
from luna_jax.ops import attend, dropout

SCORES_AT_ONCE = {"cpu": 2**20}
"""Scores of one chunk, all rows and heads. On a CPU they and what becomes of them stay in the cache, 4 MiB each:
forward and backward on one core, both attentions together, 0.9 to 2.5 times as fast as all at once in seven sizes of
L = 128 and 256, and slower in one alone, 2 x 1,024 positions of 4 heads of 64."""
MOST_SCORES_AT_ONCE = 2**26
"""Elsewhere, 256 MiB; that bounds the memory with few chunks, and is not tuned: no accelerator was at hand."""
LEAST_CHUNK = 64


def choose_chunk(scores_a_position: int) -> int:
    """Positions of the long sequence at a time, a power of two, for so many scores (rows times heads times L) each."""
    most = SCORES_AT_ONCE.get(jax.default_backend(), MOST_SCORES_AT_ONCE) // scores_a_position
    return max(LEAST_CHUNK, 2 ** (most.bit_length() - 1) if most else 0)


def attend_in_chunks(
    query: Heads,
    key: ContextHeads,
    value: ContextHeads,
    mask: ContextMask | None = None,
    *,
    chunk_size: int,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Heads:
    """What `ops.attend` computes, in memory linear in N and M, forward and backward.

    query [B, N, H, K], already scaled; key, value [B, M, H, K]; mask [B, M]. `causal`: query n sees context 0 to n
    alone. Dropout falls on the probabilities, by a key for each pair of chunks, so the draws depend on `chunk_size`.

    Lengths that `chunk_size` does not divide are filled up inside and the filling is masked. The largest arrays are
    [B, H, T, T] scores, T = chunk_size, and [N / T, B, H, T, K] sums, one for each chunk of keys, that the backward
    pass of one chunk of queries keeps. It computes the scores three times where the unfused form does once.
    """
    size = min(chunk_size, max(query.shape[1], key.shape[1]))
    context = _split_context(key, value, mask, size)
    return _map_queries(partial(_attend_chunk, context, causal, dropout_rate, dropout_key), query, size)


def pack_in_chunks(
    query: Heads,
    key: ContextHeads,
    value: ContextHeads,
    mask: ContextMask | None = None,
    *,
    chunk_size: int,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Heads:
    """What `ops.attend` computes, for few queries [B, L, H, K] and a long context [B, M, H, K], in chunks of that.

    The backward pass keeps L x (K + 2) sums a head for each chunk, and no L x M array. Dropout's draws depend on
    `chunk_size`.
    """
    context = _split_context(key, value, mask, min(chunk_size, key.shape[1]))
    return _attend_chunk(context, False, dropout_rate, dropout_key, (0, query))


def unpack_in_chunks(
    query: Heads,
    key: ContextHeads,
    value: ContextHeads,
    mask: PackMask | None = None,
    *,
    chunk_size: int,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Heads:
    """What `ops.attend` computes, for many queries [B, N, H, K] and a short context [B, L, H, K], in chunks of queries.

    The backward pass keeps nothing that has a score's size. Dropout's draws depend on `chunk_size`.
    """

    def attend_one(numbered_query):
        number, query = numbered_query
        chunk_key = None if dropout_key is None else jax.random.fold_in(dropout_key, number)
        return attend(query, key, value, mask, dropout_rate=dropout_rate, dropout_key=chunk_key)

    return _map_queries(attend_one, query, min(chunk_size, query.shape[1]))


def _lead(blocks):
    """Blocks to the front, where a scan takes them from."""
    return jnp.moveaxis(blocks, 1, 0)


def _split_context(key, value, mask, size: int):
    """Number, keys, values and mask of each chunk, which a scan goes through."""
    keys, values, seen = (_lead(split_blocks(x, size)) for x in (key, value, fill_mask(mask, key)))
    return jnp.arange(keys.shape[0]), keys, values, seen


def _map_queries(attend_one, query: Heads, size: int) -> Heads:
    """attend_one((number, chunk)) for one chunk of queries after the other."""
    queries = _lead(split_blocks(query, size))
    # under lax.map no optimisation can merge the recomputation with the first computation
    mapped = jax.lax.map(jax.checkpoint(attend_one, prevent_cse=False), (jnp.arange(queries.shape[0]), queries))
    return merge_blocks(jnp.moveaxis(mapped, 0, 1), query.shape[1])


def _attend_chunk(context, causal, dropout_rate, dropout_key, numbered_query):
    """One chunk of queries [B, T, H, K] against all chunks of the context; causal: chunks of both are T long."""
    query_number, query = numbered_query
    batch, size, num_heads, head_dim = query.shape
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    lowest = jnp.finfo(dtype).min
    num_chunks = context[0].shape[0]

    def add_chunk(carry, chunk):
        maximum, total, weighted = carry
        number, key, value, seen = chunk
        seen = seen[:, None, None, :]
        if causal:
            position = jnp.arange(size)
            past = (number * size + position)[None, :] <= (query_number * size + position)[:, None]
            seen = seen & past[None, None]
        scores = jnp.einsum("bthk,buhk->bhtu", query, key, preferred_element_type=dtype)
        scores = jnp.where(seen, scores, lowest)
        # softmax is the same whatever is subtracted, so the maximum has no gradient
        new = jax.lax.stop_gradient(jnp.maximum(maximum, scores.max(axis=-1)))
        rescale = jnp.exp(maximum - new)
        powers = jnp.where(seen, jnp.exp(scores - new[..., None]), 0.0)
        # one fold_in: two are symmetric under jax's rbg keys, and the pairs (0, 1) and (1, 0) would drop alike
        pair = query_number * num_chunks + number
        pair_key = None if dropout_key is None else jax.random.fold_in(dropout_key, pair)
        kept = dropout(powers, dropout_rate, pair_key).astype(value.dtype)
        added = jnp.einsum("bhtu,buhk->bhtk", kept, value, preferred_element_type=dtype)
        return (new, total * rescale + powers.sum(axis=-1), weighted * rescale[..., None] + added), None

    rows = (batch, num_heads, size)
    start = (jnp.full(rows, lowest, dtype), jnp.zeros(rows, dtype), jnp.zeros((*rows, head_dim), dtype))
    (_, total, weighted), _ = jax.lax.scan(jax.checkpoint(add_chunk, prevent_cse=False), start, context)
    # a query that sees something has a total of at least e^0
    y = weighted / jnp.where(total > 0.0, total, 1.0)[..., None]
    return jnp.swapaxes(y, 1, 2).astype(query.dtype)
