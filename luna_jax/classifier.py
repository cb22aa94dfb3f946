"""From encoded sequences to class scores: one document, or two."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from luna_jax.attention.checks import check_mask
from luna_jax.axes import Array, SequenceMask, Tokens
from luna_jax.dense import Dense
from luna_jax.encoder import Encoded, Encoder, EncoderConfig
from luna_jax.ops import masked_mean

POOLINGS = ("cls", "mean", "packed", "packed_all")
PAIR_FEATURES = ("concat", "interaction")
FEATURE_NORMS = ("none", "calibrated", "whitened")


@dataclass(frozen=True)
class ClassifierConfig:
    """An encoder and the head on top of it."""

    encoder: EncoderConfig
    pair_features: str | None
    """Of two documents' vectors a, b. "concat": [a ; b]. "interaction": [a ; b ; a b ; a - b]. None: one document."""
    pooling: str
    """"cls": x at position 0. "mean": mean of x over real positions. "packed": mean of the last p over real slots.
    "packed_all": over all slots."""
    feature_norm: str
    """Of the pooled vector. "none", or what it goes through: "calibrated" a `Calibration`, "whitened" a `Whitening`."""
    classifier_dim: int
    """Width of the head's hidden layer; 0: none, the scores are one linear map of the features."""
    num_classes: int

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}; choices: {', '.join(POOLINGS)}")
        if self.pair_features not in (None, *PAIR_FEATURES):
            raise ValueError(f"pair_features={self.pair_features!r}; choices: {', '.join(PAIR_FEATURES)}, or None")
        if self.feature_norm not in FEATURE_NORMS:
            raise ValueError(f"feature_norm={self.feature_norm!r}; choices: {', '.join(FEATURE_NORMS)}")
        if self.pooling == "cls" and not self.encoder.prepend_cls:
            raise ValueError('pooling="cls" reads position 0, which is [CLS] only with prepend_cls=True')
        if self.pooling in ("packed", "packed_all") and not self.encoder.layer.attention.pack_length:
            problem = f'pooling="{self.pooling}" needs an attention with a packed sequence'
            raise ValueError(f'{problem}; take "cls" or "mean"')
        if self.classifier_dim < 0:
            raise ValueError(f"classifier_dim={self.classifier_dim}; it must be at least 0")


def pool(encoded: Encoded, pooling: str) -> Float[Array, "B D"]:
    """One vector an example: [CLS], the mean of x, or the mean of p (the paper's Table 3).

    The authors' code averages padding and masked slots too; here neither counts, but with "packed_all", where the
    masked slots do: those of a document with fewer tokens than P has slots.
    """
    if pooling == "cls":
        return encoded.x[:, 0]
    if pooling == "mean":
        return masked_mean(encoded.x, encoded.x_mask)
    if encoded.p is None or encoded.p_mask is None:
        raise ValueError('pooling="packed" needs an attention with a packed sequence; take "cls" or "mean"')
    return jnp.mean(encoded.p, axis=1) if pooling == "packed_all" else masked_mean(encoded.p, encoded.p_mask)


def combine(a: Float[Array, "B D"], b: Float[Array, "B D"], pair_features: str) -> Float[Array, "B G"]:
    """Features of a pair: [a ; b] as the authors have it, or [a ; b ; a b ; a - b], the LRA paper's."""
    parts = [a, b] if pair_features == "concat" else [a, b, a * b, a - b]
    return jnp.concatenate(parts, axis=-1)


