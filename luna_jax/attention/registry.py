"""Every attention mechanism by name. Adding one: its file, one line here, one oracle in the tests."""

import difflib
from typing import Any, Protocol, runtime_checkable

from flax import nnx

from luna_jax.attention.bigbird import BigBirdConfig
from luna_jax.attention.linear import LinearConfig
from luna_jax.attention.linformer import LinformerConfig
from luna_jax.attention.local import LocalConfig
from luna_jax.attention.longformer import LongformerConfig
from luna_jax.attention.luna import LunaConfig
from luna_jax.attention.performer import PerformerConfig
from luna_jax.attention.random_feature import RandomFeatureConfig
from luna_jax.attention.reformer import ReformerConfig
from luna_jax.attention.sinkhorn import SinkhornConfig
from luna_jax.attention.softmax import SoftmaxConfig
from luna_jax.attention.sparse import SparseConfig
from luna_jax.attention.synthesizer import SynthesizerConfig
from luna_jax.initializers import Initializers
from luna_jax.sequence_parallel import SequenceSplit

ATTENTIONS = {
    "luna": LunaConfig,
    "softmax": SoftmaxConfig,
    "local": LocalConfig,
    "sparse": SparseConfig,
    "longformer": LongformerConfig,
    "linformer": LinformerConfig,
    "reformer": ReformerConfig,
    "sinkhorn": SinkhornConfig,
    "synthesizer": SynthesizerConfig,
    "bigbird": BigBirdConfig,
    "linear": LinearConfig,
    "performer": PerformerConfig,
    "rfa": RandomFeatureConfig,
}


@runtime_checkable
class AttentionConfig(Protocol):
    """What an encoder asks of a mechanism. Any object with these serves, listed above or not."""

    @property
    def pack_length(self) -> int:
        """Length of the packed sequence that runs beside x; 0 for a mechanism without one."""
        ...

    @property
    def contextual_pack(self) -> bool:
        """Whether a layer's packed sequence is the next layer's pack query."""
        ...

    @property
    def updates_pack(self) -> bool:
        """Whether a layer changes the packed sequence."""
        ...

    @property
    def draw_interval(self) -> int | None:
        """Training steps between draws of features, hashes or patterns; 0: drawn once; None: nothing is drawn."""
        ...

    @property
    def split(self) -> SequenceSplit | None:
        """How sequences are split over devices; None for a mechanism that cannot, or that is not to."""
        ...

    def build(self, emb_dim: int, *, dtype, param_dtype, initializers: Initializers, rngs: nnx.Rngs) -> nnx.Module:
        """The module of one layer: y, p = attention(x, p, x_mask=, p_mask=, deterministic=, rngs=)."""
        ...


@runtime_checkable
class DecoderAttentionConfig(AttentionConfig, Protocol):
    """What a decoder asks of a mechanism beside: a form that sees the past alone, and one that sees a context."""

    def build_causal(self, emb_dim: int, *, dtype, param_dtype, initializers: Initializers, rngs: nnx.Rngs) -> Any:
        """y, _ = module(x, p, ...) of a whole sequence; start(p, max_length, batch_size), then attend(x, state)."""
        ...

    def build_cross(self, emb_dim: int, *, dtype, param_dtype, initializers: Initializers, rngs: nnx.Rngs) -> Any:
        """memory, packed = module.remember(p, context, context_mask, ...), then y = module.recall(x, memory)."""
        ...


def get_attention_config(name: str) -> type:
    """The configuration class of a mechanism; an unknown name raises with the nearest match and the whole list."""
    if name not in ATTENTIONS:
        close = difflib.get_close_matches(name, ATTENTIONS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown attention {name!r}; {hint}choices: {', '.join(sorted(ATTENTIONS))}")
    return ATTENTIONS[name]
