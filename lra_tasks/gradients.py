"""Gradients of the mean loss of a batch, the whole batch at once or in parts one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

SumsOf = Callable[[Any, Any, Any], Any]
"""(parameters, batch, dropout key) -> sums over what is real in the batch, `loss` and `count` among them."""


def mean_gradients(sums_of: SumsOf, params: Any, batch: Any, dropout_key: Any, microbatches: int) -> tuple[Any, Any]:
    """(gradients of sums.loss / sums.count, the sums of the whole batch).

    With m microbatches each is a m-th of the rows, with dropout of its own; the gradients of their sums are added, so
    what a mean is taken over does not depend on m. Row r is in part r mod m: every device has rows of every part.
    """
    if microbatches > 1:
        return _accumulate(sums_of, params, batch, dropout_key, microbatches)

    def loss_of(params):
        sums = sums_of(params, batch, dropout_key)
        return sums.loss / jnp.maximum(sums.count, 1), sums

    gradients, sums = jax.grad(loss_of, has_aux=True)(params)
    return gradients, sums


def _accumulate(sums_of: SumsOf, params: Any, batch: Any, dropout_key: Any, microbatches: int) -> tuple[Any, Any]:
    def split(array):
        return jnp.moveaxis(array.reshape(-1, microbatches, *array.shape[1:]), 1, 0)

    def gradients_of(part, key):
        def loss_of(params):
            sums = sums_of(params, part, key)
            return sums.loss, sums

        return jax.grad(loss_of, has_aux=True)(params)

    def add(total, part_and_key):
        return jax.tree.map(jnp.add, total, gradients_of(*part_and_key)), None

    parts, keys = jax.tree.map(split, batch), jax.random.split(dropout_key, microbatches)
    one = jax.eval_shape(gradients_of, jax.tree.map(lambda array: array[0], parts), keys[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one)
    (gradients, sums), _ = jax.lax.scan(add, zeros, (parts, keys))
    count = jnp.maximum(sums.count, 1)
    return jax.tree.map(lambda leaf: leaf / count, gradients), sums
