"""What a task declares about itself, and the shapes its data takes on the way to the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.vocab import Vocabulary

SPLITS = ("train", "validation", "test")

# A progress callback: (stage, done, total).
Progress = Callable[[str, int, int], None]


def ignore_progress(stage: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""


class Named(Protocol):
    """A task of any kind, as far as a folder and a message need it."""

    @property
    def name(self) -> str:
        """The name in flags, folders and records."""
        ...


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


class PairedBatch(NamedTuple):
    """Examples of two documents each, padded to one length; fields as of `Batch`."""

    first: Any
    first_mask: Any
    second: Any
    second_mask: Any
    labels: Any
    example_mask: Any


AnyBatch = Batch | PairedBatch


@dataclass(frozen=True)
class Split:
    """Examples of unequal length as flat arrays; document k is tokens[offsets[k]:offsets[k + 1]].

    Attributes:
        tokens: [sum of lengths] in the smallest unsigned integer type of the vocabulary; may be a memory map.
        offsets: [K + 1] int64.
        labels: [E] uint8.
        pairs: [E, 2] int32, the two documents of each example, or None where example e is document e. The splits of a
            paired task share one `tokens` and one `offsets`, so that each document is kept once.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    pairs: np.ndarray | None = None

    @property
    def num_examples(self) -> int:
        """E, the number of examples."""
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """[K] int64, tokens of each document."""
        return np.diff(self.offsets)

    def document(self, index: int) -> np.ndarray:
        """The tokens of one document, a view."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def join_documents(documents: Sequence[np.ndarray], labels: Sequence[int], dtype: np.dtype) -> Split:
    """A split of the given token arrays and labels."""
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    tokens = np.concatenate(documents).astype(dtype, copy=False) if len(documents) else np.zeros(0, dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split(tokens, offsets, np.array(labels, np.uint8))


@dataclass(frozen=True)
class Request:
    """What a task is to make its splits from.

    Attributes:
        raw_dir: folder of official files; None means the task's own source, an archive or a generator.
        work_dir: for partial work that an interrupted run can go on from; removed once the task is prepared.
        download_dir: folder of downloads, kept.
        num_workers: processes or threads of a generator; the result does not depend on it.
        progress: receives (stage, done, total).
        report: receives lines of text.
        fetch: URL of a registered download -> a local file whose checksum was verified.
        options: extras that were asked for, out of the task's `optional_splits`.
    """

    raw_dir: Path | None
    work_dir: Path
    download_dir: Path
    num_workers: int
    progress: Progress
    report: Callable[[str], None]
    fetch: Callable[[str], Path]
    options: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Task:
    """The declared facts of a task. Data that does not agree with them is refused.

    Attributes:
        name: the name in flags, folders and records.
        version: version of the data; a change of any byte of a prepared task raises it.
        title: the name in tables.
        vocabulary: the fixed tokeniser.
        num_classes: labels are 0 .. num_classes - 1.
        max_length: most tokens a document may have, CLS not counted.
        paired: whether an example is two documents.
        splits: number of examples of each split.
        source_kind: where data comes from without raw files: "generator", "archive" (a download), or "raw" (nowhere).
        on_demand: whether training may make missing data itself, because that takes seconds.
        optional_splits: further splits, made on request, with their numbers of examples.
        may_be_empty: whether a document may have no token at all.
    """

    name: str
    version: str
    title: str
    vocabulary: Vocabulary
    num_classes: int
    max_length: int
    paired: bool
    splits: dict[str, int]
    source_kind: str
    on_demand: bool = field(default=False, kw_only=True)
    optional_splits: dict[str, int] = field(default_factory=dict, kw_only=True)
    may_be_empty: bool = field(default=False, kw_only=True)

    def make_splits(self, request: Request) -> tuple[dict[str, Split], dict[str, object]]:
        """The examples of every split and a description of their source; each task overrides this.

        The description has "kind" and, where files were read, "sha256" of each. Examples that the source names but
        lacks are listed in "left_out", {split: [names]}. Raises UserError when files are missing or do not agree with
        the task.
        """
        raise NotImplementedError(f"task {self.name} does not say how its data is made")

    def raw_checksums(self, raw_dir: Path) -> dict[str, str]:
        """sha256 by name of what `make_splits` would read in `raw_dir`. Raises UserError for missing files."""
        raise UserError(f"{self.name} reads no official files; leave --raw_dir out")

    def illustrate(self, splits: dict[str, Split]) -> dict[str, bytes]:
        """Files for people, by name, that are written beside the manifest."""
        return {}
