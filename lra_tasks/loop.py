"""The training loop, whatever is trained: steps, numbers, validation, checkpoints, and a stop that loses nothing."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.errors import UserError
from lra_tasks.runlog import RunLog
from lra_tasks.steps import State


class Stopped(UserError):
    """The run was asked to stop; it has saved and can be taken up again."""


class LoopSettings(Protocol):
    """What the loop reads of a config's section train. Durations are in steps."""

    @property
    def num_steps(self) -> int: ...
    @property
    def log_every_steps(self) -> int: ...
    @property
    def eval_every_steps(self) -> int: ...
    @property
    def checkpoint_every_steps(self) -> int: ...


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

    @classmethod
    def from_notes(cls, notes: dict[str, Any]) -> "Clock":
        """The clock of a run that is taken up again."""
        times = {"train_seconds": notes["train_seconds"], "earlier_seconds": notes["wall_seconds"]}
        return cls(
            **times, compile_seconds=notes["compile_seconds"], resumed=notes["resumed"] + 1, speeds=notes["speeds"]
        )

    @property
    def wall_seconds(self) -> float:
        """Seconds of all attempts until now."""
        return self.earlier_seconds + time.monotonic() - self.started


@dataclass
class Run:
    """A run as the loop sees it. What is trained says how, by overriding the methods.

    A train step gives at least the numbers MEANS and NEWEST; more are means over the logging interval, too.
    """

    name: str
    """Of the row, in front of every line."""
    settings: LoopSettings
    checkpoints: Checkpoints
    log: RunLog
    state: State
    train_step: Any
    """Jitted; (state, batch) -> (state, numbers)."""
    clock: Clock
    best_score: float
    """Of the validations so far, see `read_best_score`."""

    def __post_init__(self):
        self.compiled: dict[Any, Any] = {}

    def next_batch(self, step: int) -> Any:
        """The batch of a step, a function of the seed and the step alone."""
        raise NotImplementedError

    def validate(self, step: int) -> None:
        """Scores the validation split, and keeps the parameters if they are the best so far."""
        raise NotImplementedError

    def settle(self) -> None:
        """What evaluation and checkpoints need and training does not."""

    def list_actions(self) -> list[tuple[int, Any]]:
        """(cadence in steps, action on the step) of what happens now and then, and after the last step."""
        return [(self.settings.eval_every_steps, self.validate), (self.settings.checkpoint_every_steps, self.save)]

    def save(self, step: int) -> None:
        """Starts to write the whole state."""
        self.checkpoints.save("last", step, self.state, self.clock.as_notes())

    def take_step(self, batch: Any) -> dict[str, jax.Array]:
        """One step, compiled ahead for each shape of a batch, so that the compile time is known and in no speed."""
        shape = tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch))
        if shape not in self.compiled:
            begin = time.monotonic()
            self.compiled[shape] = self.train_step.lower(self.state, batch).compile()
            self.clock.compile_seconds += time.monotonic() - begin
        self.state, numbers = self.compiled[shape](self.state, batch)
        return numbers

    def keep_best(self, step: int, score: float, notes: dict[str, Any]) -> bool:
        """Whether a validation is the best so far; if it is, its parameters are kept."""
        if score <= self.best_score:
            return False
        self.best_score = score
        self.checkpoints.save("best", step, self.state["params"], notes)
        return True


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


def restore_or_init(
    init: Callable[[], State], checkpoints: Checkpoints, complete: Callable[[State], State] = lambda state: state
) -> tuple[State, Clock]:
    """The state to go on from: the newest checkpoint, or step 0, which `complete` may add to, with what data say."""
    if checkpoints.latest_step("last") is None:
        # Committed to the device as restored arrays are: with both kinds the eval step would be compiled twice.
        return jax.device_put(complete(jax.jit(init)()), jax.devices()[0]), Clock()
    _, state, notes = checkpoints.restore("last", jax.eval_shape(init))
    return state, Clock.from_notes(notes)


def read_best_score(checkpoints: Checkpoints, name: str) -> float:
    """The validation score that `best` was kept for, by its name in the notes; -1 where there is none yet."""
    return -1.0 if checkpoints.latest_step("best") is None else checkpoints.read_notes("best")[1][name]


def run_to_the_end(run: Run, finish: Callable[[Any], None]) -> None:
    """All steps that are left; then calls `finish` with the run.

    Raises Stopped after SIGTERM or SIGINT, with everything saved, and UserError with the step where a number is not
    finite; the last good checkpoint is kept.
    """
    if start := int(run.state["step"]):
        run.log.say(f"resumed at step {start}")
    with StopFlag() as stop:
        run_steps(run, stop)
    run.checkpoints.wait()
    finish(run)


def run_steps(run: Run, stop: StopFlag) -> None:
    """The loop: launch a step, then look at the numbers of the one before; the device never waits for Python."""
    settings = run.settings
    start = int(run.state["step"])
    if start == settings.num_steps:
        return
    interval = Interval(run)
    pending = None
    for step in range(start, settings.num_steps):
        compiled_before = run.clock.compile_seconds
        numbers = run.take_step(run.next_batch(step))
        interval.leave_out(run.clock.compile_seconds - compiled_before)
        if pending is not None:
            interval.handle(*pending)
        pending = (step + 1, numbers)
        due = [
            act for cadence, act in run.list_actions() if (step + 1) % cadence == 0 or step + 1 == settings.num_steps
        ]
        if due or stop.name:
            interval.handle(*pending)
            pending = None
            interval.pause()
            run.settle()
            for act in due:
                act(step + 1)
            if stop.name:
                run.save(step + 1)
                run.checkpoints.wait()
                raise Stopped(f"{stop.name} at step {step + 1}: saved; the same command goes on from there")
            interval.go_on()


def require_finite(name: str, value: float, step: int) -> None:
    """Raises UserError with the step and the remedy for a number that is not finite."""
    if not math.isfinite(value):
        raise UserError(
            f"{name} is {value} at step {step}; lower optim.learning_rate or lengthen optim.warmup_steps, and start in "
            "a new work directory; the last good checkpoint is kept"
        )


MEANS = ("loss", "accuracy", "gradient_norm")
"""Numbers of a log line that are means over the interval; a run may have more of them."""
NEWEST = ("parameter_norm", "learning_rate")
"""Numbers of a log line that are the last step's."""


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
        if step % self._run.settings.log_every_steps == 0:
            self._write(step)
        else:
            self._run.log.advance(step)

    def pause(self) -> None:
        """Ends the time that counts as training."""
        self._seconds += time.monotonic() - self._since
        self._run.clock.train_seconds += time.monotonic() - self._since

    def leave_out(self, seconds: float) -> None:
        """Time that was spent compiling, since the clock was last read, does not count."""
        self._since += seconds

    def go_on(self) -> None:
        """Time counts again."""
        self._since = time.monotonic()

    def _write(self, step: int) -> None:
        self.pause()
        self.go_on()
        names = (*MEANS, *sorted(self._numbers[-1].keys() - {*MEANS, *NEWEST}))
        numbers = {name: float(np.mean([one[name] for one in self._numbers])) for name in names}
        numbers |= {name: self._numbers[-1][name] for name in NEWEST}
        numbers["steps_per_second"] = len(self._numbers) / self._seconds
        self._run.clock.speeds.append(numbers["steps_per_second"])
        self._run.log.write(step, "train", numbers)
        shown = {name: numbers[name] for name in ("loss", "accuracy", "steps_per_second")}
        self._run.log.advance(step, shown)
        self._numbers, self._seconds = [], 0.0
