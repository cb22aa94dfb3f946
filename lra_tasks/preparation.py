"""Prepares a task: makes its examples, writes records, reads them back, and stores what was read.

The records are the source of truth: the store is made from them and compared with what was generated. Both take their
final names together at the end, so a run that fails or is killed leaves whatever was there before.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.folders import new_folder, only_writer, remove_leftovers
from lra_tasks.store import (
    ARRAYS,
    StoreMissing,
    check_split,
    describe_files,
    fill_store,
    read_manifest,
    read_store,
    store_path,
    verify_file,
    write_store,
)  # fmt: skip
from lra_tasks.task import Progress, Split, Task, ignore_progress

SOURCE = "source.json"  # lies beside the records, so that they say where they come from without the store
BYTES_PER_TOKEN, BYTES_PER_EXAMPLE = 2, 200  # records and store together, rounded up
Report = Callable[[str], None]


def ignore_report(text: str) -> None:
    """A report that says nothing."""


@dataclass(frozen=True)
class Prepared:
    """A prepared task.

    Attributes:
        splits: the examples, read from the store.
        manifest: the store's manifest.
        was_ready: True when the store was there already and only verified.
    """

    splits: dict[str, Split]
    manifest: dict[str, Any]
    was_ready: bool


def records_path(data_dir: str | Path, task: Task) -> Path:
    """The folder of a task's record files, where tensorflow-datasets looks for it."""
    return Path(data_dir) / task.name / task.version


def ensure_prepared(
    task: Task, data_dir: str | Path, report: Report = ignore_report, progress: Progress = ignore_progress
) -> dict[str, Split]:
    """The splits of a task for training or evaluation. A generated task that is missing is prepared first.

    Raises StoreMissing (naming the command) for a missing task that needs raw files, StoreDamaged for a damaged store.
    """
    try:
        return read_store(data_dir, task)
    except StoreMissing:
        if not task.generated:
            raise
    report(f"{task.name} is not prepared in {data_dir}; preparing it now")
    return prepare_task(task, data_dir, report=report, progress=progress).splits


def prepare_task(
    task: Task, data_dir: str | Path, *, raw_dir: str | Path | None = None, rebuild: bool = False,
    num_workers: int | None = None, report: Report = ignore_report, progress: Progress = ignore_progress,
) -> Prepared:  # fmt: skip
    """Makes, or only verifies, the records and the store of a task.

    Args:
        task: what to prepare.
        data_dir: the data folder; made if it is missing.
        raw_dir: folder of the official files; default is the generator.
        rebuild: make everything again and replace what is there.
        num_workers: processes of the generator, default one a core; the result does not depend on it.
        report: receives lines of text.
        progress: receives (stage, done, total).

    Raises:
        UserError: raw files that do not agree with the task, a damaged store without `rebuild`, a folder that cannot
            be written. Nothing half-written is left then, and what was prepared before is intact.
    """
    data_dir, raw_dir = Path(data_dir), Path(raw_dir) if raw_dir is not None else None
    if raw_dir is None and not task.generated:
        raise UserError(f"{task.name} has no generator; give the folder of its official files as --raw_dir")
    try:
        with only_writer(data_dir):
            for parent in (data_dir / task.name, data_dir / "store"):
                for name in remove_leftovers(parent):
                    report(f"removed {parent / name}, left by a run that was killed")
            if not rebuild:
                with contextlib.suppress(StoreMissing):
                    return verify(task, data_dir, raw_dir, progress)
            build(task, data_dir, raw_dir, num_workers or count_cores(), rebuild, report, progress)
            return Prepared(read_store(data_dir, task), read_manifest(data_dir, task), was_ready=False)
    except BrokenPipeError:  # nobody reads our report any more: not the data folder's fault
        raise
    except OSError as error:
        where = error.filename or data_dir
        fault = error.strerror or f"{error}; is the disk full?"  # NumPy's short write has no error code
        raise UserError(f"cannot prepare {task.name} in {data_dir}: {fault} ({where})") from error


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def verify(task: Task, data_dir: Path, raw_dir: Path | None, progress: Progress) -> Prepared:
    """What is prepared already, after every check. Records may be absent (a store may be copied alone), not damaged."""
    splits, manifest = read_store(data_dir, task), read_manifest(data_dir, task)
    require_source(task, manifest["source"], raw_dir)
    if records_path(data_dir, task).exists():
        for number, (path, entry) in enumerate(manifest["records"].items()):
            progress("verify records", number, len(manifest["records"]))
            verify_file(data_dir / path, entry, task)
    return Prepared(splits, manifest, was_ready=True)


