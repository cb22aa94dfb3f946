"""Reading the records of runs, and what they logged, from files and folders. What cannot be trusted is named."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lra_tasks import record, translation_record
from lra_tasks.curves import read_curve
from lra_tasks.errors import UserError
from lra_tasks.record import Record
from lra_tasks.record_fields import RecordError, read_record_text
from lra_tasks.report import Curve
from lra_tasks.translation_record import TranslationRecord

# a file of another name in a folder is taken for a record when it has most of these keys
TELLTALE = {"schema_version", "task", "row", "seed", "config_hash", "experiment_hash", "best", "last"}


@dataclass
class Collection:
    """What was read, by file name. `faults` has a line for each record or log that was left out."""

    records: list[tuple[str, Record]] = field(default_factory=list)  # of classifiers
    curves: dict[str, Curve] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    translations: list[tuple[str, TranslationRecord]] = field(default_factory=list)


def collect(paths: Sequence[Path]) -> Collection:
    """The records that can be trusted, by file name, with their curves. UserError for a path without any record."""
    found = Collection()
    for file in find_records(paths):
        name = shorten(file)
        try:
            one = read_any_record(file)
            if isinstance(one, TranslationRecord):
                check_translation(one, name)
                found.translations.append((name, one))
            else:
                check_task(one, name)
                found.records.append((name, one))
        except RecordError as error:
            found.faults.append(str(error))
            continue
        try:
            curve = read_curve(file, "bleu" if isinstance(one, TranslationRecord) else "accuracy")
        except UserError as error:
            found.faults.append(f"{error}; its record counts")
            continue
        if curve is not None:
            found.curves[name] = curve
    return found


def read_any_record(file: Path) -> Record | TranslationRecord:
    """The record of a classifier, or of the kind that the file names. RecordError as reading either raises it."""
    text = read_record_text(file)
    try:
        content = json.loads(text)
    except ValueError:
        content = None  # reading it as a record says what is wrong
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind == translation_record.KIND:
        return translation_record.from_json(text, str(file))
    if kind is not None:
        raise RecordError(
            f"{file}: kind = {kind!r}: this code reads {translation_record.KIND!r}, and records of classifiers, which "
            "have none; read it with the code that wrote it"
        )
    return record.from_json(text, str(file))


def shorten(file: Path) -> str:
    """The path from the working folder where it lies below it, so that outputs hold no path of one machine."""
    absolute = file.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(file)


def check_task(one: Record, where: str) -> None:
    """RecordError unless the task exists and every example that it has was scored."""
    from lra_tasks.registry import TASKS
    from lra_tasks.splits import declared_examples

    if one.task not in TASKS:
        raise _no_such_task(one.task, where)
    validation = str(one.config.get("data", {}).get("validation", ""))
    for name, split in one.splits.items():
        wanted = declared_examples(TASKS[one.task], validation, name)
        if split.evaluated != wanted:
            raise RecordError(
                f"{where}: {split.evaluated:,} of the {wanted:,} {name} examples of {one.task} were scored"
            )


def check_translation(one: TranslationRecord, where: str) -> None:
    """RecordError unless the task exists, is between these languages, and has these test sets, the first among them."""
    from lra_tasks.translation import TRANSLATIONS

    if one.task not in TRANSLATIONS:
        raise _no_such_task(one.task, where)
    task = TRANSLATIONS[one.task]
    if (one.source_language, one.target_language) != (task.source_language, task.target_language):
        languages = f"{one.source_language} to {one.target_language}"
        raise RecordError(
            f"{where}: translates {languages}; {one.task} is {task.source_language} to {task.target_language}"
        )
    if one.tests != tuple(test for test in task.tests if test in one.tests) or one.tests[0] != task.tests[0]:
        raise RecordError(
            f"{where}: test sets {', '.join(one.tests)}; {one.task} has {', '.join(task.tests)}, the first of which "
            "must be scored"
        )


def _no_such_task(task: str, where: str) -> RecordError:
    return RecordError(f"{where}: task {task!r} does not exist here; read it with the code that wrote it")


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
