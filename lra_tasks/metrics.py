"""Sums over examples, taken on the device, merged over batches, divided once on the host."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


class Sums(NamedTuple):
    """Sums over the real examples of a batch: cross-entropy in nats, right answers, examples."""

    loss: Float[Array, ""]
    correct: Int[Array, ""]
    count: Int[Array, ""]


def score(
    logits: Float[Array, "B C"], labels: Int[Array, " B"], example_mask: Bool[Array, " B"]
) -> tuple[Sums, Bool[Array, " B"]]:
    """Sums of a batch, and which examples were answered right. Rows where `example_mask` is False count nothing."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = (jnp.argmax(logits, axis=-1) == labels) & example_mask
    loss = jnp.sum(jnp.where(example_mask, losses, 0.0))
    return Sums(loss, jnp.sum(correct), jnp.sum(example_mask)), correct
