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


def masked_softmax(scores: Float[Array, "..."], mask: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    """Softmax over the last axis among the positions where `mask` is True.

    Computed in float32 at least, whatever comes in. `mask` broadcasts against `scores`. A row with nothing to attend
    is all zeros and has a zero gradient (the authors' code gives NaN there).
    """
    weights = seen_softmax(scores, mask)
    return weights if mask is None else jnp.where(jnp.any(mask, axis=-1, keepdims=True), weights, 0.0)


def seen_softmax(scores: Float[Array, "..."], mask: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    """`masked_softmax` whose rows with nothing to attend are not zeroed: they weigh all alike, seen or not."""
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    # jax.nn.softmax has a derivative rule of its own; a longhand form keeps twice as many arrays for the backward pass.
    return jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min), axis=-1)


def draw_kept(shape: tuple[int, ...], rate: float, key: Array | None) -> Bool[Array, "..."] | None:
    """Which entries dropout keeps; None where it keeps all."""
    return None if key is None or rate == 0.0 else jax.random.bernoulli(key, 1.0 - rate, shape)


def keep(x: Float[Array, "..."], kept: Bool[Array, "..."] | None, rate: float) -> Float[Array, "..."]:
    """x / (1 - rate) where it is kept, 0 elsewhere."""
    return x if kept is None else jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def dropout(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """Zeroes entries with probability `rate` and scales the rest by 1 / (1 - rate). No key: x as it is."""
    return keep(x, draw_kept(x.shape, rate, key), rate)


def weigh(
    equation: str,
    scores: Float[Array, "..."],
    seen: Bool[Array, "..."] | None,
    value: Float[Array, "..."],
    rate: float,
    key: Array | None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """einsum(equation, W, value) and the sums of W over its last axis; W = dropout(softmax(scores)) where `seen`.

    The backward pass has the scores and a byte an entry for dropout, and makes W again, two operations an entry; JAX's
    own keeps up to three arrays of that size. Rows that see nothing weigh everything alike: the caller zeroes them.
    """

    @jax.checkpoint
    def mix(scores, seen, kept, value):
        weights = keep(seen_softmax(scores, seen), kept, rate).astype(value.dtype)
        return jnp.einsum(equation, weights, value), jnp.sum(weights, axis=-1)

    return mix(scores, seen, draw_kept(scores.shape, rate, key), value)


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
    `causal`: query n sees context 0 to n alone. Dropout falls on the probabilities. The backward pass is JAX's own: it
    keeps what each line makes, as the textbook does.
    """
    scores, seen = _score(query, key, mask, causal)
    weights = masked_softmax(scores, seen)
    weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, value)


def attend_lean(
    query: Heads,
    key: ContextHeads,
    value: ContextHeads,
    mask: ContextMask | None = None,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Heads:
    """`attend` that keeps the scores for the backward pass where that keeps up to three arrays of their size."""
    scores, seen = _score(query, key, mask, False)
    y, _ = weigh("bhnm,bmhk->bnhk", scores, seen, value, dropout_rate, dropout_key)
    return y if mask is None else jnp.where(jnp.any(mask, axis=-1)[:, None, None, None], y, jnp.zeros_like(y))


def _score(query, key, mask, causal: bool) -> tuple[Float[Array, "B H N M"], Bool[Array, "#B #H #N M"] | None]:
    """Scores in float32 at least, and what of them counts."""
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bnhk,bmhk->bhnm", query, key, preferred_element_type=dtype)
    seen = None if mask is None else mask[:, None] if mask.ndim == 3 else mask[:, None, None, :]
    if causal:
        past = jnp.tri(query.shape[1], key.shape[1], dtype=bool)[None, None]
        seen = past if seen is None else seen & past
    return scores, seen


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
