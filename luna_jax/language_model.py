"""A decoder-only language model: the paper's "decoder-only mode", which the authors' code does not have.

    x_0 = sqrt(D) E[tokens] + sinusoids of the positions            scores X E^T
    X_i = DecoderLayer_i(X, P_i), without a context                 a learned P_i [L, D] for each layer

With Luna the state is O(L D) a layer, whatever the length: a text of any length is read in pieces, and generation costs
the same at every position.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from luna_jax.attention.checks import check_mask
from luna_jax.axes import Array, SequenceMask, Tokens
from luna_jax.decoder import Decoder, DecoderConfig, DecoderState, Given, score_tokens
from luna_jax.layers import LayerConfig
from luna_jax.ops import dropout, dropout_keys, find_sinusoids


@dataclass(frozen=True)
class LanguageModelConfig:
    """A language model. No defaults: every value is somebody's decision."""

    layer: LayerConfig
    num_layers: int
    vocab_size: int
    """Tokens are 0 .. vocab_size - 1."""
    remat: bool
    """Recompute each layer in the backward pass instead of keeping its activations."""

    def __post_init__(self):
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size={self.vocab_size}; it must be at least 1")

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's configuration."""
        return DecoderConfig(layer=self.layer, num_layers=self.num_layers, has_context=False, remat=self.remat)


class LanguageModel(nnx.Module):
    """Tokens to scores of the next token, whole, in pieces or one by one.

    model(tokens, mask)                        scores [B, N, V] of a whole sequence, with dropout or without
    state = model.start(batch_size, ...)       then model.advance(state, tokens), any number of tokens at a time
    scores, state = model.step(state, token)   one token: what `luna_jax.generation.sample` takes
    """

    def __init__(self, config: LanguageModelConfig, *, rngs: nnx.Rngs):
        self.config, layer = config, config.layer
        types = {"dtype": layer.dtype, "param_dtype": layer.param_dtype, "rngs": rngs}
        start = layer.initializers.table(layer.emb_dim)
        self.embed = nnx.Embed(config.vocab_size, layer.emb_dim, embedding_init=start, **types)
        if layer.attention.pack_length:
            shape = (config.num_layers, layer.attention.pack_length, layer.emb_dim)
            self.pack = nnx.Param(layer.initializers.pack(layer.emb_dim)(rngs.params(), shape, layer.param_dtype))
        self.decoder = Decoder(config.decoder, rngs=rngs)

    def __call__(
        self, tokens: Tokens, mask: SequenceMask, *, deterministic: bool = True, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B N V"]:
        """Scores of the token behind each of `tokens` [B, N]; mask True = real, padding on the right."""
        check_mask(mask, tokens, "mask")
        next_key = dropout_keys(deterministic, rngs)
        x = self._embed(jnp.where(mask, tokens, 0), jnp.arange(tokens.shape[1])[None])
        x = dropout(x, self.config.layer.dropout_rate, next_key())
        given = self._give(tokens.shape[0])
        x = self.decoder(x, given, x_mask=mask, deterministic=deterministic, rngs=rngs)
        return score_tokens(x, self.embed)

    def start(self, batch_size: int, max_length: int = 0) -> DecoderState:
        """The state before the first token. Softmax attention needs `max_length`, the tokens there must be room for."""
        if not self.config.layer.attention.pack_length and max_length < 1:
            raise ValueError(f"max_length={max_length}; this attention keeps every position, so say how many will come")
        return self.decoder.start(self._give(batch_size), max_length=max_length, batch_size=batch_size)

    def advance(
        self, state: DecoderState, tokens: Tokens, mask: SequenceMask | None = None
    ) -> tuple[Float[Array, "B N V"], DecoderState]:
        """The next tokens [B, N], padded on the right if at all: scores behind each, and the state behind them."""
        positions = state.count[:, None] + jnp.arange(tokens.shape[1])[None]
        if mask is not None:
            check_mask(mask, tokens, "mask")
            tokens = jnp.where(mask, tokens, 0)
        x, state = self.decoder.advance(self._embed(tokens, positions), state, mask)
        return score_tokens(x, self.embed), state

    def step(self, state: DecoderState, tokens: Array) -> tuple[Float[Array, "B V"], DecoderState]:
        """The next token [B] of every row: scores of the one behind it, and the state."""
        scores, state = self.advance(state, tokens[:, None])
        return scores[:, 0], state

    def _embed(self, tokens: Array, positions: Array) -> Array:
        width = self.config.layer.emb_dim
        x = self.embed(tokens) * width**0.5
        return x + find_sinusoids(positions, width).astype(x.dtype)

    def _give(self, batch_size: int) -> Given:
        if not self.config.layer.attention.pack_length:
            return Given()
        pack = self.pack[...].astype(self.config.layer.dtype)
        return Given(jnp.broadcast_to(pack[:, None], (pack.shape[0], batch_size, *pack.shape[1:])))