def require_source(task: Task, source: dict[str, Any], raw_dir: Path | None) -> None:
    """Raises UserError when official files are asked for and the prepared data was not made from just these files."""
    if raw_dir is None:
        return
    recorded = source.get("sha256")
    if not isinstance(recorded, dict):
        kind = source.get("kind")
        raise UserError(f"{task.name} is prepared from the {kind}; --rebuild replaces it by the files of {raw_dir}")
    for name, checksum in recorded.items():
        with open(raw_dir / name, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != checksum:
            raise UserError(f"{task.name} is prepared from another {name} than {raw_dir / name}; --rebuild replaces it")


def build(
    task: Task,
    data_dir: Path,
    raw_dir: Path | None,
    num_workers: int,
    rebuild: bool,
    report: Report,
    progress: Progress,
) -> None:
    """Makes the store, from intact records if there are some, else with the records from the task's source."""
    records_dir = records_path(data_dir, task)
    if records_dir.exists() and not rebuild:
        report(f"{task.name}: making the store from the records in {records_dir}")
        store_from_records(task, data_dir, raw_dir, progress)
        return
    splits, source = task.make_splits(raw_dir, num_workers, progress)
    require_space(data_dir, splits)
    # The records take their name first: killed between the two renames, the next run makes the store from them.
    with new_folder(store_path(data_dir, task)) as store_folder, new_folder(records_dir) as records_folder:
        stored = write_and_read_back(records_folder, task, splits, source, progress)
        below = records_dir.relative_to(data_dir)
        records = {str(below / name): entry for name, entry in describe_files(records_folder).items()}
        fill_store(store_folder, task, stored, source, records)


def write_and_read_back(
    folder: Path, task: Task, splits: dict[str, Split], source: dict[str, Any], progress: Progress
) -> dict[str, Split]:
    """Writes the records and returns what a reader finds in them, which must equal what was written."""
    from lra_tasks import dataset  # imports tensorflow-datasets, 1 s

    for name in task.splits:
        check_split(task, name, splits[name])
    dataset.write_records(folder, task, splits, progress)
    (folder / SOURCE).write_text(json.dumps(source, indent=2) + "\n")
    found = dataset.read_records(folder, task, progress)
    for name in task.splits:
        for array in ARRAYS:
            if not np.array_equal(getattr(splits[name], array), getattr(found[name], array)):
                where = f"{array} of split {name}"
                raise UserError(
                    f"the records of {task.name} do not hold the {where} that were written; is the disk sound?"
                )
    return found


def store_from_records(task: Task, data_dir: Path, raw_dir: Path | None, progress: Progress) -> None:
    """Makes a missing store from records that an earlier run wrote."""
    from lra_tasks import dataset

    records_dir = records_path(data_dir, task)
    try:
        source = json.loads((records_dir / SOURCE).read_text())
    except (FileNotFoundError, ValueError):
        path = records_dir / SOURCE
        raise UserError(f"{path} is missing or damaged; prepare {task.name} again with --rebuild") from None
    require_source(task, source, raw_dir)
    splits = dataset.read_records(records_dir, task, progress)
    write_store(data_dir, task, splits, source, records=describe_files(records_dir, root=data_dir))


def require_space(data_dir: Path, splits: dict[str, Split]) -> None:
    """Raises UserError when the disk has less room than the records and the store are going to take."""
    needed = sum(BYTES_PER_TOKEN * len(s.tokens) + BYTES_PER_EXAMPLE * s.num_examples for s in splits.values())
    free = shutil.disk_usage(data_dir).free
    if free < needed:
        room = f"{free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed"
        raise UserError(f"{data_dir} has {room}; choose another --data_dir")
