"""Every attention mechanism by name. Adding one: its file, one line here, one oracle in the tests."""

import difflib
from typing import Protocol, runtime_checkable

from flax import nnx

from luna_jax.attention.luna import LunaConfig
from luna_jax.attention.softmax import SoftmaxConfig
from luna_jax.initializers import Initializers

ATTENTIONS = {
    "luna": LunaConfig,
    "softmax": SoftmaxConfig,
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

    def build(self, emb_dim: int, *, dtype, param_dtype, initializers: Initializers, rngs: nnx.Rngs) -> nnx.Module:
        """The module of one layer: y, p = attention(x, p, x_mask=, p_mask=, deterministic=, rngs=)."""
        ...


def get_attention_config(name: str) -> type:
    """The configuration class of a mechanism; an unknown name raises with the nearest match and the whole list."""
    if name not in ATTENTIONS:
        close = difflib.get_close_matches(name, ATTENTIONS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown attention {name!r}; {hint}choices: {', '.join(sorted(ATTENTIONS))}")
    return ATTENTIONS[name]
