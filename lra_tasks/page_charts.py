"""The charts of the page: experiments -> coordinates that its template draws and its script reads. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lra_tasks import figure_data
from lra_tasks.figure_data import Entry, Panel
from lra_tasks.label_layout import find_leaders, place_labels
from lra_tasks.report import Comparison, TradeOff
from lra_tasks.row_styles import Style, style_of

# units of a drawing, which are pixels where it is shown at full size
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 12, 46
CURVES, TRADE_OFF = (560, 330), (820, 470)
LETTER_WIDTH, LETTER_HEIGHT = 7.2, 15.0  # of labels, somewhat more than fonts need, since fonts differ
LARGEST_RADIUS = 17.0
BAR = 200  # width of an interval's drawing


@dataclass(frozen=True)
class Scale:
    """Values to coordinates."""

    low: float
    high: float
    start: float  # coordinate of `low`
    end: float  # coordinate of `high`
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        low, high, value = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Coordinates and texts of round values."""
        choose = figure_data.choose_log_ticks if self.logarithmic else figure_data.choose_ticks
        return [(self(tick), figure_data.show_number(tick)) for tick in choose(self.low, self.high)]


def chart_curves(panel: Panel) -> dict[str, Any]:
    """One panel of training curves: scales, ticks, and paths with the numbers they show. Entries have curves."""
    width, height = CURVES
    curves = [figure_data.list_curves(entry.experiment) for entry in panel.entries]
    steps = np.concatenate([steps for seeds in curves for steps, _ in seeds])
    values = np.concatenate([values for seeds in curves for _, values in seeds] + [np.array(panel.chances)])
    room = max(0.05 * float(np.ptp(values)), 0.5)
    last = float(steps.max())
    x = Scale(min(float(steps.min()), last - 1), last, LEFT, width - RIGHT - 8)
    y = Scale(float(values.min()) - room, float(values.max()) + room, height - BOTTOM, TOP)
    return {
        **_frame(panel.title, CURVES, x, y),
        "chances": [{"y": y(chance), "text": f"chance {chance:.2f}"} for chance in panel.chances],
        "series": [_draw_entry(entry, seeds, x, y) for entry, seeds in zip(panel.entries, curves, strict=True)],
        "x": {"low": x.low, "high": x.high, "start": x.start, "end": x.end},
        "y": {"low": y.low, "high": y.high, "start": y.start, "end": y.end},
    }


def _frame(title: str, size: tuple[int, int], x: Scale, y: Scale) -> dict[str, Any]:
    width, height = size
    frame = {"left": LEFT, "right": width - RIGHT, "top": TOP, "bottom": height - BOTTOM}
    return {"title": title, "width": width, "height": height, **frame, "x_ticks": x.ticks(), "y_ticks": y.ticks()}


def _draw_entry(entry: Entry, seeds: Sequence[tuple[np.ndarray, np.ndarray]], x: Scale, y: Scale) -> dict[str, Any]:
    """A row in one panel: mean, range and seeds as paths, and the numbers for the script."""
    spread = figure_data.summarise(seeds)
    steps, mean, low, high = figure_data.thin(spread.steps, spread.mean, spread.low, spread.high)
    several = len(seeds) > 1
    band = ""
    if several and len(steps):
        band = f"{_path(steps, high, x, y)}L{_path(steps[::-1], low[::-1], x, y)[1:]}Z"
    return {
        **_look(entry.label, entry.style),
        "mean": _path(steps, mean, x, y),
        "band": band,
        "seeds": [_thin_path(*seed, x, y) for seed in seeds] if several else [],
        "data": {
            "steps": steps.tolist(),
            "mean": mean.round(2).tolist(),
            **({"low": low.round(2).tolist(), "high": high.round(2).tolist()} if several else {}),
        },
        "last": f"{mean[-1]:.2f}" if len(mean) else "",
    }


def _look(label: str, style: Style) -> dict[str, Any]:
    dash = " ".join(f"{1.6 * length:g}" for length in style.dash)
    return {"label": label, "colour": style.colour, "dark": style.dark_colour, "dash": dash}


def _path(steps: np.ndarray, values: np.ndarray, x: Scale, y: Scale) -> str:
    points = [f"{x(step):g},{y(value):g}" for step, value in zip(steps, values, strict=True)]
    return "M" + "L".join(points) if points else ""


def _thin_path(steps: np.ndarray, values: np.ndarray, x: Scale, y: Scale) -> str:
    steps, values = figure_data.thin(steps, values)
    return _path(steps, values, x, y)


