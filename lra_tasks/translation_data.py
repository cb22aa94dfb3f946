"""The store of a translation task: a vocabulary and flat arrays beside a manifest, whole or absent.

<data_dir>/store/<task>/manifest.json, subwords.model, {split}_{source,target}_{tokens,offsets}.npy, and the lines of
validation and test sets as {split}.{language}, for BLEU is measured on text
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.store import (
    MANIFEST,
    damaged,
    describe_files,
    library_versions,
    load_array,
    missing,
    open_manifest,
    store_path,
    verify_file,
)
from lra_tasks.subwords import END, Subwords
from lra_tasks.translation import TRAIN, TranslationTask

FORMAT = 1
MODEL = "subwords.model"
SIDES = ("source", "target")


@dataclass(frozen=True)
class Side:
    """Sentences of one language; sentence e is tokens[offsets[e]:offsets[e + 1]] and ends with the end token.

    Attributes:
        tokens: [T] in the smallest unsigned integer type of the vocabulary; may be a memory map.
        offsets: [E + 1] int64.
    """

    tokens: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Subwords of each sentence [E], the end token included."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class ParallelSplit:
    """Sentence pairs; the lines themselves are kept where they are scored."""

    source: Side
    target: Side
    source_lines: tuple[str, ...] | None = None
    target_lines: tuple[str, ...] | None = None

    @property
    def num_examples(self) -> int:
        """E, the number of pairs."""
        return len(self.source.offsets) - 1

    @property
    def longest(self) -> np.ndarray:
        """Subwords of the longer side of each pair [E]."""
        return np.maximum(self.source.lengths, self.target.lengths)


@dataclass(frozen=True)
class PreparedTranslation:
    """Everything that training and evaluation read.

    Attributes:
        splits: "train", "validation", and the test sets.
        subwords: the vocabulary of both languages.
        manifest: the store's manifest.
        was_ready: True when the store was there already and only verified.
    """

    splits: dict[str, ParallelSplit]
    subwords: Subwords
    manifest: dict[str, Any]
    was_ready: bool = True


def fill_translation_store(
    folder: Path,
    task: TranslationTask,
    splits: dict[str, ParallelSplit],
    subwords: Subwords,
    source: dict[str, Any],
    left_out: dict[str, int],
) -> None:
    """Writes vocabulary, arrays, lines and manifest into a new folder.

    `source`: what the text is from, any JSON; `left_out`: numbers of training pairs, by reason.
    """
    subwords.save(folder / MODEL)
    for split, pairs in splits.items():
        for name, side in zip(SIDES, (pairs.source, pairs.target), strict=True):
            np.save(folder / f"{split}_{name}_tokens.npy", side.tokens, allow_pickle=False)
            np.save(folder / f"{split}_{name}_offsets.npy", side.offsets, allow_pickle=False)
        for language, lines in zip(task.languages, (pairs.source_lines, pairs.target_lines), strict=True):
            if lines is not None:
                (folder / f"{split}.{language}").write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    manifest = {
        "format": FORMAT,
        **declared_facts(task),
        "vocabulary_sha256": subwords.checksum,
        "splits": {split: pairs.num_examples for split, pairs in splits.items()},
        "left_out": left_out,
        "files": describe_files(folder),
        "source": source,
        "libraries": library_versions(("numpy", "sentencepiece", "tensorflow-datasets")),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def declared_facts(task: TranslationTask) -> dict[str, Any]:
    """What a manifest must repeat of its task."""
    facts = {"task": task.name, "version": task.version, "vocab_size": task.vocab_size, "max_length": task.max_length}
    return facts | {"languages": list(task.languages)}


def read_translation(data_dir: str | Path, task: TranslationTask) -> PreparedTranslation:
    """A prepared task, after every check; tokens are memory maps.

    Raises StoreMissing with the command, StoreDamaged for anything that does not agree with the manifest or the task.
    """
    folder = store_path(data_dir, task)
    if not folder.exists():
        raise missing(data_dir, task, needs_files=True)
    facts, tables = {"format": FORMAT, **declared_facts(task)}, ("splits", "left_out", "files", "source")
    manifest = open_manifest(folder / MANIFEST, facts, tables, task)
    if list(manifest["splits"]) != list(task.splits):
        named = ", ".join(manifest["splits"])
        raise damaged(folder / MANIFEST, f"says splits {named}, the task declares {', '.join(task.splits)}", task)
    verify_file(folder / MODEL, manifest["files"].get(MODEL), task)
    try:
        subwords = Subwords.load(folder / MODEL)
    except UserError as error:
        raise damaged(folder / MODEL, f"is no vocabulary ({error})", task) from None
    if subwords.checksum != manifest.get("vocabulary_sha256") or subwords.size != task.vocab_size:
        raise damaged(folder / MODEL, "is another vocabulary than the manifest's", task)
    splits = {}
    for split, num_examples in manifest["splits"].items():
        splits[split] = read_split(folder, task, split, manifest)
        fault = find_fault(task, splits[split], num_examples)
        if fault is not None:
            raise damaged(folder, f"split {split} has {fault}", task)
    return PreparedTranslation(splits, subwords, manifest)


def read_split(folder: Path, task: TranslationTask, split: str, manifest: dict[str, Any]) -> ParallelSplit:
    """One split, every file of it verified."""
    source, target = (
        Side(*(load_array(folder / f"{split}_{name}_{array}.npy", manifest, task) for array in ("tokens", "offsets")))
        for name in SIDES
    )
    if split == TRAIN:
        return ParallelSplit(source, target)
    texts = []
    for language in task.languages:
        path = folder / f"{split}.{language}"
        verify_file(path, manifest["files"].get(path.name), task)
        texts.append(tuple(path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")))
    return ParallelSplit(source, target, *texts)


def find_fault(task: TranslationTask, pairs: ParallelSplit, num_examples: int) -> str | None:
    """What in a split does not agree with itself, its task or its number of pairs; None when all does."""
    for side, lines in ((pairs.source, pairs.source_lines), (pairs.target, pairs.target_lines)):
        if side.offsets.ndim != 1 or len(side.offsets) != num_examples + 1 or num_examples < 1:
            return f"{len(side.offsets) - 1} sentences on a side, the manifest says {num_examples} pairs"
        if side.offsets[0] != 0 or side.offsets[-1] != len(side.tokens) or side.lengths.min() < 1:
            return "offsets that do not fit its tokens"
        if side.lengths.max() > task.max_length:
            return f"a sentence of {side.lengths.max()} subwords, the task allows {task.max_length}"
        if side.tokens.max() >= task.vocab_size or (side.tokens[side.offsets[1:] - 1] != END).any():
            return "tokens outside the vocabulary, or a sentence without its end"
        if lines is not None and len(lines) != num_examples:
            return f"{len(lines)} lines of text, the manifest says {num_examples} pairs"
    return None
