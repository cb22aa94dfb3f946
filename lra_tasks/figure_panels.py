"""What stands in one panel of a figure: circles, curves, or dots and whiskers, drawn into axes of matplotlib."""

import math
import typing
from collections.abc import Sequence

import numpy as np

from lra_tasks import figure_data
from lra_tasks.figure_data import Panel
from lra_tasks.label_layout import find_leaders, place_labels
from lra_tasks.report import TradeOff
from lra_tasks.row_styles import colour_of
from lra_tasks.tables import Experiment

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCE: dict[str, typing.Any] = {"color": "#333333", "linestyle": ":", "linewidth": 1.2}
CHANCE_LABEL = "Chance (most frequent label)"
LARGEST_RADII = ((8, 16.0), (16, 13.0))  # points of the largest circle, for up to so many circles in a panel
SMALLEST_RADIUS = 10.0
LABEL_SIZE = 8.5  # points


def draw_circles(axes: "Axes", title: str, group: Sequence[TradeOff]) -> np.ndarray:
    """Circles, intervals, scales and the legend of areas. Returns the radii in points, [circles]."""
    speeds = np.array([point.speed for point in group])
    values = np.array([point.accuracy for point in group])
    bounds = np.array([(point.interval.low, point.interval.high) for point in group])
    memory = np.array([max(point.memory, 0.0) for point in group])
    largest = next((radius for count, radius in LARGEST_RADII if len(group) <= count), SMALLEST_RADIUS)
    scale = largest**2 / max(memory.max(), 1.0)  # squared points of radius for a byte
    colours = [colour_of(point.row) for point in group]
    axes.vlines(speeds, bounds[:, 0], bounds[:, 1], colors=colours, linewidth=1.0, alpha=0.6, zorder=1.5)
    # the size of a mark is the square of its diameter
    axes.scatter(speeds, values, s=4 * scale * memory, c=colours, alpha=0.3, linewidths=0, zorder=2)
    axes.scatter(speeds, values, s=7, c=colours, linewidths=0, zorder=4)
    if logarithmic := figure_data.is_logarithmic([*speeds]):
        axes.set_xscale("log")
    _set_limits(axes, speeds, bounds, logarithmic)
    axes.set_title(title)
    axes.set_xlabel("Training speed (steps a second" + (", logarithmic)" if logarithmic else ")"), loc="left")
    axes.set_ylabel("Test accuracy (%), 95 % interval")
    _explain_areas(axes, figure_data.choose_references([*memory]), scale)
    return np.sqrt(scale * memory)


def _explain_areas(axes: "Axes", amounts: Sequence[float], scale: float) -> None:
    """Circles of round amounts of memory, below the axes on the right."""
    if not amounts:
        return
    handles = [axes.scatter([], [], s=4 * scale * amount, c="#777777", alpha=0.4, linewidths=0) for amount in amounts]
    labels = [figure_data.show_bytes(amount) for amount in amounts]
    length = 2 * math.sqrt(scale * max(amounts)) / LABEL_SIZE  # in units of the letters
    axes.legend(
        [axes.scatter([], [], s=0), *handles], ["Area: peak memory", *labels], ncols=1 + len(amounts),
        loc="upper right", bbox_to_anchor=(1.0, 0.0), borderaxespad=2.3 + length / 4, borderpad=0.0,
        fontsize=LABEL_SIZE, handlelength=length, handleheight=length, handletextpad=0.4, columnspacing=1.0,
    )  # fmt: skip


