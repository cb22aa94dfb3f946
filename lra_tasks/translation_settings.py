"""A resolved translation config as frozen dataclasses without defaults. Never imports JAX.

`configs/base_translation.py` declares the same keys with their values and meanings.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lra_tasks.errors import UserError
from lra_tasks.machine import SECTION
from lra_tasks.mechanisms import LunaSettings, SoftmaxSettings, check_choice, check_range
from lra_tasks.settings import DTYPES, READ_BY_ONE_MODE
from lra_tasks.typed_json import build

KIND = "translation"
MECHANISMS = ("luna", "softmax")
SCHEDULES = ("constant", "inverse_sqrt", "milestones", "linear", "cosine")
NEUTRAL = {
    "beta2": 0.98,
    "rebound": "constant",
    "decay": "decoupled",
    "milestones": (),
    "milestone_factor": 0.1,
    "initial_learning_rate": 1e-7,
    "clip_mode": "global",
}
"""Where a switch of the optimizer must stand if another one leaves it without effect: at its value in the base config,
so that equal runs have equal configs, and what somebody set is never ignored."""

NEUTRAL_PENALTY = 1.0
"""Where decode.length_penalty must stand for the same reason, if there is but one hypothesis."""


@dataclass(frozen=True)
class TranslationDataSettings:
    """Which task, and how much of it a batch holds."""

    task: str
    max_tokens: int

    def __post_init__(self):
        check_range("data", {"max_tokens": self.max_tokens}, 1)


@dataclass(frozen=True)
class TranslationModelSettings:
    """The encoder-decoder, whatever the mechanism."""

    attention: str
    emb_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    num_heads: int
    norm: str
    activation: str
    dropout_rate: float
    attention_dropout_rate: float
    activation_dropout_rate: float
    remat: bool
    dtype: str

    def __post_init__(self):
        check_choice("model", "attention", self.attention, MECHANISMS)
        check_choice("model", "norm", self.norm, ("post", "pre"))
        check_choice("model", "activation", self.activation, ("gelu", "relu"))
        check_choice("model", "dtype", self.dtype, DTYPES)
        sizes = ("emb_dim", "mlp_dim", "num_encoder_layers", "num_decoder_layers", "num_heads")
        check_range("model", {key: getattr(self, key) for key in sizes}, 1)
        rates = ("dropout_rate", "attention_dropout_rate", "activation_dropout_rate")
        check_range("model", {key: getattr(self, key) for key in rates}, 0, 1)
        if self.emb_dim % self.num_heads:
            raise UserError(
                f"model.num_heads={self.num_heads} does not divide model.emb_dim={self.emb_dim}; choose a divisor"
            )


@dataclass(frozen=True)
class CausalSettings:
    """Luna's causal attention in the decoder."""

    weight: str
    chunk_size: int

    def __post_init__(self):
        check_choice("causal", "weight", self.weight, ("softplus", "elu"))
        check_range("causal", {"chunk_size": self.chunk_size}, 1)


@dataclass(frozen=True)
class TranslationOptimSettings:
    """Adam or Apollo, schedule and clipping. A switch that has no effect stands at NEUTRAL or is refused."""

    optimizer: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    initial_learning_rate: float
    milestones: tuple[int, ...]
    milestone_factor: float
    beta1: float
    beta2: float
    epsilon: float
    rebound: str
    weight_decay: float
    decay: str
    clip_norm: float
    clip_mode: str

    def __post_init__(self):
        check_choice("optim", "optimizer", self.optimizer, ("adam", "apollo"))
        check_choice("optim", "schedule", self.schedule, SCHEDULES)
        check_choice("optim", "rebound", self.rebound, ("constant", "belief"))
        check_choice("optim", "decay", self.decay, ("l2", "decoupled", "stable"))
        check_choice("optim", "clip_mode", self.clip_mode, ("global", "each"))
        keys = ("learning_rate", "warmup_steps", "initial_learning_rate", "epsilon", "weight_decay", "clip_norm")
        check_range("optim", {key: getattr(self, key) for key in keys}, 0)
        check_range("optim", {"beta1": self.beta1, "beta2": self.beta2}, 0, 1)
        check_range("optim", {"milestone_factor": self.milestone_factor}, 0, 1)
        self._check_unread()
        if self.optimizer == "apollo" and not self.epsilon:
            raise UserError("optim.epsilon=0 leaves Apollo nothing to divide a first step by; the authors take 1e-4")
        if self.schedule == "milestones" and not self.milestones:
            raise UserError("optim.schedule='milestones' needs optim.milestones; give some, or take 'constant'")
        rising = (self.warmup_steps, *self.milestones)
        if any(later <= earlier for earlier, later in pairwise(rising)):
            raise UserError(f"optim.milestones={self.milestones} must rise, and begin behind the warm-up's {rising[0]}")

    def _check_unread(self):
        """Raises UserError for a switch that another one leaves without effect and that is not neutral."""
        apollo, milestones = self.optimizer == "apollo", self.schedule == "milestones"
        unread = {
            "optim.optimizer='apollo'": ("beta2",) if apollo else (),
            "optim.optimizer='adam'": () if apollo else ("rebound", "decay"),
            "optim.weight_decay=0": () if self.weight_decay else ("decay",),
            f"optim.schedule={self.schedule!r}": () if milestones else ("milestones", "milestone_factor"),
            "optim.warmup_steps=0": () if self.warmup_steps else ("initial_learning_rate",),
            "optim.clip_norm=0": () if self.clip_norm else ("clip_mode",),
        }
        for reason, keys in unread.items():
            for key in keys:
                value = getattr(self, key)
                if value != NEUTRAL[key]:
                    raise UserError(
                        f"optim.{key}={value!r} has no effect with {reason}; set it to {NEUTRAL[key]!r}, or change that"
                    )