def chart_trade_off(title: str, group: Sequence[TradeOff]) -> dict[str, Any]:
    """One panel of Figure 1: circles, whiskers, labels in places of their own, and a legend of areas."""
    width, height = TRADE_OFF
    bounds = [bound for one in group for bound in (one.interval.low, one.interval.high, one.accuracy)]
    speeds = [one.speed for one in group]
    logarithmic = figure_data.is_logarithmic(speeds)
    if logarithmic:
        factor = (max(speeds) / min(speeds)) ** 0.1
        low, high = min(speeds) / factor, max(speeds) * factor
    else:
        room = 0.1 * ((max(speeds) - min(speeds)) or max(speeds))
        low, high = min(speeds) - room, max(speeds) + room
    x = Scale(low, high, LEFT, width - RIGHT, logarithmic)
    room = max(0.12 * (max(bounds) - min(bounds)), 0.5)
    y = Scale(min(bounds) - room, max(bounds) + room, height - BOTTOM, TOP)
    largest = max(max(one.memory for one in group), 1.0)
    radii = [LARGEST_RADIUS * math.sqrt(max(one.memory, 0.0) / largest) for one in group]
    circles = [_draw_circle(one, radius, x, y) for one, radius in zip(group, radii, strict=True)]
    _place(circles, (width - LEFT - RIGHT, height - TOP - BOTTOM))
    references = [
        {"radius": round(LARGEST_RADIUS * math.sqrt(amount / largest), 1), "text": figure_data.show_bytes(amount)}
        for amount in figure_data.choose_references([largest])
    ]
    frame = _frame(title, TRADE_OFF, x, y)
    return {**frame, "circles": circles, "references": references, "logarithmic": logarithmic}


def _draw_circle(one: TradeOff, radius: float, x: Scale, y: Scale) -> dict[str, Any]:
    memory = figure_data.show_bytes(one.memory)
    interval = f"{one.interval.low:.2f} to {one.interval.high:.2f}"
    return {
        **_look(one.title, style_of(one.row)),
        **{"x": x(one.speed), "y": y(one.accuracy), "radius": round(radius, 1)},
        **{"low": y(one.interval.low), "high": y(one.interval.high)},
        "cells": (one.title, f"{one.accuracy:.2f}", interval, f"{one.speed:.3g}", memory),
        "text": f"{one.title}: {one.accuracy:.2f} % ({interval}), {one.speed:.3g} steps a second, {memory}",
    }


def _place(circles: Sequence[dict[str, Any]], area: tuple[float, float]) -> None:
    """Gives each circle the place of its label, and the line to it where the label stands off."""
    sizes = [(LETTER_WIDTH * len(circle["label"]), LETTER_HEIGHT) for circle in circles]
    centres = [(circle["x"] - LEFT, circle["y"] - TOP) for circle in circles]
    radii = [circle["radius"] for circle in circles]
    corners = place_labels(centres, radii, sizes, area)
    ends = find_leaders(corners, centres, radii, sizes)
    for circle, corner, size, end in zip(circles, corners, sizes, ends, strict=True):
        circle["label_x"] = round(float(corner[0]) + size[0] / 2 + LEFT, 1)
        circle["label_y"] = round(float(corner[1]) + TOP + 0.78 * LETTER_HEIGHT, 1)  # of the line that letters stand on
        circle["leader"] = None if end is None else [round(end[0] + LEFT, 1), round(end[1] + TOP, 1)]


def chart_differences(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Paired differences as bars around zero, a block a task, protocol and second model."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in comparisons:
        second = _name(one.second_title, one.second_variant)
        groups.setdefault((one.task_title, one.protocol, second), []).append(one)
    return [
        _draw_differences(f"{task}, protocol {protocol}: against {second}", group)
        for (task, protocol, second), group in groups.items()
    ]


def _name(title: str, variant: str) -> str:
    return title + (f", {variant}" if variant else "")


def _draw_differences(title: str, group: Sequence[Comparison]) -> dict[str, Any]:
    tests = [one.test for one in group]
    bounds = [abs(value) for test in tests for value in (test.interval.low, test.interval.high, test.difference)]
    reach = max([bound for bound in bounds if math.isfinite(bound)], default=0.0) or 1.0
    x = Scale(-1.05 * reach, 1.05 * reach, 0, BAR)
    lines = [
        {
            "label": _name(one.first_title, one.first_variant),
            "difference": f"{test.difference:+.2f}",
            "interval": f"{test.interval.low:+.2f} to {test.interval.high:+.2f}",
            **{"low": x(test.interval.low), "high": x(test.interval.high), "middle": x(test.difference)},
            "verdict": _judge(test.interval.low, test.interval.high),
        }
        for one, test in sorted(zip(group, tests, strict=True), key=lambda pair: -pair[1].difference)
    ]
    return {"title": title, "lines": lines, "width": BAR, "reach": f"{1.05 * reach:.1f}"}


def _judge(low: float, high: float) -> str:
    """Whether the interval leaves zero out."""
    return "better" if low > 0 else "worse" if high < 0 else "unclear"
