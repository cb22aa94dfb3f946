"""A training run: set-up, the loop, and what happens at its end."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lra_tasks.calibration import make_calibrate, make_settle
from lra_tasks.checkpoint import Checkpoints
from lra_tasks.errors import UserError
from lra_tasks.evaluation import Evaluation, evaluate_split
from lra_tasks.loader import batch_at
from lra_tasks.model import Model, Params, build_model
from lra_tasks.runlog import RunLog
from lra_tasks.settings import Experiment, sequence_length
from lra_tasks.splits import declared_examples
from lra_tasks.steps import State, make_eval_step, make_init, make_train_step
from lra_tasks.task import Split, Task


class Stopped(UserError):
    """The run was asked to stop; it has saved and can be taken up again."""


@dataclass
class Clock:
    """Seconds of the run, over all its attempts. Evaluation and saving do not count as training."""

    train_seconds: float = 0.0
    earlier_seconds: float = 0.0
    """Wall time of earlier attempts."""
    compile_seconds: float = 0.0
    resumed: int = 0
    speeds: list[float] = field(default_factory=list)
    """Steps per second of each logging interval."""
    started: float = field(default_factory=time.monotonic)

    def as_notes(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "train_seconds": self.train_seconds,
            "wall_seconds": self.wall_seconds,
            "compile_seconds": self.compile_seconds,
            "resumed": self.resumed,
            "speeds": self.speeds,
        }

    @property
    def wall_seconds(self) -> float:
        """Seconds of all attempts until now."""
        return self.earlier_seconds + time.monotonic() - self.started


@dataclass
class Run:
    """Everything the loop works with."""

    experiment: Experiment
    task: Task
    splits: dict[str, Split]
    model: Model
    checkpoints: Checkpoints
    log: RunLog
    state: State
    train_step: Any
    """Jitted, then compiled ahead of the first step."""
    eval_step: Callable
    clock: Clock
    settle: Callable[[Params], Params]
    """What evaluation needs and training does not: statistics of the training examples, where a model has any."""
    best_accuracy: float = -1.0
    scores: dict[tuple[int, str], Evaluation] = field(default_factory=dict)
    """What this process has evaluated, by step and split."""

    def evaluate(self, step: int, params: Any, split: str) -> Evaluation:
        """The parameters of a step on a whole split; evaluated once, whoever asks."""
        if (step, split) not in self.scores:
            self.scores[step, split] = evaluate_split(
                self.eval_step,
                params,
                self.splits[split],
                batch_size=self.experiment.train.eval_batch_size,
                length=sequence_length(self.experiment, self.task),
                declared=declared_examples(self.task, self.experiment.data.validation, split),
            )
        return self.scores[step, split]


class StopFlag:
    """Set by SIGTERM and SIGINT, looked at after every step. A second signal ends the process at once."""

    def __init__(self):
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopFlag":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number, _frame) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)


def train(
    experiment: Experiment, task: Task, splits: dict[str, Split], workdir: Path, finish: Callable[[Run], None]
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step; then calls `finish` with the run.

    Raises Stopped after SIGTERM or SIGINT, with everything saved, and UserError with the step where a number is not
    finite; the last good checkpoint is kept.
    """
    with Checkpoints(workdir, clean=True) as checkpoints:
        state, model, clock = restore_or_init(experiment, task, splits, checkpoints)
        start, num_steps = int(state["step"]), experiment.train.num_steps
        with RunLog(
            workdir, start_step=start, num_steps=num_steps, title=f"{experiment.row} seed {experiment.train.seed}"
        ) as log:
            train_step, eval_step = make_train_step(experiment, model), make_eval_step(model)
            settle = make_settle(experiment, task, model, splits["train"])
            run = Run(experiment, task, splits, model, checkpoints, log, state, train_step, eval_step, clock, settle)
            if checkpoints.latest_step("best") is not None:
                run.best_accuracy = checkpoints.read_notes("best")[1]["validation_accuracy"]
            if start:
                log.say(f"resumed at step {start}")
            with StopFlag() as stop:
                run_steps(run, stop)
            checkpoints.wait()
            finish(run)


def restore_or_init(
    experiment: Experiment, task: Task, splits: dict[str, Split], checkpoints: Checkpoints
) -> tuple[State, Model, Clock]:
    """The state to go on from: the newest checkpoint, or step 0 from the seed and, for a calibration, the data."""
    model = build_model(experiment, task)
    init = make_init(experiment, model)
    if checkpoints.latest_step("last") is None:
        state = jax.jit(init)()
        if experiment.model.feature_norm == "calibrated":
            state["params"] = make_calibrate(experiment, task, model, splits["train"])(state["params"])
        # Committed to the device as restored arrays are: with both kinds the eval step would be compiled twice.
        return jax.device_put(state, jax.devices()[0]), model, Clock()
    _, state, notes = checkpoints.restore("last", jax.eval_shape(init))
    clock = Clock(
        train_seconds=notes["train_seconds"],
        earlier_seconds=notes["wall_seconds"],
        compile_seconds=notes["compile_seconds"],
        resumed=notes["resumed"] + 1,
        speeds=notes["speeds"],
    )
    return state, model, clock


