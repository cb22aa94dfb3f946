"""Softmax attention (Vaswani et al. 2017): the quadratic baseline, Y = softmax(Q K^T / sqrt(K)) V."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from luna_jax.attention.base import Memory, SelfAttention, SelfAttentionConfig
from luna_jax.attention.checks import check_choice, check_count, check_heads, check_rate
from luna_jax.attention.chunked import attend_in_chunks
from luna_jax.axes import Array, Context, ContextMask, Sequence, SequenceMask
from luna_jax.dense import Dense
from luna_jax.initializers import Initializers
from luna_jax.ops import attend, merge_heads, split_heads

IMPLEMENTATIONS = ("xla", "cudnn", "unfused", "chunked")
CPU_CHUNK = 128
"""On a CPU `jax.nn.dot_product_attention` writes N x N arrays out, as "unfused" does, and slower: forward and backward,
one core, 16 x 1,024 positions, 4 heads of 8: 2.2 s, "unfused" 1.1, chunks of 128 0.5; 32 x 512, 4 of 16: 0.69, 0.71,
0.27."""


class SoftmaxAttention(SelfAttention):
    """Multi-head self-attention over real positions.

        Q, K, V = X W_q + b, X W_k + b, X W_v + b
        Y = (concat_heads softmax(Q K^T / sqrt(D / H)) V) W_o + b

    `implementation` chooses the kernel: "xla" and "cudnn" go to `jax.nn.dot_product_attention`; "unfused" writes the
    N x N probabilities out; "chunked" goes through queries and keys `chunk_size` positions at a time, in memory linear
    in N with dropout or without. On a CPU, for which XLA has no fused kernel, "xla" is "chunked" by 128. The fused
    kernels have no dropout, so with `dropout_rate > 0` training takes the unfused form under "xla", and "cudnn" is
    refused at construction. float64 takes the unfused form in place of "xla" and "cudnn". Bias on every projection, as
    in the authors' baseline.

    Args:
      implementation: "xla", "cudnn", "unfused" or "chunked".
      chunk_size: positions in a chunk of queries or keys, any number; read by "chunked" alone.
    """

    NAME = "softmax"

    def __init__(self, emb_dim: int, *, implementation: str = "xla", chunk_size: int = 128, **common):
        check_choice("implementation", implementation, IMPLEMENTATIONS)
        check_count("chunk_size", chunk_size)
        super().__init__(emb_dim, **common)
        if implementation == "cudnn" and self.dropout_rate > 0.0:
            raise ValueError(
                f'implementation="cudnn" has no dropout; set dropout_rate={self.dropout_rate} to 0 or take "xla"'
            )
        self.implementation, self.chunk_size = implementation, chunk_size

    def mix(self, x, x_mask, *, deterministic, dropout_key, draws_key):
        query, key, value = self.project(x)
        options = {"causal": self.causal, "dropout_rate": self.dropout_rate, "dropout_key": dropout_key}
        if self.implementation == "chunked":
            query = query * self.head_dim**-0.5
            return attend_in_chunks(query, key, value, x_mask, chunk_size=self.chunk_size, **options)
        # jax.nn.dot_product_attention takes its softmax in float32 whatever comes in, too coarse for float64
        if dropout_key is not None or self.implementation == "unfused" or query.dtype == jnp.float64:
            query = query * self.head_dim**-0.5
            return attend(query, key, value, x_mask, **options)
        if self.implementation == "xla" and x.shape[1] > CPU_CHUNK and jax.default_backend() == "cpu":
            query = query * self.head_dim**-0.5
            return attend_in_chunks(query, key, value, x_mask, chunk_size=CPU_CHUNK, **options)
        mask = None if x_mask is None else x_mask[:, None, None, :]
        kernel = "cudnn" if self.implementation == "cudnn" else "xla"
        return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=self.causal, implementation=kernel)


class SoftmaxCache(NamedTuple):
    """Keys and values of the past, in T slots that fill up: what a causal decoder keeps. Rows of the batch lead."""

    key: Float[Array, "B T H K"]
    value: Float[Array, "B T H K"]
    count: Int[Array, "B"]
    """Real positions so far."""


class CausalSoftmaxAttention(SoftmaxAttention):
    """Causal softmax attention, a whole sequence at once or piece by piece against a cache of max_length positions."""

    def start(self, p: None, max_length: int, batch_size: int) -> SoftmaxCache:
        """An empty cache."""
        shape = (batch_size, max_length, self.num_heads, self.head_dim)
        slots = jnp.zeros(shape, self.dtype)
        return SoftmaxCache(slots, slots, jnp.zeros(batch_size, jnp.int32))

    def attend(
        self, x: Sequence, state: SoftmaxCache, *, x_mask: SequenceMask | None = None, p_mask: None = None
    ) -> tuple[Sequence, SoftmaxCache]:
        """The next positions x [B, N, D], padded on the right if at all, without dropout: y, and the cache behind them.

        Padding takes slots that the next piece writes over. There must be room: max_length counts every position.
        """
        query, key, value = self.project(x)
        write = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))
        key = write(state.key, key.astype(state.key.dtype), state.count)
        value = write(state.value, value.astype(state.value.dtype), state.count)
        slots, positions = jnp.arange(key.shape[1]), jnp.arange(x.shape[1])
        seen = slots[None, None, :] <= (state.count[:, None] + positions[None, :])[:, :, None]
        y = attend(query * self.head_dim**-0.5, key, value, seen)
        added = x.shape[1] if x_mask is None else jnp.sum(x_mask, axis=1, dtype=jnp.int32)
        return self.out(merge_heads(y.astype(self.dtype))), SoftmaxCache(key, value, state.count + added)


class SoftmaxCrossAttention(nnx.Module):
    """Softmax attention from x to a context: Y = (concat_heads softmax(Q K^T / sqrt(D / H)) V) W_o + b, K and V of C.

    Under the contract of a decoder: `remember` the context once, `recall` it at every step.
    """

    def __init__(
        self, emb_dim: int, *, num_heads: int, dropout_rate: float, dtype, param_dtype, initializers: Initializers, rngs
    ):
        check_heads(emb_dim, num_heads)
        check_rate(dropout_rate)
        self.emb_dim, self.num_heads, self.dropout_rate = emb_dim, num_heads, dropout_rate
        dense = partial(Dense, emb_dim, emb_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        project = partial(dense, kernel_init=initializers.projection, bias_init=initializers.projection_bias(emb_dim))
        self.query, self.key, self.value = project(), project(), project()
        self.out = dense(kernel_init=initializers.output)

    def remember(
        self,
        p: None,
        context: Context,
        context_mask: ContextMask | None = None,
        *,
        p_mask: None = None,
        dropout_key=None,
    ) -> tuple[Memory, None]:
        """Keys and values of the context [B, M, D]; nothing is packed."""
        return Memory(self.key(context), self.value(context), context_mask), None

    def recall(self, x: Sequence, memory: Memory, *, dropout_key=None) -> Sequence:
        """x [B, N, D] against the context, [B, N, D]."""
        query = self.query(x) * (self.emb_dim // self.num_heads) ** -0.5
        query, key, value = (split_heads(heads, self.num_heads) for heads in (query, memory.key, memory.value))
        y = attend(query, key, value, memory.mask, dropout_rate=self.dropout_rate, dropout_key=dropout_key)
        return self.out(merge_heads(y))


@dataclass(frozen=True)
class SoftmaxConfig(SelfAttentionConfig):
    """Softmax attention inside an encoder or a decoder."""

    module = SoftmaxAttention
    implementation: str
    chunk_size: int
    """Read by implementation "chunked" alone."""

    def build_causal(self, emb_dim: int, **common) -> CausalSoftmaxAttention:
        """Attention to the past, with a cache that grows."""
        options = {"implementation": self.implementation, "chunk_size": self.chunk_size, "causal": True}
        rates = {"num_heads": self.num_heads, "dropout_rate": self.dropout_rate}
        return CausalSoftmaxAttention(emb_dim, **options, **rates, **common)

    def build_cross(self, emb_dim: int, **common) -> SoftmaxCrossAttention:
        """Attention to a context."""
        return SoftmaxCrossAttention(emb_dim, num_heads=self.num_heads, dropout_rate=self.dropout_rate, **common)
