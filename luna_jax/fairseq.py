"""Weights of the authors' Luna checkpoints as our parameters.

In: a state dict of NumPy arrays under the names of fairseq (`XuezheMax/fairseq-apollo` at commit 1ea2f78, Dec 2021). A
linear weight there is [out, in] and transposed here. Out: the plain nested dict that `nnx.merge` takes. Checkpoints
of late 2023 store layer-norm weights minus one and do not transfer.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from luna_jax.attention.luna import LunaConfig
from luna_jax.classifier import ClassifierConfig
from luna_jax.encoder import EncoderConfig
from luna_jax.layers import LayerConfig

Params = dict[str, Any]

TIED = {"pack_query": "pq_proj", "query": "q_proj", "pack_context": "pc_proj", "context": "c_proj", "out": "out_proj"}
UNTIED = {
    "pack_query": "pq_proj",
    "query": "q_proj",
    "pack_key": "pk_proj",
    "pack_value": "pv_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "out_proj",
}
CAUSAL_TIED = TIED  # what is packed has a projection of its own there, too
CAUSAL_UNTIED = {name: TIED[name] for name in ("pack_query", "query", "pack_context", "out")}
CAUSAL_UNTIED |= {"key": "k_proj", "value": "v_proj"}
UNUSED_POSITIONS = 2
"""fairseq counts positions from padding_idx + 1 = 2; rows 0 and 1 of its table belong to no token."""


class WeightsError(ValueError):
    """The state dict does not fit the configuration; lists every missing, extra and misshapen entry."""


class _Reader:
    """Takes entries by name and shape, and remembers all that was wrong until `finish`."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        self.state = state
        self.taken: set[str] = set()
        self.missing: list[str] = []
        self.misshapen: list[str] = []

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        self.taken.add(name)
        if name not in self.state:
            self.missing.append(f"{name} {shape}")
        elif self.state[name].shape != shape:
            self.misshapen.append(f"{name} {self.state[name].shape} instead of {shape}")
        else:
            return np.asarray(self.state[name])
        return np.zeros(shape, np.float32)

    def linear(self, name: str, in_dim: int, out_dim: int, bias: bool = True) -> Params:
        layer: Params = {"kernel": self.take(f"{name}.weight", (out_dim, in_dim)).T}
        if bias:
            layer["bias"] = self.take(f"{name}.bias", (out_dim,))
        return layer

    def norm(self, name: str, width: int) -> Params:
        return {"scale": self.take(f"{name}.weight", (width,)), "bias": self.take(f"{name}.bias", (width,))}

    def finish(self) -> None:
        extra = sorted(set(self.state) - self.taken)
        found = [("missing", self.missing), ("misshapen", self.misshapen), ("extra", extra)]
        problems = [f"{kind}: {', '.join(entries)}" for kind, entries in found if entries]
        if problems:
            raise WeightsError("the weights do not fit this configuration; " + "; ".join(problems))


def import_attention(state: Mapping[str, np.ndarray], emb_dim: int, *, tie_kv: bool) -> Params:
    """One attention block (`pq_proj.weight` and so on) as parameters of `LunaAttention`."""
    reader = _Reader(state)
    params = _attention(reader, "", emb_dim, tie_kv)
    reader.finish()
    return params


def import_causal_attention(state: Mapping[str, np.ndarray], emb_dim: int, *, tie_kv: bool) -> Params:
    """One causal attention block as parameters of `CausalLunaAttention`."""
    reader = _Reader(state)
    params = _causal_attention(reader, "", emb_dim, tie_kv)
    reader.finish()
    return params


def import_decoder_layer(state: Mapping[str, np.ndarray], config: LayerConfig) -> Params:
    """One decoder layer (`self_attn.*`, `encoder_attn.*`, `fc1` and so on) as parameters of `DecoderLayer`."""
    reader, width, tie_kv = _Reader(state), config.emb_dim, _luna(config).tie_kv
    params: Params = {
        "self_attention": _causal_attention(reader, "self_attn.", width, tie_kv),
        "self_attention_norm": reader.norm("self_attn_layer_norm", width),
        "cross_attention": _attention(reader, "encoder_attn.", width, tie_kv),
        "cross_attention_norm": reader.norm("encoder_attn_layer_norm", width),
        "pack_norm": reader.norm("encoder_atten_proj_layer_norm", width),
        "feed_forward": _feed_forward(reader, "", config),
        "feed_forward_norm": reader.norm("final_layer_norm", width),
    }
    reader.finish()
    return params


def import_layer(state: Mapping[str, np.ndarray], config: LayerConfig) -> Params:
    """One encoder layer (`self_attn.pq_proj.weight`, `fc1.weight` and so on) as parameters of `EncoderLayer`."""
    reader = _Reader(state)
    params = _layer(reader, "", config)
    reader.finish()
    return params


