"""Checks at the door of every attention mechanism: the value, what is allowed, the remedy."""

import jax
import jax.numpy as jnp
import numpy as np

from luna_jax.axes import Array

CAUSAL = "linear, local, longformer, luna, performer, reformer, rfa, softmax, sparse, synthesizer"
"""The mechanisms that have a causal form, for messages; a test holds it against them."""


def check_heads(emb_dim: int, num_heads: int, name: str = "num_heads") -> None:
    """`num_heads` must be positive and divide `emb_dim`."""
    if num_heads < 1 or emb_dim % num_heads:
        raise ValueError(f"{name}={num_heads} does not divide emb_dim={emb_dim}; choose a divisor of {emb_dim}")


def check_rate(rate: float, name: str = "dropout_rate") -> None:
    """A dropout rate lies in [0, 1)."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{name}={rate} is not in [0, 1)")


def check_mask(mask: Array | None, sequence: Array, name: str) -> None:
    """A mask is boolean, [batch, length], True where a position is real."""
    if mask is None:
        return
    if mask.dtype != jnp.bool_:
        raise ValueError(f"{name} has dtype {mask.dtype}; masks are boolean, True = real (cast with `!= 0`)")
    if mask.shape != sequence.shape[:2]:
        raise ValueError(f"{name} has shape {mask.shape}; its sequence needs {sequence.shape[:2]}")


def check_real_rows(mask: Array | None, name: str) -> None:
    """Every row has a real position; looked at only where values are at hand, that is outside jit."""
    if mask is None or isinstance(mask, jax.core.Tracer) or not mask.shape[-1]:
        return
    empty = np.flatnonzero(~np.asarray(mask).any(axis=-1))
    if empty.size:
        raise ValueError(
            f"{name} is False throughout row {empty[0]}: nothing is real there; True = real, so turn an opposite mask "
            "with `~`, or leave the row out"
        )


def check_count(name: str, value: int, *, low: int = 1, high: int | None = None, limit: str = "") -> None:
    """A count is a whole number from `low` to `high`; `limit` says what the upper bound is."""
    if isinstance(value, bool) or int(value) != value or value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"{low} to {high}" + (f" ({limit})" if limit else "")
        raise ValueError(f"{name}={value}; it must be a whole number, {bounds}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}; choices: {', '.join(choices)}")


def check_width(sequence: Array, emb_dim: int, name: str) -> None:
    """A sequence is [batch, length, emb_dim]."""
    if sequence.ndim != 3 or sequence.shape[-1] != emb_dim:
        raise ValueError(f"{name} has shape {sequence.shape}; expected [batch, length, {emb_dim}]")


def check_batch(sequence: Array, x: Array, name: str) -> None:
    """All sequences of a call have x's batch size; a batch of one would otherwise broadcast unseen."""
    if sequence.shape[0] != x.shape[0]:
        raise ValueError(f"{name} has batch size {sequence.shape[0]}, x has {x.shape[0]}; give both the same")


def check_max_length(length: int, max_length: int) -> None:
    """A mechanism that learns something for every position has it for the first `max_length` alone."""
    if length > max_length:
        raise ValueError(
            f"a sequence of {length} positions exceeds max_length={max_length}, beyond which this attention has "
            "learned nothing; truncate it, or build the model with a larger max_length"
        )
