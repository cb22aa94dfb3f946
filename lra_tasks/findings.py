"""What records and published numbers have to say together; tables, figures and the page show it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lra_tasks.comparisons import compare_rows
from lra_tasks.published import Published
from lra_tasks.record import Record
from lra_tasks.report import Comparison, Curve, TradeOff
from lra_tasks.tables import Experiment, group_records


@dataclass(frozen=True)
class Findings:
    """Everything that the outputs show."""

    experiments: tuple[Experiment, ...]
    comparisons: tuple[Comparison, ...]
    published: Published
    notes: tuple[str, ...]
    checkpoint: str  # "best" or "last"


def find(
    records: Sequence[tuple[str, Record]],
    published: Published,
    *,
    checkpoint: str = "best",
    against: str = "transformer",
    curves: Mapping[str, Curve] | None = None,
) -> Findings:
    """Experiments, paired tests against one row, and notes.

    Args:
        records: with the names of their files.
        published: the numbers to stand beside ours.
        checkpoint: which one of a run counts, "best" on validation or "last".
        against: the row that the others are tested against.
        curves: what the runs logged, by the names of the records.
    """
    experiments, notes = group_records(records, checkpoint, published, curves)
    comparisons, more = compare_rows(records, experiments, against, published)
    return Findings(tuple(experiments), tuple(comparisons), published, (*notes, *more), checkpoint)


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
