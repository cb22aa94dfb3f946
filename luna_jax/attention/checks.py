"""Checks at the door of every attention mechanism: the value, what is allowed, the remedy."""

import jax.numpy as jnp

from luna_jax.axes import Array


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


def check_width(sequence: Array, emb_dim: int, name: str) -> None:
    """A sequence is [batch, length, emb_dim]."""
    if sequence.ndim != 3 or sequence.shape[-1] != emb_dim:
        raise ValueError(f"{name} has shape {sequence.shape}; expected [batch, length, {emb_dim}]")


def check_batch(sequence: Array, x: Array, name: str) -> None:
    """All sequences of a call have x's batch size; a batch of one would otherwise broadcast unseen."""
    if sequence.shape[0] != x.shape[0]:
        raise ValueError(f"{name} has batch size {sequence.shape[0]}, x has {x.shape[0]}; give both the same")
