"""Seconds and memory of an efficiency benchmark against the length, log-log, one row of panels a mode and dropout."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lra_tasks.efficiency import Benchmark, Cell
from lra_tasks.efficiency_numbers import (
    bytes_by_length,
    describe_group,
    find_exponent,
    list_groups,
    seconds_by_length,
    select,
)
from lra_tasks.typed_json import write_bytes, write_text

# of Okabe and Ito, distinct to colour-blind readers; more rows than colours take the next line style
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")
LINES = ("-", "--", ":")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "efficiency",
    "font.size": 8,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.fontsize": 6.5,
}


def draw(benchmark: Benchmark) -> Any:
    """The figure. An error bar reaches from the fastest to the slowest round; a hollow marker was weighed, not run."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    groups = list_groups(benchmark)
    order = list(dict.fromkeys(cell.row for cell in benchmark.cells))
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.6 + 3.0 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 2, squeeze=False)
        for (times, memory), (mode, dropout) in zip(panels, groups, strict=True):
            for row, cells in select(benchmark, mode, dropout).items():
                style = _find_style(order.index(row))
                _draw_times(times, row, cells, style)
                _draw_memory(memory, row, cells, style)
            _finish(times, f"{describe_group(mode, dropout)}: time", "seconds a call", benchmark)
            _finish(memory, f"{describe_group(mode, dropout)}: temporary memory", "MiB", benchmark)
        setting, device = benchmark.setting, benchmark.device
        figure.suptitle(
            f"{setting.size.capitalize()} size, batch {setting.batch_size}, {setting.dtype}; "
            f"{device.kind}, {benchmark.host_cores} cores"
        )
    return figure


def save(benchmark: Benchmark, folder: Path, name: str) -> list[Path]:
    """Writes name.png and name.svg, each whole or not at all."""
    from matplotlib import rc_context

    figure = draw(benchmark)
    pictures = {}
    with rc_context(STYLE):
        for form, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=200, metadata=metadata)
            pictures[form] = buffer.getvalue()
    files = [folder / f"{name}.{form}" for form in ("png", "svg")]
    write_bytes(files[0], pictures["png"])
    write_text(files[1], "\n".join(line.rstrip() for line in pictures["svg"].decode().splitlines()) + "\n")
    return files


def _find_style(number: int) -> dict[str, Any]:
    kind = number % len(COLOURS)
    line = LINES[number // len(COLOURS) % len(LINES)]
    return {"color": COLOURS[kind], "marker": MARKERS[kind], "linestyle": line, "markersize": 4, "linewidth": 1.2}


def _draw_times(panel: Any, row: str, cells: Mapping[int, Cell], style: dict[str, Any]) -> None:
    values = seconds_by_length(cells)
    if not values:
        return
    below = [value - min(cells[length].seconds) for length, value in values.items()]
    above = [max(cells[length].seconds) - value for length, value in values.items()]
    label = _label(row, values)
    panel.errorbar(list(values), list(values.values()), yerr=[below, above], capsize=2, label=label, **style)


def _draw_memory(panel: Any, row: str, cells: Mapping[int, Cell], style: dict[str, Any]) -> None:
    values = {length: value / 2**20 for length, value in bytes_by_length(cells).items() if value > 0}
    if not values:
        return
    panel.plot(list(values), list(values.values()), label=_label(row, values), **style)
    skipped = {length: value for length, value in values.items() if cells[length].skipped is not None}
    hollow = style | {"linestyle": "none", "markerfacecolor": "white", "zorder": 3}
    panel.plot(list(skipped), list(skipped.values()), **hollow)


def _label(row: str, values: Mapping[int, float]) -> str:
    exponent = find_exponent(values)
    return row if exponent is None else f"{row}  $N^{{{exponent:.2f}}}$"


def _finish(panel: Any, title: str, unit: str, benchmark: Benchmark) -> None:
    """Axes, ticks at the measured lengths, legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    lengths = sorted({cell.length for cell in benchmark.cells})
    panel.set(xscale="log", yscale="log", title=title, xlabel="length", ylabel=unit)
    panel.set_xticks(lengths, [f"{n // 1024}K" if n % 1024 == 0 else f"{n:,}" for n in lengths])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    if panel.get_legend_handles_labels()[1]:
        panel.legend()
