"""Prepare tasks: make or read their examples, write records and the store, or verify what is there."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from lra_tasks import cli
from lra_tasks.console import Console
from lra_tasks.errors import UserError, nearest
from lra_tasks.preparation import Prepared, prepare_task, records_paths
from lra_tasks.registry import BENCHMARK, TASKS
from lra_tasks.store import data_checksum, store_path
from lra_tasks.subwords import UNKNOWN
from lra_tasks.task import Task
from lra_tasks.translation import TRAIN, TRANSLATIONS, TranslationTask
from lra_tasks.translation_data import PreparedTranslation
from lra_tasks.translation_preparation import prepare_translation

USAGE = (
    """Prepare tasks for training: download, read or generate their examples, check them, and store them with checksums.

  python -m lra_tasks.prepare listops_small
  python -m lra_tasks.prepare text image --data_dir data
  python -m lra_tasks.prepare text --data_dir data --raw_dir ~/aclImdb
  python -m lra_tasks.prepare multi30k_deen --raw_dir ~/multi30k
  python -m lra_tasks.prepare all

Without --raw_dir Text and Image come from their official archives, Retrieval from the archive of Long Range Arena, and
ListOps and Pathfinder from generators; translation needs --raw_dir, parallel text (train.de, train.en, val.*, test*.*,
plain or .gz), or --tfds_dir, where tensorflow-datasets has prepared it. An interrupted download or generator goes on
where it stopped. Run again, the command verifies what is there and changes nothing; --rebuild makes it anew.

