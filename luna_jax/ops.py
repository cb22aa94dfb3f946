"""Pure functions that every mechanism is made of: no parameters, no state."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from luna_jax.axes import Array, ContextHeads, ContextMask, Heads


def split_heads(x: Float[Array, "B N D"], num_heads: int) -> Float[Array, "B N H K"]:
    """[B, N, D] to [B, N, H, D / H]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def merge_heads(x: Float[Array, "B N H K"]) -> Float[Array, "B N D"]:
    """[B, N, H, K] to [B, N, H * K]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def dropout_keys(deterministic: bool, rngs: nnx.Rngs | None) -> Callable[[], Array | None]:
    """A function that gives the next key of the stream "dropout" at each call, or None where nothing is dropped."""
    if deterministic:
        return lambda: None
    if rngs is None:
        raise ValueError("deterministic=False needs rngs; pass rngs=nnx.Rngs(dropout=key)")
    return rngs.dropout


def dropout(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """Zeroes entries with probability `rate` and scales the rest by 1 / (1 - rate). No key: x as it is."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def masked_softmax(scores: Float[Array, "..."], mask: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    """Softmax over the last axis among the positions where `mask` is True.

    Computed in float32 at least, whatever comes in. `mask` broadcasts against `scores`. A row with nothing to attend
    is all zeros and has a zero gradient (the authors' code gives NaN there).
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    # jax.nn.softmax has a derivative rule of its own; a longhand form keeps twice as many arrays for the backward pass.
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=-1)
    return jnp.where(jnp.any(mask, axis=-1, keepdims=True), weights, 0.0)


def attend(
    query: Heads,
    key: ContextHeads,
    value: ContextHeads,
    mask: ContextMask | Bool[Array, "B N M"] | None = None,
    *,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Heads:
    """softmax(query key^T) value, per head, over the context positions where `mask` is True.

    query [B, N, H, K], already scaled; key, value [B, M, H, K]; mask [B, M], or [B, N, M] where queries differ.
    `causal`: query n sees context 0 to n alone. Dropout falls on the probabilities.
    """
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bnhk,bmhk->bhnm", query, key, preferred_element_type=dtype)
    seen = None if mask is None else mask[:, None] if mask.ndim == 3 else mask[:, None, None, :]
    if causal:
        past = jnp.tri(query.shape[1], key.shape[1], dtype=bool)[None, None]
        seen = past if seen is None else seen & past
    weights = masked_softmax(scores, seen)
    weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, value)


def masked_mean(x: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Mean over the positions where `mask` is True; zero where there are none."""
    kept = jnp.where(mask[..., None], x, jnp.zeros_like(x))
    count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1).astype(x.dtype)
    return jnp.sum(kept, axis=1) / count


def sinusoid_table(length: int, width: int) -> np.ndarray:
    """Fixed positions as fairseq lays them out: sines in the first half of the width, cosines in the second.

    Returns float64 [length, width]; frequency i is exp(-i ln(10000) / (width / 2 - 1)), position counted from 0.
    Source: facts of `fairseq/modules/sinusoidal_positional_embedding.py`. An odd width ends with a zero column.
    """
    angle = np.arange(length)[:, None] * _find_frequencies(width)
    return np.concatenate([np.sin(angle), np.cos(angle), np.zeros((length, width % 2))], axis=1)


def find_sinusoids(positions: Int[Array, "B N"], width: int) -> Float[Array, "B N D"]:
    """Rows of `sinusoid_table` at any positions, without a table: in float32 an angle at 100,000 is off by 0.004."""
    dtype = jnp.result_type(float)
    angle = positions[..., None].astype(dtype) * jnp.asarray(_find_frequencies(width), dtype)[None, None]
    filling = jnp.zeros((*positions.shape, width % 2), dtype)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle), filling], axis=-1)


def _find_frequencies(width: int) -> np.ndarray:
    half = width // 2
    return np.exp(-np.arange(half) * (np.log(10000.0) / max(half - 1, 1)))
