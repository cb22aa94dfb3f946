"""Gradients of the mean loss of a batch, the whole batch at once or in parts one after the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SumsOf = Callable[[Any, Any, Any], Any]
"""(parameters, batch, dropout key) -> sums over what is real in the batch, `loss` and `count` among them."""


class Total(NamedTuple):
    """Of the parts of a batch so far."""

    gradients: Any
    """Of the sum of the losses."""
    sums: Any
    num_parts: Any
    """Parts that are in it, int32."""


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


def add_part(sums_of: SumsOf, params: Any, total: Total, part: Any, dropout_key: Any) -> Total:
    """A total with one part more, whose dropout draws from `dropout_key`."""

    def loss_of(params):
        sums = sums_of(params, part, dropout_key)
        return sums.loss, sums

    gradients, sums = jax.grad(loss_of, has_aux=True)(params)
    return jax.tree.map(jnp.add, total, Total(gradients, sums, jnp.int32(1)))


def divide(total: Total) -> tuple[Any, Any]:
    """(gradients of sums.loss / sums.count, the sums): what `mean_gradients` gives."""
    count = jnp.maximum(total.sums.count, 1)
    return jax.tree.map(lambda leaf: leaf / count, total.gradients), total.sums


def _accumulate(sums_of: SumsOf, params: Any, batch: Any, dropout_key: Any, microbatches: int) -> tuple[Any, Any]:
    def split(array):
        return jnp.moveaxis(array.reshape(-1, microbatches, *array.shape[1:]), 1, 0)

    def add(total, part_and_key):
        return add_part(sums_of, params, total, *part_and_key), None

    parts, keys = jax.tree.map(split, batch), jax.random.split(dropout_key, microbatches)
    sums = jax.eval_shape(sums_of, params, jax.tree.map(lambda array: array[0], parts), keys[0])
    total, _ = jax.lax.scan(add, empty_total(params, sums), (parts, keys))
    return divide(total)


def empty_total(params: Any, sums: Any) -> Total:
    """A total of no part, for parameters and sums of these shapes and dtypes."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), Total(params, sums, jnp.int32(0)))
