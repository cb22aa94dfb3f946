"""From encoded sequences to class scores: one document, or two."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from luna_jax.axes import Array, SequenceMask, Tokens
from luna_jax.dense import Dense
from luna_jax.encoder import Encoded, Encoder, EncoderConfig
from luna_jax.ops import masked_mean

POOLINGS = ("cls", "mean", "packed")


@dataclass(frozen=True)
class ClassifierConfig:
    """An encoder and the head on top of it."""

    encoder: EncoderConfig
    pooling: str
    """"cls": x at position 0. "mean": mean of x over real positions. "packed": mean of the last p over real slots."""
    classifier_dim: int
    """Width of the head's hidden layer."""
    num_classes: int

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}; choices: {', '.join(POOLINGS)}")
        if self.pooling == "cls" and not self.encoder.prepend_cls:
            raise ValueError('pooling="cls" reads position 0, which is [CLS] only with prepend_cls=True')
        if self.pooling == "packed" and not self.encoder.layer.attention.pack_length:
            raise ValueError('pooling="packed" needs an attention with a packed sequence; take "cls" or "mean"')


def pool(encoded: Encoded, pooling: str) -> Float[Array, "B D"]:
    """One vector an example: [CLS], the mean of x, or the mean of p (the paper's Table 3).

    The authors' code averages padding and masked slots too; here neither counts.
    """
    if pooling == "cls":
        return encoded.x[:, 0]
    if pooling == "mean":
        return masked_mean(encoded.x, encoded.x_mask)
    if encoded.p is None or encoded.p_mask is None:
        raise ValueError('pooling="packed" needs an attention with a packed sequence; take "cls" or "mean"')
    return masked_mean(encoded.p, encoded.p_mask)


class Head(nnx.Module):
    """relu(features W_1 + b) W_2: one hidden layer, no bias at the end, scores in float32 at least."""

    def __init__(self, in_dim: int, config: ClassifierConfig, *, rngs: nnx.Rngs):
        layer = config.encoder.layer
        start = layer.initializers
        dense = partial(Dense, dtype=layer.dtype, param_dtype=layer.param_dtype, kernel_init=start.dense, rngs=rngs)
        self.hidden = dense(in_dim, config.classifier_dim, bias_init=start.dense_bias(in_dim))
        self.logits = dense(config.classifier_dim, config.num_classes, use_bias=False)

    def __call__(self, features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        logits = self.logits(jax.nn.relu(self.hidden(features)))
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


class Classifier(nnx.Module):
    """Encoder, pooling, head: tokens [B, N] to scores [B, C]."""

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config.encoder, rngs=rngs)
        self.head = Head(config.encoder.layer.emb_dim, config, rngs=rngs)
        self.pooling = config.pooling

    def __call__(
        self,
        tokens: Tokens,
        token_mask: SequenceMask,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B C"]:
        """tokens [B, N], token_mask [B, N] True = real; returns unnormalised scores."""
        encoded = self.encoder(tokens, token_mask, deterministic=deterministic, rngs=rngs)
        return self.head(pool(encoded, self.pooling))


class PairedClassifier(nnx.Module):
    """One encoder for both documents, features [first ; second], one head (the authors' Retrieval model)."""

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config.encoder, rngs=rngs)
        self.head = Head(2 * config.encoder.layer.emb_dim, config, rngs=rngs)
        self.pooling = config.pooling

    def __call__(
        self,
        first: Int[Array, "B N"],
        first_mask: Bool[Array, "B N"],
        second: Int[Array, "B M"],
        second_mask: Bool[Array, "B M"],
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B C"]:
        """Two documents as tokens and masks, each padded on its own; returns unnormalised scores [B, C]."""
        encode = partial(self.encoder, deterministic=deterministic, rngs=rngs)
        documents = [encode(first, first_mask), encode(second, second_mask)]
        features = jnp.concatenate([pool(document, self.pooling) for document in documents], axis=-1)
        return self.head(features)
