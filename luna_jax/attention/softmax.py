"""Softmax attention (Vaswani et al. 2017): the quadratic baseline, Y = softmax(Q K^T / sqrt(K)) V."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from luna_jax.attention.checks import check_heads, check_mask, check_rate, check_width
from luna_jax.axes import Sequence, SequenceMask
from luna_jax.dense import Dense
from luna_jax.initializers import FAIRSEQ, Initializers
from luna_jax.ops import attend, dropout_keys, merge_heads, split_heads

IMPLEMENTATIONS = ("xla", "cudnn", "unfused")


class SoftmaxAttention(nnx.Module):
    """Multi-head self-attention over real positions.

        Q, K, V = X W_q + b, X W_k + b, X W_v + b
        Y = (concat_heads softmax(Q K^T / sqrt(D / H)) V) W_o + b

    `implementation` chooses the kernel: "xla" and "cudnn" go to `jax.nn.dot_product_attention`; "unfused" writes the
    N x N probabilities out. The fused kernels have no dropout, so with `dropout_rate > 0` training takes the unfused
    form under "xla", and "cudnn" is refused at construction. float64 always takes the unfused form. Bias on every
    projection, as in the authors' baseline.

    Args:
      emb_dim: width D; num_heads: H, divides D; dropout_rate: on the probabilities; dtype: of the computation.
    """

    def __init__(
        self,
        emb_dim: int,
        *,
        num_heads: int,
        dropout_rate: float = 0.0,
        implementation: str = "xla",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        initializers: Initializers = FAIRSEQ,
        rngs: nnx.Rngs,
    ):
        check_heads(emb_dim, num_heads)
        check_rate(dropout_rate)
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation={implementation!r}; choices: {', '.join(IMPLEMENTATIONS)}")
        if implementation == "cudnn" and dropout_rate > 0.0:
            raise ValueError(
                f'implementation="cudnn" has no dropout; set dropout_rate={dropout_rate} to 0 or take "xla"'
            )
        self.emb_dim, self.num_heads, self.dropout_rate = emb_dim, num_heads, dropout_rate
        self.implementation = implementation
        dense = partial(Dense, emb_dim, emb_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        project = partial(dense, kernel_init=initializers.projection, bias_init=initializers.projection_bias(emb_dim))
        self.query, self.key, self.value = project(), project(), project()
        self.out = dense(kernel_init=initializers.output)

    def __call__(
        self,
        x: Sequence,
        p: None = None,
        *,
        x_mask: SequenceMask | None = None,
        p_mask: None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Sequence, None]:
        """x [B, N, D], x_mask [B, N] True = real; returns [B, N, D] and None, for there is no packed sequence."""
        if p is not None or p_mask is not None:
            raise ValueError("softmax attention has no packed sequence; pass p=None and p_mask=None")
        check_width(x, self.emb_dim, "x")
        check_mask(x_mask, x, "x_mask")
        query, key, value = (split_heads(project(x), self.num_heads) for project in (self.query, self.key, self.value))
        dropout_key = dropout_keys(deterministic or self.dropout_rate == 0.0, rngs)()
        # jax.nn.dot_product_attention takes its softmax in float32 whatever comes in, too coarse for float64
        if dropout_key is not None or self.implementation == "unfused" or query.dtype == jnp.float64:
            query = query * (self.emb_dim // self.num_heads) ** -0.5
            y = attend(query, key, value, x_mask, dropout_rate=self.dropout_rate, dropout_key=dropout_key)
        else:
            mask = None if x_mask is None else x_mask[:, None, None, :]
            kernel = "cudnn" if self.implementation == "cudnn" else "xla"
            y = jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=kernel)
        return self.out(merge_heads(y)), None


@dataclass(frozen=True)
class SoftmaxConfig:
    """Softmax attention inside an encoder."""

    num_heads: int
    dropout_rate: float
    implementation: str
    pack_length: int = 0
    """No packed sequence runs beside x."""
    contextual_pack: bool = False

    def build(
        self, emb_dim: int, *, dtype, param_dtype, initializers: Initializers, rngs: nnx.Rngs
    ) -> SoftmaxAttention:
        """The attention module of one layer."""
        return SoftmaxAttention(
            emb_dim,
            num_heads=self.num_heads,
            dropout_rate=self.dropout_rate,
            implementation=self.implementation,
            dtype=dtype,
            param_dtype=param_dtype,
            initializers=initializers,
            rngs=rngs,
        )
