"""The numbers that papers print, from results/published.json. The results tables set ours beside them."""

import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lra_tasks.errors import UserError, nearest
from lra_tasks.published_tables import (
    PERCENT,
    PublishedTable,
    check_confirmed,
    check_known,
    check_number,
    check_table,
    check_unique,
)
from lra_tasks.typed_json import JsonError, build


@dataclass(frozen=True)
class PublishedTask:
    """A task with the title that tables give it."""

    task: str
    title: str


@dataclass(frozen=True)
class PublishedAverage:
    """A mean over tasks that papers print as one number.

    Attributes:
        title: the name in tables.
        rule: how it is taken, in words.
        tasks: over which tasks.
        failed_percent: what a task counts that is printed as failed; None where such a task leaves no average.
        later: printed for later rows only.
    """

    title: str
    rule: str
    tasks: tuple[str, ...]
    failed_percent: float | None
    later: bool


@dataclass(frozen=True)
class PublishedRow:
    """A model of the papers.

    Attributes:
        row: its name here; the same as a row of ours where it is the same model.
        title: its name in tables.
        reproduced: ours is to stand beside it, so its absence is shown as not run.
        later: published after Luna and compared with nothing here; hidden unless asked for.
    """

    row: str
    title: str
    reproduced: bool
    later: bool


@dataclass(frozen=True)
class Source:
    """Where a number was printed, under which protocol, and what to know before comparing with it."""

    short: str
    paper: str
    arxiv: str
    table: str
    protocol: str
    caveat: str


@dataclass(frozen=True)
class PublishedValue:
    """One printed accuracy in percent, and the texts in which it was read. `task`: a task or an average."""

    source: str
    row: str
    printed_row: str
    task: str
    percent: float
    confirmed_by: tuple[str, ...]
    caveat: str | None


@dataclass(frozen=True)
class PublishedFailure:
    """A cell where a paper prints no number because the model stayed at chance. `printed`: what stands there."""

    source: str
    row: str
    printed_row: str
    task: str
    printed: str
    confirmed_by: tuple[str, ...]


@dataclass(frozen=True)
class PublishedGap:
    """Printed numbers that stand nowhere here, because no text at hand showed them."""

    paper: str
    arxiv: str
    table: str
    rows: str
    why: str


@dataclass(frozen=True)
class Published:
    """results/published.json.

    Attributes:
        unit: of the values.
        tasks: the tasks of the five-task average, in the order of the papers.
        more_tasks: tasks outside of it.
        averages: the averages that values may name as their task.
        rows, sources: the models and the papers' tables, by their names in `values`. The first source that has a number
            for a row and task is the one to compare with.
        confirmations: the texts in which numbers were read, by name.
        values: test accuracies.
        failures: cells printed as failed.
        tables: all other printed tables.
        missing: what was not found in any text.
    """

    unit: str
    tasks: tuple[PublishedTask, ...]
    more_tasks: tuple[PublishedTask, ...]
    averages: dict[str, PublishedAverage]
    rows: tuple[PublishedRow, ...]
    sources: dict[str, Source]
    confirmations: dict[str, str]
    values: tuple[PublishedValue, ...]
    failures: tuple[PublishedFailure, ...]
    tables: tuple[PublishedTable, ...]
    missing: tuple[PublishedGap, ...]

    def find(self, row: str, task: str) -> list[PublishedValue]:
        """The numbers for a row and task, one a source, in the order of the sources."""
        found = {value.source: value for value in self.values if (value.row, value.task) == (row, task)}
        return [found[source] for source in self.sources if source in found]

    def title(self, row: str) -> str:
        """The name of a row in tables; a row that no paper has is its own name."""
        return next((known.title for known in self.rows if known.row == row), row)

    def failed(self, task: str) -> frozenset[tuple[str, str]]:
        """The (source, row) pairs whose cell of this task is printed as failed."""
        return frozenset((one.source, one.row) for one in self.failures if one.task == task)

    def has_failed(self, source: str, row: str, task: str) -> bool:
        """Whether this source prints this cell as failed."""
        return (source, row) in self.failed(task)

    def table(self, key: str) -> PublishedTable:
        """A table by its key. UserError for one that is not there."""
        known = {one.key: one for one in self.tables}
        if key not in known:
            raise UserError(f"published table {key!r} does not exist; {nearest(key, known)}")
        return known[key]


