"""What every output of the results command shows: tables, figures, the page. Data only, and pure."""

from dataclasses import dataclass

from lra_tasks.intervals import Interval, PairedTest


@dataclass(frozen=True)
class Curve:
    """What one run logged while it trained; steps rise. Accuracies (of translation: BLEU) are percent, losses nats."""

    train_steps: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_steps: tuple[int, ...]
    validation_accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]


@dataclass(frozen=True)
class SeedRun:
    """One seed of an experiment, at the checkpoint that counts."""

    seed: int
    accuracy: float  # percent of the test split
    collapsed: bool  # no better than one constant answer, see intervals.is_collapsed
    curve: Curve | None  # None where no metrics lie beside the record
    file: str


@dataclass(frozen=True)
class Comparison:
    """Two models on the same test examples of one task under one protocol; the difference is first minus second.

    `protocol` names both where presets of the mechanism have given them different names.
    """

    task: str
    task_title: str
    protocol: str
    first: str  # row
    second: str  # row
    first_title: str
    second_title: str
    first_variant: str
    second_variant: str
    first_seeds: int
    second_seeds: int
    num_examples: int
    test: PairedTest
    p_value_holm: float  # adjusted for all comparisons on the same task and protocol
    test_set: str = ""  # its name, where a task has several; `task_title` holds it too


@dataclass(frozen=True)
class TradeOff:
    """A point of Figure 1: a model's accuracy against its speed, the area is its memory."""

    row: str
    title: str
    task_title: str
    protocol: str
    accuracy: float  # percent
    interval: Interval
    speed: float  # train steps a second
    memory: float  # bytes at the peak
