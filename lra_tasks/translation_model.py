"""From settings to a translation model: luna_jax's encoder-decoder as pure functions over plain parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lra_tasks.errors import UserError
from lra_tasks.translation_settings import TranslationExperiment
from luna_jax.attention.luna import LunaConfig
from luna_jax.attention.registry import DecoderAttentionConfig
from luna_jax.attention.softmax import SoftmaxConfig
from luna_jax.decoder import DecoderState
from luna_jax.encoder import EncoderConfig
from luna_jax.initializers import FAIRSEQ
from luna_jax.layers import LayerConfig
from luna_jax.seq2seq import FIRST_POSITION, Seq2Seq, Seq2SeqConfig

Params = dict[str, Any]


@dataclass(frozen=True)
class TranslationModel:
    """An encoder-decoder without its parameters."""

    config: Seq2SeqConfig
    init: Callable[[jax.Array], Params]
    """key -> parameters, a plain nested dict."""
    apply: Callable[..., jax.Array]
    """(parameters, source, source_mask, target, target_mask, dropout key or None) -> scores [B, N, V]."""
    start: Callable[..., DecoderState]
    """(parameters, source, source_mask, max_length) -> the state before the first token."""
    step: Callable[..., tuple[jax.Array, DecoderState]]
    """(parameters, state, tokens [B]) -> (scores [B, V], state)."""
    abstract: Params
    """Shapes and dtypes of the parameters; nothing is allocated."""

    def is_stacked(self, path: Any) -> bool:
        """Whether a parameter, by its key path, holds a tensor for each layer."""
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        attention = self.config.encoder.layer.attention
        own_packs = isinstance(attention, LunaConfig) and not attention.contextual_pack
        return "layers" in names or (own_packs and names[-1] in ("pack", "decoder_pack"))

    @property
    def num_parameters(self) -> int:
        """Trained numbers in the model."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.abstract))


def seq2seq_config(experiment: TranslationExperiment, vocab_size: int, max_length: int) -> Seq2SeqConfig:
    """The model library's configuration of an experiment."""
    model = experiment.model
    layer = LayerConfig(
        # both have all that it asks for; a type checker does not take a class's constant for a property
        attention=cast(DecoderAttentionConfig, attention_config(experiment)),
        emb_dim=model.emb_dim,
        mlp_dim=model.mlp_dim,
        norm=model.norm,
        activation=model.activation,
        dropout_rate=model.dropout_rate,
        activation_dropout_rate=model.activation_dropout_rate,
        dtype=jnp.dtype(model.dtype),
        param_dtype=jnp.float32,
        initializers=FAIRSEQ,
    )
    encoder = EncoderConfig(
        layer=layer,
        num_layers=model.num_encoder_layers,
        tie_layers=False,
        vocab_size=vocab_size,
        embedding="table",
        max_length=max_length,
        prepend_cls=False,
        positions="sinusoidal",
        first_position=FIRST_POSITION,
        scale_embedding=True,
        embedding_norm=False,
        pack_embedding="sinusoidal",
        pack_slots="by_length",
        remat=model.remat,
    )
    return Seq2SeqConfig(encoder, model.num_decoder_layers)


def attention_config(experiment: TranslationExperiment) -> LunaConfig | SoftmaxConfig:
    """The mechanism's configuration."""
    model = experiment.model
    common = {"num_heads": model.num_heads, "dropout_rate": model.attention_dropout_rate, "causal": False}
    try:
        if experiment.luna is not None and experiment.causal is not None:
            luna, causal = experiment.luna, experiment.causal
            return LunaConfig(
                **common,
                num_pack_heads=luna.num_pack_heads,
                pack_length=luna.pack_length,
                tie_kv=luna.tie_kv,
                contextual_pack=luna.contextual_pack,
                causal_weight=causal.weight,
                causal_chunk_size=causal.chunk_size,
            )
        assert experiment.softmax is not None
        softmax = experiment.softmax
        return SoftmaxConfig(**common, implementation=softmax.implementation, chunk_size=softmax.chunk_size)
    except ValueError as mistake:
        raise UserError(f"{model.attention}: {mistake}") from None


def build_translation_model(experiment: TranslationExperiment, vocab_size: int, max_length: int) -> TranslationModel:
    """The encoder-decoder of an experiment as pure functions."""
    config = seq2seq_config(experiment, vocab_size, max_length)

    def build(key):
        return Seq2Seq(config, rngs=nnx.Rngs(params=key))

    def init(key):
        return nnx.to_pure_dict(nnx.state(build(key), nnx.Param))

    shapes = jax.eval_shape(build, jax.random.key(0))
    graphdef, abstract = nnx.split(shapes)[0], nnx.to_pure_dict(nnx.state(shapes, nnx.Param))

    def apply(params, source, source_mask, target, target_mask, dropout_key=None):
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        options = {"deterministic": dropout_key is None, "rngs": rngs}
        return nnx.merge(graphdef, params)(source, source_mask, target, target_mask, **options)

    def start(params, source, source_mask, max_length):
        return nnx.merge(graphdef, params).start(source, source_mask, max_length)

    def step(params, state, tokens):
        return nnx.merge(graphdef, params).step(state, tokens)

    return TranslationModel(config, init, apply, start, step, abstract)