def parse_published(value: dict[str, typing.Any]) -> Published:
    """The content of published.json, checked. JsonError names the field.

    May be left out: a caveat of a value or table row, the row of a table row, `later` of a row or average, and the
    fields more_tasks, failures, tables, missing and averages (then the mean over all tasks is the only one).
    """
    if not isinstance(value, dict):
        return build(Published, value)
    empty = {key: [] for key in ("more_tasks", "failures", "tables", "missing")}
    filled = {"averages": _default_averages(value.get("tasks")), **empty, **value}
    if isinstance(filled["averages"], dict):
        names, averages = filled["averages"].keys(), _fill(list(filled["averages"].values()), later=False)
        filled["averages"] = dict(zip(names, averages, strict=True))
    if "rows" in value:
        filled["rows"] = _fill(value["rows"], later=False)
    filled["values"] = _fill(filled.get("values", []), caveat=None)
    if isinstance(filled["tables"], list):
        filled["tables"] = [_fill_table(table) for table in filled["tables"]]
    published = build(Published, filled)
    _check(published)
    return published


def _default_averages(tasks: object) -> dict[str, typing.Any]:
    names = [task["task"] for task in _listed(tasks) if isinstance(task, dict) and "task" in task]
    rule = "mean over all tasks"
    return {"average": {"title": "Average", "rule": rule, "tasks": names, "failed_percent": None}}


def _listed(value: object) -> list[typing.Any]:
    return value if isinstance(value, list) else []


def _fill(entries: typing.Any, **defaults: object) -> typing.Any:
    """Entries with what may be left out; whatever is no list of objects goes through, for `build` to refuse."""
    if not isinstance(entries, list):
        return entries
    return [{**defaults, **entry} if isinstance(entry, dict) else entry for entry in entries]


def _fill_table(table: object) -> object:
    if not isinstance(table, dict) or "rows" not in table:
        return table
    return {**table, "rows": _fill(table["rows"], row=None, caveat=None)}


def _check(published: Published) -> None:
    """JsonError for names that point nowhere, numbers out of range and cells given twice."""
    rows = [row.row for row in published.rows]
    tasks = [task.task for task in (*published.tasks, *published.more_tasks)]
    check_unique("rows", rows)
    check_unique("tasks and averages", [*tasks, *published.averages])
    for name, average in published.averages.items():
        for task in average.tasks:
            check_known(f"averages.{name}.tasks", task, tasks)
    for index, row in enumerate(published.rows):
        if row.later and row.reproduced:
            raise JsonError(f"rows[{index}].later = True: {row.row} is reproduced; a later row is not")
    for field, cell in _list_cells(published):
        check_known(f"{field}.source", cell.source, published.sources)
        check_known(f"{field}.row", cell.row, rows)
        check_known(f"{field}.task", cell.task, [*tasks, *published.averages])
        check_confirmed(field, cell.confirmed_by, published.confirmations)
        if isinstance(cell, PublishedValue):
            check_number(f"{field}.percent", cell.percent, PERCENT)
    check_unique("values and failures", [(cell.source, cell.row, cell.task) for _, cell in _list_cells(published)])
    check_unique("tables", [table.key for table in published.tables])
    for index, table in enumerate(published.tables):
        check_table(f"tables[{index}]", table, rows, published.confirmations)


def _list_cells(published: Published) -> Iterator[tuple[str, PublishedValue | PublishedFailure]]:
    for name, cells in (("values", published.values), ("failures", published.failures)):
        for index, cell in enumerate(cells):
            yield f"{name}[{index}]", cell


def read_published(path: Path) -> Published:
    """The published numbers. UserError names the file and the fault."""
    try:
        return parse_published(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path}: cannot be used as published numbers ({error})") from None
