"""What records and published numbers have to say together; tables, figures and the page show it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lra_tasks.comparisons import compare_rows, compare_translations
from lra_tasks.groups import describe
from lra_tasks.published import Published
from lra_tasks.record import Record
from lra_tasks.report import Comparison, Curve, TradeOff
from lra_tasks.tables import Experiment, group_records
from lra_tasks.translation_groups import Translated, group_translations
from lra_tasks.translation_record import TranslationRecord

AVERAGED = "averaged"


@dataclass(frozen=True)
class Findings:
    """Everything that the outputs show."""

    experiments: tuple[Experiment, ...]
    comparisons: tuple[Comparison, ...]
    published: Published
    notes: tuple[str, ...]
    checkpoint: str  # "best", "last" or "averaged"
    translations: tuple[Translated, ...] = ()


def find(
    records: Sequence[tuple[str, Record]],
    published: Published,
    *,
    checkpoint: str = "best",
    against: str = "transformer",
    curves: Mapping[str, Curve] | None = None,
    translations: Sequence[tuple[str, TranslationRecord]] = (),
) -> Findings:
    """Experiments, paired tests against one row, and notes.

    Args:
        records: with the names of their files.
        published: the numbers to stand beside ours.
        checkpoint: which one of a run counts, "best" on validation, "last" or, of translations, "averaged".
        against: the row that the others are tested against.
        curves: what the runs logged, by the names of the records.
        translations: records of runs that translate, with the names of their files.
    """
    notes = []
    if checkpoint == AVERAGED:  # classifiers have none
        notes = [f"{what}: left out, for only translations have averaged checkpoints" for what in _name(records)]
        records = ()
    experiments, more = group_records(records, checkpoint, published, curves)
    translated, told = group_translations(translations, checkpoint, published)
    comparisons, missing = compare_rows(records, experiments, against, published)
    paired, unpaired = compare_translations(translated, against, published)
    return Findings(
        experiments=tuple(experiments),
        comparisons=(*comparisons, *paired),
        published=published,
        notes=(*notes, *more, *told, *missing, *unpaired),
        checkpoint=checkpoint,
        translations=tuple(translated),
    )


def _name(records: Sequence[tuple[str, Record]]) -> list[str]:
    return list(dict.fromkeys(describe(record) for _, record in records))


def trade_offs(findings: Findings) -> list[TradeOff]:
    """The points of Figure 1 as the runs themselves measured them; runs without a speed have none."""
    return [
        TradeOff(
            row=one.row,
            title=findings.published.title(one.row) + (f", {one.variant}" if one.variant else ""),
            task_title=one.task_title,
            protocol=one.protocol,
            accuracy=one.mean,
            interval=one.interval,
            speed=one.steps_per_second,
            memory=one.peak_memory_bytes,
        )
        for one in findings.experiments
        if one.steps_per_second is not None
    ]
