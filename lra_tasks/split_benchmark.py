"""Training on batches that are split by length against batches padded to the longest, in one process, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.listops import LISTOPS, generate
from lra_tasks.loader import Part, batch_at, measure, parts_at
from lra_tasks.machine import MOST_PARTS, fit_lengths, take_machine
from lra_tasks.model import abstract_batch, build_model
from lra_tasks.registry import get_task
from lra_tasks.settings import Experiment, resolve, sequence_length
from lra_tasks.steps import make_init, make_part_steps, make_train_step
from lra_tasks.store import StoreMissing, read_store
from lra_tasks.task import AnyBatch, Split, Task

CONFIGS = ("listops", "text")
"""Tasks whose recipes split batches by length."""
NUM_EXPRESSIONS = 4096
"""Of ListOps, which are generated for this."""


@dataclass(frozen=True)
class SplitSpeed:
    """One recipe, trained both ways on the same batches."""

    task: str
    batch_size: int
    longest: int
    """Tokens that a whole batch is padded to."""
    lengths: tuple[int, ...]
    num_parts: int
    padded_parts: int
    """Microbatches of the whole batch, which may not fit into memory at once."""
    num_steps: int
    padded_seconds: float
    """Of all steps."""
    split_seconds: float
    ratio: float
    """padded_seconds / split_seconds."""
    token_ratio: float
    """The same of tokens with padding: what the ratio would be if a token always took as long."""
    real_ratio: float
    """The same if nothing were padded."""
    loss_difference: float
    """Largest relative one of a step's loss, without dropout."""


class Stepper:
    """One way to train: compiled for everything that may come, and the time that its steps take, data included."""

    def __init__(self, experiment: Experiment, task: Task, lengths: Sequence[int], num_parts: int):
        self.model = build_model(experiment, task)
        self.state = jax.jit(make_init(experiment, self.model))()
        self.num_parts, size = num_parts, experiment.train.batch_size
        self.programs: dict[int, Any] = {}
        self.seconds, self.losses = 0.0, []
        if len(lengths) == 1:
            step: Any = make_train_step(experiment, self.model, microbatches=num_parts)
            batch = abstract_batch(self.model.config, size, lengths[0])
            self.programs[lengths[0]] = step.lower(self.state, batch).compile()
            return
        steps: Any = make_part_steps(experiment, self.model, num_parts=num_parts)
        self.total = steps.begin()
        for length in lengths:
            part = abstract_batch(self.model.config, size // num_parts, length)
            self.programs[length] = steps.accumulate.lower(self.state, self.total, part).compile()
        self.update = steps.update.lower(self.state, self.total).compile()

    def take_step(self, gather: Callable[[], AnyBatch | tuple[Part, ...]], split: Split) -> None:
        """One step; `gather` gives its batch, or its parts."""
        began = time.perf_counter()
        batch = gather()
        if isinstance(batch, tuple) and isinstance(batch[0], Part):
            for part in batch:
                self.total = self.programs[part.length](self.state, self.total, part.gather(split))
            self.state, numbers, self.total = self.update(self.state, self.total)
        else:
            (program,) = self.programs.values()
            self.state, numbers = program(self.state, batch)
        jax.block_until_ready(self.state)
        self.seconds += time.perf_counter() - began
        self.losses.append(float(numbers["loss"]))


def measure_split(
    experiment: Experiment,
    task: Task,
    split: Split,
    lengths: Sequence[int],
    num_parts: int,
    *,
    num_steps: int,
    padded_parts: int = 1,
) -> SplitSpeed:
    """Both ways in turns on the first batches; what is compiled, and a first step of each, is not timed."""
    longest, size, seed = sequence_length(experiment, task), experiment.train.batch_size, experiment.train.seed
    padded, parted = (
        Stepper(experiment, task, of, parts) for of, parts in (((longest,), padded_parts), (lengths, num_parts))
    )
    found, real = [], 0
    for step in range(num_steps + 1):
        order = {"seed": seed, "step": step, "batch_size": size}
        padded.take_step(lambda order=order: batch_at(split, **order, length=longest), split)
        parts = parts_at(split, **order, lengths=lengths, num_parts=num_parts)
        parted.take_step(lambda order=order: parts_at(split, **order, lengths=lengths, num_parts=num_parts), split)
        if step == 0:
            padded.seconds = parted.seconds = 0.0
            continue
        found += [part.length * len(part.indices) for part in parts]
        real += sum(int(measure(split, part.indices, longest).sum()) for part in parts)
    losses = np.array([padded.losses, parted.losses])
    return SplitSpeed(
        task=task.name,
        batch_size=size,
        longest=longest,
        lengths=tuple(lengths),
        num_parts=num_parts,
        padded_parts=padded_parts,
        num_steps=num_steps,
        padded_seconds=padded.seconds,
        split_seconds=parted.seconds,
        ratio=padded.seconds / parted.seconds,
        token_ratio=longest * size * num_steps / sum(found),
        real_ratio=longest * size * num_steps / real,
        loss_difference=float(np.max(np.abs(losses[0] / losses[1] - 1))),
    )


def show_split(
    data_dir: str,
    read_config: Callable[[str], dict[str, Any]],
    *,
    num_steps: int,
    padded_parts: int = 1,
    names: Sequence[str] = CONFIGS,
) -> list[SplitSpeed]:
    """Prints a line for each recipe; returns the numbers. `read_config` gives the nested dict of a config by its name.

    ListOps is generated, Text must be prepared in `data_dir`.
    """
    print(f"training, split by length against padded to the longest; {describe_machine()}")
    print(f"{'task':12}{'batch':12}{'parts':>6}{'padded/s':>12}{'split/s':>12}{'ratio':>8}{'tokens':>8}{'real':>8}")
    speeds = []
    for name in names:
        config, machine = take_machine(read_config(name))
        experiment = resolve(config)
        task = get_task(experiment.data.task)
        try:
            split = read_examples(data_dir, task)
        except StoreMissing as missing:
            print(missing)
            continue
        longest, attention = sequence_length(experiment, task), experiment.model.attention
        lengths = fit_lengths("machine.lengths", machine.lengths, longest=longest, attention=attention)
        num_parts = machine.microbatches or MOST_PARTS
        sizes = {"num_steps": num_steps, "padded_parts": padded_parts}
        speed = measure_split(experiment, task, split, lengths, num_parts, **sizes)
        speeds.append(speed)
        examples = speed.batch_size * num_steps
        print(
            f"{task.name:12}{speed.batch_size:>3} x {longest:<6}{num_parts:>6}{examples / speed.padded_seconds:>12.2f}"
            f"{examples / speed.split_seconds:>12.2f}{speed.ratio:>8.2f}{speed.token_ratio:>8.2f}"
            f"{speed.real_ratio:>8.2f}",
            flush=True,
        )
    return speeds


def read_examples(data_dir: str, task: Task) -> Split:
    """Training examples: of ListOps new ones, of another task the prepared ones."""
    if task is LISTOPS:
        return generate(LISTOPS.grammar, LISTOPS.seed, {"train": NUM_EXPRESSIONS})["train"]
    return read_store(data_dir, task)["train"]
