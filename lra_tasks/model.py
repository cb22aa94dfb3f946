"""From settings to a model: the classifier of luna_jax for a task, as pure functions over plain parameters."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lra_tasks.errors import UserError
from lra_tasks.mechanisms import USUAL_PACK
from lra_tasks.settings import Experiment, check_task, sequence_length
from lra_tasks.task import AnyBatch, Batch, PairedBatch, Task
from luna_jax.attention.registry import AttentionConfig, get_attention_config
from luna_jax.classifier import Classifier, ClassifierConfig, PairedClassifier
from luna_jax.encoder import EncoderConfig
from luna_jax.initializers import INITIALIZERS
from luna_jax.layers import LayerConfig
from luna_jax.sequence_parallel import SequenceSplit

Params = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A classifier without its parameters."""

    config: ClassifierConfig
    init: Callable[[jax.Array], Params]
    """key -> parameters, a plain nested dict."""
    apply: Callable[..., jax.Array]
    """(parameters, batch, dropout key or None, draws key or None) -> scores [B, C].

    The batch is a PairedBatch if the config has pair features. The second key decides random features, hashes and
    patterns of attention; None: a constant.
    """
    encode: Callable[[Params, AnyBatch], jax.Array]
    """(parameters, batch) -> pooled vectors [P, D], without dropout."""
    calibrate: Callable[[Params, jax.Array], Params]
    """(parameters, pooled vectors) -> parameters that these helped to set; the same where nothing asks for it."""
    abstract: Params
    """Shapes and dtypes of the parameters; nothing is allocated."""
    draw_interval: int | None
    """Training steps between draws of attention's features, hashes or patterns; 0: drawn once; None: there are none."""

    @property
    def num_parameters(self) -> int:
        """Trained numbers in the model, and the stored statistics of one that is whitened."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.abstract))


def classifier_config(experiment: Experiment, task: Task, split: SequenceSplit | None = None) -> ClassifierConfig:
    """The model library's configuration of an experiment on a task. Raises UserError where the two do not fit.

    `split`: sequences are split over devices.
    """
    check_task(experiment, task)
    model = experiment.model
    positions = sequence_length(experiment, task) + model.prepend_cls
    layer = LayerConfig(
        attention=attention_config(experiment, positions, split),
        emb_dim=model.emb_dim,
        mlp_dim=model.mlp_dim,
        norm=model.norm,
        activation=model.activation,
        dropout_rate=model.dropout_rate,
        activation_dropout_rate=model.activation_dropout_rate,
        dtype=jnp.dtype(model.dtype),
        param_dtype=jnp.float32,
        initializers=INITIALIZERS[model.initializers],
    )
    encoder = EncoderConfig(
        layer=layer,
        num_layers=model.num_layers,
        tie_layers=model.tie_layers,
        vocab_size=task.vocabulary.size,
        embedding=model.embedding,
        max_length=positions,
        prepend_cls=model.prepend_cls,
        positions=model.positions,
        first_position=0,
        scale_embedding=model.scale_embedding,
        embedding_norm=model.embedding_norm,
        pack_embedding=(experiment.pack or USUAL_PACK).embedding,
        pack_slots=(experiment.pack or USUAL_PACK).slots,
        remat=model.remat,
    )
    return ClassifierConfig(
        encoder=encoder,
        pair_features=model.pair_features if task.paired else None,
        pooling=model.pooling,
        feature_norm=model.feature_norm,
        classifier_dim=model.classifier_dim,
        num_classes=task.num_classes,
    )


def attention_config(experiment: Experiment, positions: int, split: SequenceSplit | None = None) -> AttentionConfig:
    """The mechanism's configuration, told the number of positions where its parameters or buckets depend on it."""
    model = experiment.model
    kind = get_attention_config(model.attention)
    switches = asdict(getattr(experiment, model.attention))
    if split is not None:
        if "split" not in {field.name for field in fields(kind)}:
            raise UserError(
                f"machine.sequence={split.num_parts} splits sequences over devices, which {model.attention} attention "
                "cannot; set it to 1 and use data and model, or take luna"
            )
        switches["split"] = split
    if experiment.pack is not None:
        switches["pack_projection"] = experiment.pack.projection
    if "max_length" in {field.name for field in fields(kind)}:
        switches["max_length"] = positions
    if switches.get("num_buckets") == 0:
        switches["num_buckets"] = max(2, 2 * round(positions / switches["chunk_size"]))
    try:
        return kind(
            num_heads=model.num_heads,
            dropout_rate=model.attention_dropout_rate,
            causal=model.causal,
            **switches,
        )
    except ValueError as mistake:
        raise UserError(f"{model.attention}: {mistake}") from None


def build_model(experiment: Experiment, task: Task, split: SequenceSplit | None = None) -> Model:
    """The classifier of an experiment on a task. Raises UserError for what its attention mechanism cannot be."""
    config = classifier_config(experiment, task, split)
    try:
        model = model_from_config(config)
        # One trace at the door: a block larger than the sequence is known only when a sequence comes.
        jax.eval_shape(model.apply, model.abstract, abstract_batch(config, 1, sequence_length(experiment, task)))
    except ValueError as mistake:
        raise UserError(f"{experiment.model.attention}: {mistake}") from None
    return model


def abstract_batch(config: ClassifierConfig, size: int, length: int) -> AnyBatch:
    """Shapes and dtypes of a batch of `size` examples whose documents have `length` tokens."""
    tokens = jax.ShapeDtypeStruct((size, length), jnp.int32)
    mask = jax.ShapeDtypeStruct((size, length), jnp.bool_)
    labels = jax.ShapeDtypeStruct((size,), jnp.int32)
    example_mask = jax.ShapeDtypeStruct((size,), jnp.bool_)
    if config.pair_features is None:
        return Batch(tokens, mask, labels, example_mask)
    return PairedBatch(tokens, mask, tokens, mask, labels, example_mask)


def model_from_config(config: ClassifierConfig) -> Model:
    """A classifier of one document or of two as pure functions: `init` and `apply` over a plain dict of arrays."""
    kind = Classifier if config.pair_features is None else PairedClassifier

    def build(key):
        return kind(config, rngs=nnx.Rngs(params=key))

    def init(key):
        return nnx.to_pure_dict(nnx.state(build(key), nnx.Param))

    shapes = jax.eval_shape(build, jax.random.key(0))
    graphdef, abstract = nnx.split(shapes)[0], nnx.to_pure_dict(nnx.state(shapes, nnx.Param))

    def apply(params, batch, dropout_key=None, draws_key=None):
        keys = {"dropout": dropout_key, "draws": draws_key}
        keys = {name: key for name, key in keys.items() if key is not None}
        model = nnx.merge(graphdef, params)
        rngs = nnx.Rngs(**keys) if keys else None
        return model(*list_documents(batch), deterministic=dropout_key is None, rngs=rngs)

    def encode(params, batch):
        return nnx.merge(graphdef, params).encode(*list_documents(batch))

    def calibrate(params, vectors):
        model = nnx.merge(graphdef, params)
        if model.calibration is None:
            return params
        model.calibration.calibrate(vectors)
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    return Model(config, init, apply, encode, calibrate, abstract, config.encoder.layer.attention.draw_interval)


def list_documents(batch: AnyBatch) -> tuple[Any, ...]:
    """(tokens, mask) of a batch, twice where an example is two documents: what a classifier takes."""
    if isinstance(batch, PairedBatch):
        return batch.first, batch.first_mask, batch.second, batch.second_mask
    return batch.tokens, batch.token_mask
