"""The figures as PNG and SVG. The same data give the same bytes, so that a committed figure changes with its data only.

Drawn with matplotlib, without its global state; nothing here opens a window.
"""

import io
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lra_tasks import figure_data, figure_panels
from lra_tasks.errors import UserError
from lra_tasks.figure_data import Panel
from lra_tasks.report import TradeOff
from lra_tasks.tables import Experiment
from lra_tasks.typed_json import write_bytes

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches: 800 pixels in a text, at 100 pixels an inch
PIXELS_PER_INCH = 200  # of the PNG, for screens with fine pixels
SETTINGS = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "lra_tasks",  # else identifiers in the SVG are random
}
LETTERS_ACROSS = 118  # letters of a legend that fit beside each other
LETTERS_OF_LINE = 9  # what the line before each label takes
CROWD = 10  # curves; with more a panel needs the whole width
SHORT_LABEL = 18  # letters; with longer ones a panel needs the whole width


def draw_trade_off(points: Sequence[TradeOff], folder: Path) -> list[Path]:
    """Figure 1 of the Luna paper: accuracy with its interval against speed, the area of a circle is its memory.

    A panel a task and protocol. Writes trade_off.png and trade_off.svg into the folder and returns them; nothing where
    there are no points. UserError for a folder that cannot be written.
    """
    groups = figure_data.group_trade_offs(points)
    if not groups:
        return []

    def draw(figure: "Figure") -> None:
        heights = [min(3.0 + 0.16 * len(group), 6.5) for group in groups.values()]
        figure.set_size_inches(WIDTH, sum(heights) + 0.4 * len(groups))
        all_axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        drawn = list(zip(all_axes, groups.items(), strict=True))
        radii = [figure_panels.draw_circles(axes, title, group) for axes, (title, group) in drawn]
        figure.draw_without_rendering()  # the places of the axes must be known before labels can find theirs
        figure.set_layout_engine("none")
        for (axes, (_, group)), radius in zip(drawn, radii, strict=True):
            figure_panels.label_circles(axes, group, radius)

    return _write(draw, folder, "trade_off")


def draw_curves(experiments: Sequence[Experiment], folder: Path, titles: Mapping[str, str] | None = None) -> list[Path]:
    """Training curves: validation accuracy against steps, mean and range over seeds, single seeds thin.

    A panel a task and protocol. `titles`: what rows are called. Writes training_curves.png and training_curves.svg into
    the folder and returns them; nothing where no run has a curve. UserError for a folder that cannot be written.
    """
    logged = [one for one in experiments if figure_data.list_curves(one)]
    panels = figure_data.make_panels(logged, titles or {})

    def draw(figure: "Figure") -> None:
        crowded = max(len(panel.entries) for panel in panels) > CROWD
        columns = 1 if crowded else min(len(panels), 2)
        heights = [3.4 if crowded else 2.9] * -(-len(panels) // columns)
        handles: dict[tuple[str, tuple[float, ...]], typing.Any] = {}
        for axes, panel in _lay_out(figure, panels, columns, heights):
            handles |= figure_panels.draw_curves_of(axes, panel)
        across = _count_columns([label for label, _ in handles])
        figure.legend(
            handles=list(handles.values()),
            loc="outside lower center",
            ncols=across,
            handlelength=4.5,
            columnspacing=1.2,
        )
        figure.set_size_inches(WIDTH, sum(heights) + 0.2 * -(-len(handles) // across) + 0.2)

    return _write(draw, folder, "training_curves") if panels else []


def draw_accuracies(
    experiments: Sequence[Experiment], folder: Path, titles: Mapping[str, str] | None = None
) -> list[Path]:
    """Test accuracy with its interval, best first, and the seeds as small marks: hollow where they collapsed.

    A panel a task and protocol. `titles`: what rows are called. Writes accuracy.png and accuracy.svg into the folder
    and returns them; nothing where there are no experiments. UserError for a folder that cannot be written.
    """
    panels = figure_data.make_panels(experiments, titles or {})

    def draw(figure: "Figure") -> None:
        longest = max(len(entry.label) for panel in panels for entry in panel.entries)
        columns = min(len(panels), 2) if longest <= SHORT_LABEL else 1
        lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
        heights = [max(len(panel.entries) for panel in line) * 0.25 + 0.95 for line in lines]
        figure.set_size_inches(WIDTH, sum(heights) + 0.35)
        for axes, panel in _lay_out(figure, panels, columns, heights):
            figure_panels.draw_accuracies_of(axes, panel)
        figure.legend(handles=figure_panels.explain_marks(), loc="outside lower center", ncols=4)

    return _write(draw, folder, "accuracy") if panels else []


def _lay_out(
    figure: "Figure", panels: Sequence[Panel], columns: int, heights: Sequence[float]
) -> list[tuple["Axes", Panel]]:
    """A pair of axes for each panel, line by line."""
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    return [(figure.add_subplot(grid[index // columns, index % columns]), panel) for index, panel in enumerate(panels)]


def _count_columns(labels: Sequence[str]) -> int:
    """How many columns of a legend, filled one after the other, fit beside each other."""
    for columns in (4, 3, 2):
        height = -(-len(labels) // columns)
        widths = [max(map(len, labels[start : start + height])) for start in range(0, len(labels), height)]
        if sum(widths) + LETTERS_OF_LINE * len(widths) <= LETTERS_ACROSS:
            return columns
    return 1


def _write(draw: Callable[["Figure"], None], folder: Path, name: str) -> list[Path]:
    """Draw, and write both formats. A file appears whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contents = {folder / f"{name}.{form}": content for form, content in _render(draw).items()}
        for path, content in contents.items():
            write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{folder}: figures cannot be written ({error.strerror}); give a folder of your own") from None
    return list(contents)


def _render(draw: Callable[["Figure"], None]) -> dict[str, bytes]:
    """The file of each format, with settings of our own, whatever the user's are."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    options: dict[str, dict[str, typing.Any]] = {
        "png": {"dpi": PIXELS_PER_INCH, "metadata": {"Software": None}},
        "svg": {"metadata": {"Date": None, "Creator": None}},
    }
    contents = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(layout="constrained", facecolor="white", dpi=100)
        FigureCanvasAgg(figure)
        draw(figure)
        for form, choices in options.items():
            file = io.BytesIO()
            figure.savefig(file, format=form, **choices)
            contents[form] = file.getvalue()
    contents["svg"] = b"".join(line.rstrip() + b"\n" for line in contents["svg"].splitlines())
    return contents
