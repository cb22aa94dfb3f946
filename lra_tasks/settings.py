"""A resolved config as frozen dataclasses without defaults: one section, one class. Never imports JAX.

`configs/base.py` declares the same keys with their values and meanings. A key that is missing, unknown or of another
type fails here, at the start.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lra_tasks.errors import UserError
from lra_tasks.machine import SECTION
from lra_tasks.mechanisms import (
    MECHANISMS,
    USUAL_PACK,
    BigBirdSettings,
    LinearSettings,
    LinformerSettings,
    LocalSettings,
    LongformerSettings,
    LunaSettings,
    PackSettings,
    PerformerSettings,
    RandomFeatureSettings,
    ReformerSettings,
    SinkhornSettings,
    SoftmaxSettings,
    SparseSettings,
    SynthesizerSettings,
    check_choice,
    check_range,
)
from lra_tasks.task import Task
from lra_tasks.typed_json import build

READ_BY_ONE_MODE = {
    "softmax.chunk_size": ("implementation", "chunked"),
    "synthesizer.rank": ("mode", "factorized_random"),
}
"""Switches that count in one mode of their mechanism only: (key of the mode, its value)."""
SCHEDULES = ("constant", "inverse_sqrt", "cosine", "cosine_cycle", "linear")
DTYPES = ("float32", "bfloat16")
POOLINGS = ("cls", "mean", "packed", "packed_all")


@dataclass(frozen=True)
class DataSettings:
    """Which task, and how much of it."""

    task: str
    max_length: int
    validation: str

    def __post_init__(self):
        check_range("data", {"max_length": self.max_length}, 0)
        check_choice("data", "validation", self.validation, ("held_out", "test"))


@dataclass(frozen=True)
class ModelSettings:
    """The encoder and its head, whatever the mechanism."""

    attention: str
    emb_dim: int
    mlp_dim: int
    num_layers: int
    tie_layers: bool
    num_heads: int
    causal: bool
    norm: str
    activation: str
    embedding: str
    positions: str
    prepend_cls: bool
    scale_embedding: bool
    embedding_norm: bool
    initializers: str
    dropout_rate: float
    attention_dropout_rate: float
    activation_dropout_rate: float
    pooling: str
    pair_features: str
    feature_norm: str
    classifier_dim: int
    remat: bool
    dtype: str

    def __post_init__(self):
        check_choice("model", "attention", self.attention, MECHANISMS)
        check_choice("model", "norm", self.norm, ("post", "pre"))
        check_choice("model", "activation", self.activation, ("gelu", "relu"))
        check_choice("model", "embedding", self.embedding, ("table", "linear"))
        check_choice("model", "positions", self.positions, ("learned", "sinusoidal"))
        check_choice("model", "initializers", self.initializers, ("bert", "fairseq", "lra"))
        check_choice("model", "pooling", self.pooling, POOLINGS)
        check_choice("model", "pair_features", self.pair_features, ("concat", "interaction"))
        check_choice("model", "feature_norm", self.feature_norm, ("none", "calibrated", "whitened"))
        check_choice("model", "dtype", self.dtype, DTYPES)
        sizes = ("emb_dim", "mlp_dim", "num_layers", "num_heads")
        check_range("model", {key: getattr(self, key) for key in sizes}, 1)
        check_range("model", {"classifier_dim": self.classifier_dim}, 0)
        rates = ("dropout_rate", "attention_dropout_rate", "activation_dropout_rate")
        check_range("model", {key: getattr(self, key) for key in rates}, 0, 1)
        if self.emb_dim % self.num_heads:
            raise UserError(
                f"model.num_heads={self.num_heads} does not divide model.emb_dim={self.emb_dim}; choose a divisor"
            )
        if self.pooling == "cls" and not self.prepend_cls:
            raise UserError("model.pooling='cls' reads position 0, which is [CLS] only with model.prepend_cls=True")
        if self.pooling == "cls" and self.causal:
            raise UserError("model.causal=True leaves [CLS], which stands first, nothing to see; take pooling='mean'")


@dataclass(frozen=True)
class OptimSettings:
    """Adam with decoupled decay and its schedule."""

    learning_rate: float
    schedule: str
    warmup_steps: int
    initial_learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float

    def __post_init__(self):
        check_choice("optim", "schedule", self.schedule, SCHEDULES)
        keys = ("learning_rate", "warmup_steps", "initial_learning_rate", "epsilon", "weight_decay", "clip_norm")
        check_range("optim", {key: getattr(self, key) for key in keys}, 0)
        check_range("optim", {"beta1": self.beta1, "beta2": self.beta2}, 0, 1)


@dataclass(frozen=True)
class TrainSettings:
    """The loop. Durations are in steps; a step is one batch."""

    seed: int
    num_steps: int
    batch_size: int
    eval_batch_size: int
    log_every_steps: int
    eval_every_steps: int
    checkpoint_every_steps: int

    def __post_init__(self):
        values = dataclasses.asdict(self)
        check_range("train", {"seed": values.pop("seed")}, 0, 2**32)
        check_range("train", values, 1)


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run's result. The sections of mechanisms that are not in use are None."""

    row: str
    """Label of the row in tables."""
    protocol: str
    """Which recipe the values come from; the table never mixes two in one row."""
    data: DataSettings
    model: ModelSettings
    luna: LunaSettings | None
    pack: PackSettings | None
    """None: the usual treatment of the packed sequence, or none."""
    softmax: SoftmaxSettings | None
    local: LocalSettings | None
    sparse: SparseSettings | None
    longformer: LongformerSettings | None
    linformer: LinformerSettings | None
    reformer: ReformerSettings | None
    sinkhorn: SinkhornSettings | None
    synthesizer: SynthesizerSettings | None
    bigbird: BigBirdSettings | None
    linear: LinearSettings | None
    performer: PerformerSettings | None
    rfa: RandomFeatureSettings | None
    optim: OptimSettings
    train: TrainSettings

    def __post_init__(self):
        if self.luna is None and (self.model.pooling in ("packed", "packed_all") or self.pack is not None):
            asked = "the section pack" if self.pack is not None else f"model.pooling={self.model.pooling!r}"
            remedy = "leave it out" if self.pack is not None else "take cls or mean"
            raise UserError(f"{asked} needs a packed sequence, which {self.model.attention} has not; {remedy}")
        if self.luna is not None and self.model.emb_dim % self.luna.num_pack_heads:
            raise UserError(
                f"luna.num_pack_heads={self.luna.num_pack_heads} does not divide model.emb_dim={self.model.emb_dim}; "
                "choose a divisor"
            )
        if self.softmax is not None and self.softmax.implementation == "cudnn" and self.model.attention_dropout_rate:
            raise UserError(
                "softmax.implementation='cudnn' has no dropout; set model.attention_dropout_rate to 0 or take 'xla'"
            )

    def as_dict(self) -> dict[str, Any]:
        """Nested dict of the values in use, as it goes into config.json, into the hash and into the record."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


def resolve(config: dict[str, Any], overridden: Iterable[str] = ()) -> Experiment:
    """A config, fresh or read back from config.json, as an Experiment.

    Sections of other mechanisms are left out, and so is `machine`, which decides no result. `overridden` are the dotted
    keys that the user set by hand: one that lies in a section that is not in use raises, for it would be accepted and
    ignored.
    """
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError("a config is an object with the section model; take one that lra_tasks.train wrote")
    config = {key: value for key, value in config.items() if key != SECTION}
    if config.get("pack") in (None, dataclasses.asdict(USUAL_PACK)):
        config["pack"] = None
    attention = config["model"].get("attention")
    unused = [name for name in MECHANISMS if name != attention] + (["pack"] if attention != "luna" else [])
    for key in overridden:
        if key.split(".")[0] in unused and attention in MECHANISMS:
            raise UserError(
                f"{key} has no effect with model.attention={attention!r}; leave it out or change the attention"
            )
    for name in set(unused) & set(MECHANISMS):
        config[name] = None
    experiment = build(Experiment, config)
    for key, (mode, needed) in READ_BY_ONE_MODE.items():
        section, _, _ = key.partition(".")
        if key in overridden and section == attention and getattr(getattr(experiment, section), mode) != needed:
            raise UserError(f"{key} is read with {section}.{mode}={needed!r} alone; leave it out or set that, too")
    return experiment


def sequence_length(experiment: Experiment, task: Task) -> int:
    """Tokens of a document that the model is given, [CLS] not counted: data.max_length, or all the task allows.

    Longer documents are cut to their first tokens. Raises UserError for a length that the task never has.
    """
    length = experiment.data.max_length
    if length > task.max_length:
        raise UserError(
            f"data.max_length={length} exceeds the {task.max_length} tokens of {task.name}; give 1 to "
            f"{task.max_length}, or 0 for all"
        )
    return length or task.max_length


def check_task(experiment: Experiment, task: Task, overridden: Iterable[str] = ()) -> None:
    """Raises UserError where a setting does not fit the task, or, set by hand, would have no effect on it."""
    sequence_length(experiment, task)
    if experiment.model.embedding == "linear" and task.vocabulary.kind != "pixels":
        raise UserError(
            f"model.embedding='linear' reads tokens as numbers, and those of {task.name} are {task.vocabulary.kind}; "
            "take 'table'"
        )
    if "model.pair_features" in overridden and not task.paired:
        raise UserError(
            f"model.pair_features has no effect on {task.name}, whose examples are single documents; leave it out"
        )


def differences(mine: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two nested dicts differ, as `train.seed: 1 here, 0 there`."""
    found = []
    for key in sorted({*mine, *theirs}):
        a, b = mine.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} here, {b!r} there")
    return found
