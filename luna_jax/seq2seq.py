"""Encoder-decoder for translation, in the order and with the sharing that the authors ran (facts of their `luna.py`).

    x_0 = sqrt(D) E[tokens] + sinusoids from position 2                 one table E for source, target and output
    P_0 = sqrt(D) P + sinusoids of the slots 0 .. L-1                   learned once; the decoder has none of its own
    encoder   X_i, P_i = EncoderLayer_i(X, P)
    decoder   its first layer takes the encoder's last P, layer i + 1 what layer i packed
    scores    X E^T

With softmax attention the same code is the Transformer of Vaswani et al. 2017, and there is no P.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from luna_jax.axes import Array, ContextMask, ContextTokens, Sequence, SequenceMask, Tokens
from luna_jax.decoder import Decoder, DecoderConfig, DecoderState, Given, score_tokens
from luna_jax.encoder import Encoded, Encoder, EncoderConfig
from luna_jax.ops import dropout, dropout_keys, sinusoid_table

FIRST_POSITION = 2
"""fairseq counts positions from its padding index + 1."""


@dataclass(frozen=True)
class Seq2SeqConfig:
    """An encoder-decoder: the encoder, and how many decoder layers of the same kind follow it.

    The encoder has a table of tokens, sinusoidal positions from FIRST_POSITION and no [CLS].
    """

    encoder: EncoderConfig
    num_decoder_layers: int

    def __post_init__(self):
        needed = {"embedding": "table", "positions": "sinusoidal", "prepend_cls": False, "tie_layers": False}
        for name, value in needed.items():
            if getattr(self.encoder, name) != value:
                raise ValueError(f"encoder.{name}={getattr(self.encoder, name)!r}; a translation model has {value!r}")

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's configuration."""
        return DecoderConfig(
            layer=self.encoder.layer,
            num_layers=self.num_decoder_layers,
            has_context=True,
            remat=self.encoder.remat,
        )


class Seq2Seq(nnx.Module):
    """Source and target tokens to scores of the next target token."""

    def __init__(self, config: Seq2SeqConfig, *, rngs: nnx.Rngs):
        self.config = config
        encoder, layer = config.encoder, config.encoder.layer
        self.encoder = Encoder(encoder, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs)
        attention = layer.attention
        if attention.pack_length and not attention.contextual_pack:
            # the paper's Table 5: nothing runs from layer to layer, so the decoder learns a P for each of its own
            shape = (config.num_decoder_layers, attention.pack_length, layer.emb_dim)
            self.decoder_pack = nnx.Param(
                layer.initializers.pack(layer.emb_dim)(rngs.params(), shape, layer.param_dtype)
            )

    def __call__(
        self,
        source: ContextTokens,
        source_mask: ContextMask,
        target: Tokens,
        target_mask: SequenceMask,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B N V"]:
        """Scores of the token behind each of `target` [B, N], which begins with the end token, fairseq's way.

        Masks are True = real, padding on the right. `deterministic=False` takes dropout from `rngs` ("dropout").
        """
        next_key = dropout_keys(deterministic, rngs)
        encoded = self.encode(source, source_mask, deterministic=deterministic, rngs=rngs)
        given = self._give(encoded, next_key())
        target = jnp.where(target_mask, target, 0)
        x = self._embed(target, jnp.arange(target.shape[1])[None])
        x = dropout(x, self.config.encoder.layer.dropout_rate, next_key())
        x = jnp.where(target_mask[..., None], x, jnp.zeros_like(x))
        x = self.decoder(x, given, x_mask=target_mask, deterministic=deterministic, rngs=rngs)
        return self._score(x)

    def encode(
        self,
        source: ContextTokens,
        source_mask: ContextMask,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Encoded:
        """The encoder's pair (x, p) with its masks."""
        return self.encoder(source, source_mask, deterministic=deterministic, rngs=rngs)

    def start(self, source: ContextTokens, source_mask: ContextMask, max_length: int) -> DecoderState:
        """Encodes, packs, and gives the state before the first of at most `max_length` target tokens.

        `luna_jax.decoder.reorder` exchanges and repeats its rows.
        """
        self._check_length(max_length)
        given = self._give(self.encode(source, source_mask), None)
        return self.decoder.start(given, max_length=max_length, batch_size=source.shape[0])

    def step(self, state: DecoderState, tokens: Array) -> tuple[Float[Array, "B V"], DecoderState]:
        """Scores of the token behind `tokens` [B], which are the previous ones (at first the end token)."""
        x = self._embed(tokens[:, None], state.count[:, None])
        x, state = self.decoder.advance(x, state)
        return self._score(x)[:, 0], state

    def _give(self, encoded: Encoded, dropout_key: Array | None) -> Given:
        """What the decoder gets: the encoder's pair, or its own packs where layers do not hand theirs on."""
        p = encoded.p
        if hasattr(self, "decoder_pack"):
            assert encoded.p is not None, "the encoder has a P where the decoder has"
            assert encoded.p_mask is not None, "a P comes with its mask"
            layer = self.config.encoder.layer
            p = self.decoder_pack[...].astype(layer.dtype) * layer.emb_dim**0.5
            p = p + jnp.asarray(sinusoid_table(*p.shape[1:]), p.dtype)[None]
            p = jnp.broadcast_to(p[:, None], (p.shape[0], *encoded.p.shape))
            p = dropout(p, layer.dropout_rate, dropout_key)
            p = jnp.where(encoded.p_mask[None, ..., None], p, jnp.zeros_like(p))
        return Given(p, encoded.p_mask, encoded.x, encoded.x_mask)

    def _embed(self, tokens: Array, positions: Array) -> Sequence:
        """sqrt(D) E[tokens] + sinusoids, tokens [B, N] at the positions [B or 1, N] counted from 0."""
        encoder = self.config.encoder
        x = self.encoder.embed(tokens)
        if encoder.scale_embedding:
            x = x * encoder.layer.emb_dim**0.5
        self._check_length(tokens.shape[1])
        table = sinusoid_table(encoder.first_position + encoder.max_length, encoder.layer.emb_dim)
        return x + jnp.asarray(table, x.dtype)[positions + encoder.first_position]

    def _check_length(self, length: int) -> None:
        limit = self.config.encoder.max_length
        if length > limit:
            raise ValueError(f"{length} target positions exceed max_length={limit}; shorten, or build a longer model")

    def _score(self, x: Sequence) -> Float[Array, "B N V"]:
        embed = self.encoder.embed
        assert isinstance(embed, nnx.Embed), "Seq2SeqConfig takes no other"
        return score_tokens(x, embed)
