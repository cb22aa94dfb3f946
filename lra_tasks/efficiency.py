"""The file of an efficiency benchmark: what was timed and weighed, on which machine. Written once, checked on reading.

`lra_tasks.efficiency_run` measures it, `efficiency_tables` and `speed_plot` show it. Never imports JAX.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from lra_tasks.errors import UserError
from lra_tasks.record import Device
from lra_tasks.typed_json import JsonError, build, write_text

SCHEMA_VERSION = 1
KIND = "efficiency"
TRAIN, INFERENCE = "train", "inference"
MODES = (TRAIN, INFERENCE)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells have in common."""

    size: str  # of the model: "text" is the authors' Text model
    batch_size: int  # examples a call
    dtype: str  # of the computation; parameters are float32
    remat: bool  # layers recomputed in the backward pass
    rounds: int  # the most timings a cell has


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """A square matrix product, timed once a round: the rate that the machine reached in this very run."""

    size: int  # rows and columns
    dtype: str
    seconds: tuple[float, ...]  # of one product

    @property
    def rate(self) -> float:
        """FLOP/s, the median over the rounds."""
        return 2 * self.size**3 / statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row at one length in one mode. What was not found out is null, which only a skipped cell may have."""

    row: str  # a name in configs/rows.py, or "softmax_cudnn"
    length: int  # positions, [CLS] among them
    dropout: float  # on embeddings, sublayers and attention probabilities alike; 0 in inference
    mode: str  # "train", a step with gradient and optimizer, or "inference", class probabilities
    compile_seconds: float | None  # from the Python function to the executable, no cache
    seconds: tuple[float, ...]  # one a round, the warm-up left out
    flops: int | None  # of matrix products, two a multiply-add; recomputation counts
    temporary_bytes: int | None  # peak beside the arguments, by the compiler's account
    argument_bytes: int | None  # parameters, optimizer state, batch
    allocator_peak_bytes: int | None  # the most the device held; null where it does not say, or a larger cell hides it
    skipped: str | None  # why it was not run

    @property
    def median(self) -> float | None:
        """Seconds of one call; None for a cell that was not run."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def name(self) -> str:
        """For people."""
        dropout = f", dropout {self.dropout:g}" if self.mode == TRAIN else ""
        return f"{self.row} at {self.length:,}, {self.mode}{dropout}"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The whole file; field names are the keys of the JSON, every one required and none added."""

    kind: str = KIND
    started_at: str  # UTC, ISO 8601
    commit: str | None
    commit_dirty: bool | None  # null with commit
    command: tuple[str, ...]  # without paths of the machine
    versions: dict[str, str | None]
    device: Device
    host_cores: int
    setting: Setting
    gemm: Gemm
    cells: tuple[Cell, ...]
    schema_version: int = SCHEMA_VERSION


def read_benchmark(path: Path) -> Benchmark:
    """The benchmark in a file. UserError names the file, the field and what it must be."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a benchmark ({error})") from None
    try:
        _check_version(value)
        benchmark = build(Benchmark, value)
        check(benchmark)
    except JsonError as fault:
        raise UserError(f"{path}: {fault}") from None
    return benchmark


def write_benchmark(path: Path, benchmark: Benchmark) -> None:
    """Write the file whole or not at all, by the rules that reading has."""
    check(benchmark)
    value = dataclasses.asdict(benchmark)
    cells = ",\n  ".join(json.dumps(cell, allow_nan=False) for cell in value.pop("cells"))  # a cell is a line
    head = json.dumps(value, indent=1, allow_nan=False).removesuffix("\n}")
    write_text(path, f'{head},\n "cells": [\n  {cells}\n ]\n}}\n')


def check(benchmark: Benchmark) -> None:
    """Raises JsonError for the first value that cannot be."""
    for field, value, demand in _find_faults(benchmark):
        raise JsonError(f"{field} = {value!r}: must be {demand}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_version(value: Any) -> None:
    """The kind and version first: of another kind of file every other complaint would mislead."""
    if not isinstance(value, dict):
        raise JsonError(f"the whole is a {type(value).__name__}: must be an object")
    for key, wanted in (("kind", KIND), ("schema_version", SCHEMA_VERSION)):
        if key not in value:
            raise JsonError(f"{key} is missing: this is no file of `python -m lra_tasks.benchmark efficiency`")
        if value[key] != wanted:
            raise JsonError(f"{key} = {value[key]!r}: must be {wanted!r}; measure again with this version")


def _find_faults(benchmark: Benchmark) -> Iterator[tuple[str, object, str]]:
    """(field, value, what it must be) of everything that is wrong outside its type."""
    if not _is_utc(benchmark.started_at):
        yield "started_at", benchmark.started_at, "a UTC time such as 2026-01-31T09:30:00+00:00"
    if (benchmark.commit is None) != (benchmark.commit_dirty is None):
        yield "commit_dirty", benchmark.commit_dirty, "null where commit is, and only there"
    counts = {"device.count": benchmark.device.count, "host_cores": benchmark.host_cores}
    counts |= {"setting.batch_size": benchmark.setting.batch_size, "setting.rounds": benchmark.setting.rounds}
    for field, value in (counts | {"gemm.size": benchmark.gemm.size}).items():
        if value < 1:
            yield field, value, "at least 1"
    if not benchmark.gemm.seconds or not _are_times(benchmark.gemm.seconds):
        yield "gemm.seconds", benchmark.gemm.seconds, "one or more finite numbers above 0"
    if not benchmark.cells:
        yield "cells", benchmark.cells, "one or more cells"
    seen = set()
    for number, cell in enumerate(benchmark.cells):
        for field, value, demand in _find_cell_faults(cell, benchmark.setting.rounds):
            yield f"cells[{number}].{field}", value, demand
        key = (cell.row, cell.length, cell.dropout, cell.mode)
        if key in seen:
            yield f"cells[{number}]", key, "a row, length, dropout and mode that no cell before it has"
        seen.add(key)


def _find_cell_faults(cell: Cell, rounds: int) -> Iterator[tuple[str, object, str]]:
    """The same of one cell."""
    if cell.mode not in MODES:
        yield "mode", cell.mode, f"one of {', '.join(MODES)}"
    if not cell.row:
        yield "row", cell.row, "the name of a row"
    if cell.length < 1:
        yield "length", cell.length, "at least 1"
    if not 0.0 <= cell.dropout < 1.0 or (cell.mode == INFERENCE and cell.dropout):
        yield "dropout", cell.dropout, "in [0, 1), and 0 in inference"
    if cell.compile_seconds is not None and not _are_times([cell.compile_seconds]):
        yield "compile_seconds", cell.compile_seconds, "a finite number above 0"
    if not _are_times(cell.seconds):
        yield "seconds", cell.seconds, "finite numbers above 0"
    if len(cell.seconds) > rounds:
        yield "seconds", cell.seconds, f"no more than the {rounds} of setting.rounds"
    if bool(cell.seconds) == (cell.skipped is not None):
        yield "skipped", cell.skipped, "the reason where seconds is empty, and null elsewhere"
    for field in ("compile_seconds", "flops", "temporary_bytes", "argument_bytes"):
        if getattr(cell, field) is None and cell.skipped is None:
            yield field, None, "a number in a cell that was run"
    for field in ("flops", "temporary_bytes", "argument_bytes", "allocator_peak_bytes"):
        if (getattr(cell, field) or 0) < 0:
            yield field, getattr(cell, field), "at least 0"


def _are_times(seconds: tuple[float, ...] | list[float]) -> bool:
    return all(math.isfinite(value) and value > 0 for value in seconds)


def _is_utc(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False