def import_classifier(state: Mapping[str, np.ndarray], config: ClassifierConfig) -> Params:
    """A Long Range Arena classifier as parameters of `Classifier`, or with `pair_features` of `PairedClassifier`.

    With `prepend_cls` the last row of their token table, `<CLS>`, becomes our [CLS] vector, so the table must have
    `vocab_size + 1` rows. Their features are [second ; first], ours [first ; second]: the head's rows are swapped.
    """
    if config.pair_features == "interaction":
        raise WeightsError("the authors' features of two documents are pair_features='concat'; got 'interaction'")
    if not config.classifier_dim:
        raise WeightsError("the authors' classifiers have a hidden layer in the head; got classifier_dim=0")
    reader, paired = _Reader(state), config.pair_features is not None
    width, hidden = config.encoder.layer.emb_dim, config.classifier_dim
    head: Params = {
        "hidden": reader.linear("classifier.0", width * (2 if paired else 1), hidden),
        "logits": reader.linear("sentence_projection_layer", hidden, config.num_classes, bias=False),
    }
    params: Params = {"encoder": _encoder(reader, "encoder.encoder.", config.encoder), "head": head}
    reader.finish()
    if paired:
        kernel = head["hidden"]["kernel"]
        head["hidden"]["kernel"] = np.concatenate([kernel[width:], kernel[:width]])
    return params


def _attention(reader: _Reader, prefix: str, emb_dim: int, tie_kv: bool) -> Params:
    names = TIED if tie_kv else UNTIED
    return {ours: reader.linear(prefix + theirs, emb_dim, emb_dim) for ours, theirs in names.items()}


def _causal_attention(reader: _Reader, prefix: str, emb_dim: int, tie_kv: bool) -> Params:
    names = CAUSAL_TIED if tie_kv else CAUSAL_UNTIED
    return {ours: reader.linear(prefix + theirs, emb_dim, emb_dim) for ours, theirs in names.items()}


def _feed_forward(reader: _Reader, prefix: str, config: LayerConfig) -> Params:
    return {
        "fc1": reader.linear(f"{prefix}fc1", config.emb_dim, config.mlp_dim),
        "fc2": reader.linear(f"{prefix}fc2", config.mlp_dim, config.emb_dim),
    }


def _layer(reader: _Reader, prefix: str, config: LayerConfig) -> Params:
    width, attention = config.emb_dim, _luna(config)
    if attention.pack_projection:
        raise WeightsError("the authors' attention has pack_projection=False; got True")
    return {
        "attention": _attention(reader, f"{prefix}self_attn.", width, attention.tie_kv),
        "attention_norm": reader.norm(f"{prefix}self_attn_layer_norm", width),
        "pack_norm": reader.norm(f"{prefix}self_atten_proj_layer_norm", width),
        "feed_forward": _feed_forward(reader, prefix, config),
        "feed_forward_norm": reader.norm(f"{prefix}final_layer_norm", width),
    }


def _encoder(reader: _Reader, prefix: str, config: EncoderConfig) -> Params:
    width, attention = config.layer.emb_dim, _luna(config.layer)
    table = config.positions == "learned" and config.embedding == "table"
    if not (attention.contextual_pack and config.embedding_norm and table and config.pack_embedding == "as_tokens"):
        raise WeightsError(
            "the authors' classifiers have contextual_pack=True, embedding_norm=True, positions='learned', "
            f"embedding='table', pack_embedding='as_tokens'; got {attention.contextual_pack}, {config.embedding_norm}, "
            f"{config.positions!r}, {config.embedding!r}, {config.pack_embedding!r}"
        )
    rows = config.vocab_size + config.prepend_cls
    tokens = reader.take(f"{prefix}embed_tokens.weight", (rows, width))
    positions = reader.take(f"{prefix}embed_positions.weight", (config.max_length + UNUSED_POSITIONS, width))
    params: Params = {
        "embed": {"embedding": tokens[: config.vocab_size]},
        "positions": positions[UNUSED_POSITIONS:],
        "pack": reader.take(f"{prefix}projected_embeddings", (attention.pack_length, width)),
        "embedding_norm": reader.norm(f"{prefix}emb_layer_norm", width),
        "pack_embedding_norm": reader.norm(f"{prefix}proj_emb_layer_norm", width),
    }
    if config.prepend_cls:
        params["cls"] = tokens[-1]
    if config.layer.norm == "pre":
        params["final_norm"] = reader.norm(f"{prefix}layer_norm", width)
        params["final_pack_norm"] = reader.norm(f"{prefix}proj_layer_norm", width)
    if config.tie_layers:
        params["layers"] = _layer(reader, f"{prefix}layers.0.", config.layer)
    else:
        layers = [_layer(reader, f"{prefix}layers.{i}.", config.layer) for i in range(config.num_layers)]
        params["layers"] = _stack(layers)
    return params


def _stack(layers: list[Params]) -> Params:
    """A list of equal nested dicts as one whose leaves have a leading [num_layers] axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def _luna(config: LayerConfig) -> LunaConfig:
    if not isinstance(config.attention, LunaConfig):
        raise WeightsError(f"the authors' weights are Luna's; this configuration has {type(config.attention).__name__}")
    return config.attention