class Head(nnx.Module):
    """relu(features W_1 + b) W_2: one hidden layer, no bias at the end, scores in float32 at least.

    With `classifier_dim` 0 there is no hidden layer: features W_2.
    """

    def __init__(self, in_dim: int, config: ClassifierConfig, *, rngs: nnx.Rngs):
        layer = config.encoder.layer
        start = layer.initializers
        dense = partial(Dense, dtype=layer.dtype, param_dtype=layer.param_dtype, kernel_init=start.dense, rngs=rngs)
        hidden_dim = config.classifier_dim
        self.hidden = dense(in_dim, hidden_dim, bias_init=start.dense_bias(in_dim)) if hidden_dim else None
        self.logits = dense(hidden_dim or in_dim, config.num_classes, use_bias=False)

    def __call__(self, features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        if self.hidden is not None:
            features = jax.nn.relu(self.hidden(features))
        logits = self.logits(features)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


class Calibration(nnx.Module):
    """z = (v - shift) scale, elementwise; both are parameters, at 0 and 1 until `calibrate` sets them.

    In a long sequence, most of which is alike (black pixels, spaces), the pooled vector is nearly the same for all
    examples: at the start its deviations are a tenth to a hundredth of it, and a label that depends on products of them
    has next to no gradient. Set from a first batch, z has mean 0 and deviation 1 (the data-dependent initialisation of
    Kingma and Dhariwal 2018, "ActNorm"); from then on an example depends on no other, unlike under batch norm.
    """

    def __init__(self, width: int, *, param_dtype: Any):
        self.shift = nnx.Param(jnp.zeros((width,), param_dtype))
        self.scale = nnx.Param(jnp.ones((width,), param_dtype))

    def __call__(self, vectors: Float[Array, "B D"]) -> Float[Array, "B D"]:
        shift, scale = (values[...].astype(vectors.dtype)[None] for values in (self.shift, self.scale))
        return (vectors - shift) * scale

    def calibrate(self, vectors: Float[Array, "B D"]) -> None:
        """Sets shift and scale so that these vectors come out with mean 0 and standard deviation 1."""
        self.shift[...] = jnp.mean(vectors, axis=0).astype(self.shift.dtype)
        self.scale[...] = (1 / (jnp.std(vectors, axis=0) + CALIBRATION_FLOOR)).astype(self.scale.dtype)


CALIBRATION_FLOOR = 1e-4
"""Added to a deviation, so that a feature that is the same for all examples is not blown up."""


class Whitening(nnx.Module):
    """z = (v - mean) S^-1 R^(-1/2): deviations S, correlations R = (1 - s) corr(v) + s I with a shrinkage s of 0.003.

    Pooled vectors of sequences that are mostly alike differ along one or two directions only, by far. Standardising
    them one by one (`Calibration`, batch norm) leaves that as it is; decorrelated batch norm (Huang et al. 2018) does
    not. In training the statistics are the batch's, and no gradient passes through R^(-1/2). In evaluation they are
    the stored ones that `calibrate` took from training examples with the parameters to be evaluated (precise batch
    norm, Wu and Johnson 2021), and an example depends on no other. The stored ones get no gradient.
    """

    def __init__(self, width: int, *, param_dtype: Any):
        self.shift = nnx.Param(jnp.zeros((width,), param_dtype))
        self.matrix = nnx.Param(jnp.eye(width, dtype=param_dtype))

    def __call__(self, vectors: Float[Array, "B D"], *, from_batch: bool = False) -> Float[Array, "B D"]:
        """`from_batch`: by the statistics of these vectors, as in training; otherwise by the stored ones."""
        wide = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
        shift, matrix = whitening_of(wide) if from_batch else (self.shift[...], self.matrix[...])
        return ((wide - shift[None]) @ matrix).astype(vectors.dtype)

    def calibrate(self, vectors: Float[Array, "B D"]) -> None:
        """Stores the statistics of these vectors."""
        shift, matrix = whitening_of(vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32)))
        self.shift[...], self.matrix[...] = shift.astype(self.shift.dtype), matrix.astype(self.matrix.dtype)


