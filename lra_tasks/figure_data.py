"""What figures and the page share: panels, curves over seeds, scales. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lra_tasks.report import Curve, TradeOff
from lra_tasks.row_styles import Style, style_of
from lra_tasks.tables import Experiment

LOGARITHMIC_SPAN = 4.0  # a scale that spans more than this factor is logarithmic
MAX_POINTS = 150  # of a drawn curve: more than a panel can resolve


@dataclass(frozen=True)
class Entry:
    """An experiment in a panel."""

    experiment: Experiment
    label: str
    style: Style


@dataclass(frozen=True)
class Panel:
    """What is drawn into one pair of axes: experiments on the same task, data and protocol."""

    title: str
    entries: tuple[Entry, ...]
    chances: tuple[float, ...]  # percent, of one constant answer


def make_panels(experiments: Iterable[Experiment], titles: Mapping[str, str]) -> list[Panel]:
    """A panel a task, version and protocol, in the order of the experiments. `titles`: names of rows."""
    groups: dict[tuple[str, str, str], list[Experiment]] = {}
    for one in experiments:
        groups.setdefault((one.task, one.task_version, one.protocol), []).append(one)
    several_versions = len({(task, protocol) for task, _, protocol in groups}) < len(groups)
    panels = []
    for (_, version, protocol), group in groups.items():
        task = group[0].task_title + (f" {version}" if several_versions else "")
        chances = tuple(sorted({round(one.chance, 6) for one in group}))
        panels.append(Panel(f"{task}, protocol {protocol}", _make_entries(group, titles), chances))
    return panels


def _make_entries(group: Sequence[Experiment], titles: Mapping[str, str]) -> tuple[Entry, ...]:
    seen: dict[str, int] = {}
    entries = []
    for one in group:
        label = titles.get(one.row, one.row) + (f", {one.variant}" if one.variant else "")
        entries.append(Entry(one, label, style_of(one.row, seen.get(one.row, 0))))
        seen[one.row] = seen.get(one.row, 0) + 1
    return tuple(entries)


@dataclass(frozen=True)
class Spread:
    """Validation accuracy over seeds: arrays [points]. Percent."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_points(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Steps and validation accuracies [points], without those that are not finite."""
    steps = np.asarray(curve.validation_steps, dtype=float)
    values = np.asarray(curve.validation_accuracy, dtype=float)
    return steps[np.isfinite(values)], values[np.isfinite(values)]


def list_curves(experiment: Experiment) -> list[tuple[np.ndarray, np.ndarray]]:
    """The curves of the seeds that logged a point."""
    curves = (read_points(run.curve) for run in experiment.runs if run.curve is not None)
    return [(steps, values) for steps, values in curves if steps.size]


def summarise(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Spread:
    """Mean and range over seeds, at every step that one of them logged and all of them cover.

    Between the steps that a seed logged its accuracy is interpolated; nothing is extrapolated, so the mean ends where
    the shortest curve does. Empty where the curves have no step in common.
    """
    if not curves:
        return Spread(*(np.empty(0) for _ in range(4)))
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    steps = steps[(steps >= first) & (steps <= last)]
    values = np.array([np.interp(steps, *curve) for curve in curves])
    return Spread(steps, values.mean(0), values.min(0), values.max(0))


def thin(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """At most MAX_POINTS points of parallel arrays, evenly, with the first and the last."""
    count = len(arrays[0])
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int)) if count else []
    return tuple(np.asarray(array)[chosen] if count else array for array in arrays)


def group_trade_offs(points: Iterable[TradeOff]) -> dict[str, list[TradeOff]]:
    """The points by the title of their panel, a panel a task and protocol."""
    groups: dict[str, list[TradeOff]] = {}
    for point in points:
        if math.isfinite(point.speed) and point.speed > 0:  # else it has no place on a scale of speeds
            groups.setdefault(f"{point.task_title}, protocol {point.protocol}", []).append(point)
    return groups


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether the values, all above 0, span so much that a logarithmic scale shows them better."""
    return max(values) / min(values) > LOGARITHMIC_SPAN


def choose_references(amounts: Sequence[float]) -> list[float]:
    """Round amounts for a legend of areas, rising: near the largest, a half and a fifth of it."""
    largest = max(amounts)
    if largest <= 0:
        return []
    exponent = math.floor(math.log10(largest))
    top = max(step for step in (1, 2, 5, 10) if step * 10.0**exponent <= largest * (1 + 1e-9)) * 10.0**exponent
    return [top / 5, top / 2, top]


def choose_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers within [low, high], evenly spaced by 1, 2 or 5 times a power of ten; at most `most` of them."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-9) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def choose_log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high], both above 0."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    return [round(tick, 10) for tick in ticks if low <= tick <= high]


def show_number(value: float) -> str:
    """Three digits, thousands with a separator: `0.5`, `12`, `2,000`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show_bytes(amount: float) -> str:
    """`1.2 GB`, `850 MB`: powers of ten."""
    exponent = min(max(int(math.log10(max(amount, 1)) // 3), 0), 4)
    return f"{amount / 1000**exponent:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[exponent]}"
