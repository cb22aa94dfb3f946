"""Prepares a task: makes its examples, writes records and store, and reads the records back.

Records and store take their final names together at the end, so a run that fails or is killed leaves whatever was there
before. A missing store is made from the records.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lra_tasks.downloads import fetch
from lra_tasks.errors import UserError
from lra_tasks.folders import new_folder, preparing, require_room
from lra_tasks.store import (
    StoreMissing,
    check_splits,
    describe_files,
    fill_store,
    name_arrays,
    read_manifest,
    read_store,
    store_path,
    verify_file,
    write_store,
)  # fmt: skip
from lra_tasks.task import Progress, Request, Split, Task, ignore_progress

SOURCE = "source.json"  # lies beside the records, so that they say where they come from without the store
RECORD_OVERHEAD = 100  # bytes an example, rounded up
FROM_FILES = ("official files", "parallel files")
"""Kinds of a source that a folder of files was read for."""
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


def records_paths(data_dir: str | Path, task: Task) -> dict[str, Path]:
    """The folders of a task's record files, where tensorflow-datasets looks for them, by part of the task."""
    parts = ("documents", "pairs") if task.paired else ("",)
    return {part: Path(data_dir) / task.name / part / task.version for part in parts}


def ensure_prepared(
    task: Task, data_dir: str | Path, report: Report = ignore_report, progress: Progress = ignore_progress
) -> dict[str, Split]:
    """The splits of a task for training or evaluation. A task whose data takes seconds to make is prepared if missing.

    Raises StoreMissing (naming the command) for any other task that is missing, StoreDamaged for a damaged store.
    """
    try:
        return read_store(data_dir, task)
    except StoreMissing:
        if not task.on_demand:
            raise
    report(f"{task.name} is not prepared in {data_dir}; preparing it now")
    return prepare_task(task, data_dir, report=report, progress=progress).splits


def prepare_task(
    task: Task, data_dir: str | Path, *, raw_dir: str | Path | None = None, rebuild: bool = False,
    num_workers: int | None = None, options: frozenset[str] = frozenset(),
    report: Report = ignore_report, progress: Progress = ignore_progress,
) -> Prepared:  # fmt: skip
    """Makes, or only verifies, the records and the store of a task.

    Args:
        task: what to prepare.
        data_dir: the data folder; made if it is missing.
        raw_dir: folder of the official files; default is the task's own source.
        rebuild: make everything again and replace what is there.
        num_workers: workers of the generator, default one a core; the result does not depend on it.
        options: names of optional splits to make, too.
        report: receives lines of text.
        progress: receives (stage, done, total).

    Raises:
        UserError: raw files that do not agree with the task, a damaged store without `rebuild`, a folder that cannot
            be written. Nothing half-written is left then, and what was prepared before is intact.
    """
    data_dir, raw_dir = Path(data_dir), Path(raw_dir) if raw_dir is not None else None
    finals = [*records_paths(data_dir, task).values(), store_path(data_dir, task)]
    makes_all = rebuild or not any(path.exists() for path in finals)
    require_options(task, raw_dir, options, makes_all)
    request = Request(
        raw_dir=raw_dir,
        work_dir=data_dir / "work" / f"{task.name}-{task.version}",
        download_dir=data_dir / "downloads",
        num_workers=num_workers or count_cores(),
        progress=progress,
        report=report,
        fetch=partial(fetch, folder=data_dir / "downloads", progress=progress),
        options=options,
    )
    with preparing(task.name, data_dir, finals, report):
        if not rebuild:
            with contextlib.suppress(StoreMissing):
                return verify(task, data_dir, request)
        build(task, data_dir, request, rebuild)
        return Prepared(read_store(data_dir, task), read_manifest(data_dir, task), was_ready=False)


