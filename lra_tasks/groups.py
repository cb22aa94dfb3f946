"""Records of any kind -> runs that differ in the seed only: how they are told apart, named, ordered. Pure."""

import statistics
import typing
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lra_tasks.intervals import Interval
from lra_tasks.published import Published
from lra_tasks.record_fields import RunRecord

MOST_DIFFERENCES = 2  # settings that name a variant; one that differs in more is named by its hash
AT_ONCE = "seeds at once"  # behind the device where they share it
GroupKey = tuple[str, str, str, str, str]  # row, task, version of the task, protocol, experiment hash
AnyRecord = typing.TypeVar("AnyRecord", bound=RunRecord)


class ScoredRun(typing.Protocol):
    """One seed, at the checkpoint that counts."""

    @property
    def seed(self) -> int: ...
    @property
    def file(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Runs that differ in the seed only, on one test set. Scores are percent."""

    row: str
    task: str
    task_title: str
    task_version: str
    protocol: str
    experiment_hash: str
    variant: str  # what tells it from other experiments of the same row, task and protocol; empty where there are none
    checkpoint: str
    runs: Sequence[ScoredRun]
    interval: Interval  # 95 % bootstrap interval of the mean, over seeds and test examples
    seed_interval: Interval | None  # 95 % Student interval of the mean over seeds; None for one seed
    num_examples: int
    test_set: str = ""  # its name, where a task has several
    num_parameters: int
    steps_per_second: float | None  # of seeds at once those of all together
    wall_seconds: float  # of a whole run with evaluation, mean over seeds; of seeds at once each one's share
    peak_memory_bytes: int  # on the fullest device; of the process where the platform does not say
    device: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in rising order."""
        return tuple(run.seed for run in self.runs)

    @property
    def values(self) -> tuple[float, ...]:
        """The score of each seed."""
        raise NotImplementedError

    @property
    def mean(self) -> float:
        """Mean score over all seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds (n - 1); None for one seed, which has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def title(self) -> str:
        """What was scored, in tables."""
        return self.task_title

    @property
    def place(self) -> tuple[str, ...]:
        """What two must share so that their test examples are the same, and a test of them is fair."""
        return self.task, self.task_version, self.protocol, str(self.num_examples)

    @property
    def key(self) -> GroupKey:
        """The group of records that it comes from."""
        return self.row, self.task, self.task_version, self.protocol, self.experiment_hash


def describe_group(records: Sequence[RunRecord], checkpoint: str, variant: str) -> dict[str, typing.Any]:
    """What `Measured` says of the records of one experiment, apart from their scores."""
    first = records[0]
    speeds = [one.steps_per_second * one.num_sharers for one in records if one.steps_per_second is not None]
    return {
        **{name: getattr(first, name) for name in ("row", "task", "task_title", "task_version", "protocol")},
        "experiment_hash": first.experiment_hash,
        "variant": variant,
        "checkpoint": checkpoint,
        "num_parameters": first.num_parameters,
        "steps_per_second": statistics.fmean(speeds) if speeds else None,
        "wall_seconds": statistics.fmean(one.wall_seconds / one.num_sharers for one in records),
        "peak_memory_bytes": max(_peak_memory(record) for record in records),
        "device": ", ".join(sorted({_name_device(record) for record in records})),
    }


def _peak_memory(record: RunRecord) -> int:
    peak = record.peak_memory_bytes
    return peak.process if peak.device is None else peak.device


def _name_device(record: RunRecord) -> str:
    name = f"{record.device.count} x {record.device.kind}"
    if record.device.platform == "cpu":
        name = f"cpu, {count(record.host_cores, 'core')}"
    return name + (f", {record.num_sharers} {AT_ONCE}" if record.seeds_at_once else "")


def count(number: int, noun: str) -> str:
    """`1 core`, `2 cores`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def collect_groups(records: Iterable[tuple[str, AnyRecord]]) -> dict[GroupKey, list[tuple[str, AnyRecord]]]:
    """Named records by experiment; each group by seed, then start."""
    groups: dict[GroupKey, list[tuple[str, AnyRecord]]] = defaultdict(list)
    for name, record in sorted(records, key=lambda item: (item[1].seed, item[1].started_at, item[0])):
        key = (record.row, record.task, record.task_version, record.protocol, record.experiment_hash)
        groups[key].append((name, record))
    return dict(groups)


def drop_duplicates(
    group: Sequence[tuple[str, AnyRecord]], checkpoint: str
) -> tuple[list[tuple[str, AnyRecord]], list[str]]:
    """One record a seed, the first, and a note for each that does not count."""
    kept: dict[int, tuple[str, AnyRecord]] = {}
    notes = []
    for name, record in group:
        first_name, first = kept.setdefault(record.seed, (name, record))
        if first_name == name:
            continue
        ours, theirs = (getattr(one, checkpoint).percent for one in (first, record))
        outcome = "a copy" if record == first else f"another run with {theirs:.2f} against {ours:.2f}"
        notes.append(f"{describe(record)}, seed {record.seed}: counted {first_name}, not {name} ({outcome})")
    return list(kept.values()), notes


def name_variants(firsts: Mapping[GroupKey, RunRecord]) -> dict[GroupKey, str]:
    """What distinguishes experiments of one row, task and protocol.

    The one that ran its config file as it is has no name; the others have the settings in which they differ, where
    these are few, or else a hash.
    """
    cells: dict[tuple[str, ...], list[GroupKey]] = defaultdict(list)
    for key in firsts:
        row, task, _, protocol, _ = key
        cells[row, task, protocol].append(key)
    variants = {}
    for keys in cells.values():
        flat = {key: _flatten(firsts[key].config) for key in keys}
        settings = sorted(set().union(*flat.values()) - {"train.seed"})
        differing = [name for name in settings if len({str(flat[key].get(name)) for key in keys}) > 1]
        names = {key: ", ".join(f"{name.split('.')[-1]} {flat[key].get(name)}" for name in differing) for key in keys}
        if len(differing) > MOST_DIFFERENCES or len(set(names.values())) < len(keys):
            names = {key: f"#{key[-1][:8]}" for key in keys}
        plain = [key for key in keys if not _has_overrides(firsts[key])]
        if len(keys) == 1 or len(plain) == 1:
            names |= dict.fromkeys(keys if len(keys) == 1 else plain, "")
        variants |= names
    return variants


def _has_overrides(record: RunRecord) -> bool:
    """Whether the command line changed the config file, other than the seed."""
    changed = [argument for argument in record.command if argument.startswith("--config.")]
    return any(not argument.startswith("--config.train.seed=") for argument in changed)


def _flatten(config: Mapping[str, typing.Any], prefix: str = "") -> dict[str, typing.Any]:
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def describe(record: RunRecord) -> str:
    """An experiment as notes name it."""
    return f"{record.row} on {record.task} ({record.protocol}, #{record.experiment_hash[:8]})"


def remark(records: Sequence[RunRecord]) -> list[str]:
    """What a reader must know of the records of one experiment, whatever their scores."""
    what = describe(records[0])
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


def order_of(one: Measured, published: Published) -> tuple[typing.Any, ...]:
    """Where an experiment stands in the tables: rows and tasks as the papers have them, others behind by name."""
    rows, tasks = [known.row for known in published.rows], [known.task for known in published.tasks]
    row, task = (
        names.index(name) if name in names else len(names) for name, names in ((one.row, rows), (one.task, tasks))
    )
    return row, one.row, one.protocol, task, one.task, one.task_version, one.variant, one.experiment_hash


def note_mixed(experiments: Iterable[Measured]) -> list[str]:
    """A note for each row, task and protocol with several experiments."""
    cells: dict[tuple[str, str, str], dict[GroupKey, str]] = defaultdict(dict)
    for one in experiments:
        cells[one.row, one.task, one.protocol][one.key] = f"#{one.experiment_hash[:8]}"
    return [
        f"{row} on {task} ({protocol}): {len(hashes)} experiments with different settings or data, never averaged: "
        + ", ".join(hashes.values())
        for (row, task, protocol), hashes in cells.items()
        if len(hashes) > 1
    ]
