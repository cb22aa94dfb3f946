"""The results table: every recorded run beside the published numbers.

    python -m lra_tasks.results [PATH ...] [--format=markdown|latex|csv|json] [--checkpoint=best|last] [--task=NAME ...]

PATH is a record, or a folder that is searched for records; without one it is results/records of this project. A record
that cannot be trusted is named on stderr and left out, and the exit code is 1. --task keeps the columns of the tasks
that are named and the models that have a number there.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from lra_tasks import cli, table_text, tables
from lra_tasks.errors import UserError, nearest
from lra_tasks.published import Published, read_published
from lra_tasks.record import Record, RecordError, read_record

FORMATS = ("markdown", "latex", "csv", "json")
RESULTS = Path(__file__).parents[1] / "results"
# a file of another name in a folder is taken for a record when it has most of these keys
TELLTALE = {"schema_version", "task", "row", "seed", "config_hash", "experiment_hash", "best", "last"}


def find_records(paths: Sequence[Path]) -> list[Path]:
    """The files to read: named files, and in folders record.json and other JSON files that look like a record.

    UserError for a path that does not exist.
    """
    found = []
    for path in paths:
        if path.is_dir():
            found += [file for file in sorted(path.rglob("*.json")) if file.name == "record.json" or _looks_like(file)]
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


def read_records(files: Sequence[Path]) -> tuple[list[tuple[str, Record]], list[str]]:
    """The records that can be trusted, by file name, and one line for each that cannot."""
    records, faults = [], []
    for file in files:
        try:
            records.append((str(file), read_record(file)))
        except RecordError as error:
            faults.append(str(error))
    return records, faults


def render(records: Sequence[tuple[str, Record]], published: Published, form: str, checkpoint: str) -> str:
    """The whole text in one of FORMATS."""
    experiments, notes = tables.group_records(records, checkpoint, published)
    if form == "csv":
        return table_text.to_csv(experiments, published)
    if form == "json":
        return table_text.to_json(experiments, published, notes)
    write = table_text.to_latex if form == "latex" else table_text.to_markdown
    return write(table_text.lay_out(experiments, published), notes + table_text.list_sources(published))


def select_tasks(
    records: Sequence[tuple[str, Record]], published: Published, tasks: Sequence[str]
) -> tuple[list[tuple[str, Record]], Published]:
    """Records and published numbers of some tasks only. UserError for a task that neither of them has."""
    known = {task.task for task in published.tasks} | {record.task for _, record in records}
    for task in tasks:
        if task not in known:
            raise UserError(f"--task {task!r} has no record and no published number; {nearest(task, known)}")
    values = tuple(value for value in published.values if value.task in tasks)
    records = [(name, record) for name, record in records if record.task in tasks]
    rows = {value.row for value in values} | {record.row for _, record in records}
    sources = {value.source for value in values}
    return records, dataclasses.replace(
        published,
        tasks=tuple(task for task in published.tasks if task.task in tasks),
        rows=tuple(row for row in published.rows if row.row in rows or (values and row.reproduced)),
        sources={key: source for key, source in published.sources.items() if key in sources},
        values=values,
    )


def main(argv: Sequence[str]) -> int:
    """Print the table. Returns 0, or 1 where a record was left out."""
    paths = [Path(argument) for argument in argv[1:]] or [RESULTS / "records"]
    records, faults = read_records(find_records(paths))
    published = read_published(RESULTS / "published.json")
    if flags.FLAGS.task:
        records, published = select_tasks(records, published, flags.FLAGS.task)
    print(render(records, published, flags.FLAGS.format, flags.FLAGS.checkpoint), end="")
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":  # here, since other entries have flags of the same names
    flags.DEFINE_enum("format", "markdown", FORMATS, "What to print.")
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint of a run counts.")
    flags.DEFINE_multi_string("task", [], "A task to show; may be given several times. Default: all.")
    cli.run(main, str(__doc__))
