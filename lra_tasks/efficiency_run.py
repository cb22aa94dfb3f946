"""Measures an efficiency benchmark: every cell compiled, then weighed, then timed in rounds that interleave the cells.

The order, so that a shared or warming machine treats all rows alike:

1. The cells of a length are compiled, those that write little first: compile time, FLOPs, memory by the compiler's
   account. Where the device tells its peak, all lengths are compiled together and each cell also runs once; a peak
   never falls, so one that rises is this very cell's.
2. Length by length, the cells that fit are warmed up; then round k calls each of them once, and a matrix product of a
   known size, before round k + 1 begins. Their executables are let go then: on a CPU each takes some 700 memory maps,
   and a process may have 65,530.
"""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np

from lra_tasks import provenance
from lra_tasks.efficiency import INFERENCE, TRAIN, Benchmark, Cell, Gemm, Setting
from lra_tasks.efficiency_cells import (
    Experiments,
    Job,
    Key,
    NotCompiled,
    Traced,
    check_length,
    compile_cell,
    make_state,
    random_batch,
    trace_cell,
)
from lra_tasks.efficiency_machine import GEMM_SIZE, describe_device, free_bytes, make_gemm, read_peak
from lra_tasks.efficiency_numbers import CUDNN

FEWEST_ROUNDS = 2
"""A cell whose budget does not hold a warm-up and this many calls is not run."""
USABLE_SHARE = 0.9
"""Of the free memory, what a cell may ask for."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured. Lengths rise; inference is measured once, whatever the dropouts."""

    experiments: Experiments
    size: str
    rows: Sequence[str]
    lengths: Sequence[int]
    dropouts: Sequence[float]
    batch_size: int
    rounds: int
    seconds_per_cell: float
    """What the warm-up and the rounds of a cell may take; a cell that is slow has fewer rounds, or is skipped."""

    def list_keys(self) -> list[Key]:
        """All cells, in the order of the file."""
        groups = [(TRAIN, dropout) for dropout in self.dropouts] + [(INFERENCE, 0.0)]
        return [Key(row, length, rate, mode) for length in self.lengths for mode, rate in groups for row in self.rows]

    def count_rounds(self, seconds: float) -> int:
        """Rounds of a cell whose call takes that long; 0 where the budget does not hold a warm-up and the fewest."""
        rounds = min(self.rounds, int(self.seconds_per_cell / seconds) - 1)
        return rounds if rounds >= min(FEWEST_ROUNDS, self.rounds) else 0


def check_plan(plan: Plan) -> None:
    """Raises UserError for a row that has no such length. Compiles nothing. cuDNN answers when it is compiled."""
    for row in plan.rows:
        for length in plan.lengths:
            if row != CUDNN:
                check_length(plan.experiments(row, 0.0), length)