@dataclass(frozen=True)
class TranslationTrainSettings:
    """The loop. Durations are in steps; a step is one batch, of about data.max_tokens."""

    seed: int
    num_steps: int
    label_smoothing: float
    log_every_steps: int
    eval_every_steps: int
    checkpoint_every_steps: int
    average_every_steps: int
    num_averaged: int

    def __post_init__(self):
        values = dataclasses.asdict(self)
        check_range("train", {"seed": values.pop("seed")}, 0, 2**32)
        check_range("train", {"label_smoothing": values.pop("label_smoothing")}, 0, 1)
        check_range("train", values, 1)


@dataclass(frozen=True)
class DecodeSettings:
    """Beam search, and the limit length_factor M + length_offset on the tokens of a translation of M tokens."""

    beam_size: int
    length_penalty: float
    length_factor: float
    length_offset: int
    max_tokens: int

    def __post_init__(self):
        check_range("decode", {"beam_size": self.beam_size, "max_tokens": self.max_tokens}, 1)
        keys = ("length_penalty", "length_factor", "length_offset")
        check_range("decode", {key: getattr(self, key) for key in keys}, 0)
        if self.beam_size == 1 and self.length_penalty != NEUTRAL_PENALTY:
            raise UserError(
                f"decode.length_penalty={self.length_penalty} has no effect with decode.beam_size=1, which is greedy; "
                f"set it to {NEUTRAL_PENALTY}, or take a wider beam"
            )
        if self.length_factor == 0 and self.length_offset == 0:
            raise UserError(
                "decode.length_factor and decode.length_offset are both 0: no translation could have a token"
            )


@dataclass(frozen=True)
class TranslationExperiment:
    """Everything that decides a run's result. The sections of the mechanism that is not in use are None."""

    kind: str
    row: str
    protocol: str
    data: TranslationDataSettings
    model: TranslationModelSettings
    luna: LunaSettings | None
    causal: CausalSettings | None
    softmax: SoftmaxSettings | None
    optim: TranslationOptimSettings
    train: TranslationTrainSettings
    decode: DecodeSettings

    def __post_init__(self):
        if self.luna is not None and self.model.emb_dim % self.luna.num_pack_heads:
            raise UserError(
                f"luna.num_pack_heads={self.luna.num_pack_heads} does not divide model.emb_dim={self.model.emb_dim}; "
                "choose a divisor"
            )
        if self.softmax is not None and self.softmax.implementation == "cudnn" and self.model.attention_dropout_rate:
            raise UserError("softmax.implementation='cudnn' has no dropout; set model.attention_dropout_rate to 0")

    def as_dict(self) -> dict[str, Any]:
        """Nested dict of the values in use, as it goes into config.json, into the hash and into the record."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        return json.loads(json.dumps(values))  # a tuple is a list there


def is_translation(config: dict[str, Any]) -> bool:
    """Whether a config is of a translation experiment."""
    return isinstance(config, dict) and config.get("kind") == KIND


def resolve_translation(config: dict[str, Any], overridden: Iterable[str] = ()) -> TranslationExperiment:
    """A config, fresh or read back from config.json.

    The section `machine`, which decides no result, is left out. `overridden` are the dotted keys that the user set by
    hand: one that has no effect raises UserError, for it would be accepted and ignored.
    """
    if not is_translation(config) or not isinstance(config.get("model"), dict):
        raise UserError(f"a translation config is an object with kind={KIND!r} and the section model; take one of ours")
    config = {key: value for key, value in config.items() if key != SECTION}
    attention = config["model"].get("attention")
    sections = {"luna": ("luna", "causal"), "softmax": ("softmax",)}
    for name, owned in sections.items():
        if name == attention:
            continue
        for key in overridden:
            if key.split(".")[0] in owned and attention in sections:
                raise UserError(f"{key} has no effect with model.attention={attention!r}; leave it out or change it")
        config |= dict.fromkeys(owned)
    experiment = build(TranslationExperiment, config)
    mode, needed = READ_BY_ONE_MODE["softmax.chunk_size"]
    if "softmax.chunk_size" in overridden and getattr(experiment.softmax, mode) != needed:
        raise UserError(
            f"softmax.chunk_size is read with softmax.{mode}={needed!r} alone; leave it out or set that, too"
        )
    return experiment
