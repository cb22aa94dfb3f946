"""Luna: linear unified nested attention (Ma et al., NeurIPS 2021, arXiv 2106.01540, section 3).

Full attention lets N queries look at M context positions and pays N x M. Luna puts a short sequence P of fixed length
L between them, and attends twice:

    packed    Y_P = Attention(P, C)        L queries pack the context:       L x M
    unpacked  Y_X = Attention(X, Y_P)      N queries unpack what was packed: N x L

Both are softmax attention, so the whole is linear in the sequence, and Y_P goes on as the next layer's P.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from luna_jax.attention import checks
from luna_jax.attention.base import Memory
from luna_jax.attention.causal_luna import CHUNK_SIZE, CausalLunaAttention
from luna_jax.attention.chunked import choose_chunk, pack_in_chunks, unpack_in_chunks
from luna_jax.attention.folded import pack_folded, pays, unpack_folded
from luna_jax.axes import Context, ContextMask, Pack, PackMask, Sequence, SequenceMask
from luna_jax.dense import Dense
from luna_jax.initializers import FAIRSEQ, Initializers
from luna_jax.ops import attend_lean, dropout_keys, merge_heads, split_heads
from luna_jax.sequence_parallel import SequenceSplit, pack_split


class LunaAttention(nnx.Module):
    """Bidirectional Luna attention, self or cross.

        Q_p = (P W_pq + b) / sqrt(D / H_p)                          H_p pack heads
        K_p, V_p = C W_pk + b, C W_pv + b                           tied: one projection serves as both
        Y_P = concat_heads softmax_context(Q_p K_p^T) V_p           (... V_p) W_po + b with `pack_projection`
        Q   = (X W_q + b) / sqrt(D / H)                             H heads
        K, V = Y_P W_k + b, Y_P W_v + b                             tied: one projection serves as both
        Y_X = (concat_heads softmax_pack(Q K^T) V) W_o + b

    Every projection is D x D with a bias: seven untied, five tied (`tie_kv`). Pack and unpack never share a projection.
    The paper writes both attentions alike, as if each had an output projection; in the authors' code Y_X alone has.

    Where H L <= D nothing N or M long is projected: products associate, and the projections go into the short sequence
    (`folded.py`). Elsewhere a sequence that is long enough is taken in chunks, so that no N x L or L x M array is kept
    (`chunked.py`). The same numbers, for less.

    Against the authors' code (`fairseq/modules/luna_attention.py`): both softmaxes run in float32 (theirs: the unpack
    softmax alone), a row with nothing to attend gives zeros (theirs: NaN), masks are True where a position is real.

    Args:
      emb_dim: width D of query, context and packed sequence.
      num_heads: heads H of the unpack attention; divides D.
      num_pack_heads: heads H_p of the pack attention; `num_heads` if not given.
      tie_kv: one projection for key and value inside each of the two attentions.
      pack_projection: an output projection of Y_P, too; what is unpacked and handed on is the projected Y_P.
      dropout_rate: dropout on the probabilities of both softmaxes.
      split: how the context is split over devices; its length must divide then. x needs no other device: it lies as
        the caller has it, and so does y.
      dtype: of the computation; parameters are kept in `param_dtype`.
    """

    def __init__(
        self,
        emb_dim: int,
        *,
        num_heads: int,
        num_pack_heads: int | None = None,
        tie_kv: bool = False,
        pack_projection: bool = False,
        dropout_rate: float = 0.0,
        split: SequenceSplit | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        initializers: Initializers = FAIRSEQ,
        rngs: nnx.Rngs,
    ):
        self.emb_dim, self.num_heads, self.tie_kv, self.dropout_rate = emb_dim, num_heads, tie_kv, dropout_rate
        self.num_pack_heads = num_heads if num_pack_heads is None else num_pack_heads
        checks.check_heads(emb_dim, self.num_heads)
        checks.check_heads(emb_dim, self.num_pack_heads, "num_pack_heads")
        checks.check_rate(dropout_rate)
        self.split = split
        options = {"flattens": split is None, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        dense = partial(Dense, emb_dim, emb_dim, **options)
        project = partial(dense, kernel_init=initializers.projection, bias_init=initializers.projection_bias(emb_dim))
        self.pack_query, self.query = project(), project()
        if tie_kv:
            self.pack_context, self.context = project(), project()
        else:
            self.pack_key, self.pack_value = project(), project()
            self.key, self.value = project(), project()
        self.out = dense(kernel_init=initializers.output)
        self.pack_out = dense(kernel_init=initializers.output) if pack_projection else None

    def __call__(
        self,
        x: Sequence,
        p: Pack,
        *,
        x_mask: SequenceMask | None = None,
        p_mask: PackMask | None = None,
        context: Context | None = None,
        context_mask: ContextMask | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Sequence, Pack]:
        """Attends from x through p to the context, which is x itself unless another is given.

        x [B, N, D]; p [B, L, D]; context [B, M, D]; masks True = real. Returns the unpacked [B, N, D] and the packed
        sequence [B, L, D]. Outputs at padded positions of x and at masked slots of p are finite and mean nothing.
        `deterministic=False` draws dropout from `rngs` (stream "dropout").
        """
        self._check(x, x_mask, p, p_mask, context, context_mask)
        if context is None:
            context, context_mask = x, x_mask
        next_key = dropout_keys(deterministic or self.dropout_rate == 0.0, rngs)
        memory, packed = self.remember(p, context, context_mask, p_mask=p_mask, dropout_key=next_key())
        return self.recall(x, memory, dropout_key=next_key()), packed

    def remember(
        self,
        p: Pack,
        context: Context,
        context_mask: ContextMask | None = None,
        *,
        p_mask: PackMask | None = None,
        dropout_key=None,
    ) -> tuple[Memory, Pack]:
        """The first attention: P queries the context, [B, L, D] and [B, M, D] to [B, L, D].

        Returns what `recall` needs of the packed sequence, which a decoder keeps from step to step, and the sequence.
        """
        packed = self._pack(p, context, context_mask, dropout_key)
        packed = packed if self.pack_out is None else self.pack_out(packed)
        if self.tie_kv:
            key = value = self.context(packed)
        else:
            key, value = self.key(packed), self.value(packed)
        return Memory(key, value, p_mask), packed

    def recall(self, x: Sequence, memory: Memory, *, dropout_key=None) -> Sequence:
        """The second attention: X queries the packed sequence, [B, N, D] and [B, L, D] to [B, N, D]."""
        scale = (self.emb_dim // self.num_heads) ** -0.5
        key, value = (split_heads(sequence, self.num_heads) for sequence in (memory.key, memory.value))
        rates = {"dropout_rate": self.dropout_rate, "dropout_key": dropout_key}
        if not self._folds(self.num_heads, memory.key, x):
            query = split_heads(self.query(x) * scale, self.num_heads)
            attend = self._choose(unpack_in_chunks, self.num_heads, memory.key, x)
            return self.out(merge_heads(attend(query, key, value, memory.mask, **rates)))
        dtype = memory.key.dtype
        (kernel, bias), (out_kernel, out_bias) = self.query.weights(dtype), self.out.weights(dtype)
        y = unpack_folded(x.astype(dtype), key * scale, value, memory.mask, kernel, bias, out_kernel, **rates)
        return y + out_bias[None, None]

    def _pack(self, p, context, context_mask, dropout_key) -> Pack:
        """What P sees of the context, in front of the output projection, if there is one."""
        query = split_heads(self.pack_query(p) * (self.emb_dim // self.num_pack_heads) ** -0.5, self.num_pack_heads)
        rates = {"dropout_rate": self.dropout_rate, "dropout_key": dropout_key}
        key_map, value_map = (self.pack_context,) * 2 if self.tie_kv else (self.pack_key, self.pack_value)
        if self._folds(self.num_pack_heads, p, context):
            (key_kernel, _), (kernel, bias) = key_map.weights(query.dtype), value_map.weights(query.dtype)
            return pack_folded(query, context.astype(query.dtype), context_mask, key_kernel, kernel, bias, **rates)
        key = key_map(context)
        value = key if self.tie_kv else value_map(context)
        key, value = (split_heads(sequence, self.num_pack_heads) for sequence in (key, value))
        attend = self._choose(pack_in_chunks, self.num_pack_heads, p, context)
        attend = attend if self.split is None else partial(pack_split, split=self.split)
        return merge_heads(attend(query, key, value, context_mask, **rates))

    def _folds(self, num_heads: int, short: Pack, long: Sequence) -> bool:
        """Whether projections of the long sequence go into the short one; not where devices share the long one."""
        return self.split is None and pays(num_heads, short.shape[1], self.emb_dim, long.shape[1])

    def _choose(self, attend_in_chunks: Callable, num_heads: int, short: Pack, long: Sequence) -> Callable:
        """The long sequence in chunks, or all at once where it is no longer than one, or devices share it."""
        chunk_size = choose_chunk(short.shape[0] * num_heads * short.shape[1])
        in_chunks = self.split is None and long.shape[1] > max(chunk_size, short.shape[1])
        return partial(attend_in_chunks, chunk_size=chunk_size) if in_chunks else attend_lean

    def _check(self, x, x_mask, p, p_mask, context, context_mask):
        if p is None:
            raise ValueError("Luna needs a pack query p of shape [batch, pack_length, emb_dim]; got None")
        if context is None and context_mask is not None:
            raise ValueError("context_mask was given without context; for self-attention pass x_mask")
        if context is not None and x_mask is not None:
            raise ValueError(
                "x_mask masks nothing when a context is given (queries are never masked); pass context_mask"
            )
        for name, sequence, mask in (("x", x, x_mask), ("p", p, p_mask), ("context", context, context_mask)):
            if sequence is not None:
                checks.check_width(sequence, self.emb_dim, name)
                checks.check_batch(sequence, x, name)
                checks.check_mask(mask, sequence, f"{name}_mask")
                checks.check_real_rows(mask, f"{name}_mask")


@dataclass(frozen=True)
class LunaConfig:
    """Luna inside an encoder: the layer's switches and the packed sequence that runs through the stack."""

    num_heads: int
    num_pack_heads: int
    pack_length: int
    """L, the number in Luna-16."""
    tie_kv: bool
    contextual_pack: bool
    """True: a layer's packed sequence queries the next layer. False: each layer learns its own (paper, Table 5)."""
    dropout_rate: float
    causal: bool = False
    """Position t sees positions up to t, by `CausalLunaAttention`; each layer learns its own P then."""
    pack_projection: bool = False
    """An output projection of the packed sequence, as of x."""
    causal_weight: str = "softplus"
    """Of causal attention, in a causal encoder or in a decoder: "softplus" or "elu"."""
    causal_chunk_size: int = CHUNK_SIZE
    """Of causal attention; changes no result."""
    split: SequenceSplit | None = None
    """How sequences are split over devices, if they are; changes no result."""

    def __post_init__(self):
        if self.pack_length < 1:
            raise ValueError(f"pack_length={self.pack_length}; Luna needs at least one pack slot")
        if not self.causal:
            return
        if self.contextual_pack:
            raise ValueError(
                "causal=True packs nothing that could query the next layer; set contextual_pack=False, so that every "
                "layer learns its own"
            )
        if self.num_pack_heads != self.num_heads or self.pack_projection:
            raise ValueError(
                f"causal Luna has one number of heads and no packed sequence to project; set num_pack_heads to "
                f"num_heads={self.num_heads} and pack_projection=False"
            )

    @property
    def draw_interval(self) -> int | None:
        """None: nothing is drawn."""
        return None

    @property
    def updates_pack(self) -> bool:
        """Whether a layer changes P."""
        return not self.causal

    def build(self, emb_dim: int, **common) -> LunaAttention | CausalLunaAttention:
        """The attention module of one encoder layer; `common` are dtype, param_dtype, initializers and rngs."""
        return self.build_causal(emb_dim, **common) if self.causal else self.build_cross(emb_dim, **common)

    def build_cross(self, emb_dim: int, **common) -> LunaAttention:
        """Luna attention to any context: `remember` it once, `recall` it at every step."""
        return LunaAttention(
            emb_dim,
            num_heads=self.num_heads,
            num_pack_heads=self.num_pack_heads,
            tie_kv=self.tie_kv,
            pack_projection=self.pack_projection,
            dropout_rate=self.dropout_rate,
            split=self.split,
            **common,
        )

    def build_causal(self, emb_dim: int, **common) -> CausalLunaAttention:
        """Attention to the past, with a state that does not grow."""
        return CausalLunaAttention(
            emb_dim,
            num_heads=self.num_heads,
            tie_kv=self.tie_kv,
            weight=self.causal_weight,
            chunk_size=self.causal_chunk_size,
            dropout_rate=self.dropout_rate,
            split=self.split,
            **common,
        )
