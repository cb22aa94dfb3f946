"""How near Luna's step is to the rate of a matrix product, and what splitting batches by length is worth; one JSON."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.costs import count_flops
from lra_tasks.efficiency_cells import Experiments, make_state, random_batch, text_model
from lra_tasks.efficiency_machine import GEMM_SIZE, make_gemm
from lra_tasks.measurements import Measurement
from lra_tasks.metrics import score
from lra_tasks.settings import Experiment
from lra_tasks.split_benchmark import show_split
from lra_tasks.steps import make_train_step

BATCH_SIZE = 2
SPLIT_STEPS = 4
PADDED_PARTS = 4
"""A whole padded batch of the Text recipe, 32 x 4,000, takes more memory than a laptop has."""
PASSES = ("forward and backward", "train step")


@dataclass(frozen=True)
class StepSpeed:
    """One program of one row, Text size, no dropout."""

    row: str
    length: int
    """Positions, [CLS] among them."""
    what: str
    """One of PASSES; the second has the optimizer, too."""
    flops: int
    """Of matrix products."""
    seconds: tuple[float, ...]
    """One a round."""
    products: tuple[float, ...]
    """Seconds of a GEMM_SIZE product just before each."""

    @property
    def units(self) -> tuple[float, ...]:
        """How many such products each took."""
        return tuple(own / product for own, product in zip(self.seconds, self.products, strict=True))

    @property
    def share(self) -> float:
        """Of the product's rate: its FLOPs in its time, the median over rounds."""
        return self.flops / (2 * GEMM_SIZE**3) / statistics.median(self.units)


def show_speed(
    experiments: Experiments,
    row: str,
    lengths: Sequence[int],
    read_config: Callable[[str], dict[str, Any]],
    *,
    dtype: str,
    data_dir: str,
    rounds: int,
    measurement: Measurement,
) -> None:
    """Prints both tables and writes speed-PLATFORM.json."""
    steps = measure_steps(experiments(row, 0.0), row, lengths, dtype, rounds)
    show_steps(steps)
    print()
    splits = show_split(data_dir, read_config, num_steps=SPLIT_STEPS, padded_parts=PADDED_PARTS)
    measurement.write(
        gemm_size=GEMM_SIZE,
        dtype=dtype,
        batch_size=BATCH_SIZE,
        steps=[as_row(step) for step in steps],
        splits=[dataclasses.asdict(split) for split in splits],
    )


def as_row(step: StepSpeed) -> dict[str, Any]:
    """What was measured, and what follows from it."""
    return dataclasses.asdict(step) | {"median_units": statistics.median(step.units), "gemm_share": step.share}


def measure_steps(experiment: Experiment, row: str, lengths: Sequence[int], dtype: str, rounds: int) -> list[StepSpeed]:
    """All programs in turns, each behind a product of its own; what is compiled, and a first call, is not timed."""
    gemm = make_gemm(dtype)
    jobs = [make_job(experiment, length, what) for length in lengths for what in PASSES]
    times: list[list[tuple[float, float]]] = [[] for _ in jobs]
    for _ in range(rounds):
        for (call, _), found in zip(jobs, times, strict=True):
            product = gemm()
            found.append((call(), product))
    keys = [(length, what) for length in lengths for what in PASSES]
    return [
        StepSpeed(row, length, what, flops, tuple(own for own, _ in found), tuple(product for _, product in found))
        for (length, what), (_, flops), found in zip(keys, jobs, times, strict=True)
    ]


def make_job(experiment: Experiment, length: int, what: str) -> tuple[Callable[[], float], int]:
    """(a function that calls the program once and returns its seconds, its FLOPs)."""
    model, batch = text_model(experiment, length), random_batch(BATCH_SIZE, length)
    state = make_state(experiment, length)()

    def loss_of(params, batch):
        sums, _ = score(model.apply(params, batch, jax.random.key(0)), batch.labels, batch.example_mask)
        return sums.loss / sums.count

    train_step: Any = make_train_step(experiment, model)
    program = jax.jit(jax.value_and_grad(loss_of)) if what == PASSES[0] else train_step
    traced = program.trace(state["params"] if what == PASSES[0] else state, batch)
    compiled = traced.lower().compile()

    def call() -> float:
        nonlocal state
        began = time.perf_counter()
        if what == PASSES[0]:
            jax.block_until_ready(compiled(state["params"], batch))
        else:
            state, numbers = compiled(state, batch)
            jax.block_until_ready((state, numbers))
        return time.perf_counter() - began

    call()
    return call, count_flops(traced.jaxpr.jaxpr)


def show_steps(steps: Sequence[StepSpeed]) -> None:
    """The table of units and shares."""
    products = [product for step in steps for product in step.products]
    rate = 2 * GEMM_SIZE**3 / statistics.median(products) / 1e9
    print(f"in products of {GEMM_SIZE} x {GEMM_SIZE} matrices ({rate:.0f} GFLOP/s), batch {BATCH_SIZE}, no dropout")
    print(f"{describe_machine()}")
    print(f"{'row':12}{'N':>8}  {'what':24}{'seconds':>10}{'units':>8}{'least':>8}{'most':>8}{'of the rate':>14}")
    for step in steps:
        units = f"{statistics.median(step.units):>8.2f}{min(step.units):>8.2f}{max(step.units):>8.2f}"
        seconds = statistics.median(step.seconds)
        print(f"{step.row:12}{step.length:>8,}  {step.what:24}{seconds:>10.3f}{units}{step.share:>14.1%}", flush=True)
