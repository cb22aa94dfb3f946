"""Training on batches that are split by length against batches padded to the longest, in one process, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.listops import ListOpsTask, generate
from lra_tasks.loader import batch_at, measure, parts_at, stream_indices
from lra_tasks.machine import MOST_PARTS, fit_lengths, take_machine
from lra_tasks.model import abstract_batch, build_model
from lra_tasks.registry import get_task
from lra_tasks.settings import Experiment, resolve, sequence_length
from lra_tasks.steps import State, make_init, make_part_steps, make_train_step
from lra_tasks.store import StoreMissing, read_store
from lra_tasks.task import Split, Task

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
    """Largest relative one of a step's loss: rounding, unless dropout draws other numbers."""


class Way:
    """A way to train: all its programs compiled, and the seconds that its steps take, with their data."""

    def __init__(self, experiment: Experiment, task: Task, split: Split):
        self.model = build_model(experiment, task)
        self.state: State = jax.jit(make_init(experiment, self.model))()
        self.order = {"seed": experiment.train.seed, "batch_size": experiment.train.batch_size}
        self.split, self.losses, self.seconds = split, [], []

    def take_step(self, step: int) -> None:
        """One step, timed."""
        began = time.perf_counter()
        numbers = self.launch_step(step)
        self.losses.append(float(numbers["loss"]))
        jax.block_until_ready(self.state)
        self.seconds.append(time.perf_counter() - began)

    def launch_step(self, step: int) -> dict[str, jax.Array]:
        """The numbers of a step, from its number."""
        raise NotImplementedError


class PaddedWay(Way):
    """Batches padded to the longest."""

    def __init__(self, experiment: Experiment, task: Task, split: Split, num_parts: int):
        super().__init__(experiment, task, split)
        self.length = sequence_length(experiment, task)
        batch = abstract_batch(self.model.config, experiment.train.batch_size, self.length)
        step: Any = make_train_step(experiment, self.model, microbatches=num_parts)
        self.program = step.lower(self.state, batch).compile()

    def launch_step(self, step: int) -> dict[str, jax.Array]:
        self.state, numbers = self.program(
            self.state, batch_at(self.split, **self.order, step=step, length=self.length)
        )
        return numbers


class SplitWay(Way):
    """Batches split by length."""

    def __init__(self, experiment: Experiment, task: Task, split: Split, lengths: Sequence[int], num_parts: int):
        super().__init__(experiment, task, split)
        self.lengths, self.num_parts, self.padded_tokens, self.programs = lengths, num_parts, [], {}
        steps: Any = make_part_steps(experiment, self.model, num_parts=num_parts)
        self.total = steps.begin()
        for length in lengths:
            part = abstract_batch(self.model.config, experiment.train.batch_size // num_parts, length)
            self.programs[length] = steps.accumulate.lower(self.state, self.total, part).compile()
        self.update = steps.update.lower(self.state, self.total).compile()

    def launch_step(self, step: int) -> dict[str, jax.Array]:
        parts = parts_at(self.split, **self.order, step=step, lengths=self.lengths, num_parts=self.num_parts)
        self.padded_tokens.append(sum(part.length * len(part.indices) for part in parts))
        for part in parts:
            self.total = self.programs[part.length](self.state, self.total, part.gather(self.split))
        self.state, numbers, self.total = self.update(self.state, self.total)
        return numbers


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
    longest, size = sequence_length(experiment, task), experiment.train.batch_size
    padded = PaddedWay(experiment, task, split, padded_parts)
    parted = SplitWay(experiment, task, split, lengths, num_parts)
    for step in range(num_steps + 1):
        padded.take_step(step)
        parted.take_step(step)
    indices = [stream_indices(split.num_examples, **padded.order, step=step) for step in range(1, num_steps + 1)]
    real_tokens = int(measure(split, np.concatenate(indices), longest).sum())
    all_tokens = longest * size * num_steps
    padded_seconds, split_seconds = sum(padded.seconds[1:]), sum(parted.seconds[1:])
    return SplitSpeed(
        task=task.name,
        batch_size=size,
        longest=longest,
        lengths=tuple(lengths),
        num_parts=num_parts,
        padded_parts=padded_parts,
        num_steps=num_steps,
        padded_seconds=padded_seconds,
        split_seconds=split_seconds,
        ratio=padded_seconds / split_seconds,
        token_ratio=all_tokens / sum(parted.padded_tokens[1:]),
        real_ratio=all_tokens / real_tokens,
        loss_difference=float(np.max(np.abs(np.array(parted.losses) / np.array(padded.losses) - 1))),
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
    if isinstance(task, ListOpsTask):
        return generate(task.grammar, task.seed, {"train": NUM_EXPRESSIONS})["train"]
    return read_store(data_dir, task)["train"]
