"""Records of classifiers -> experiments: seeds together, with their intervals. Pure: no files, no printing."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lra_tasks.groups import (
    Measured,
    collect_groups,
    describe,
    describe_group,
    drop_duplicates,
    name_variants,
    note_mixed,
    order_of,
    remark,
)
from lra_tasks.intervals import accuracy_interval, is_collapsed, seed_interval
from lra_tasks.published import Published
from lra_tasks.record import Record, decode_correctness
from lra_tasks.report import Curve, SeedRun


@dataclass(frozen=True, kw_only=True)
class Experiment(Measured):
    """Runs that differ in the seed only. Accuracies are percent of the test split."""

    runs: tuple[SeedRun, ...]
    chance: float
    pooling: str  # "cls", "mean" or "packed"; empty where the config has none

    @property
    def values(self) -> tuple[float, ...]:
        """The accuracy of each seed, collapsed ones too."""
        return tuple(run.accuracy for run in self.runs)

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
    variants = name_variants({key: group[0][1] for key, group in groups.items()})
    experiments, notes = [], []
    for key, group in groups.items():
        kept, duplicates = drop_duplicates(group, checkpoint)
        experiment = _to_experiment(kept, checkpoint, variants[key], curves or {})
        experiments.append(experiment)
        notes += duplicates + _remark([record for _, record in kept], experiment)
    experiments.sort(key=lambda one: order_of(one, published))
    return experiments, notes + note_mixed(experiments)


def stack_correctness(records: Sequence[Record], checkpoint: str) -> np.ndarray:
    """Which test examples each record got right: bool [records, examples]."""
    count = records[0].splits["test"].evaluated
    return np.stack([decode_correctness(getattr(one, checkpoint).test_correctness, count) for one in records])


def _to_experiment(
    named: Sequence[tuple[str, Record]], checkpoint: str, variant: str, curves: Mapping[str, Curve]
) -> Experiment:
    records = [record for _, record in named]
    first, test = records[0], records[0].splits["test"]
    correct = stack_correctness(records, checkpoint)
    runs = tuple(
        SeedRun(
            seed=record.seed,
            accuracy=getattr(record, checkpoint).percent,
            collapsed=is_collapsed(int(flags.sum()), test.evaluated, test.majority_share),
            curve=curves.get(name),
            file=name,
        )
        for (name, record), flags in zip(named, correct, strict=True)
    )
    pooling = first.config.get("model", {}).get("pooling", "")
    return Experiment(
        **describe_group(records, checkpoint, variant),
        runs=runs,
        interval=accuracy_interval(correct),
        seed_interval=seed_interval([run.accuracy for run in runs]),
        chance=test.majority_share * 100,
        num_examples=test.evaluated,
        pooling=str(pooling),
    )


def _remark(records: Sequence[Record], experiment: Experiment) -> list[str]:
    remarks = remark(records)
    if collapsed := [str(run.seed) for run in experiment.runs if run.collapsed]:
        remarks.append(
            f"{describe(records[0])}: seed {', '.join(collapsed)} is no better than one constant answer, and counts in "
            "the mean"
        )
    return remarks
