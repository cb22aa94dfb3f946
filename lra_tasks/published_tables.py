"""Printed tables of anything but test accuracy, and the checks on what results/published.json says."""

import collections
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lra_tasks.errors import UserError, nearest
from lra_tasks.typed_json import JsonError

PERCENT = "percent"


@dataclass(frozen=True)
class PublishedColumn:
    """A column of a table: its name, title and unit ("percent" bounds its numbers by 0 and 100)."""

    column: str
    title: str
    unit: str


@dataclass(frozen=True)
class PublishedTableRow:
    """A line. `row`: the model's name here, None for one that has none. A value is None where no number stands."""

    row: str | None
    printed_row: str
    values: tuple[float | None, ...]
    caveat: str | None


@dataclass(frozen=True)
class PublishedTable:
    """A printed table of anything but test accuracy on the tasks."""

    key: str
    title: str
    paper: str
    arxiv: str
    table: str
    protocol: str
    caveat: str
    columns: tuple[PublishedColumn, ...]
    rows: tuple[PublishedTableRow, ...]
    confirmed_by: tuple[str, ...]

    def value(self, printed_row: str, column: str) -> float | None:
        """One cell. UserError for a row or column that the table has not."""
        names = [one.column for one in self.columns]
        lines = {one.printed_row: one.values for one in self.rows}
        for what, name, known in (("row", printed_row, lines), ("column", column, names)):
            if name not in known:
                raise UserError(f"published table {self.key!r} has no {what} {name!r}; {nearest(name, known)}")
        return lines[printed_row][names.index(column)]


def check_table(field: str, table: PublishedTable, rows: Collection[str], confirmations: Collection[str]) -> None:
    """JsonError for a row of another width, a number out of range, and names that point nowhere or come twice."""
    check_confirmed(field, table.confirmed_by, confirmations)
    check_unique(f"{field}.columns", [column.column for column in table.columns])
    check_unique(f"{field}.rows", [line.printed_row for line in table.rows])
    for index, line in enumerate(table.rows):
        where = f"{field}.rows[{index}]"
        if line.row is not None:
            check_known(f"{where}.row", line.row, rows)
        if len(line.values) != len(table.columns):
            raise JsonError(f"{where}.values: {len(line.values)} values for {len(table.columns)} columns")
        for column, number in zip(table.columns, line.values, strict=True):
            if number is not None:
                check_number(f"{where}.values, {column.column}", number, column.unit)


def check_known(field: str, name: str, known: Collection[str]) -> None:
    """JsonError for a name that is not among the known ones."""
    if name not in known:
        raise JsonError(f"{field} = {name!r}: nothing of that name; {nearest(name, known)}")


def check_confirmed(field: str, names: Collection[str], confirmations: Collection[str]) -> None:
    """JsonError for a number that was read nowhere, or in a text that is not listed."""
    if not names:
        raise JsonError(f"{field}.confirmed_by: empty; name a text in which the number was read")
    for name in names:
        check_known(f"{field}.confirmed_by", name, confirmations)


def check_number(field: str, number: float, unit: str) -> None:
    """JsonError for a number that is negative, not finite or, in percent, above 100."""
    high = 100.0 if unit == PERCENT else float("inf")
    if not 0 <= number <= high or number == float("inf"):  # NaN fails the first
        raise JsonError(f"{field} = {number}: must be from 0 to {high:g}, in {unit}")


def check_unique(field: str, names: Iterable[object]) -> None:
    """JsonError that lists what comes twice."""
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise JsonError(f"{field}: given twice: {', '.join(str(name) for name in twice)}")
