"""Prepare tasks: make or read their examples, write records and the store, or verify what is there."""

import time
from pathlib import Path

import numpy as np
from absl import flags

from lra_tasks import cli
from lra_tasks.console import Console
from lra_tasks.errors import UserError
from lra_tasks.preparation import Prepared, prepare_task, records_path
from lra_tasks.registry import TASKS, get_task
from lra_tasks.store import data_checksum, store_path
from lra_tasks.task import Task

USAGE = """Prepare tasks for training: make their examples, or read official files, and store them with checksums.

  python -m lra_tasks.prepare listops_small
  python -m lra_tasks.prepare listops --data_dir data
  python -m lra_tasks.prepare listops --data_dir data_official --raw_dir lra_release/listops-1000
  python -m lra_tasks.prepare all

Run again, it verifies what is there and changes nothing; --rebuild makes it anew. Task names: """ + ", ".join(TASKS)


def main(argv: list[str]) -> int:
    """Prepares the tasks named on the command line and prints a card for each."""
    values = flags.FLAGS
    if values.num_workers is not None and values.num_workers < 1:
        raise UserError(f"--num_workers is {values.num_workers}; it must be at least 1")
    names = list(TASKS) if argv[1:] == ["all"] else argv[1:]
    if not names:
        raise UserError(f"name at least one task: {', '.join(TASKS)}, or all")
    tasks = [get_task(name) for name in names]
    if values.raw_dir and len(tasks) > 1:
        raise UserError(f"--raw_dir holds the files of one task, {len(tasks)} were named")
    for task in tasks:
        print(prepare_one(task, Path(values.data_dir), values.raw_dir, values.rebuild, values.num_workers))
    return 0


def prepare_one(task: Task, data_dir: Path, raw_dir: str | None, rebuild: bool, num_workers: int | None) -> str:
    """Prepares a task with a progress report on stderr; returns its card."""
    began = time.perf_counter()
    with Console() as console:
        prepared = prepare_task(
            task, data_dir, raw_dir=raw_dir, rebuild=rebuild, num_workers=num_workers,
            report=console.report, progress=console.progress,
        )  # fmt: skip
    return data_card(task, data_dir, prepared, time.perf_counter() - began)


def data_card(task: Task, data_dir: Path, prepared: Prepared, seconds: float) -> str:
    """What was prepared, for people."""
    source = ", ".join(f"{key} {value}" for key, value in prepared.manifest["source"].items() if key != "sha256")
    action = "verified" if prepared.was_ready else "prepared"
    lines = [
        f"{task.title}: {task.name} {task.version}, {action} in {seconds:.1f} s",
        f"  source    {source}",
        f"  {'split':<12}{'examples':>9}{'tokens':>13}   "
        f"{'length min / 10% / median / 90% / max':<38}{'majority class':>15}",
    ]
    for name, split in prepared.splits.items():
        quantiles = " / ".join(f"{q:.0f}" for q in np.quantile(split.lengths, [0, 0.1, 0.5, 0.9, 1]))
        shares = class_shares(task, split.labels)
        lines.append(
            f"  {name:<12}{split.num_examples:>9,}{len(split.tokens):>13,}   {quantiles:<38}"
            f"{f'{shares.argmax()} ({shares.max():.2%})':>15}"
        )
    for name, split in prepared.splits.items():
        shares = " ".join(f"{label}:{share:.1%}" for label, share in enumerate(class_shares(task, split.labels)))
        lines.append(f"  labels    {name:<11}{shares}")
    records = records_path(data_dir, task)
    lines.append(f"  records   {records if records.exists() else 'none beside the store; --rebuild writes them'}")
    lines.append(f"  store     {store_path(data_dir, task)}, sha256 {data_checksum(prepared.manifest)[:16]}")
    return "\n".join(lines)


def class_shares(task: Task, labels: np.ndarray) -> np.ndarray:
    """Share of each class, [C]."""
    return np.bincount(labels, minlength=task.num_classes) / len(labels)


if __name__ == "__main__":  # here, since other entries have flags of the same names
    flags.DEFINE_string("data_dir", "data", "folder of prepared data; made if it is missing")
    flags.DEFINE_string("raw_dir", None, "folder of official files, read instead of generating")
    flags.DEFINE_bool("rebuild", False, "make everything again and replace what is there")
    flags.DEFINE_integer("num_workers", None, "processes that generate (default: one a core); the data stays the same")
    cli.run(main, USAGE)
