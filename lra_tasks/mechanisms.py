"""The switches of each attention mechanism, as sections of a config. Never imports JAX.

Types stand here; what the values may be the mechanism itself says, and `lra_tasks.model` passes on, since most limits
depend on the sequence: a block larger than it, a head that does not divide.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lra_tasks.errors import UserError, nearest

MECHANISMS = (
    "luna", "softmax", "local", "sparse", "longformer", "linformer", "reformer", "sinkhorn", "synthesizer", "bigbird",
    "linear", "performer", "rfa",
)  # fmt: skip
"""Sections that belong to one attention mechanism; a test holds them equal to the model library's registry."""


def check_choice(section: str, key: str, value: str, choices: Iterable[str]) -> None:
    """Raises UserError with the nearest of the choices."""
    if value not in choices:
        raise UserError(f"{section}.{key}={value!r} is unknown; {nearest(value, choices)}")


def check_range(section: str, values: dict[str, float], low: float, high: float = float("inf")) -> None:
    """Raises UserError for the first value that is not in [low, high)."""
    for key, value in values.items():
        if not low <= value < high:
            raise UserError(
                f"{section}.{key}={value} must be at least {low:g}" + (f" and below {high:g}" if high < 1e9 else "")
            )


@dataclass(frozen=True)
class LunaSettings:
    """Luna's own switches."""

    num_pack_heads: int
    pack_length: int
    tie_kv: bool
    contextual_pack: bool

    def __post_init__(self):
        check_range("luna", {"num_pack_heads": self.num_pack_heads, "pack_length": self.pack_length}, 1)


@dataclass(frozen=True)
class PackSettings:
    """How Luna's packed sequence is treated, where that differs from the authors' code."""

    embedding: str
    slots: str
    projection: bool

    def __post_init__(self):
        check_choice("pack", "embedding", self.embedding, ("as_tokens", "plain", "sinusoidal"))
        check_choice("pack", "slots", self.slots, ("by_length", "all"))


USUAL_PACK = PackSettings(embedding="as_tokens", slots="by_length", projection=False)
"""What a config without the section means. Records leave it out, so that older ones are of the same experiment."""


@dataclass(frozen=True)
class SoftmaxSettings:
    """Softmax attention's own switches."""

    implementation: str
    chunk_size: int

    def __post_init__(self):
        check_choice("softmax", "implementation", self.implementation, ("xla", "cudnn", "unfused", "chunked"))


@dataclass(frozen=True)
class LocalSettings:
    """Local attention's own switches."""

    block_size: int
    num_neighbours: int


@dataclass(frozen=True)
class SparseSettings:
    """Sparse attention's own switches."""

    block_size: int
    num_summary: int


@dataclass(frozen=True)
class LongformerSettings:
    """Longformer's own switches."""

    window: int
    dilation: int
    num_global: int


@dataclass(frozen=True)
class LinformerSettings:
    """Linformer's own switches."""

    projected_length: int
    sharing: str


@dataclass(frozen=True)
class ReformerSettings:
    """Reformer's own switches."""

    num_hashes: int
    num_buckets: int
    chunk_size: int
    seed: int


@dataclass(frozen=True)
class SinkhornSettings:
    """Sinkhorn attention's own switches."""

    block_size: int
    num_iterations: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class SynthesizerSettings:
    """Synthesizer's own switches."""

    mode: str
    dot_product: bool
    rank: int


@dataclass(frozen=True)
class BigBirdSettings:
    """BigBird's own switches."""

    block_size: int
    num_window: int
    num_global: int
    num_random: int
    seed: int


@dataclass(frozen=True)
class LinearSettings:
    """Linear attention has no switches."""


@dataclass(frozen=True)
class PerformerSettings:
    """Performer's own switches."""

    num_features: int
    kernel: str
    seed: int
    redraw_every_steps: int


@dataclass(frozen=True)
class RandomFeatureSettings:
    """Random feature attention's own switches."""

    num_features: int
    gated: bool
    seed: int
    redraw_every_steps: int