def _set_limits(axes: "Axes", speeds: np.ndarray, bounds: np.ndarray, logarithmic: bool) -> None:
    """Limits with room for whole circles and labels, and round ticks of a logarithmic scale."""
    places = np.log(speeds) if logarithmic else speeds
    room = 0.1 * (np.ptp(places) or abs(places[0]) or 1.0)
    limits = np.array([places.min() - room, places.max() + room])
    limits = np.exp(limits) if logarithmic else limits
    axes.set_xlim(*limits)
    if logarithmic:
        ticks = figure_data.choose_log_ticks(*limits)
        axes.set_xticks(ticks, [figure_data.show_number(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
    room = max(0.14 * np.ptp(bounds), 0.5)
    axes.set_ylim(bounds.min() - room, bounds.max() + room)


def label_circles(axes: "Axes", group: Sequence[TradeOff], radii: np.ndarray) -> None:
    """Labels beside their circles, with a line to the centre where they are farther away."""
    canvas = typing.cast(typing.Any, axes.get_figure()).canvas
    points_per_pixel = 72 / canvas.figure.dpi
    box = axes.get_window_extent()
    texts = [axes.text(0, 0, point.title, fontsize=LABEL_SIZE, zorder=6) for point in group]
    extents = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    sizes = np.array([(extent.width, extent.height) for extent in extents]) * points_per_pixel
    centres = axes.transData.transform([(point.speed, point.accuracy) for point in group]) - (box.x0, box.y0)
    centres = centres * points_per_pixel
    corners = place_labels(
        centres.tolist(), radii.tolist(), sizes.tolist(), (box.width * points_per_pixel, box.height * points_per_pixel)
    )
    ends = find_leaders(corners, centres.tolist(), radii.tolist(), sizes.tolist())
    for text, point, corner, centre, end in zip(texts, group, corners, centres, ends, strict=True):
        text.remove()
        where = (point.speed, point.accuracy)
        axes.annotate(
            point.title, where, xytext=corner - centre, textcoords="offset points", fontsize=LABEL_SIZE, va="bottom",
            zorder=6, bbox={"facecolor": "white", "alpha": 0.55, "edgecolor": "none", "pad": 0.3},
        )  # fmt: skip
        if end is not None:
            line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 1}
            axes.annotate("", where, xytext=end - centre, textcoords="offset points", arrowprops=line, zorder=5)


def draw_curves_of(axes: "Axes", panel: Panel) -> dict[tuple[str, tuple[float, ...]], typing.Any]:
    """Draws; returns a handle for the legend by label and dash."""
    from matplotlib.ticker import MaxNLocator

    handles: dict[tuple[str, tuple[float, ...]], typing.Any] = {}
    for chance in panel.chances:
        (handles["chance", ()],) = axes.plot([], [], **CHANCE, label=CHANCE_LABEL)
        axes.axhline(chance, **CHANCE, zorder=1)
    for entry in panel.entries:
        style, curves = entry.style, figure_data.list_curves(entry.experiment)
        spread = figure_data.summarise(curves)
        for steps, values in curves if len(curves) > 1 else []:
            axes.plot(steps, values, color=style.colour, linewidth=0.6, alpha=0.45, zorder=2)
        if len(curves) > 1:
            axes.fill_between(
                spread.steps, spread.low, spread.high, color=style.colour, alpha=0.15, linewidth=0, zorder=1.5
            )
        dash = (0, style.dash) if style.dash else "solid"
        axes.plot(spread.steps, spread.mean, color=style.colour, linestyle=dash, linewidth=1.6, zorder=3)
        axes.plot(spread.steps[-1:], spread.mean[-1:], style.marker, color=style.colour, markersize=5, zorder=4)
        (handles[entry.label, style.dash],) = axes.plot(
            [], [], color=style.colour, linestyle=dash, linewidth=1.6, marker=style.marker, markersize=5,
            label=entry.label,
        )  # fmt: skip
    axes.set_title(panel.title)
    axes.set_xlabel("Training steps")
    axes.set_ylabel("Validation accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return handles


def draw_accuracies_of(axes: "Axes", panel: Panel) -> None:
    """A panel of means with intervals, best on top, each with its seeds as small marks below."""
    entries = sorted(panel.entries, key=lambda entry: (entry.experiment.mean, entry.label))
    for place, entry in enumerate(entries):
        one, colour = entry.experiment, entry.style.colour
        axes.hlines(place, one.interval.low, one.interval.high, color=colour, linewidth=1.6, zorder=2)
        axes.plot([one.mean], [place], "o", color=colour, markersize=6, zorder=3)
        for run in one.runs if len(one.runs) > 1 or one.num_collapsed else []:
            face = "none" if run.collapsed else colour
            axes.plot(
                [run.accuracy], [place - 0.28], "o", color=colour, markerfacecolor=face, markersize=3.2,
                markeredgewidth=0.9, zorder=4,
            )  # fmt: skip
    bounds = [bound for one in (e.experiment for e in entries) for bound in (*one.values, *_bounds(one))]
    low, high = min(bounds), max(bounds)
    room = max(high - low, 1.0)
    left_out = [chance for chance in panel.chances if not low - room <= chance <= high + room]
    for chance in set(panel.chances) - set(left_out):
        axes.axvline(chance, **CHANCE, zorder=1)
    axes.set_yticks(range(len(entries)), [entry.label for entry in entries])
    axes.set_ylim(-0.7, len(entries) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.set_title(panel.title)
    named = ", ".join(f"{chance:.2f}" for chance in left_out)
    axes.set_xlabel("Test accuracy (%)" + (f"; chance, {named}, lies beyond the axis" if left_out else ""))


def _bounds(one: Experiment) -> tuple[float, float]:
    return one.interval.low, one.interval.high


def explain_marks() -> list[typing.Any]:
    """The entries of the legend that all panels of accuracies share."""
    from matplotlib.lines import Line2D

    grey = "#555555"
    return [
        Line2D([], [], color=grey, marker="o", markersize=6, linewidth=1.6, label="Mean, 95 % interval"),
        Line2D([], [], color=grey, marker="o", markersize=3.2, linewidth=0, label="One seed"),
        Line2D(
            [], [], color=grey, marker="o", markersize=3.2, linewidth=0, markerfacecolor="none", label="Seed at chance"
        ),
        Line2D([], [], **CHANCE, label=CHANCE_LABEL),
    ]
