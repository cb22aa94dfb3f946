"""What a training run takes beside its compiled programs: until the first step, around the steps, in an evaluation."""

import contextlib
import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.distributed import make_layout
from lra_tasks.errors import UserError
from lra_tasks.evaluation import list_gathers
from lra_tasks.loader import order_by_length
from lra_tasks.loop import Machine, run_to_the_end
from lra_tasks.machine import take_machine
from lra_tasks.measurements import Measurement
from lra_tasks.preparation import ensure_prepared
from lra_tasks.profiling import Profile
from lra_tasks.registry import get_task
from lra_tasks.settings import resolve, sequence_length
from lra_tasks.splits import choose_splits
from lra_tasks.training import ClassifierRun, open_run

CONFIG = "listops_luna16"
PRESETS = ("cpu", "")
"""The small recipe, whose steps are short, and the authors'."""
NUM_SMALL_STEPS = 200
START_SECONDS = 600.0
"""Time for a program to come to its second step; a step of a large model takes seconds on a CPU."""


@dataclass(frozen=True)
class Start:
    """A program that starts when its compiled programs are kept already."""

    config: str
    seconds: float
    """From the start of the process to the end of the first step, its numbers on disk."""
    step_seconds: float
    """What the next step took; without it the first would have begun at `seconds` less this."""


@dataclass(frozen=True)
class Training:
    """A training run, with a validation and a checkpoint at its end."""

    config: str
    num_steps: int
    whole_seconds: float
    """Without compiling and without validation."""
    step_seconds: float
    """In the compiled programs of the steps, each waited for."""

    @property
    def share_outside(self) -> float:
        """Of the time of the run. An upper bound: a run that waits for no step loads while the device works."""
        return 1.0 - self.step_seconds / self.whole_seconds


@dataclass(frozen=True)
class EvaluationSpeed:
    """The test split, evaluated as ever and by the compiled program alone, on batches that lie ready."""

    config: str
    num_examples: int
    seconds: float
    forward_seconds: float

    @property
    def share_of_limit(self) -> float:
        """Throughput against that of the forward passes alone."""
        return self.forward_seconds / self.seconds


class TimedPrograms(dict):
    """Compiled programs by key, as `Run.compiled` has them; a call waits for its result and is timed."""

    def __init__(self):
        super().__init__()
        self.seconds = 0.0

    def __setitem__(self, key: Any, program: Callable) -> None:
        super().__setitem__(key, self.time(program))

    def time(self, program: Callable) -> Callable:
        """The program, its seconds added up."""

        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = jax.block_until_ready(program(*arguments))
            self.seconds += time.perf_counter() - began
            return result

        return call


def show_program(
    read_config: Callable[[str, str], dict[str, Any]],
    data_dir: Path,
    *,
    num_steps: int,
    rounds: int,
    measurement: Measurement,
) -> None:
    """Prints three tables and writes program-PLATFORM.json; the data are prepared where they are missing.

    `num_steps` are those of the authors' recipe.
    """
    print(f"{CONFIG}, the program around its compiled steps; {describe_machine()}")
    starts: list[Start] = []
    trainings: list[Training] = []
    evaluations: list[EvaluationSpeed] = []
    for preset in PRESETS:
        name = f"{CONFIG}:{preset}".rstrip(":")
        with open_short_run(read_config(CONFIG, preset), data_dir, NUM_SMALL_STEPS if preset else num_steps) as run:
            trainings.append(measure_training(run, name))
            evaluations += [measure_evaluation(run, name) for _ in range(rounds)]
        starts += measure_starts(name, data_dir, rounds)
    show_starts(starts)
    show_trainings(trainings)
    show_evaluations(evaluations)
    measurement.write(
        starts=[dataclasses.asdict(one) for one in starts],
        trainings=[dataclasses.asdict(one) | {"share_outside": one.share_outside} for one in trainings],
        evaluations=[dataclasses.asdict(one) | {"share_of_limit": one.share_of_limit} for one in evaluations],
    )


@contextlib.contextmanager
def open_short_run(config: dict[str, Any], data_dir: Path, num_steps: int) -> Iterator[ClassifierRun]:
    """A new run of a config on one device, so many steps long, validated and saved at the end."""
    rest, settings = take_machine(config)
    settings, experiment = replace(settings, data=1), resolve(rest)
    train = replace(experiment.train, num_steps=num_steps, eval_every_steps=num_steps, checkpoint_every_steps=num_steps)
    experiment, task = replace(experiment, train=train), get_task(experiment.data.task)
    splits = choose_splits(ensure_prepared(task, data_dir, print), experiment.data.validation)
    machine = Machine(settings, make_layout(settings), Profile(None))
    with tempfile.TemporaryDirectory() as folder, open_run(experiment, task, splits, Path(folder), machine) as run:
        yield run


