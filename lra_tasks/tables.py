"""Records of runs -> experiments: seeds together, with their intervals. Pure: no files, no printing."""

import statistics
import typing
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lra_tasks.intervals import Interval, accuracy_interval, is_collapsed, seed_interval
from lra_tasks.published import Published
from lra_tasks.record import Record, decode_correctness
from lra_tasks.report import Curve, SeedRun

MOST_DIFFERENCES = 2  # settings that name a variant; one that differs in more is named by its hash
GroupKey = tuple[str, str, str, str, str]  # row, task, version of the task, protocol, experiment hash


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in the seed only. Accuracies are percent of the test split."""

    row: str
    task: str
    task_title: str
    task_version: str
    protocol: str
    experiment_hash: str
    variant: str  # what tells it from other experiments of the same row, task and protocol; empty where there are none
    checkpoint: str
    runs: tuple[SeedRun, ...]
    interval: Interval  # 95 % bootstrap interval of the mean, over seeds and test examples
    seed_interval: Interval | None  # 95 % Student interval of the mean over seeds; None for one seed
    chance: float
    num_examples: int
    num_parameters: int
    pooling: str  # "cls", "mean" or "packed"; empty where the config has none
    steps_per_second: float | None
    wall_seconds: float  # of a whole run with evaluation, mean over seeds
    peak_memory_bytes: int  # on the fullest device; of the process where the platform does not say
    device: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in rising order."""
        return tuple(run.seed for run in self.runs)

    @property
    def values(self) -> tuple[float, ...]:
        """The accuracy of each seed."""
        return tuple(run.accuracy for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean accuracy over all seeds, collapsed ones too."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds (n - 1); None for one seed, which has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def num_collapsed(self) -> int:
        """How many seeds are no better than one constant answer."""
        return sum(run.collapsed for run in self.runs)

    @property
    def mean_of_learned(self) -> float | None:
        """Mean accuracy of the seeds that did not collapse; None where all did."""
        values = [run.accuracy for run in self.runs if not run.collapsed]
        return statistics.fmean(values) if values else None


@dataclass(frozen=True)
class Table:
    """Text cells under a heading. `numeric` says which columns are aligned to the right."""

    caption: str
    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    lines: tuple[tuple[str, ...], ...]


def group_records(
    records: Iterable[tuple[str, Record]],
    checkpoint: str,
    published: Published,
    curves: Mapping[str, Curve] | None = None,
) -> tuple[list[Experiment], list[str]]:
    """Named records -> experiments in the order of the tables, and notes on what a reader must know.

    Records with the same experiment and seed count once: the one that started first. `checkpoint`: "best" or "last".
    `curves`: what the runs logged, by the names of the records.
    """
    groups = collect_groups(records)
    variants = _name_variants({key: group[0][1] for key, group in groups.items()})
    experiments, notes = [], []
    for key, group in groups.items():
        kept, duplicates = drop_duplicates(group, checkpoint)
        experiment = _to_experiment(kept, checkpoint, variants[key], curves or {})
        experiments.append(experiment)
        notes += duplicates + _remarks([record for _, record in kept], experiment)
    row_order = {known.row: index for index, known in enumerate(published.rows)}
    task_order = {known.task: index for index, known in enumerate(published.tasks)}
    experiments.sort(
        key=lambda one: (
            (row_order.get(one.row, len(row_order)), one.row, one.protocol),
            (task_order.get(one.task, len(task_order)), one.task, one.task_version, one.variant, one.experiment_hash),
        )
    )
    return experiments, notes + _mixed(experiments)


def collect_groups(records: Iterable[tuple[str, Record]]) -> dict[GroupKey, list[tuple[str, Record]]]:
    """Named records by experiment; each group by seed, then start."""
    groups: dict[GroupKey, list[tuple[str, Record]]] = defaultdict(list)
    for name, record in sorted(records, key=lambda item: (item[1].seed, item[1].started_at, item[0])):
        key = (record.row, record.task, record.task_version, record.protocol, record.experiment_hash)
        groups[key].append((name, record))
    return dict(groups)


def drop_duplicates(group: Sequence[tuple[str, Record]], checkpoint: str) -> tuple[list[tuple[str, Record]], list[str]]:
    """One record a seed, the first, and a note for each that does not count."""
    kept: dict[int, tuple[str, Record]] = {}
    notes = []
    for name, record in group:
        first_name, first = kept.setdefault(record.seed, (name, record))
        if first_name == name:
            continue
        ours, theirs = (getattr(one, checkpoint).test_accuracy * 100 for one in (first, record))
        outcome = "a copy" if record == first else f"another run with {theirs:.2f} against {ours:.2f}"
        notes.append(f"{_describe(record)}, seed {record.seed}: counted {first_name}, not {name} ({outcome})")
    return list(kept.values()), notes


def stack_correctness(records: Sequence[Record], checkpoint: str) -> np.ndarray:
    """Which test examples each record got right: bool [records, examples]."""
    count = records[0].splits["test"].evaluated
    return np.stack([decode_correctness(getattr(one, checkpoint).test_correctness, count) for one in records])


def _name_variants(firsts: Mapping[GroupKey, Record]) -> dict[GroupKey, str]:
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


def _has_overrides(record: Record) -> bool:
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


def _describe(record: Record) -> str:
    return f"{record.row} on {record.task} ({record.protocol}, #{record.experiment_hash[:8]})"


def _to_experiment(
    named: Sequence[tuple[str, Record]], checkpoint: str, variant: str, curves: Mapping[str, Curve]
) -> Experiment:
    records = [record for _, record in named]
    first, test = records[0], records[0].splits["test"]
    correct = stack_correctness(records, checkpoint)
    speeds = [record.steps_per_second for record in records if record.steps_per_second is not None]
    runs = tuple(
        SeedRun(
            seed=record.seed,
            accuracy=getattr(record, checkpoint).test_accuracy * 100,
            collapsed=is_collapsed(int(flags.sum()), test.evaluated, test.majority_share),
            curve=curves.get(name),
            file=name,
        )
        for (name, record), flags in zip(named, correct, strict=True)
    )
    pooling = first.config.get("model", {}).get("pooling", "")
    return Experiment(
        row=first.row,
        task=first.task,
        task_title=first.task_title,
        task_version=first.task_version,
        protocol=first.protocol,
        experiment_hash=first.experiment_hash,
        variant=variant,
        checkpoint=checkpoint,
        runs=runs,
        interval=accuracy_interval(correct),
        seed_interval=seed_interval([run.accuracy for run in runs]),
        chance=test.majority_share * 100,
        num_examples=test.evaluated,
        num_parameters=first.num_parameters,
        pooling=str(pooling),
        steps_per_second=statistics.fmean(speeds) if speeds else None,
        wall_seconds=statistics.fmean(record.wall_seconds for record in records),
        peak_memory_bytes=max(_peak_memory(record) for record in records),
        device=", ".join(sorted({_name_device(record) for record in records})),
    )


def _peak_memory(record: Record) -> int:
    peak = record.peak_memory_bytes
    return peak.process if peak.device is None else peak.device


def _name_device(record: Record) -> str:
    if record.device.platform == "cpu":
        return f"cpu, {count(record.host_cores, 'core')}"
    return f"{record.device.count} x {record.device.kind}"


def count(number: int, noun: str) -> str:
    """`1 core`, `2 cores`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _remarks(records: Sequence[Record], experiment: Experiment) -> list[str]:
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
    if collapsed := [str(run.seed) for run in experiment.runs if run.collapsed]:
        remarks.append(
            f"{what}: seed {', '.join(collapsed)} is no better than one constant answer, and counts in the mean"
        )
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
