"""Records of runs and published numbers -> the lines of the results tables. Pure: no files, no printing."""

import dataclasses
import statistics
import typing
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lra_tasks.published import Published
from lra_tasks.record import Record

NOT_RUN = "not run"
NOTHING = "–"
AVERAGE = "average"


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in the seed only. Accuracies are percent of the test split."""

    row: str
    task: str
    task_title: str
    task_version: str
    protocol: str
    experiment_hash: str
    checkpoint: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    chance: float
    num_parameters: int
    steps_per_second: float | None
    device: str

    @property
    def mean(self) -> float:
        """Mean accuracy over seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds (n - 1); None for one seed, which has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Table:
    """Text cells under a heading. `numeric` says which columns are aligned to the right."""

    caption: str
    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    lines: tuple[tuple[str, ...], ...]


def group_records(
    records: Iterable[tuple[str, Record]], checkpoint: str, published: Published
) -> tuple[list[Experiment], list[str]]:
    """Named records -> experiments in the order of the tables, and notes on what a reader must know.

    Records with the same experiment and seed count once: the one that started first. `checkpoint`: "best" or "last".
    """
    groups: dict[tuple[str, ...], list[tuple[str, Record]]] = defaultdict(list)
    for name, record in sorted(records, key=lambda item: (item[1].seed, item[1].started_at, item[0])):
        key = (record.row, record.task, record.task_version, record.protocol, record.experiment_hash)
        groups[key].append((name, record))
    experiments, notes = [], []
    for group in groups.values():
        kept, duplicates = _drop_duplicates(group, checkpoint)
        experiments.append(_to_experiment(kept, checkpoint))
        notes += duplicates + _remarks(kept)
    row_order = {known.row: index for index, known in enumerate(published.rows)}
    task_order = {known.task: index for index, known in enumerate(published.tasks)}
    experiments.sort(
        key=lambda one: (
            (row_order.get(one.row, len(row_order)), one.row, one.protocol),
            (task_order.get(one.task, len(task_order)), one.task, one.task_version, one.experiment_hash),
        )
    )
    return experiments, notes + _mixed(experiments)


def _drop_duplicates(group: list[tuple[str, Record]], checkpoint: str) -> tuple[list[Record], list[str]]:
    kept: dict[int, tuple[str, Record]] = {}
    notes = []
    for name, record in group:
        first_name, first = kept.setdefault(record.seed, (name, record))
        if first_name == name:
            continue
        ours, theirs = (getattr(one, checkpoint).test_accuracy * 100 for one in (first, record))
        outcome = "a copy" if record == first else f"another run with {theirs:.2f} against {ours:.2f}"
        notes.append(f"{_describe(record)}, seed {record.seed}: counted {first_name}, not {name} ({outcome})")
    return [record for _, record in kept.values()], notes


def _describe(record: Record) -> str:
    return f"{record.row} on {record.task} ({record.protocol}, #{record.experiment_hash[:8]})"


def _to_experiment(records: Sequence[Record], checkpoint: str) -> Experiment:
    first = records[0]
    speeds = [record.steps_per_second for record in records if record.steps_per_second is not None]
    devices = sorted({_name_device(record) for record in records})
    return Experiment(
        row=first.row,
        task=first.task,
        task_title=first.task_title,
        task_version=first.task_version,
        protocol=first.protocol,
        experiment_hash=first.experiment_hash,
        checkpoint=checkpoint,
        seeds=tuple(record.seed for record in records),
        values=tuple(getattr(record, checkpoint).test_accuracy * 100 for record in records),
        chance=first.splits["test"].majority_share * 100,
        num_parameters=first.num_parameters,
        steps_per_second=statistics.fmean(speeds) if speeds else None,
        device=", ".join(devices),
    )


def _name_device(record: Record) -> str:
    if record.device.platform == "cpu":
        return f"cpu, {record.host_cores} cores"
    return f"{record.device.count} x {record.device.kind}"


def _remarks(records: Sequence[Record]) -> list[str]:
    what = _describe(records[0])
    remarks = []
    commits = {record.commit for record in records}
    if len(commits) > 1:
        remarks.append(f"{what}: its seeds ran on {len(commits)} different commits")
    if dirty := [str(record.seed) for record in records if record.commit_dirty]:
        remarks.append(f"{what}: seed {', '.join(dirty)} ran with changes that were not committed")
    if any(record.selection == "test" for record in records):
        remarks.append(f"{what}: the best checkpoint was chosen on the test split")
    if len({record.num_parameters for record in records}) > 1:
        remarks.append(f"{what}: its seeds differ in the number of parameters")
    return remarks


def _mixed(experiments: Sequence[Experiment]) -> list[str]:
    cells = defaultdict(list)
    for one in experiments:
        cells[one.row, one.task, one.protocol].append(f"#{one.experiment_hash[:8]}")
    return [
        f"{row} on {task} ({protocol}): {len(hashes)} experiments with different settings or data, never averaged: "
        + ", ".join(hashes)
        for (row, task, protocol), hashes in cells.items()
        if len(hashes) > 1
    ]


def build_entries(experiments: Sequence[Experiment], published: Published) -> list[dict[str, typing.Any]]:
    """Everything the tables show in full precision, one flat dict an experiment, printed number or empty cell."""
    blank = dict.fromkeys(ENTRY_FIELDS)
    entries = []
    for one in experiments:
        printed = published.find(one.row, one.task)[:1]
        entry = {**blank, **dataclasses.asdict(one), "kind": "ours", "title": published.title(one.row)}
        entry |= {"n": len(one.values), "mean": one.mean, "sd": one.sd}
        if printed:
            entry |= {"published": printed[0].percent, "published_source": printed[0].source}
            entry |= {"difference": one.mean - printed[0].percent}
        entries.append(entry)
    ran = {(one.row, one.task) for one in experiments}
    for row in published.rows:
        for task in published.tasks:
            if row.reproduced and (row.row, task.task) not in ran:
                where = {"row": row.row, "title": row.title, "task": task.task, "task_title": task.title}
                entries.append({**blank, **where, "kind": NOT_RUN, "n": 0})
    titles = {task.task: task.title for task in published.tasks} | {AVERAGE: "Average"}
    for value in published.values:
        source = published.sources[value.source]
        entry = {**blank, "kind": "published", "row": value.row, "title": published.title(value.row)}
        entry |= {"task": value.task, "task_title": titles[value.task], "protocol": source.protocol}
        entry |= {"published": value.percent, "published_source": value.source, "paper": source.paper}
        entry |= {"arxiv": source.arxiv, "paper_table": source.table, "paper_row": value.printed_row}
        entry |= {"confirmed_by": value.confirmed_by, "caveat": value.caveat}
        entries.append(entry)
    return entries


ENTRY_FIELDS = (
    *("kind", "row", "title", "task", "task_title", "task_version", "protocol", "experiment_hash", "checkpoint"),
    *("n", "mean", "sd", "seeds", "values", "chance", "published", "published_source", "difference"),
    *("num_parameters", "steps_per_second", "device", "paper", "arxiv", "paper_table", "paper_row"),
    *("confirmed_by", "caveat"),
)
