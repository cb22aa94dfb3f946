"""Which model is better on the same test examples: paired tests between rows. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lra_tasks.intervals import compare, holm
from lra_tasks.published import Published
from lra_tasks.record import Record
from lra_tasks.report import Comparison
from lra_tasks.tables import Experiment, GroupKey, collect_groups, drop_duplicates, stack_correctness


def compare_rows(
    records: Iterable[tuple[str, Record]], experiments: Sequence[Experiment], against: str, published: Published
) -> tuple[list[Comparison], list[str]]:
    """Every experiment against those of the row `against` on the same task, data and protocol, and notes.

    Which examples each seed got right is read from the records of the experiments. p-values are adjusted by Holm's
    method over the comparisons of one task and protocol.
    """
    correct = {}
    for key, group in collect_groups(records).items():
        kept, _ = drop_duplicates(group, experiments[0].checkpoint)
        correct[key] = stack_correctness([record for _, record in kept], experiments[0].checkpoint)
    comparisons: list[Comparison] = []
    notes = []
    for place in dict.fromkeys(_place(one) for one in experiments):
        here = [one for one in experiments if _place(one) == place]
        baselines = [one for one in here if one.row == against]
        others = [one for one in here if one.row != against]
        if len({one.row for one in others}) > 1 and not baselines:
            notes.append(f"{place[0]} {place[1]} ({place[2]}): no paired test, for {against!r} has no record there")
        found = [_compare_two(one, base, correct, published) for base in baselines for one in others]
        adjusted = holm([one.test.p_value for one in found]) if found else []
        comparisons += [_adjust(one, float(p_value)) for one, p_value in zip(found, adjusted, strict=True)]
    return comparisons, notes


def _place(one: Experiment) -> tuple[str, str, str, int]:
    """What two experiments must share so that their test examples are the same."""
    return one.task, one.task_version, one.protocol, one.num_examples


def _key(one: Experiment) -> GroupKey:
    return one.row, one.task, one.task_version, one.protocol, one.experiment_hash


def _compare_two(
    first: Experiment, second: Experiment, correct: Mapping[GroupKey, np.ndarray], published: Published
) -> Comparison:
    return Comparison(
        task=first.task,
        task_title=first.task_title,
        protocol=first.protocol,
        first=first.row,
        second=second.row,
        first_title=published.title(first.row),
        second_title=published.title(second.row),
        first_variant=first.variant,
        second_variant=second.variant,
        first_seeds=len(first.runs),
        second_seeds=len(second.runs),
        num_examples=first.num_examples,
        test=compare(correct[_key(first)], correct[_key(second)]),
        p_value_holm=1.0,
    )


def _adjust(one: Comparison, p_value: float) -> Comparison:
    return replace(one, p_value_holm=p_value)
