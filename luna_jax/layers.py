"""One encoder layer on the pair (x, p), whatever its attention mechanism."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from luna_jax.attention.registry import AttentionConfig
from luna_jax.axes import Array, Pack, PackMask, Sequence, SequenceMask
from luna_jax.dense import Dense
from luna_jax.initializers import Initializers
from luna_jax.ops import draw_kept, dropout, dropout_keys, keep

LAYER_NORM_EPSILON = 1e-5


def exact_gelu(x: Array) -> Array:
    """The erf form, evaluated in float32 at least, as the authors do."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS = {"gelu": exact_gelu, "relu": jax.nn.relu}
NORMS = ("post", "pre")


@dataclass(frozen=True)
class LayerConfig:
    """What one layer is made of. No defaults: every value is somebody's decision."""

    attention: AttentionConfig
    emb_dim: int
    mlp_dim: int
    norm: str
    """"post": LN(x + f(x)), the paper's equation 6. "pre": x + f(LN(x))."""
    activation: str
    """"gelu" or "relu"."""
    dropout_rate: float
    """On the output of attention and of feed-forward."""
    activation_dropout_rate: float
    """Inside the feed-forward, behind the activation."""
    dtype: DTypeLike
    param_dtype: DTypeLike
    initializers: Initializers

    def __post_init__(self):
        for name, choices in (("norm", NORMS), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}; choices: {', '.join(choices)}")
        for name in ("dropout_rate", "activation_dropout_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1)")


def make_norm(config: LayerConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer norm with scale and bias; statistics in float32 at least, variance from centred values."""
    return nnx.LayerNorm(
        config.emb_dim,
        epsilon=LAYER_NORM_EPSILON,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        use_fast_variance=False,
        rngs=rngs,
    )


class FeedForward(nnx.Module):
    """fc2(dropout(activation(fc1(x)))), [B, N, D] to [B, N, D] over width F.

    Of the arrays that are F wide the backward pass has fc1(x), and makes the others again: a few operations an entry.
    """

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        flattens = config.attention.split is None
        dense = partial(Dense, flattens=flattens, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs)
        start, bias = config.initializers.dense, config.initializers.dense_bias
        emb_dim, mlp_dim = config.emb_dim, config.mlp_dim
        self.fc1 = dense(emb_dim, mlp_dim, kernel_init=start, bias_init=bias(emb_dim))
        self.fc2 = dense(mlp_dim, emb_dim, kernel_init=start, bias_init=bias(mlp_dim))
        self.activation, self.dropout_rate = config.activation, config.activation_dropout_rate

    def __call__(self, x: Sequence, *, dropout_key: Array | None = None) -> Sequence:
        hidden = self.fc1(x)
        kept = draw_kept(hidden.shape, self.dropout_rate, dropout_key)

        @jax.checkpoint
        def activate(hidden, kept):
            return keep(ACTIVATIONS[self.activation](hidden), kept, self.dropout_rate)

        return self.fc2(activate(hidden, kept))


class EncoderLayer(nnx.Module):
    """One layer on the pair (x, p), post-norm as in the paper's equation 6:

        Y_X, Y_P = Attention(X, P)
        X1 = LN(X + Y_X);   P' = LN_p(P + Y_P)          P has a norm of its own
        X' = LN(X1 + FFN(X1))                           the feed-forward serves X alone

    Pre-norm puts the norms on the inputs of attention and feed-forward and leaves the residuals alone. A mechanism
    without a packed sequence runs with p = None; one that only reads P, as causal Luna does, leaves it as it is.
    """

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        self.attention = config.attention.build(
            config.emb_dim,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            initializers=config.initializers,
            rngs=rngs,
        )
        self.attention_norm = make_norm(config, rngs)
        if config.attention.updates_pack:
            self.pack_norm = make_norm(config, rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = make_norm(config, rngs)
        self.norm, self.dropout_rate = config.norm, config.dropout_rate
        self.updates_pack = config.attention.updates_pack

    def __call__(
        self,
        x: Sequence,
        p: Pack | None = None,
        *,
        x_mask: SequenceMask | None = None,
        p_mask: PackMask | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Sequence, Pack | None]:
        """x [B, N, D], p [B, L, D] or None, masks True = real; returns the pair in the same shapes."""
        next_key = dropout_keys(deterministic, rngs)
        pre = self.norm == "pre"
        y, packed = self.attention(
            self.attention_norm(x) if pre else x,
            self.pack_norm(p) if pre and self.updates_pack else p,
            x_mask=x_mask,
            p_mask=p_mask,
            deterministic=deterministic,
            rngs=rngs,
        )
        x = x + dropout(y, self.dropout_rate, next_key())
        if self.updates_pack:
            assert p is not None, "a mechanism that changes P is given one"
            p = p + dropout(packed, self.dropout_rate, next_key())
        if pre:
            y = self.feed_forward(self.feed_forward_norm(x), dropout_key=next_key())
            return x + dropout(y, self.dropout_rate, next_key()), p
        x = self.attention_norm(x)
        p = self.pack_norm(p) if self.updates_pack else p
        y = self.feed_forward(x, dropout_key=next_key())
        return self.feed_forward_norm(x + dropout(y, self.dropout_rate, next_key())), p