def whitening_of(vectors: Float[Array, "B D"]) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Mean and S^-1 R^(-1/2) of a `Whitening`."""
    shift, deviation = jnp.mean(vectors, axis=0), jnp.std(vectors, axis=0) + WHITENING_FLOOR
    standard = (vectors - shift[None]) / deviation[None]
    correlation = (1 - WHITENING_SHRINKAGE) * standard.T @ standard / len(vectors)
    values, directions = jnp.linalg.eigh(correlation + WHITENING_SHRINKAGE * jnp.eye(len(shift), dtype=shift.dtype))
    root = jax.lax.stop_gradient((directions / jnp.sqrt(values)[None]) @ directions.T)
    return shift, root / deviation[:, None]


WHITENING_SHRINKAGE = 0.003
"""Share of the identity in the correlations: they can be inverted, and noise is blown up eighteenfold at most."""
WHITENING_FLOOR = 1e-6
"""Added to a deviation, so that none is zero: far below them, or scaling a feature would have a gradient."""


class Classifier(nnx.Module):
    """Encoder, pooling, head: tokens [B, N] to scores [B, C]."""

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        if config.pair_features is not None:
            raise ValueError(f"pair_features={config.pair_features!r} needs two documents; take PairedClassifier")
        self.encoder = Encoder(config.encoder, rngs=rngs)
        self.head = Head(config.encoder.layer.emb_dim, config, rngs=rngs)
        self.pooling = config.pooling
        self.calibration = make_calibration(config)

    def __call__(
        self,
        tokens: Tokens,
        token_mask: SequenceMask,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B C"]:
        """tokens [B, N], token_mask [B, N] True = real; returns unnormalised scores."""
        vectors = self.encode(tokens, token_mask, deterministic=deterministic, rngs=rngs)
        return self.head(normalise(self.calibration, vectors, from_batch=not deterministic))

    def encode(self, tokens: Tokens, token_mask: SequenceMask, **mode: Any) -> Float[Array, "B D"]:
        """The pooled vector of each document; arguments as of a call."""
        return pool(self.encoder(tokens, token_mask, **mode), self.pooling)


class PairedClassifier(nnx.Module):
    """One encoder for both documents a and b, features of the pair, one head.

    Both documents are pooled alike (the authors' code leaves [CLS] out of the first one's pack only). They run through
    the encoder as one batch of 2 B rows, each with dropout of its own.
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        if config.pair_features is None:
            raise ValueError(f"pair_features=None is for one document; choices: {', '.join(PAIR_FEATURES)}")
        self.encoder = Encoder(config.encoder, rngs=rngs)
        num_parts = 2 if config.pair_features == "concat" else 4
        self.head = Head(num_parts * config.encoder.layer.emb_dim, config, rngs=rngs)
        self.pooling, self.pair_features = config.pooling, config.pair_features
        self.calibration = make_calibration(config)

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
        vectors = self.encode(first, first_mask, second, second_mask, deterministic=deterministic, rngs=rngs)
        vectors = normalise(self.calibration, vectors, from_batch=not deterministic)
        return self.head(combine(vectors[0::2], vectors[1::2], self.pair_features))

    def encode(
        self,
        first: Int[Array, "B N"],
        first_mask: Bool[Array, "B N"],
        second: Int[Array, "B M"],
        second_mask: Bool[Array, "B M"],
        **mode: Any,
    ) -> Float[Array, "P D"]:
        """The pooled vectors of first[0], second[0], first[1], ...; arguments as of a call."""
        check_mask(first_mask, first, "first_mask")
        check_mask(second_mask, second, "second_mask")
        tokens, token_mask = _interleave(first, second), _interleave(first_mask, second_mask)
        return pool(self.encoder(tokens, token_mask, **mode), self.pooling)


def make_calibration(config: ClassifierConfig) -> Calibration | Whitening | None:
    """The calibration of a classifier that has one."""
    if config.feature_norm == "none":
        return None
    layer = config.encoder.layer
    kind = Calibration if config.feature_norm == "calibrated" else Whitening
    return kind(layer.emb_dim, param_dtype=layer.param_dtype)


def normalise(
    calibration: Calibration | Whitening | None, vectors: Float[Array, "B D"], *, from_batch: bool
) -> Float[Array, "B D"]:
    """Pooled vectors as the head takes them. `from_batch`: in training, for a `Whitening`."""
    if calibration is None:
        return vectors
    return calibration(vectors, from_batch=from_batch) if isinstance(calibration, Whitening) else calibration(vectors)


def _interleave(first: Array, second: Array) -> Array:
    """Rows first[0], second[0], first[1], ... of the longer one's length, so that a pair stays on one device."""
    length = max(first.shape[1], second.shape[1])
    padded = [jnp.pad(array, ((0, 0), (0, length - array.shape[1]))) for array in (first, second)]
    return jnp.stack(padded, axis=1).reshape(-1, length)
