"""A linear layer that multiplies one flat matrix."""

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Float

from luna_jax.axes import Array


class Dense(nnx.Linear):
    """y = x W + b over the last axis, for any number of leading axes.

    The leading axes are flattened first: on CPU, XLA multiplies [B * N, D] up to twice as fast as [B, N, D].

    Args:
      flattens: False where N is split over devices: [B * N, D] cannot be, so XLA would gather all of it. One row can.
    """

    def __init__(self, in_features: int, out_features: int, *, flattens: bool = True, **options: Any):
        super().__init__(in_features, out_features, **options)
        self.flattens = flattens

    def __call__(self, inputs: Float[Array, "... I"]) -> Float[Array, "... O"]:
        has_one_row = math.prod(inputs.shape[:-2]) == 1
        if not self.flattens and not has_one_row:
            return super().__call__(inputs)
        flat = inputs.reshape(-1, inputs.shape[-1])
        return super().__call__(flat).reshape(*inputs.shape[:-1], self.out_features)

    def weights(self, dtype: DTypeLike) -> tuple[Float[Array, "I O"], Float[Array, " O"]]:
        """W and b in the type of the computation, for who multiplies them with something else first."""
        kernel = self.kernel[...].astype(dtype)
        bias = jnp.zeros((self.out_features,), dtype) if self.bias is None else self.bias[...].astype(dtype)
        return kernel, bias