def require_options(task: Task, raw_dir: Path | None, options: frozenset[str], makes_all: bool) -> None:
    """Raises UserError for a source, where one is needed, or an optional split that the task has not."""
    if makes_all and raw_dir is None and task.source_kind == "raw":
        raise UserError(f"{task.name} has no generator; give the folder of its official files as --raw_dir")
    unknown = sorted(options - task.optional_splits.keys())
    if unknown:
        known = ", ".join(task.optional_splits) or "none"
        raise UserError(f"{task.name} has no optional split {unknown[0]!r}; it has {known}")


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def verify(task: Task, data_dir: Path, request: Request) -> Prepared:
    """What is prepared already, after every check. Records may be absent (a store may be copied alone), not damaged."""
    splits, manifest = read_store(data_dir, task), read_manifest(data_dir, task)
    missing = sorted(request.options - splits.keys())
    if missing:
        raise UserError(f"{task.name} is prepared without its split {missing[0]}; --rebuild makes it, too")
    require_source(task.name, manifest["source"], request.raw_dir, task.raw_checksums)
    if all(path.exists() for path in records_paths(data_dir, task).values()):
        for number, (path, entry) in enumerate(manifest["records"].items()):
            request.progress("verify records", number, len(manifest["records"]))
            verify_file(data_dir / path, entry, task)
    return Prepared(splits, manifest, was_ready=True)


def require_source(
    name: str, source: dict[str, Any], raw_dir: Path | None, find_checksums: Callable[[Path], dict[str, str]]
) -> None:
    """Raises UserError when files are given and the prepared task `name` was not made from just these.

    `find_checksums` gives the sha256 of each file that would be read in `raw_dir`.
    """
    if raw_dir is None:
        return
    recorded = source.get("sha256")
    if not isinstance(recorded, dict) or source.get("kind") not in FROM_FILES:
        kind = source.get("kind")
        raise UserError(f"{name} is prepared from the {kind}; --rebuild replaces it by the files of {raw_dir}")
    found = find_checksums(raw_dir)
    for file in {**recorded, **found}:
        if found.get(file) != recorded.get(file):
            raise UserError(f"{name} is prepared from another {file} than {raw_dir / file}; --rebuild replaces it")


def build(task: Task, data_dir: Path, request: Request, rebuild: bool) -> None:
    """Makes the store, from intact records if there are some, else with the records from the task's source."""
    folders = records_paths(data_dir, task)
    if all(folder.exists() for folder in folders.values()) and not rebuild:
        request.report(f"{task.name}: making the store from the records in {', '.join(map(str, folders.values()))}")
        store_from_records(task, data_dir, request)
    else:
        splits, source = task.make_splits(request)
        check_splits(task, splits, source)
        write_everything(task, data_dir, request, splits, source)
    shutil.rmtree(request.work_dir, ignore_errors=True)
    with contextlib.suppress(OSError):
        request.work_dir.parent.rmdir()  # goes only if no other task has work there


def write_everything(
    task: Task, data_dir: Path, request: Request, splits: dict[str, Split], source: dict[str, Any]
) -> None:
    """Writes records and store, reads the records back, and gives all of them their names."""
    from lra_tasks import dataset  # imports tensorflow-datasets, 1 s

    size = sum(array.nbytes for _, array in name_arrays(task, splits))
    num_examples = sum(split.num_examples for split in splits.values())
    require_room(data_dir, 2 * size + RECORD_OVERHEAD * num_examples)
    # The records take their names first: killed between the renames, the next run makes the store from them.
    with new_folder(store_path(data_dir, task)) as store_folder, contextlib.ExitStack() as stack:
        records: dict[str, Any] = {}
        for part, final in records_paths(data_dir, task).items():
            folder = stack.enter_context(new_folder(final))
            dataset.write_records(folder, task, part, splits, request.progress)
            (folder / SOURCE).write_text(json.dumps(source, indent=2) + "\n")
            fault = dataset.compare_records(folder, task, part, splits, request.progress)
            if fault is not None:
                raise UserError(
                    f"the records of {task.name} do not hold the {fault} that was written; is the disk sound?"
                )
            below = final.relative_to(data_dir)
            records |= {str(below / name): entry for name, entry in describe_files(folder).items()}
        fill_store(store_folder, task, splits, source, records)


def store_from_records(task: Task, data_dir: Path, request: Request) -> None:
    """Makes a missing store from records that an earlier run wrote."""
    from lra_tasks import dataset

    folders = records_paths(data_dir, task)
    path = list(folders.values())[-1] / SOURCE
    try:
        source = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        raise UserError(f"{path} is missing or damaged; prepare {task.name} again with --rebuild") from None
    require_source(task.name, source, request.raw_dir, task.raw_checksums)
    splits = dataset.read_records(folders, task, request.work_dir, request.progress)
    records: dict[str, Any] = {}
    for folder in folders.values():
        records |= describe_files(folder, root=data_dir)
    write_store(data_dir, task, splits, source, records=records)
