"""The averages over tasks that papers print, and the same of ours. Pure."""

import statistics
from collections.abc import Mapping, Sequence

from lra_tasks.published import Published, PublishedAverage
from lra_tasks.tables import Experiment


def average_cells(average: PublishedAverage, cells: Mapping[str, float]) -> float | None:
    """Percent; None where a task of this average has no number."""
    return statistics.fmean(cells[task] for task in average.tasks) if set(average.tasks) <= cells.keys() else None


def average_experiments(average: PublishedAverage, experiments: Sequence[Experiment]) -> float | None:
    """Mean of the means of one row under one protocol; None where a task has none, or several experiments."""
    means: dict[str, list[float]] = {}
    for one in experiments:
        means.setdefault(one.task, []).append(one.mean)
    return average_cells(average, {task: values[0] for task, values in means.items() if len(values) == 1})


def average_published(name: str, source: str, row: str, published: Published) -> float | None:
    """As printed where the source prints it, else from its cells."""
    average = published.averages[name]
    cells = {value.task: value.percent for value in published.values if (value.source, value.row) == (source, row)}
    if name in cells:
        return cells[name]
    if average.failed_percent is not None:
        failed = {task: average.failed_percent for task in average.tasks if published.has_failed(source, row, task)}
        cells = failed | cells
    return average_cells(average, cells)