def measure(plan: Plan, command: Sequence[str], report: Callable[[str], None]) -> Benchmark:
    """The whole benchmark; `command` is what it was started with, `report` is told how far it is."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    run = _Run(plan, report)
    for lengths in [plan.lengths] if read_peak() is not None else [[length] for length in plan.lengths]:
        run.compile(lengths)
        for length in lengths:
            run.time(length)
    model = plan.experiments(plan.rows[0], 0.0).model
    commit, dirty = provenance.git_commit()
    return Benchmark(
        started_at=started,
        commit=commit,
        commit_dirty=dirty,
        command=tuple(command),
        versions=provenance.library_versions(),
        device=describe_device(),
        host_cores=provenance.host_cores(),
        setting=Setting(
            size=plan.size, batch_size=plan.batch_size, dtype=model.dtype, remat=model.remat, rounds=plan.rounds
        ),
        gemm=Gemm(size=GEMM_SIZE, dtype=model.dtype, seconds=tuple(run.products)),
        cells=tuple(run.make_cell(key) for key in plan.list_keys()),
    )


class _Run:
    """A benchmark under way: what was compiled, how long it took, why it was skipped."""

    def __init__(self, plan: Plan, report: Callable[[str], None]):
        self.plan, self.report = plan, report
        self.jobs: dict[Key, Job] = {}
        self.seconds: dict[Key, list[float]] = {}
        self.peaks: dict[Key, int] = {}
        self.skipped: dict[Key, str] = {}
        self.products: list[float] = []
        self.inits: dict[tuple[str, int], Callable[[], Any]] = {}
        self.states: dict[str, Any] = {}
        """Of the rows of one length; the cells of a row take turns with it."""

    @functools.cached_property
    def gemm(self) -> Callable[[], float]:
        """Made after all are compiled: its matrices lie on the device."""
        return make_gemm(self.plan.experiments(self.plan.rows[0], 0.0).model.dtype)

    def compile(self, lengths: Sequence[int]) -> None:
        """Every cell of these lengths, weighed at once: what compilers try out on a device counts to its peak, too."""
        keys = [key for key in self.plan.list_keys() if key.length in lengths]
        traced = [trace_cell(self.plan.experiments, key, self.plan.batch_size) for key in keys]
        cells = deque(sorted(traced, key=lambda cell: cell.written_bytes if isinstance(cell, Traced) else 0))
        total = len(traced)
        del traced
        while cells:
            cell = cells.popleft()  # a traced function is large, and not needed any more
            made = compile_cell(cell) if isinstance(cell, Traced) else cell
            if isinstance(made, NotCompiled):
                told = self.skipped[made.key] = made.reason
            else:
                self.jobs[made.key] = made
                told = f"{made.compile_seconds:.1f} s, {made.temporary_bytes / 2**20:,.0f} MiB"
                told += self._weigh(made.key)
            self.report(f"compiled {total - len(cells)} of {total}: {_describe(made.key)}: {told}")

    def _weigh(self, key: Key) -> str:
        """Runs a cell once for the device's peak, if the device tells it."""
        before = read_peak()
        if before is None or self._lacks_memory(key):
            return ""
        self._call(key, random_batch(self.plan.batch_size, key.length))
        self.states.clear()
        after = read_peak() or 0
        if after <= before or key in self.skipped:
            return ""
        self.peaks[key] = after
        return f", {after / 2**20:,.0f} MiB at the device's peak"

    def time(self, length: int) -> None:
        """Warms the cells of one length up and times them, round by round."""
        batch = random_batch(self.plan.batch_size, length)
        keys = [key for key in self.plan.list_keys() if key.length == length and key in self.jobs]
        rounds = {key: self._warm_up(key, batch) for key in keys}
        for number in range(self.plan.rounds):
            self.products.append(self.gemm())
            for key in rounds:
                if number < rounds[key] and key not in self.skipped and (seconds := self._call(key, batch)) is not None:
                    self.seconds.setdefault(key, []).append(seconds)
            self.report(f"length {length:,}: round {number + 1} of {self.plan.rounds}")
        self.states.clear()
        self.inits.clear()
        for key in keys:
            self.jobs[key] = dataclasses.replace(self.jobs[key], call=None)

    def make_cell(self, key: Key) -> Cell:
        """What was found out."""
        job = self.jobs.get(key)
        return Cell(
            row=key.row,
            length=key.length,
            dropout=key.dropout,
            mode=key.mode,
            compile_seconds=job.compile_seconds if job else None,
            seconds=() if key in self.skipped else tuple(self.seconds[key]),
            flops=job.flops if job else None,
            temporary_bytes=job.temporary_bytes if job else None,
            argument_bytes=job.argument_bytes if job else None,
            allocator_peak_bytes=self.peaks.get(key),
            skipped=self.skipped.get(key),
        )

    def _warm_up(self, key: Key, batch: Any) -> int:
        """Calls a cell for the first time. Returns how many rounds it takes part in, 0 where it is skipped."""
        rounds, seconds = 0, None
        if key not in self.skipped:
            obstacle = self._find_obstacle(key)
            if obstacle:
                self.skipped[key] = obstacle
            else:
                seconds = self._call(key, batch)
        if seconds is not None:
            rounds = self.plan.count_rounds(seconds)
            if not rounds:
                self.skipped[key] = self._say_slow(f"its first call took {seconds:,.0f} s")
        told = self.skipped.get(key) or f"{seconds:.3f} s at first, rounds: {rounds}"
        self.report(f"warmed up {_describe(key)}: {told}")
        return rounds

    def _call(self, key: Key, batch: Any) -> float | None:
        """Seconds of one call; None where the device ran out of memory, and the cell is skipped from then on."""
        call = self.jobs[key].call
        assert call is not None
        state = self.states.pop(key.row) if key.row in self.states else self._make_state(key)
        jax.block_until_ready((state, batch))
        began = time.perf_counter()
        try:
            state, result = call(state, batch)
            jax.block_until_ready((state, result))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            self.skipped[key] = str(error).splitlines()[0]
            return None
        seconds = time.perf_counter() - began
        self.states[key.row] = state
        return seconds

    def _make_state(self, key: Key) -> Any:
        place = key.row, key.length
        if place not in self.inits:
            self.inits[place] = make_state(self.plan.experiments(key.row, key.dropout), key.length)
        return self.inits[place]()

    def _find_obstacle(self, key: Key) -> str | None:
        """Why a cell must not be called: it would not fit, or take too long."""
        seconds = self._predict(key)
        slow = None if self.plan.count_rounds(seconds) else self._say_slow(f"a call would take about {seconds:,.0f} s")
        return self._lacks_memory(key) or slow

    def _lacks_memory(self, key: Key) -> str | None:
        needed, free = self.jobs[key].new_bytes, free_bytes()
        if free is None or needed <= USABLE_SHARE * free:
            return None
        return f"needs {needed / 2**30:.1f} GiB by the compiler's account, {free / 2**30:.1f} GiB are free"

    def _predict(self, key: Key) -> float:
        """Seconds of a call, from the last length that was timed: as long for each FLOP; else at the GEMM's rate."""
        flops = self.jobs[key].flops
        same = [done for done in self.seconds if dataclasses.replace(done, length=key.length) == key]
        if same:
            last = max(same, key=lambda done: done.length)
            return float(np.median(self.seconds[last])) * flops / max(self.jobs[last].flops, 1)
        rate = 2 * GEMM_SIZE**3 / min(self.products or [self.gemm()])
        return max(flops, 1) / rate

    def _say_slow(self, found: str) -> str:
        budget = self.plan.seconds_per_cell
        return f"{found}; --seconds_per_cell={budget:g} does not hold a warm-up and {FEWEST_ROUNDS} rounds"


def _describe(key: Key) -> str:
    dropout = f", dropout {key.dropout:g}" if key.mode == TRAIN else ""
    return f"{key.row} at {key.length:,}, {key.mode}{dropout}"
