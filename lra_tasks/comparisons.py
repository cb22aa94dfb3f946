"""Which model is better on the same test examples: paired tests between rows. Pure."""

import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from lra_tasks.bleu_intervals import compare_bleu
from lra_tasks.groups import Measured, collect_groups, drop_duplicates
from lra_tasks.intervals import PairedTest, compare, holm
from lra_tasks.published import Published
from lra_tasks.record import Record
from lra_tasks.report import Comparison
from lra_tasks.tables import Experiment, stack_correctness
from lra_tasks.translation_groups import Translated

Kind = typing.TypeVar("Kind", bound=Measured)


Pairs = dict[tuple[str, ...], list[tuple[Kind, Kind]]]


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
    pairs, notes = _pair(experiments, against)
    comparisons = _compare_pairs(
        pairs, published, lambda first, second: compare(correct[first.key], correct[second.key])
    )
    return comparisons, notes


def compare_translations(
    found: Sequence[Translated], against: str, published: Published
) -> tuple[list[Comparison], list[str]]:
    """Everything that translates against the row `against` on the same test set and with the same recipe, and notes.

    Also a contextual packed sequence against one that is not, where nothing else differs. p-values are adjusted by
    Holm's method over the comparisons on one test set with one recipe, separately for both questions.
    """
    pairs, notes = _pair(found, against)
    twins: Pairs[Translated] = {}
    for first in found:
        others = [one for one in found if one.contextual_pack is False and _are_twins(first, one)]
        twins.setdefault(first.place, []).extend((first, one) for one in others if first.contextual_pack)
    comparisons = []
    for group in (pairs, twins):
        same = {}
        for place, both in group.items():
            same[place] = [pair for pair in both if _have_same_references(*pair)]
            notes += [
                f"{first.task} {first.task_version}, {first.test_set}: no paired test of {first.row} and {second.row}, "
                "for their references differ"
                for first, second in both
                if not _have_same_references(first, second)
            ]
        comparisons += _compare_pairs(
            same, published, lambda first, second: compare_bleu(first.statistics, second.statistics)
        )
    return comparisons, notes


def _are_twins(first: Translated, second: Translated) -> bool:
    return (first.place, first.twin) == (second.place, second.twin)


def _have_same_references(first: Translated, second: Translated) -> bool:
    return np.array_equal(first.statistics[0, :, 1], second.statistics[0, :, 1])


def _pair(experiments: Sequence[Kind], against: str) -> tuple[Pairs[Kind], list[str]]:
    """(experiment, baseline) by place, and a note for each place where the row `against` is missing."""
    pairs: Pairs[Kind] = {}
    notes: dict[str, None] = {}
    for place in dict.fromkeys(one.place for one in experiments):
        here = [one for one in experiments if one.place == place]
        others = [one for one in here if one.row != against]
        pairs[place] = [(one, base) for base in here if base.row == against for one in others]
        if len({one.row for one in others}) > 1 and not pairs[place]:
            where = f"{here[0].task} {here[0].task_version} ({here[0].protocol})"
            notes[f"{where}: no paired test, for {against!r} has no record there"] = None
    return pairs, list(notes)


def _compare_pairs(
    pairs: Pairs[Kind], published: Published, test: Callable[[Kind, Kind], PairedTest]
) -> list[Comparison]:
    comparisons: list[Comparison] = []
    for both in pairs.values():
        found = [_describe(first, second, test(first, second), published) for first, second in both]
        adjusted = holm([one.test.p_value for one in found]) if found else []
        comparisons += [replace(one, p_value_holm=float(p)) for one, p in zip(found, adjusted, strict=True)]
    return comparisons


def _describe(first: Measured, second: Measured, result: PairedTest, published: Published) -> Comparison:
    return Comparison(
        task=first.task,
        task_title=first.title,
        protocol=" / ".join(dict.fromkeys((first.protocol, second.protocol))),
        first=first.row,
        second=second.row,
        first_title=published.title(first.row),
        second_title=published.title(second.row),
        first_variant=first.variant,
        second_variant=second.variant,
        first_seeds=len(first.runs),
        second_seeds=len(second.runs),
        num_examples=first.num_examples,
        test=result,
        p_value_holm=1.0,
        test_set=first.test_set,
    )
