"""Causal Luna attention (Ma et al. 2021, section 3.3, equation 7), with the projections that the authors' code has."""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from luna_jax.attention import checks
from luna_jax.axes import Pack, PackMask, Sequence, SequenceMask
from luna_jax.causal import WEIGHTS, CausalState, attend_causally, start_state
from luna_jax.dense import Dense
from luna_jax.initializers import FAIRSEQ, Initializers
from luna_jax.ops import dropout_keys, merge_heads, split_heads
from luna_jax.sequence_parallel import SequenceSplit, split_past

CHUNK_SIZE = 64
"""Positions of a chunk: of 32, 64, 128 and 256 the fastest on a CPU with 64-wide heads and 16 slots."""


class CausalLunaAttention(nnx.Module):
    """Luna attention in which position t sees positions 1 to t alone, and P sees none.

        Q_p = (P W_pq + b) / sqrt(K)                A_t = w((x_t W_pc + b) . Q_p), positive, not normalised over time
        Q   = (X W_q + b) / sqrt(K)
        K, V = X W_k + b, X W_v + b                 tied: one projection serves as both
        U_t = softmax_L( (1/t) Q_t sum_{s<=t} K_s^T A_s )
        Y_t = (concat_heads (1/t) U_t sum_{s<=t} A_s^T V_s) W_o + b

    The paper writes f(X, X, A^T) for three projections of X; what is packed (`pack_context`) is apart from key and
    value in the code even where those are tied: five projections D x D tied, six untied, all with a bias. There is no
    packed sequence to hand on, and w = softplus is to base 2.

    Against the authors' code (`fairseq/modules/luna_attention.py`): padding is neither summed nor counted (theirs
    ignores the mask, which only right padding survives), and time is taken in chunks (see `luna_jax.causal`).

    Args:
      emb_dim: width D.
      num_heads: heads H of both steps; divides D.
      tie_kv: one projection for key and value.
      weight: w, "softplus" (log2(1 + 2^z)) or "elu" (elu(z) + 1): the two kinds of the paper's Table 4.
      chunk_size: positions taken at once; changes speed and memory alone. None: the state of every position is formed.
      dropout_rate: dropout on A and on U.
      split: how x is split over devices; its length must divide then, a single position aside, of which there is
        nothing to split. States are whole on every device.
    """

    def __init__(
        self,
        emb_dim: int,
        *,
        num_heads: int,
        tie_kv: bool = False,
        weight: str = "softplus",
        chunk_size: int | None = CHUNK_SIZE,
        dropout_rate: float = 0.0,
        split: SequenceSplit | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        initializers: Initializers = FAIRSEQ,
        rngs: nnx.Rngs,
    ):
        checks.check_heads(emb_dim, num_heads)
        checks.check_rate(dropout_rate)
        checks.check_choice("weight", weight, tuple(WEIGHTS))
        if chunk_size is not None:
            checks.check_count("chunk_size", chunk_size)
        self.emb_dim, self.num_heads, self.tie_kv, self.dropout_rate = emb_dim, num_heads, tie_kv, dropout_rate
        self.weight, self.chunk_size, self.split = weight, chunk_size, split
        options = {"flattens": split is None, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        dense = partial(Dense, emb_dim, emb_dim, **options)
        project = partial(dense, kernel_init=initializers.projection, bias_init=initializers.projection_bias(emb_dim))
        self.pack_query, self.query, self.pack_context = project(), project(), project()
        if tie_kv:
            self.context = project()
        else:
            self.key, self.value = project(), project()
        self.out = dense(kernel_init=initializers.output)

    def __call__(
        self,
        x: Sequence,
        p: Pack,
        *,
        x_mask: SequenceMask | None = None,
        p_mask: PackMask | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Sequence, None]:
        """A whole sequence x [B, N, D] with p [B, L, D]: y [B, N, D], and None, for nothing is packed."""
        masks = {"x_mask": x_mask, "p_mask": p_mask}
        return self.attend(x, self.start(p), **masks, deterministic=deterministic, rngs=rngs)[0], None

    def start(self, p: Pack, max_length: int = 0, batch_size: int = 0) -> CausalState:
        """The state before the first position. It holds any number of them: `max_length` is for mechanisms that grow.

        `batch_size` is p's.
        """
        if p is None:
            raise ValueError("causal Luna needs a pack query p of shape [batch, pack_length, emb_dim]; got None")
        checks.check_width(p, self.emb_dim, "p")
        return start_state(split_heads(self.pack_query(p) * self.head_dim**-0.5, self.num_heads))

    def attend(
        self,
        x: Sequence,
        state: CausalState,
        *,
        x_mask: SequenceMask | None = None,
        p_mask: PackMask | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Sequence, CausalState]:
        """The next positions x [B, N, D], any number of them: their y [B, N, D] and the state behind them.

        x_mask [B, N] and p_mask [B, L] are True where real; y is finite and means nothing at padding.
        """
        checks.check_width(x, self.emb_dim, "x")
        checks.check_mask(x_mask, x, "x_mask")
        if x_mask is not None:  # no number at padding, however large, reaches a sum
            x = jnp.where(x_mask[..., None], x, jnp.zeros_like(x))
        next_key = dropout_keys(deterministic or self.dropout_rate == 0.0, rngs)
        query = self.query(x) * self.head_dim**-0.5
        if self.tie_kv:
            key = value = self.context(x)
        else:
            key, value = self.key(x), self.value(x)
        y, state = attend_causally(
            state,
            *(split_heads(heads, self.num_heads) for heads in (query, self.pack_context(x), key, value)),
            mask=x_mask,
            p_mask=p_mask,
            weight=WEIGHTS[self.weight],
            chunk_size=self.chunk_size,
            dropout_rate=self.dropout_rate,
            dropout_keys=(next_key(), next_key()),
            past=None if self.split is None or x.shape[1] == 1 else split_past(self.split),
        )
        return self.out(merge_heads(y)), state

    @property
    def head_dim(self) -> int:
        """K = D / H."""
        return self.emb_dim // self.num_heads
