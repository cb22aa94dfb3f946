"""The training loop, whatever is trained: steps, numbers, validation, checkpoints, and a stop that loses nothing."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from lra_tasks.checkpoint import Checkpoints, TornCheckpoint
from lra_tasks.clock import Clock
from lra_tasks.distributed import Layout, StepShardings
from lra_tasks.errors import UserError
from lra_tasks.hosts import require_equal_copies
from lra_tasks.machine import MachineSettings
from lra_tasks.profiling import Profile
from lra_tasks.runlog import RunLog, say_on_stderr
from lra_tasks.steps import State
from lra_tasks.stopping import Stop, watch_signals


class Stopped(UserError):
    """The run was asked to stop; it has saved and can be taken up again."""


@dataclass(frozen=True)
class Machine:
    """What a run is carried out on."""

    settings: MachineSettings
    layout: Layout
    profile: Profile


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
class Run:
    """A run as the loop sees it. What is trained says how, by overriding the methods.

    A train step gives at least the numbers MEANS and NEWEST; more are means over the logging interval, too.
    """

    name: str
    """Of the row, in front of every line."""
    settings: LoopSettings
    layout: Layout
    shardings: StepShardings
    checkpoints: Checkpoints
    log: RunLog
    state: State
    train_step: Any
    """Jitted; (state, batch) -> (state, numbers)."""
    clock: Clock
    best_score: float
    """Of the validations so far, see `read_best_score`."""
    profile: Profile

    def __post_init__(self):
        self.compiled: dict[Any, Any] = {}

    def next_batch(self, step: int) -> Any:
        """The batch of a step, a function of the seed and the step alone, on the devices."""
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
        """One step."""
        self.state, numbers = self.call_compiled(self.train_step, batch, self.state, batch)
        return numbers

    def call_compiled(self, program: Any, batch: Any, *arguments: Any) -> Any:
        """What a jitted function gives for `arguments`.

        It is compiled ahead for each shape of the batch among them, so that the compile time is known and in no speed.
        """
        key = (program, *(np.shape(leaf) for leaf in jax.tree.leaves(batch)))
        if key not in self.compiled:
            begin = time.monotonic()
            self.compiled[key] = program.lower(*arguments).compile()
            self.clock.compile_seconds += time.monotonic() - begin
        return self.compiled[key](*arguments)

    def make_interval(self) -> "Interval":
        """What takes the numbers of the steps."""
        return Interval(self)

    def say_if_any(self, text: str | None) -> None:
        """A line of the log."""
        if text is not None:
            self.log.say(text)

    def keep_best(self, step: int, score: float, notes: dict[str, Any]) -> bool:
        """Whether a validation is the best so far; if it is, its parameters are kept."""
        if score <= self.best_score:
            return False
        self.best_score = score
        self.checkpoints.save("best", step, self.state["params"], notes)
        return True


def restore_or_init(
    init: Callable[[], State],
    checkpoints: Checkpoints,
    layout: Layout,
    complete: Callable[[State], State] = lambda state: state,
) -> tuple[State, Clock, StepShardings]:
    """The state to go on from, on the devices, and where everything lies.

    It is the newest whole checkpoint, or step 0, which `complete` may add to, with what data say.
    """
    abstract = jax.eval_shape(init)
    shardings = layout.for_steps(abstract)
    found = checkpoints.restore_newest("last", abstract, say_on_stderr, shardings=shardings.state)
    if found is not None:
        _, state, notes = found
        return state, Clock.from_notes(notes), shardings
    # Made where it belongs, as restored arrays are: with two kinds of arrays the eval step would be compiled twice.
    state = complete(jax.jit(init, out_shardings=shardings.state)())
    return layout.keep(state, shardings.state), Clock(), shardings


def read_best_score(checkpoints: Checkpoints, name: str, params: Any, shardings: StepShardings) -> float:
    """The validation score that `best` was kept for, by its name in the notes; -1 where there is none yet.

    A `best` that is torn is put aside, and counts as none: the next validation makes another.
    """
    try:
        found = checkpoints.restore_newest("best", params, say_on_stderr, shardings=shardings.state["params"])
    except TornCheckpoint:
        return -1.0
    return -1.0 if found is None else found[2][name]


def run_to_the_end(run: Run, finish: Callable[[Any], None]) -> None:
    """All steps that are left; then calls `finish` with the run.

    Raises Stopped after SIGTERM or SIGINT, with everything saved, and UserError with the step where a number is not
    finite; the last good checkpoint is kept.
    """
    if start := int(run.state["step"]):
        run.log.say(f"resumed at step {start}")
    try:
        with watch_signals() as stop:
            run_steps(run, stop)
    finally:
        run.say_if_any(run.profile.close())
    run.checkpoints.wait()
    require_equal_copies(run.state["params"])
    finish(run)


def run_steps(run: Run, stop: Stop) -> None:
    """The loop: launch a step, then look at the numbers of the one before; the device never waits for Python."""
    settings = run.settings
    start = int(run.state["step"])
    if start == settings.num_steps:
        return
    interval = run.make_interval()
    pending = None
    for step in range(start, settings.num_steps):
        compiled_before = run.clock.compile_seconds
        run.say_if_any(run.profile.look(step - start, run.state["step"]))
        numbers = run.take_step(run.next_batch(step))
        interval.leave_out(run.clock.compile_seconds - compiled_before)
        if pending is not None:
            interval.handle(*pending)
        pending = (step + 1, numbers)
        stop.look(step + 1)
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


def check_numbers(values: dict[str, float], step: int) -> None:
    """Raises UserError where one of a step's numbers shows that it ruined the parameters."""
    for name in ("loss", "gradient_norm", "parameter_norm"):
        require_finite(name.replace("_", " "), values[name], step)


MEANS = ("loss", "accuracy", "gradient_norm")
"""Numbers of a log line that are means over the interval; a run may have more of them."""
NEWEST = ("parameter_norm", "learning_rate")
"""Numbers of a log line that are the last step's."""


def average(numbers: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of the numbers of several steps: means, or the last, always in the same order."""
    names = (*MEANS, *sorted(numbers[-1].keys() - {*MEANS, *NEWEST}))
    means = {name: float(np.mean([one[name] for one in numbers])) for name in names}
    return means | {name: numbers[-1][name] for name in NEWEST}


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
        check_numbers(values, step)
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
        numbers = average(self._numbers)
        numbers["steps_per_second"] = len(self._numbers) / self._seconds
        self._run.clock.speeds.append(numbers["steps_per_second"])
        self._run.log.write(step, "train", numbers)
        shown = {name: numbers[name] for name in ("loss", "accuracy", "steps_per_second")}
        self._run.log.advance(step, shown)
        self._numbers, self._seconds = [], 0.0
