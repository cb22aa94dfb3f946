"""What every mechanism but Luna shares: the projections, the heads, the masks and the configuration.

A mechanism is a file with its pure function, a class that says how heads are mixed, and its configuration:

    class LocalAttention(SelfAttention):
        def mix(self, x, x_mask, *, deterministic, dropout_key, draws_key): ...

    @dataclass(frozen=True)
    class LocalConfig(SelfAttentionConfig):
        module = LocalAttention
        block_size: int
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from luna_jax.attention.checks import CAUSAL, check_heads, check_mask, check_rate, check_real_rows, check_width
from luna_jax.axes import Array, Context, ContextMask, Heads, Sequence, SequenceMask
from luna_jax.dense import Dense
from luna_jax.initializers import FAIRSEQ, Initializers
from luna_jax.ops import dropout_keys, merge_heads, split_heads


class Memory(NamedTuple):
    """What a decoder keeps of a context: projected once, attended at every step."""

    key: Context
    value: Context
    mask: ContextMask | None
    """True = real, of the positions of key and value: those of the context, or Luna's pack slots."""


class SharedParam(nnx.Param):
    """A parameter that all layers of a stack have in common: the encoder keeps one where others are stacked."""


class SelfAttention(nnx.Module):
    """Multi-head self-attention around a mechanism's `mix`.

        Q, K, V, ... = X W + b for every name in PROJECTIONS, [B, N, D] each, split into H heads
        Y = (concat_heads mix(X)) W_o + b, and zero where x_mask is False

    What stands at padded positions is replaced by zeros before anything looks at it, so that no number there, however
    large, reaches a result or a gradient. A mechanism has to leave them out of its sums.

    Args:
      emb_dim: width D of the sequence.
      num_heads: heads H; divides D.
      dropout_rate: dropout on attention probabilities; a mechanism that forms none refuses a rate above 0.
      causal: position n attends to positions up to n; refused by a mechanism whose paper has no such form.
      dtype: of the computation; parameters are kept in `param_dtype`.
    """

    NAME: ClassVar[str]
    """The mechanism's name in the registry, for messages."""
    PROJECTIONS: tuple[str, ...] = ("query", "key", "value")
    HAS_CAUSAL_FORM: ClassVar[bool] = True
    FORMS_PROBABILITIES: ClassVar[bool] = True

    def __init__(
        self,
        emb_dim: int,
        *,
        num_heads: int,
        dropout_rate: float = 0.0,
        causal: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        initializers: Initializers = FAIRSEQ,
        rngs: nnx.Rngs,
    ):
        check_heads(emb_dim, num_heads)
        check_rate(dropout_rate)
        if causal and not self.HAS_CAUSAL_FORM:
            raise ValueError(
                f"{self.NAME} attention has no causal form; take causal=False, or another mechanism: {CAUSAL}"
            )
        if dropout_rate and not self.FORMS_PROBABILITIES:
            raise ValueError(
                f"{self.NAME} attention forms no probabilities that dropout_rate={dropout_rate} could fall on; set "
                "it to 0 (in a config: model.attention_dropout_rate; model.dropout_rate drops outputs as ever)"
            )
        self.emb_dim, self.num_heads, self.dropout_rate, self.causal = emb_dim, num_heads, dropout_rate, causal
        self.dtype = dtype
        dense = partial(Dense, emb_dim, emb_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        project = partial(dense, kernel_init=initializers.projection, bias_init=initializers.projection_bias(emb_dim))
        for name in self.PROJECTIONS:
            setattr(self, name, project())
        self.out = dense(kernel_init=initializers.output)

    @property
    def head_dim(self) -> int:
        """K = D / H."""
        return self.emb_dim // self.num_heads

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
        """x [B, N, D], x_mask [B, N] True = real (None: all are); returns [B, N, D] and None, for nothing is packed.

        `deterministic=False` draws dropout from `rngs` (stream "dropout"). Random features, hashes and patterns come
        from the stream "draws" where `rngs` has it, and from a constant otherwise.
        """
        if p is not None or p_mask is not None:
            raise ValueError(f"{self.NAME} attention has no packed sequence; pass p=None and p_mask=None")
        check_width(x, self.emb_dim, "x")
        check_mask(x_mask, x, "x_mask")
        check_real_rows(x_mask, "x_mask")
        if x_mask is not None:
            x = jnp.where(x_mask[..., None], x, jnp.zeros_like(x))
        dropout_key = dropout_keys(deterministic or self.dropout_rate == 0.0, rngs)()
        y = self.mix(x, x_mask, deterministic=deterministic, dropout_key=dropout_key, draws_key=draws_key(rngs))
        y = self.out(merge_heads(y.astype(self.dtype)))
        return y if x_mask is None else jnp.where(x_mask[..., None], y, jnp.zeros_like(y)), None

    def mix(
        self,
        x: Sequence,
        x_mask: SequenceMask | None,
        *,
        deterministic: bool,
        dropout_key: Array | None,
        draws_key: Array,
    ) -> Heads:
        """The mechanism: [B, N, D] to heads [B, N, H, K]; padded positions of the result may hold any finite number."""
        raise NotImplementedError

    def project(self, x: Sequence) -> Any:
        """A tuple of heads [B, N, H, K], one of every name in PROJECTIONS, in that order."""
        return tuple(split_heads(getattr(self, name)(x), self.num_heads) for name in self.PROJECTIONS)


def draws_key(rngs: nnx.Rngs | None) -> Array:
    """The key of random features, hashes and patterns: of the stream "draws", or a constant where there is none."""
    if rngs is not None and "draws" in rngs:
        return rngs.draws()
    return jax.random.key(0)


@dataclass(frozen=True)
class SelfAttentionConfig:
    """A mechanism inside an encoder. A field that a subclass adds is an argument of its module, by the same name."""

    num_heads: int
    dropout_rate: float
    causal: bool

    module: ClassVar[type[SelfAttention]]
    pack_length: ClassVar[int] = 0
    """No packed sequence runs beside x."""
    contextual_pack: ClassVar[bool] = False

    updates_pack: ClassVar[bool] = False
    split: ClassVar[None] = None
    """A position looks at others of its sequence, so no sequence is split over devices."""

    @property
    def draw_interval(self) -> int | None:
        """Training steps from one draw of random features, hashes or patterns to the next; 0: one draw; None: none.

        A mechanism whose schedule is a choice has a field `redraw_every_steps`, which its module is not told.
        """
        return None

    def build(self, emb_dim: int, *, dtype, param_dtype, initializers: Initializers, rngs: nnx.Rngs) -> SelfAttention:
        """The attention module of one layer."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        options.pop("redraw_every_steps", None)
        return self.module(
            emb_dim, **options, dtype=dtype, param_dtype=param_dtype, initializers=initializers, rngs=rngs
        )