def measure_training(run: ClassifierRun, config: str) -> Training:
    """Trains to the end; compiling and validating do not count."""
    programs, validation = TimedPrograms(), TimedPrograms()
    eval_step = run.eval_step
    run.compiled, run.eval_step = programs, validation.time(eval_step)
    began = time.perf_counter()
    run_to_the_end(run, lambda run: None)
    whole = time.perf_counter() - began - run.clock.compile_seconds - validation.seconds
    run.eval_step = eval_step
    return Training(config, run.experiment.train.num_steps, whole, programs.seconds)


def measure_evaluation(run: ClassifierRun, config: str) -> EvaluationSpeed:
    """One evaluation of the test split, and the same forward passes without anything around them."""
    split, length = run.splits["test"], sequence_length(run.experiment, run.task)
    size, order = run.experiment.train.eval_batch_size, order_by_length(split, length) if run.lengths else None
    gathers = list_gathers(split, size, run.lengths or (length,), order)
    batches = jax.block_until_ready([run.layout.put(size, gather) for gather in gathers])
    params = run.state["params"]
    shapes = {batch[0].shape: batch for batch in batches}
    jax.block_until_ready([run.eval_step(params, batch) for batch in shapes.values()])  # compiles
    began = time.perf_counter()
    jax.block_until_ready([run.eval_step(params, batch) for batch in batches])
    forward_seconds = time.perf_counter() - began
    run.scores.clear()
    began = time.perf_counter()
    run.evaluate(run.experiment.train.num_steps, params, "test")
    return EvaluationSpeed(config, split.num_examples, time.perf_counter() - began, forward_seconds)


def measure_starts(config: str, data_dir: Path, rounds: int) -> list[Start]:
    """Starts of `lra_tasks.train`; the one before them fills the folder of compiled programs and does not count."""
    with tempfile.TemporaryDirectory() as cache:
        return [start_once(config, data_dir, cache) for _ in range(rounds + 1)][1:]


def start_once(config: str, data_dir: Path, cache: str) -> Start:
    """Starts a program, reads when its first two steps are logged, and ends it."""
    module, _, preset = config.partition(":")
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "lra_tasks.train", "--config", f"configs/{module}.py:{preset}".rstrip(":")]
        command += ["--workdir", workdir, "--data_dir", str(data_dir), "--config.train.log_every_steps=1"]
        command += [f"--config.machine.compilation_cache={cache}", "--config.machine.data=1"]
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            first, second = (wait_for_lines(child, Path(workdir) / "metrics.jsonl", count) for count in (1, 2))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.communicate()
    return Start(config, first - began, second - first)


def wait_for_lines(child: subprocess.Popen, file: Path, count: int) -> float:
    """The moment when a log has so many lines. UserError where the program ends or does not come to it."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        now = time.monotonic()
        if file.exists() and file.read_text(encoding="utf-8").count("\n") >= count:
            return now
        if child.poll() is not None:
            said = child.communicate()[0].strip().splitlines() or ["it said nothing"]
            raise UserError(f"the program that is measured ended with {child.returncode}: {said[-1]}")
        time.sleep(0.005)
    raise UserError(f"the program that is measured made no {count} steps in {START_SECONDS:g} s")


def show_starts(starts: list[Start]) -> None:
    """The table of warm starts, a line a config: medians."""
    print(f"\n{'warm start':24}{'first step done':>18}{'least':>9}{'most':>9}{'a step':>9}{'without it':>12}   seconds")
    for config in dict.fromkeys(one.config for one in starts):
        seconds, steps = zip(*((one.seconds, one.step_seconds) for one in starts if one.config == config), strict=True)
        middle, step = statistics.median(seconds), statistics.median(steps)
        spread = f"{min(seconds):>9.2f}{max(seconds):>9.2f}"
        print(f"{config:24}{middle:>18.2f}{spread}{step:>9.2f}{middle - step:>12.2f}")


def show_trainings(trainings: list[Training]) -> None:
    """The table of training runs."""
    print(f"\n{'training':24}{'steps':>8}{'a step':>10}{'whole':>10}{'outside the compiled steps':>28}")
    for one in trainings:
        seconds = f"{one.step_seconds / one.num_steps:>9.3f}s{one.whole_seconds:>9.1f}s"
        print(f"{one.config:24}{one.num_steps:>8}{seconds}{one.share_outside:>28.1%}")


def show_evaluations(evaluations: list[EvaluationSpeed]) -> None:
    """The table of evaluations, a line a round."""
    print(f"\n{'evaluation':24}{'examples':>10}{'seconds':>10}{'forward only':>14}{'of its speed':>14}")
    for one in evaluations:
        seconds = f"{one.seconds:>10.2f}{one.forward_seconds:>14.2f}"
        print(f"{one.config:24}{one.num_examples:>10,}{seconds}{one.share_of_limit:>14.1%}")