all means """
    + ", ".join(BENCHMARK)
    + ".\nTask names: "
    + ", ".join(TASKS)
    + ".\nTranslation: "
    + ", ".join(TRANSLATIONS)
)


def main(argv: list[str]) -> int:
    """Prepares the tasks named on the command line and prints a card for each."""
    values = flags.FLAGS
    if values.num_workers is not None and values.num_workers < 1:
        raise UserError(f"--num_workers is {values.num_workers}; it must be at least 1")
    names = list(BENCHMARK) if argv[1:] == ["all"] else argv[1:]
    if not names:
        raise UserError(f"name at least one task: {', '.join({**TASKS, **TRANSLATIONS})}, or all")
    tasks = [find_task(name) for name in names]
    if values.raw_dir and len(tasks) > 1:
        raise UserError(f"--raw_dir holds the files of one task, {len(tasks)} were named")
    if values.tfds_dir and (len(tasks) > 1 or not isinstance(tasks[0], TranslationTask)):
        raise UserError("--tfds_dir is read for one translation task alone; leave it out")
    failures = []
    for task in tasks:
        try:
            print(prepare_pairs(task) if isinstance(task, TranslationTask) else prepare_one(task), flush=True)
        except UserError as error:
            if len(tasks) == 1:
                raise
            cli.say(f"error: {error}")
            failures.append(task.name)
    if failures:
        raise UserError(f"{len(failures)} of {len(tasks)} tasks are not prepared: {', '.join(failures)}")
    return 0


def find_task(name: str) -> Task | TranslationTask:
    """The task of this name. Raises UserError with the nearest match and the whole list."""
    tasks: dict[str, Task | TranslationTask] = {**TASKS, **TRANSLATIONS}
    if name not in tasks:
        raise UserError(f"unknown task {name!r}; {nearest(name, tasks)}")
    return tasks[name]


def prepare_one(task: Task) -> str:
    """Prepares a task with a progress report on stderr; returns its card."""
    values, began = flags.FLAGS, time.perf_counter()
    with Console() as console:
        prepared = prepare_task(
            task, values.data_dir, raw_dir=values.raw_dir, rebuild=values.rebuild, num_workers=values.num_workers,
            options=frozenset(task.optional_splits) if values.optional_splits else frozenset(),
            report=console.report, progress=console.progress,
        )  # fmt: skip
    return data_card(task, Path(values.data_dir), prepared, time.perf_counter() - began)


def prepare_pairs(task: TranslationTask) -> str:
    """The same for a translation task."""
    values, began = flags.FLAGS, time.perf_counter()
    with Console() as console:
        prepared = prepare_translation(
            task, values.data_dir, raw_dir=values.raw_dir, tfds_dir=values.tfds_dir, rebuild=values.rebuild,
            report=console.report, progress=console.progress,
        )  # fmt: skip
    return translation_data_card(task, Path(values.data_dir), prepared, time.perf_counter() - began)


def data_card(task: Task, data_dir: Path, prepared: Prepared, seconds: float) -> str:
    """What was prepared, for people."""
    width = max(12, *(len(name) + 1 for name in prepared.splits))
    lines = [
        *begin_card(task, prepared, seconds),
        f"  {'split':<{width}}{'examples':>9}{'tokens':>15}   "
        f"{'length min / 10% / median / 90% / max':<38}{'majority class':>15}",
    ]
    for name, split in prepared.splits.items():
        lengths = split.lengths if split.pairs is None else split.lengths[split.pairs].reshape(-1)
        shares = class_shares(task, split.labels)
        lines.append(
            f"  {name:<{width}}{split.num_examples:>9,}{lengths.sum():>15,}   {show_quantiles(lengths):<38}"
            f"{f'{shares.argmax()} ({shares.max():.2%})':>15}"
        )
    for name, split in prepared.splits.items():
        shares = " ".join(f"{label}:{share:.1%}" for label, share in enumerate(class_shares(task, split.labels)))
        lines.append(f"  labels    {name:<{width - 1}}{shares}")
    if task.paired:
        lengths = next(iter(prepared.splits.values())).lengths
        lines.append(f"  documents {len(lengths):,}, each stored once: {lengths.sum():,} tokens")
    records = ", ".join(str(path) for path in records_paths(data_dir, task).values() if path.exists())
    store = store_path(data_dir, task)
    lines.append(f"  records   {records or 'none beside the store; --rebuild writes them'}")
    lines.append(f"  store     {store}, sha256 {data_checksum(prepared.manifest)[:16]}")
    lines += [f"  look at   {path}" for path in sorted(store.glob("*.png"))]
    return "\n".join(lines)


def translation_data_card(task: TranslationTask, data_dir: Path, prepared: PreparedTranslation, seconds: float) -> str:
    """What was prepared of a translation task, for people."""
    width = max(len(name) for name in prepared.splits) + 2
    lines = [
        *begin_card(task, prepared, seconds),
        f"  {'split':<{width}}{'side':<6}{'sentences':>10}{'subwords':>14}   "
        f"{'length min / 10% / median / 90% / max':<38}{'unknown':>9}",
    ]
    for name, split in prepared.splits.items():
        for language, side in zip(task.languages, (split.source, split.target), strict=True):
            unknown = np.count_nonzero(side.tokens == UNKNOWN) / len(side.tokens)
            lines.append(
                f"  {name:<{width}}{language:<6}{split.num_examples:>10,}{len(side.tokens):>14,}   "
                f"{show_quantiles(side.lengths):<38}{unknown:>9.3%}"
            )
    empty, too_long = (prepared.manifest["left_out"][reason] for reason in ("empty", "too long"))
    kept = prepared.splits[TRAIN].num_examples
    lines += [
        f"  left out  {empty:,} pairs with an empty side and {too_long:,} longer than {task.max_length} subwords, of "
        f"{kept + empty + too_long:,} for training",
        f"  subwords  {prepared.subwords.size:,} for both languages, sha256 {prepared.subwords.checksum[:16]}",
        f"  store     {store_path(data_dir, task)}, sha256 {data_checksum(prepared.manifest)[:16]}",
    ]
    return "\n".join(lines)


def begin_card(task: Task | TranslationTask, prepared: Prepared | PreparedTranslation, seconds: float) -> list[str]:
    """The first lines of every card."""
    action = "verified" if prepared.was_ready else "prepared"
    return [
        f"{task.title}: {task.name} {task.version}, {action} in {seconds:.1f} s",
        f"  source    {describe_source(prepared.manifest['source'])}",
    ]


def show_quantiles(lengths: np.ndarray) -> str:
    """Least, lower tenth, median, upper tenth and greatest."""
    return " / ".join(f"{q:.0f}" for q in np.quantile(lengths, [0, 0.1, 0.5, 0.9, 1]))


def describe_source(source: dict[str, Any]) -> str:
    """The entries of a source in one line; checksums and lists stay in the manifest."""
    entries = [(key, value) for key, value in source.items() if key != "sha256"]
    return ", ".join(
        f"{key} {len(value)}" if isinstance(value, list) else str(value) if key == "kind" else f"{key} {value}"
        for key, value in entries
    )


def class_shares(task: Task, labels: np.ndarray) -> np.ndarray:
    """Share of each class, [C]."""
    return np.bincount(labels, minlength=task.num_classes) / len(labels)


if __name__ == "__main__":  # here, since other entries have flags of the same names
    flags.DEFINE_string("data_dir", "data", "folder of prepared data; made if it is missing")
    flags.DEFINE_string("raw_dir", None, "folder of official files, read instead of the task's own source")
    flags.DEFINE_string("tfds_dir", None, "data folder of tensorflow-datasets with the pair prepared, for wmt14_ende")
    flags.DEFINE_bool("optional_splits", False, "make optional splits, too: the 50,000 unlabelled reviews of text")
    flags.DEFINE_bool("rebuild", False, "make everything again and replace what is there")
    flags.DEFINE_integer("num_workers", None, "processes that generate (default: one a core); the data stays the same")
    cli.run(main, USAGE)
