"""The two ways in which the authors' models start, as functions of a layer's fan-in and fan-out."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

Initializer = jax.nn.initializers.Initializer


def _uniform_by_fan_in(fan_in: int) -> Initializer:
    """U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): torch's default for the bias of a Linear."""
    bound = fan_in**-0.5

    def initialize(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


def _zeros(fan_in: int) -> Initializer:
    return jax.nn.initializers.zeros


def _normal_by_width(width: int) -> Initializer:
    return jax.nn.initializers.normal(width**-0.5)


def _normal_bert(width: int) -> Initializer:
    return jax.nn.initializers.normal(0.02)


@dataclass(frozen=True)
class Initializers:
    """How parameters start. Biases depend on the fan-in of their layer, tables on their width."""

    projection: Initializer
    """Kernels of query, key, value and the like."""
    projection_bias: Callable[[int], Initializer]
    output: Initializer
    """Kernel of an attention's output projection; its bias starts at zero."""
    dense: Initializer
    """Kernels of feed-forward and head."""
    dense_bias: Callable[[int], Initializer]
    table: Callable[[int], Initializer]
    """Token, position and [CLS] embeddings."""
    pack: Callable[[int], Initializer]
    """The initial packed sequence."""


FAIRSEQ = Initializers(
    projection=jax.nn.initializers.variance_scaling(0.5, "fan_avg", "uniform"),
    projection_bias=_uniform_by_fan_in,
    output=jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    dense=jax.nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform"),
    dense_bias=_uniform_by_fan_in,
    table=_normal_by_width,
    pack=_normal_by_width,
)
"""Xavier-uniform with gain 1/sqrt(2) (output: 1), torch's Linear default elsewhere: Retrieval, Image, Pathfinder."""

BERT = Initializers(
    projection=jax.nn.initializers.normal(0.02),
    projection_bias=_zeros,
    output=jax.nn.initializers.normal(0.02),
    dense=jax.nn.initializers.normal(0.02),
    dense_bias=_zeros,
    table=_normal_bert,
    pack=_normal_by_width,
)
"""N(0, 0.02^2) and zero biases, the packed sequence still N(0, 1/D): the authors' ListOps and Text."""

INITIALIZERS = {"fairseq": FAIRSEQ, "bert": BERT}
