"""Prepares a translation task: reads parallel text, learns the vocabulary, encodes, and writes the store."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.folders import new_folder, preparing, require_room
from lra_tasks.parallel_text import ParallelText, find_version, hash_files, read_parallel_text
from lra_tasks.preparation import Report, ignore_report, require_source
from lra_tasks.store import store_path
from lra_tasks.subwords import Subwords
from lra_tasks.task import Progress, ignore_progress
from lra_tasks.translation import TRAIN, TranslationTask
from lra_tasks.translation_data import (
    ParallelSplit,
    PreparedTranslation,
    Side,
    fill_translation_store,
    read_translation,
)


def prepare_translation(
    task: TranslationTask,
    data_dir: str | Path,
    *,
    raw_dir: str | Path | None = None,
    tfds_dir: str | Path | None = None,
    rebuild: bool = False,
    report: Report = ignore_report,
    progress: Progress = ignore_progress,
) -> PreparedTranslation:
    """Makes, or only verifies, the store of a translation task.

    Args:
        task: what to prepare.
        data_dir: the data folder; made if it is missing.
        raw_dir: folder of parallel text files, train.de, train.en and so on, plain or .gz.
        tfds_dir: data folder of tensorflow-datasets in which the task's pair is prepared; either this or raw_dir.
        rebuild: make everything again and replace what is there.
        report: receives lines of text.
        progress: receives (stage, done, total).

    Raises:
        UserError: text that cannot be used, with file and line; a damaged store without `rebuild`; a folder that
            cannot be written. Nothing half-written is left then, and what was prepared before is intact.
    """
    if raw_dir is not None and tfds_dir is not None:
        raise UserError("--raw_dir and --tfds_dir are two sources of one text; give one of them")
    data_dir = Path(data_dir)
    raw, tfds = (None if folder is None else Path(folder) for folder in (raw_dir, tfds_dir))
    final = store_path(data_dir, task)
    with preparing(task.name, data_dir, [final], report):
        if final.exists() and not rebuild:
            prepared = read_translation(data_dir, task)
            require_source(task.name, prepared.manifest["source"], raw, partial(hash_files, task))
            require_version(task, prepared.manifest["source"], tfds)
            return prepared
        text = read_parallel_text(task, raw, tfds, progress)
        sources, targets = text.lines[TRAIN]
        report(f"{task.name}: learning {task.vocab_size:,} subwords from {len(sources):,} pairs")
        subwords = Subwords.train([*sources, *targets], task.vocab_size)
        splits, num_long = encode_text(task, text, subwords, progress)
        require_room(data_dir, sum(side.tokens.nbytes + side.offsets.nbytes for side in list_sides(splits)))
        left_out = {"empty": text.num_empty, "too long": num_long}
        with new_folder(final) as folder:
            fill_translation_store(folder, task, splits, subwords, text.source, left_out)
        return dataclasses.replace(read_translation(data_dir, task), was_ready=False)


def list_sides(splits: dict[str, ParallelSplit]) -> list[Side]:
    """Both sides of every split."""
    return [side for pairs in splits.values() for side in (pairs.source, pairs.target)]


def require_version(task: TranslationTask, source: dict[str, Any], tfds_dir: Path | None) -> None:
    """Raises UserError when a data set is given and the store was not made from its version."""
    if tfds_dir is None:
        return
    folder = find_version(task, tfds_dir)
    if (source.get("kind"), source.get("version")) != ("tensorflow-datasets", folder.name):
        found = " ".join(str(source[key]) for key in ("kind", "version") if key in source)
        raise UserError(f"{task.name} is prepared from {found}; --rebuild replaces it by {folder}")


def encode_text(
    task: TranslationTask, text: ParallelText, subwords: Subwords, progress: Progress
) -> tuple[dict[str, ParallelSplit], int]:
    """The splits as ids, and how many training pairs were left out because a side is too long.

    Raises UserError with file and line for a sentence of another split that is too long: it is scored, so it stays.
    """
    splits, num_long = {}, 0
    total, done = sum(len(sources) for sources, _ in text.lines.values()), 0
    for split, lines in text.lines.items():
        progress("encode", done, total)
        done += len(lines[0])
        source, target = (Side(*subwords.encode_flat(side)) for side in lines)
        pairs = ParallelSplit(source, target)
        too_long = pairs.longest > task.max_length
        if split == TRAIN:
            num_long = int(too_long.sum())
            if num_long == pairs.num_examples:
                raise UserError(f"every training pair of {task.name} is longer than {task.max_length} subwords")
            splits[split] = ParallelSplit(keep_sentences(source, ~too_long), keep_sentences(target, ~too_long))
            continue
        if too_long.any():
            index = int(too_long.argmax())
            lengths = [int(side.lengths[index]) for side in (source, target)]
            which = int(lengths[0] <= task.max_length)
            raise UserError(
                f"{text.places[split][which]}, line {index + 1:,}: {lengths[which]} subwords, {task.name} allows "
                f"{task.max_length}; shorten the sentence: it is scored and cannot be left out"
            )
        splits[split] = dataclasses.replace(pairs, source_lines=tuple(lines[0]), target_lines=tuple(lines[1]))
    return splits, num_long


def keep_sentences(side: Side, kept: np.ndarray) -> Side:
    """The sentences where `kept` [E] is True."""
    if kept.all():
        return side
    lengths = side.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
    return Side(side.tokens[np.repeat(kept, lengths)], offsets)
