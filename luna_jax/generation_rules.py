"""What `luna_jax.generation` may generate: the tokens that are possible at a position, and the checks at the door."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from luna_jax.axes import Array

State = Any
Step = Callable[[State, Array], tuple[Array, State]]
"""(state, tokens [B]) to (scores [B, V] of the next token, state)."""
Reorder = Callable[[State, Array], State]
"""(state, rows [R]) to the state whose row r continues the old row rows[r]."""


class Rules(NamedTuple):
    """What stands fast while a search goes on, for R rows: those of the batch, each as often as it has beams."""

    first: Int[Array, "R"]
    """The tokens that the model is fed first."""
    limits: Int[Array, "R"]
    """Most tokens of each row, the end token among them."""
    is_possible: Bool[np.ndarray, "1 V"]
    """Neither padding nor forbidden."""
    is_end: Bool[np.ndarray, "1 V"]
    end: int
    dtype: Any
    """Of the log probabilities and their sums: float32 at least."""


def lay_down(
    step: Step,
    state: State,
    *,
    batch_size: int,
    beam_size: int = 1,
    start: int | Array,
    end: int,
    max_length: int,
    limits: Array | None,
    padding: int,
    forbidden: tuple[int, ...],
) -> Rules:
    """The rules of a search whose `state` has a row for every beam of every row of the batch.

    Raises ValueError for a size below 1, a shape that is not [batch_size], scores that are not [R, V], an id outside
    the vocabulary, and an end token that may not be generated. Traces `step` once, to see V and the scores' dtype.
    """
    for name, size in {"batch_size": batch_size, "beam_size": beam_size, "max_length": max_length}.items():
        if size < 1:
            raise ValueError(f"{name}={size}; it must be at least 1")
    if end in (padding, *forbidden):
        raise ValueError(f"end={end} is padding={padding} or in forbidden={forbidden}; nothing could ever end")
    start_of_each = start if jnp.ndim(start) == 0 else _check_shape("start", start, batch_size)
    first = jnp.broadcast_to(jnp.asarray(start_of_each, jnp.int32), batch_size)
    if limits is None:
        limits = jnp.full(batch_size, max_length, jnp.int32)
    limits = jnp.clip(_check_shape("limits", limits, batch_size), 1, max_length).astype(jnp.int32)
    first, limits = jnp.repeat(first, beam_size), jnp.repeat(limits, beam_size)
    logits = jax.eval_shape(step, state, first)[0]
    if logits.ndim != 2 or logits.shape[0] != first.shape[0]:
        raise ValueError(
            f"step gives scores {logits.shape}; a row for each of {first.shape[0]} beams is needed: [R, V]"
        )
    named = [("end", end), ("padding", padding), *(("forbidden", token) for token in forbidden)]
    for name, token in [*named, *([("start", start)] if isinstance(start, int) else [])]:
        if not 0 <= token < logits.shape[1]:
            raise ValueError(f"{name}={token} is outside the vocabulary, 0 to {logits.shape[1] - 1}")
    vocabulary = np.arange(logits.shape[1])[None]
    is_possible = ~np.isin(vocabulary, [padding, *forbidden])
    return Rules(first, limits, is_possible, vocabulary == end, end, jnp.promote_types(logits.dtype, jnp.float32))


def score_possible(logits: Float[Array, "R V"], rules: Rules, position: Int[Array, ""]) -> Float[Array, "R V"]:
    """Log probabilities of the tokens that may stand at `position`; -inf for all others and in place of NaN."""
    logs = jax.nn.log_softmax(logits.astype(rules.dtype), axis=-1)
    is_last = (position + 1 >= rules.limits)[:, None]
    is_possible = rules.is_possible & (rules.is_end | ~is_last) & ~jnp.isnan(logs)
    return jnp.where(is_possible, logs, -jnp.inf)


def _check_shape(name: str, values: int | Array, batch_size: int) -> Array:
    if jnp.shape(values) != (batch_size,):
        raise ValueError(f"{name} has shape {jnp.shape(values)}; one for each of the {batch_size} rows is needed")
    return jnp.asarray(values)
