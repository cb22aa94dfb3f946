"""What a task declares about itself, and the shapes its data takes on the way to the model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lra_tasks.vocab import Vocabulary

SPLITS = ("train", "validation", "test")

# A progress callback: (stage, done, total).
Progress = Callable[[str, int, int], None]


def ignore_progress(stage: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""


class Batch(NamedTuple):
    """Examples of equal length. A NamedTuple of arrays, hence a pytree.

    Attributes:
        tokens: [B, N] int32, padding is 0.
        token_mask: [B, N] bool, True = real token.
        labels: [B] int32.
        example_mask: [B] bool, True = real example (False only fills up the last batch of an evaluation).
    """

    # NumPy on the host, JAX inside a compiled step, a bare shape where a step is only compiled.
    tokens: Any
    token_mask: Any
    labels: Any
    example_mask: Any


@dataclass(frozen=True)
class Split:
    """Examples of unequal length as flat arrays; example e is tokens[offsets[e]:offsets[e + 1]].

    Attributes:
        tokens: [sum of lengths] in the smallest unsigned integer type of the vocabulary.
        offsets: [E + 1] int64.
        labels: [E] uint8.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    @property
    def num_examples(self) -> int:
        """E, the number of examples."""
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """[E] int64, tokens of each example."""
        return np.diff(self.offsets)

    def example(self, index: int) -> np.ndarray:
        """The tokens of one example, a view."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Task:
    """The declared facts of a task. Data that does not agree with them is refused.

    Attributes:
        name: the name in flags, folders and records.
        version: version of the data; a change of any byte of a prepared task raises it.
        title: the name in tables.
        vocabulary: the fixed tokeniser.
        num_classes: labels are 0 .. num_classes - 1.
        max_length: most tokens an example may have, CLS not counted.
        paired: whether an example is two documents.
        splits: number of examples of each split.
        generated: whether the data can be made without raw files.
    """

    name: str
    version: str
    title: str
    vocabulary: Vocabulary
    num_classes: int
    max_length: int
    paired: bool
    splits: dict[str, int]
    generated: bool

    def make_splits(
        self, raw_dir: Path | None, num_workers: int, progress: Progress
    ) -> tuple[dict[str, Split], dict[str, object]]:
        """The examples of every split and a description of their source, generated or read from raw files.

        Each task overrides this. Raises UserError when raw files are needed and missing or do not agree with the task.
        """
        raise NotImplementedError(f"task {self.name} does not say how its data is made")
