"""An efficiency benchmark as text, like the Luna paper's Table 2: speed and memory beside softmax attention."""

from collections.abc import Callable, Iterator, Mapping

from lra_tasks.efficiency import Benchmark, Cell
from lra_tasks.efficiency_numbers import (
    UNFUSED,
    bytes_by_length,
    describe_group,
    divide,
    dropout_shares,
    find_crossover,
    find_exponent,
    find_fused,
    find_spread,
    list_groups,
    roofline_share,
    seconds_by_length,
    select,
)

Rows = Mapping[str, Mapping[int, Cell]]
NOTHING = "–"
MIB = 2**20


def write_tables(benchmark: Benchmark) -> str:
    """Everything that is printed."""
    lines = [*describe(benchmark)]
    for mode, dropout in list_groups(benchmark):
        lines += _write_group(benchmark, mode, dropout)
    for dropout, rows in dropout_shares(benchmark).items():
        lines += ["", *_write_shares(f"share of a train step that dropout {dropout:g} takes", rows)]
    lines += _write_skipped(benchmark)
    return "\n".join(lines) + "\n"


def describe(benchmark: Benchmark) -> list[str]:
    """What was measured, and on what."""
    setting, device = benchmark.setting, benchmark.device
    versions = ", ".join(f"{name} {benchmark.versions.get(name)}" for name in ("jax", "jaxlib"))
    return [
        f"{setting.size} size, batch {setting.batch_size}, {setting.dtype}, remat {setting.remat}, "
        f"up to {setting.rounds} rounds; {benchmark.started_at}",
        f"{device.platform} {device.kind}, {benchmark.host_cores} cores, {versions}; "
        f"{benchmark.gemm.size}^3 product at {benchmark.gemm.rate / 1e9:,.0f} GFLOP/s",
    ]


def _write_group(benchmark: Benchmark, mode: str, dropout: float) -> Iterator[str]:
    """All tables of a mode and dropout."""
    rows = select(benchmark, mode, dropout)
    title = describe_group(mode, dropout)
    yield from (
        "",
        f"== {title} ==",
        *_write_values(f"{title}: seconds, median of the rounds", rows, seconds_by_length),
    )
    yield from ("", *_write_spread(f"{title}: range of the rounds in % of the median", rows))
    for baseline in dict.fromkeys((UNFUSED, find_fused(rows))):
        if baseline in rows:
            yield from ("", *_write_speedups(f"{title}: speed-up over {baseline}", rows, baseline))
    in_mib = lambda cells: {length: value / MIB for length, value in bytes_by_length(cells).items()}  # noqa: E731
    yield from ("", *_write_values(f"{title}: temporary memory by the compiler's account, MiB", rows, in_mib))
    for baseline in dict.fromkeys((UNFUSED, find_fused(rows))):
        if baseline in rows:
            yield from ("", *_write_memory_ratios(f"{title}: temporary memory / {baseline}", rows, baseline))
    if any(cell.allocator_peak_bytes for cells in rows.values() for cell in cells.values()):
        yield from ("", *_write_cells(f"{title}: most memory held by the device, MiB", rows, _show_peak))
    yield from ("", *_write_cells(f"{title}: GFLOP a call", rows, _show_flops))
    yield from ("", *_write_cells(f"{title}: FLOP/s in % of the matrix product's", rows, _show_share(benchmark)))
    yield from (
        "",
        *_write_cells(f"{title}: seconds to compile", rows, lambda cell: _show(cell.compile_seconds, ".1f")),
    )


def _write_values(title: str, rows: Rows, find: Callable[[Mapping[int, Cell]], Mapping[int, float]]) -> list[str]:
    """A number a cell, and its exponent."""
    found = {row: find(cells) for row, cells in rows.items()}
    shown = {row: {length: _three_digits(value) for length, value in values.items()} for row, values in found.items()}
    last = {row: _show(find_exponent(values), ".2f", "N^") for row, values in found.items()}
    return _lay_out(title, rows, shown, "growth", last)


def _write_spread(title: str, rows: Rows) -> list[str]:
    return _write_cells(title, rows, lambda cell: f"{100 * find_spread(cell.seconds):.0f}" if cell.seconds else NOTHING)


def _write_speedups(title: str, rows: Rows, baseline: str) -> list[str]:
    """Seconds of the baseline over seconds of the row, and from which length on the row is faster."""
    reference = seconds_by_length(rows[baseline])
    speedups = {row: divide(reference, seconds_by_length(cells)) for row, cells in rows.items() if row != baseline}
    shown = {row: {length: f"{value:.2f}" for length, value in values.items()} for row, values in speedups.items()}
    last = {row: str(find_crossover(values) or NOTHING) for row, values in speedups.items()}
    return _lay_out(title, rows, shown, "faster from", last)


def _write_memory_ratios(title: str, rows: Rows, baseline: str) -> list[str]:
    reference = bytes_by_length(rows[baseline])
    ratios = {row: divide(bytes_by_length(cells), reference) for row, cells in rows.items() if row != baseline}
    shown = {row: {length: f"{value:.2f}" for length, value in values.items()} for row, values in ratios.items()}
    return _lay_out(title, rows, shown)


def _write_shares(title: str, rows: Mapping[str, Mapping[int, float]]) -> list[str]:
    shown = {row: {length: f"{100 * value:.0f} %" for length, value in values.items()} for row, values in rows.items()}
    return _lay_out(title, rows, shown)


def _write_cells(title: str, rows: Rows, show: Callable[[Cell], str]) -> list[str]:
    return _lay_out(title, rows, {row: {n: show(cell) for n, cell in cells.items()} for row, cells in rows.items()})


def _write_skipped(benchmark: Benchmark) -> Iterator[str]:
    skipped = [cell for cell in benchmark.cells if cell.skipped is not None]
    if skipped:
        yield from ("", "not run")
        yield from (f"{cell.name}: {cell.skipped}" for cell in skipped)


def _lay_out(
    title: str,
    rows: Mapping[str, Mapping[int, object]],
    shown: Mapping[str, Mapping[int, str]],
    heading: str = "",
    last: Mapping[str, str] | None = None,
) -> list[str]:
    """A row a line, a length a column."""
    lengths = sorted({length for cells in rows.values() for length in cells})
    width = max(len(row) for row in rows) + 2 if rows else 0
    lines = [title, f"{'':{width}}" + "".join(f"{length:>10,}" for length in lengths) + f"{heading:>16}"]
    for row, values in shown.items():
        numbers = "".join(f"{values.get(length, NOTHING):>10}" for length in lengths)
        lines.append(f"{row:{width}}{numbers}{(last or {}).get(row, ''):>16}")
    return [line.rstrip() for line in lines]


def _three_digits(value: float) -> str:
    """Whole numbers from 100 on, at least three digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _show(value: float | None, form: str, before: str = "") -> str:
    return NOTHING if value is None else f"{before}{value:{form}}"


def _show_peak(cell: Cell) -> str:
    return NOTHING if cell.allocator_peak_bytes is None else _three_digits(cell.allocator_peak_bytes / MIB)


def _show_flops(cell: Cell) -> str:
    return NOTHING if cell.flops is None else _three_digits(cell.flops / 1e9)


def _show_share(benchmark: Benchmark) -> Callable[[Cell], str]:
    def show(cell: Cell) -> str:
        share = roofline_share(cell, benchmark.gemm)
        return NOTHING if share is None else f"{100 * share:.0f}"

    return show
