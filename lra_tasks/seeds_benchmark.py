"""Several seeds trained at once against the same seeds one after the other: one process, in turns, data included."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.loader import batch_at
from lra_tasks.measurements import Measurement
from lra_tasks.model import build_model
from lra_tasks.registry import get_task
from lra_tasks.seeds_steps import batches_at, make_seeds_init, make_seeds_train_step
from lra_tasks.settings import Experiment, sequence_length
from lra_tasks.steps import make_seeded_init, make_train_step
from lra_tasks.task import AnyBatch, Split, Task, join_documents

CONFIGS = ("listops", "image")
NUM_EXAMPLES = 1024
"""Random ones, of the task's full length: what a step costs does not depend on what they say."""


@dataclass(frozen=True)
class SeedsSpeed:
    """One experiment, its seeds trained both ways."""

    task: str
    row: str
    num_seeds: int
    batch_size: int
    length: int
    at_once: float
    """Examples a second of all seeds together, median over rounds."""
    one_by_one: float
    """The same with the seeds one after the other, each step a program of its own."""
    ratio: float
    """at_once / one_by_one, median over rounds of the ratio within one."""


def make_examples(task: Task, length: int) -> Split:
    """Random documents with random labels. The task's documents are single ones."""
    random = np.random.default_rng(0)
    documents = random.integers(1, task.vocabulary.size, (NUM_EXAMPLES, length))
    labels = random.integers(0, task.num_classes, NUM_EXAMPLES).tolist()
    return join_documents(list(documents), labels, np.dtype(np.int32))


def time_steps(program: Any, state: Any, batches: Iterable[AnyBatch]) -> tuple[Any, float]:
    """(state, seconds) of a step for each batch, launched one behind the other."""
    began = time.perf_counter()
    for batch in batches:
        state, _ = program(state, batch)
    jax.block_until_ready(state)
    return state, time.perf_counter() - began


def measure_seeds(
    experiment: Experiment, task: Task, seeds: Sequence[int], *, num_steps: int, rounds: int
) -> SeedsSpeed:
    """Both ways in turns; what is compiled, and a first round of each, is not timed."""
    model, length, size = build_model(experiment, task), sequence_length(experiment, task), experiment.train.batch_size
    split, sizes = make_examples(task, length), {"batch_size": size, "length": length}
    together, init = jax.jit(make_seeds_init(experiment, model, seeds))(), jax.jit(make_seeded_init(experiment, model))
    alone = [init(np.uint32(seed)) for seed in seeds]

    def batches_of_all(begin: int) -> Iterable[AnyBatch]:
        return (batches_at(split, seeds, step=begin + step, **sizes) for step in range(num_steps))

    def batches_of(seed: int, begin: int) -> Iterable[AnyBatch]:
        return (batch_at(split, seed=seed, step=begin + step, **sizes) for step in range(num_steps))

    all_steps: Any = make_seeds_train_step(experiment, model, seeds)
    one_step: Any = make_train_step(experiment, model)
    all_steps = all_steps.lower(together, next(iter(batches_of_all(0)))).compile()
    one_step = one_step.lower(alone[0], next(iter(batches_of(seeds[0], 0)))).compile()
    found = []
    for begin in range(0, (rounds + 1) * num_steps, num_steps):
        together, of_all = time_steps(all_steps, together, batches_of_all(begin))
        of_each = 0.0
        for place, seed in enumerate(seeds):
            alone[place], seconds = time_steps(one_step, alone[place], batches_of(seed, begin))
            of_each += seconds
        found.append((of_all, of_each))
    examples, timed = len(seeds) * size * num_steps, found[1:]
    return SeedsSpeed(
        task=task.name,
        row=experiment.row,
        num_seeds=len(seeds),
        batch_size=size,
        length=length,
        at_once=examples / statistics.median(of_all for of_all, _ in timed),
        one_by_one=examples / statistics.median(of_each for _, of_each in timed),
        ratio=statistics.median(of_each / of_all for of_all, of_each in timed),
    )


def show_seeds(
    read_experiment: Callable[[str], Experiment],
    measurement: Measurement,
    *,
    num_seeds: Sequence[int] = (2, 5),
    num_steps: int = 10,
    rounds: int = 3,
    names: Sequence[str] = CONFIGS,
) -> None:
    """Prints a line for each experiment and number of seeds, and writes seeds-PLATFORM.json.

    `read_experiment` gives the experiment of a config by the name of its task.
    """
    print(f"seeds at once against one after the other, train steps with their batches; {describe_machine()}")
    print(f"{'task':20}{'row':12}{'batch':12}{'seeds':>6}{'at once/s':>12}{'one by one/s':>14}{'ratio':>8}")
    speeds = []
    for name in names:
        experiment = read_experiment(name)
        task = get_task(experiment.data.task)
        for count in num_seeds:
            speed = measure_seeds(experiment, task, range(count), num_steps=num_steps, rounds=rounds)
            speeds.append(speed)
            print(
                f"{task.name:20}{speed.row:12}{speed.batch_size:>3} x {speed.length:<6}{count:>6}{speed.at_once:>12.1f}"
                f"{speed.one_by_one:>14.1f}{speed.ratio:>8.2f}",
                flush=True,
            )
    measurement.write(num_steps=num_steps, rounds=rounds, speeds=[dataclasses.asdict(speed) for speed in speeds])
