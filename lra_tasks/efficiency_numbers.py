"""What a benchmark's cells say: ratios, exponents, crossover lengths, shares. Pure; numbers by length throughout."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lra_tasks.efficiency import INFERENCE, MODES, TRAIN, Benchmark, Cell, Gemm

UNFUSED = "softmax_unfused"
"""Softmax attention that writes its N x N probabilities out: what the papers compare with."""
CHUNKED = "softmax_chunked"
"""Softmax attention as a running softmax over chunks: fused on any device, with dropout or without."""
CUDNN = "softmax_cudnn"
"""cuDNN's fused kernel: NVIDIA GPUs, 16-bit numbers, no dropout."""


@dataclass(frozen=True)
class Crossover:
    """From which length on a row is the faster of two: "at" it, or "below" or "above" all that were measured."""

    relation: str
    length: float

    def __str__(self) -> str:
        number = f"{self.length:,.0f}"
        return number if self.relation == "at" else f"{self.relation} {number}"


def list_groups(benchmark: Benchmark) -> list[tuple[str, float]]:
    """(mode, dropout) of the cells: training first, its dropouts rising."""
    return sorted({(cell.mode, cell.dropout) for cell in benchmark.cells}, key=lambda it: (MODES.index(it[0]), it[1]))


def select(benchmark: Benchmark, mode: str, dropout: float) -> dict[str, dict[int, Cell]]:
    """{row: {length: cell}} of a group, rows in the order of the file, lengths rising."""
    rows: dict[str, dict[int, Cell]] = {}
    for cell in sorted(benchmark.cells, key=lambda cell: cell.length):
        if (cell.mode, cell.dropout) == (mode, dropout):
            rows.setdefault(cell.row, {})[cell.length] = cell
    order = list(dict.fromkeys(cell.row for cell in benchmark.cells))
    return {row: rows[row] for row in order if row in rows}


def find_fused(rows: Mapping[str, Mapping[int, Cell]]) -> str:
    """The fused softmax of a group: cuDNN's where it ran, else the one in chunks."""
    return CUDNN if any(cell.seconds for cell in rows.get(CUDNN, {}).values()) else CHUNKED


def seconds_by_length(cells: Mapping[int, Cell]) -> dict[int, float]:
    """Median seconds of a row's cells that were run."""
    return {length: cell.median for length, cell in cells.items() if cell.median is not None}


def bytes_by_length(cells: Mapping[int, Cell]) -> dict[int, float]:
    """Temporary memory of a row's cells, by the compiler's account; known also of most that were not run."""
    return {length: cell.temporary_bytes for length, cell in cells.items() if cell.temporary_bytes is not None}


def divide(numerators: Mapping[int, float], denominators: Mapping[int, float]) -> dict[int, float]:
    """The ratio at every length that both have."""
    return {length: value / denominators[length] for length, value in numerators.items() if denominators.get(length)}


def find_exponent(values: Mapping[int, float]) -> float | None:
    """Slope of log value over log length by least squares: 1 is linear, 2 quadratic. None below two lengths."""
    points = [(math.log(length), math.log(value)) for length, value in values.items() if value > 0]
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else None


def find_crossover(speedups: Mapping[int, float]) -> Crossover | None:
    """The length from which on speedups stay above 1, straight between measured lengths in log-log coordinates.

    `speedups` are seconds of the other over seconds of the row. None without a length.
    """
    points = sorted(speedups.items())
    if not points:
        return None
    slower = [number for number, (_, speedup) in enumerate(points) if speedup <= 1.0]
    if not slower:
        return Crossover("below", points[0][0])
    if slower[-1] == len(points) - 1:
        return Crossover("above", points[-1][0])
    (left, before), (right, after) = points[slower[-1] : slower[-1] + 2]
    share = -math.log(before) / (math.log(after) - math.log(before))
    return Crossover("at", math.exp(math.log(left) + share * (math.log(right) - math.log(left))))


def find_spread(seconds: Sequence[float]) -> float:
    """(largest - smallest) / median of a cell's rounds."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def roofline_share(cell: Cell, gemm: Gemm) -> float | None:
    """FLOP/s of a cell over those of the matrix product that the same run timed. None for a cell that was not run."""
    return None if cell.median is None or cell.flops is None else cell.flops / cell.median / gemm.rate


def dropout_shares(benchmark: Benchmark) -> dict[float, dict[str, dict[int, float]]]:
    """{dropout: {row: {length: share}}}: 1 - seconds without dropout / seconds with it, of a train step."""
    groups = {dropout: select(benchmark, mode, dropout) for mode, dropout in list_groups(benchmark) if mode == TRAIN}
    without = groups.pop(0.0, {})
    return {
        dropout: {
            row: {
                length: 1.0 - ratio
                for length, ratio in divide(seconds_by_length(without[row]), seconds_by_length(cells)).items()
            }
            for row, cells in rows.items()
            if row in without
        }
        for dropout, rows in groups.items()
        if without
    }


def describe_group(mode: str, dropout: float) -> str:
    """The heading of a group."""
    return "inference" if mode == INFERENCE else f"train step, dropout {dropout:g}"
