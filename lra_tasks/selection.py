"""Which records, published numbers and tables are shown. Pure."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lra_tasks.errors import UserError, nearest
from lra_tasks.findings import Findings, find
from lra_tasks.groups import AnyRecord
from lra_tasks.layout import LAYOUTS
from lra_tasks.published import Published, PublishedFailure, PublishedValue
from lra_tasks.published_tables import PublishedTable
from lra_tasks.record import Record
from lra_tasks.report import Curve
from lra_tasks.translation_layout import PRINTED, PRINTED_TASK
from lra_tasks.translation_record import CHECKPOINTS, TranslationRecord

PUBLISHED = ("compared", "all", "none")


@dataclass(frozen=True)
class Selection:
    """What to show. An empty tuple means all.

    Attributes:
        tasks: names of tasks.
        rows: names of rows; the papers' rows are cut to these too.
        protocols: names of protocols of ours.
        tables: names out of LAYOUTS.
        checkpoint: which one of a run counts: "best" on validation, "last" or, of translations, "averaged".
        against: the row that the others are tested against.
        published: which printed numbers stand beside ours: "compared" (the models that are reproduced here), "all"
            (later models too) or "none".
    """

    tasks: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    checkpoint: str = "best"
    against: str = "transformer"
    published: str = "compared"


def parse_selection(text: str, where: str) -> Selection:
    """The words of a block, `table=accuracy task=listops_small,text`. UserError names `where` and the word."""
    fields = {"table": "tables", "task": "tasks", "row": "rows", "protocol": "protocols"}
    names = [*fields, "checkpoint", "against", "published"]
    values: dict[str, object] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if name not in names or not equals or not value:
            raise UserError(f"{where}: {word!r} is not NAME=VALUE; {nearest(name, names)}")
        values[fields.get(name, name)] = tuple(value.split(",")) if name in fields else value
    selection = dataclasses.replace(Selection(), **values)  # pyrefly: ignore
    check_selection(selection, where)
    return selection


def check_selection(selection: Selection, where: str) -> None:
    """UserError for a table, checkpoint or kind of published numbers that does not exist."""
    for table in selection.tables:
        if table not in LAYOUTS:
            raise UserError(f"{where}: table {table!r} does not exist; {nearest(table, LAYOUTS)}")
    for name, value, choices in (
        ("checkpoint", selection.checkpoint, CHECKPOINTS),
        ("published", selection.published, PUBLISHED),
    ):
        if value not in choices:
            raise UserError(f"{where}: {name} {value!r} does not exist; one of {', '.join(choices)}")


def select(
    records: Sequence[tuple[str, Record]],
    curves: dict[str, Curve],
    published: Published,
    selection: Selection,
    translations: Sequence[tuple[str, TranslationRecord]] = (),
) -> Findings:
    """The findings on what is selected. UserError for a name that neither a record nor a published number has."""
    ours = [one for _, one in (*records, *translations)]
    known_tasks = {task.task for task in (*published.tasks, *published.more_tasks)} | {one.task for one in ours}
    known_rows = {row.row for row in published.rows} | {one.row for one in ours}
    _require("task", selection.tasks, {*known_tasks, PRINTED_TASK})
    _require("row", selection.rows, known_rows)
    _require("protocol", selection.protocols, {one.protocol for one in ours})
    _require("against", [selection.against], known_rows)
    chosen, translated = _choose(records, selection), _choose(translations, selection)
    rows, tasks = ({getattr(one, name) for _, one in (*chosen, *translated)} for name in ("row", "task"))
    return find(
        chosen,
        cut_published(published, selection, rows, tasks),
        checkpoint=selection.checkpoint,
        against=selection.against,
        curves=curves,
        translations=translated,
    )


def _choose(records: Sequence[tuple[str, AnyRecord]], selection: Selection) -> list[tuple[str, AnyRecord]]:
    return [
        (name, one)
        for name, one in records
        if _among(one.task, selection.tasks)
        and _among(one.row, selection.rows)
        and _among(one.protocol, selection.protocols)
    ]


def _require(what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"--{what} {name!r} has no record and no published number; {nearest(name, known)}")


def _among(name: str, chosen: Sequence[str]) -> bool:
    return not chosen or name in chosen


def cut_published(
    published: Published, selection: Selection, our_rows: Collection[str], our_tasks: Collection[str]
) -> Published:
    """The published numbers that stand beside what is selected; rows, tasks and sources without any go.

    The printed table of translation stays where its task is asked for, or where we have it.
    """
    compared = {row.row for row in published.rows if selection.published == "all" or not row.later}

    def is_shown(cell: PublishedValue | PublishedFailure) -> bool:
        asked = selection.published != "none" and cell.row in compared
        return asked and _among(cell.task, selection.tasks) and _among(cell.row, selection.rows)

    values = tuple(filter(is_shown, published.values))
    failures = tuple(filter(is_shown, published.failures))
    printed = (*values, *failures)
    tables = tuple(_cut_printed(published, selection, our_tasks))
    translated = {line.row for table in tables if table.key == PRINTED for line in table.rows}
    rows, sources = {cell.row for cell in printed} | translated | set(our_rows), {cell.source for cell in printed}
    tasks = tuple(task for task in published.tasks if _among(task.task, selection.tasks))
    if selection.published == "none" and not selection.tasks:
        tasks = ()  # the columns are those that we have
    return dataclasses.replace(
        published,
        tasks=tasks,
        rows=tuple(
            row
            for row in published.rows
            if row.row in rows or (printed and row.reproduced and _among(row.row, selection.rows))
        ),
        sources={key: source for key, source in published.sources.items() if key in sources},
        values=values,
        failures=failures,
        tables=tables,
    )


def _cut_printed(published: Published, selection: Selection, our_tasks: Collection[str]) -> Iterator[PublishedTable]:
    """The other printed tables, that of translation cut to the rows that are asked for."""
    for table in published.tables:
        if table.key != PRINTED:
            yield table
        elif selection.published != "none" and PRINTED_TASK in (*selection.tasks, *our_tasks):
            lines = tuple(line for line in table.rows if _among(str(line.row), selection.rows))
            yield dataclasses.replace(table, rows=lines)
