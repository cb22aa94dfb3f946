"""What a run trains on, validates on and tests on, out of a prepared task."""

import zlib
from typing import Any

import numpy as np

from lra_tasks.task import Split, Task

VALIDATIONS = ("held_out", "test")
"""How a run chooses its best checkpoint: on examples held out of the training set; or, as the reference does for Text,
on the test split itself, with every training example trained on. Records of the latter say so."""


def choose_splits(splits: dict[str, Split], validation: str) -> dict[str, Split]:
    """{"train", "validation", "test"} of a run; `validation` is one of VALIDATIONS."""
    if validation == "test":
        everything = join_splits(splits["train"], splits["validation"])
        return {"train": everything, "validation": splits["test"], "test": splits["test"]}
    return {name: splits[name] for name in ("train", "validation", "test")}


def join_splits(first: Split, second: Split) -> Split:
    """The examples of both, in order."""
    labels = np.concatenate([first.labels, second.labels])
    if first.pairs is not None and second.pairs is not None:
        return Split(first.tokens, first.offsets, labels, np.concatenate([first.pairs, second.pairs]))
    offsets = np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]])
    return Split(np.concatenate([first.tokens, second.tokens]), offsets, labels)


def declared_examples(task: Task, validation: str, split: str) -> int:
    """Examples that the validation or test split of a run must have."""
    return task.splits["test" if validation == "test" and split == "validation" else split]


def identify(splits: dict[str, Split]) -> dict[str, Any]:
    """What tells these examples from others, in a few numbers a split."""
    return {
        name: {"examples": one.num_examples, "tokens": len(one.tokens), "labels": zlib.crc32(one.labels.tobytes())}
        for name, one in splits.items()
    }