def run_steps(run: Run, stop: StopFlag) -> None:
    """The loop: launch a step, then look at the numbers of the one before; the device never waits for Python."""
    train = run.experiment.train
    start = int(run.state["step"])
    if start == train.num_steps:
        return
    compile_train_step(run)
    actions = [(train.eval_every_steps, validate), (train.checkpoint_every_steps, save)]
    interval = Interval(run)
    pending = None
    for step in range(start, train.num_steps):
        run.state, numbers = run.train_step(run.state, next_batch(run, step))
        if pending is not None:
            interval.handle(*pending)
        pending = (step + 1, numbers)
        due = [act for cadence, act in actions if (step + 1) % cadence == 0 or step + 1 == train.num_steps]
        if due or stop.name:
            interval.handle(*pending)
            pending = None
            interval.pause()
            run.state["params"] = run.settle(run.state["params"])
            for act in due:
                act(run, step + 1)
            if stop.name:
                save(run, step + 1)
                run.checkpoints.wait()
                raise Stopped(f"{stop.name} at step {step + 1}: saved; the same command goes on from there")
            interval.go_on()


def next_batch(run: Run, step: int):
    """The batch of a step, a function of the seed and the step alone."""
    train = run.experiment.train
    length = sequence_length(run.experiment, run.task)
    return batch_at(run.splits["train"], seed=train.seed, step=step, batch_size=train.batch_size, length=length)


def compile_train_step(run: Run) -> None:
    """Compiles ahead of the first step, so that the compile time is known and in no speed."""
    begin = time.monotonic()
    run.train_step = run.train_step.lower(run.state, next_batch(run, int(run.state["step"]))).compile()
    run.clock.compile_seconds += time.monotonic() - begin


def validate(run: Run, step: int) -> None:
    """Scores the whole validation split, and keeps the parameters if they are the best so far."""
    scored = run.evaluate(step, run.state["params"], "validation")
    require_finite("validation loss", scored.loss, step)
    run.log.write(step, "validation", {"loss": scored.loss, "accuracy": scored.accuracy})
    improved = scored.accuracy > run.best_accuracy
    run.log.say(
        f"{run.experiment.row} step {step}  validation loss {scored.loss:.3f}  accuracy {100 * scored.accuracy:.2f}%"
        + ("  best so far" if improved else "")
    )
    if improved:
        run.best_accuracy = scored.accuracy
        notes = {"validation_accuracy": scored.accuracy, "validation_loss": scored.loss}
        run.checkpoints.save("best", step, run.state["params"], notes)


def save(run: Run, step: int) -> None:
    """Starts to write the whole state."""
    run.checkpoints.save("last", step, run.state, run.clock.as_notes())


def require_finite(name: str, value: float, step: int) -> None:
    """Raises UserError with the step and the remedy for a number that is not finite."""
    if not math.isfinite(value):
        raise UserError(
            f"{name} is {value} at step {step}; lower optim.learning_rate or lengthen optim.warmup_steps, and start in "
            "a new work directory; the last good checkpoint is kept"
        )


class Interval:
    """Numbers and time since the last log line."""

    def __init__(self, run: Run):
        self._run = run
        self._numbers: list[dict[str, float]] = []
        self._seconds = 0.0
        self._since = time.monotonic()

    def handle(self, step: int, numbers: dict[str, jax.Array]) -> None:
        """Takes the numbers of a finished step: stops at one that is not finite, logs when a line is due."""
        values = {name: float(value) for name, value in jax.device_get(numbers).items()}
        for name in ("loss", "gradient_norm", "parameter_norm"):
            require_finite(name.replace("_", " "), values[name], step)
        self._numbers.append(values)
        if step % self._run.experiment.train.log_every_steps == 0:
            self._write(step)
        else:
            self._run.log.advance(step)

    def pause(self) -> None:
        """Ends the time that counts as training."""
        self._seconds += time.monotonic() - self._since
        self._run.clock.train_seconds += time.monotonic() - self._since

    def go_on(self) -> None:
        """Time counts again."""
        self._since = time.monotonic()

    def _write(self, step: int) -> None:
        self.pause()
        self.go_on()
        means = {
            name: float(np.mean([n[name] for n in self._numbers])) for name in ("loss", "accuracy", "gradient_norm")
        }
        numbers = {**means, **{name: self._numbers[-1][name] for name in ("parameter_norm", "learning_rate")}}
        numbers["steps_per_second"] = len(self._numbers) / self._seconds
        self._run.clock.speeds.append(numbers["steps_per_second"])
        self._run.log.write(step, "train", numbers)
        shown = {name: numbers[name] for name in ("loss", "accuracy", "steps_per_second")}
        self._run.log.advance(step, shown)
        self._numbers, self._seconds = [], 0.0
