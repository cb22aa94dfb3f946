"""The numbers that papers print, from results/published.json. The results tables set ours beside them."""

import json
import typing
from dataclasses import dataclass
from pathlib import Path

from lra_tasks.errors import UserError
from lra_tasks.typed_json import build


@dataclass(frozen=True)
class PublishedTask:
    """A task of the five-task average, in the order of the papers."""

    task: str
    title: str


@dataclass(frozen=True)
class PublishedRow:
    """A model of the papers. `reproduced`: ours is to stand beside it, so its absence is shown as not run."""

    row: str
    title: str
    reproduced: bool


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
    """One printed accuracy in percent, and the texts in which it was read."""

    source: str
    row: str
    printed_row: str
    task: str
    percent: float
    confirmed_by: tuple[str, ...]
    caveat: str | None


@dataclass(frozen=True)
class Published:
    """results/published.json. The first source that has a number for a row and task is the one to compare with."""

    unit: str
    tasks: tuple[PublishedTask, ...]
    rows: tuple[PublishedRow, ...]
    sources: dict[str, Source]
    confirmations: dict[str, str]
    values: tuple[PublishedValue, ...]

    def find(self, row: str, task: str) -> list[PublishedValue]:
        """The numbers for a row and task, one a source, in the order of the sources."""
        found = {value.source: value for value in self.values if (value.row, value.task) == (row, task)}
        return [found[source] for source in self.sources if source in found]

    def title(self, row: str) -> str:
        """The name of a row in tables; a row that no paper has is its own name."""
        return next((known.title for known in self.rows if known.row == row), row)


def parse_published(value: dict[str, typing.Any]) -> Published:
    """The content of published.json, checked. A value's caveat may be left out. JsonError names the field."""
    values = [{"caveat": None, **entry} for entry in value.get("values", [])]
    return build(Published, {**value, "values": values})


def read_published(path: Path) -> Published:
    """The published numbers. UserError names the file and the fault."""
    try:
        return parse_published(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path}: cannot be used as published numbers ({error})") from None
