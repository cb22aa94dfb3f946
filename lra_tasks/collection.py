"""Reading the records of runs, and what they logged, from files and folders. What cannot be trusted is named."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lra_tasks.curves import read_curve
from lra_tasks.errors import UserError
from lra_tasks.record import Record, RecordError, read_record
from lra_tasks.report import Curve

# a file of another name in a folder is taken for a record when it has most of these keys
TELLTALE = {"schema_version", "task", "row", "seed", "config_hash", "experiment_hash", "best", "last"}


@dataclass
class Collection:
    """What was read. `faults` has a line for each record or log that was left out."""

    records: list[tuple[str, Record]] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def collect(paths: Sequence[Path]) -> Collection:
    """The records that can be trusted, by file name, with their curves. UserError for a path without any record."""
    found = Collection()
    for file in find_records(paths):
        name = shorten(file)
        try:
            record = read_record(file)
            check_task(record, name)
        except RecordError as error:
            found.faults.append(str(error))
            continue
        found.records.append((name, record))
        try:
            curve = read_curve(file)
        except UserError as error:
            found.faults.append(f"{error}; its record counts")
            continue
        if curve is not None:
            found.curves[name] = curve
    return found


def shorten(file: Path) -> str:
    """The path from the working folder where it lies below it, so that outputs hold no path of one machine."""
    absolute = file.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(file)


def check_task(record: Record, where: str) -> None:
    """RecordError unless the task exists and every example that it has was scored."""
    from lra_tasks.registry import TASKS
    from lra_tasks.splits import declared_examples

    if record.task not in TASKS:
        raise RecordError(f"{where}: task {record.task!r} does not exist here; read it with the code that wrote it")
    validation = str(record.config.get("data", {}).get("validation", ""))
    for name, split in record.splits.items():
        wanted = declared_examples(TASKS[record.task], validation, name)
        if split.evaluated != wanted:
            raise RecordError(
                f"{where}: {split.evaluated:,} of the {wanted:,} {name} examples of {record.task} were scored"
            )


def find_records(paths: Sequence[Path]) -> list[Path]:
    """The files to read: named files, and in folders record.json and other JSON files that look like a record.

    UserError for a path that does not exist, and for a folder without records.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*.json")) if file.name == "record.json" or _looks_like(file)]
            if not inside:
                raise UserError(f"{path}: no record in this folder; training writes record.json at the end of a run")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder; give folders of runs, or the files of records")
    return list({file.resolve(): file for file in reversed(found)}.values())[::-1]


def _looks_like(file: Path) -> bool:
    """Whether a JSON file is meant as a record. Broken JSON is, so that a record cut short is not passed over."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return isinstance(content, dict) and len(TELLTALE & content.keys()) > len(TELLTALE) // 2
