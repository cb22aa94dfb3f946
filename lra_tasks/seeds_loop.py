"""Several seeds of one classifier as one run of the loop; where it logs, validates and ends, each is by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.loop import Interval, Run, average, check_numbers, require_finite
from lra_tasks.model import Params
from lra_tasks.runlog import RunLog
from lra_tasks.seeds_steps import batches_at, evaluate_seeds, stack, unstack_state
from lra_tasks.settings import sequence_length
from lra_tasks.splits import declared_examples
from lra_tasks.training import ClassifierRun


class NoSeedLeft(UserError):
    """Every seed was given up."""


@dataclass
class SeedsRun(Run):
    """Seeds in training, as one run of the loop. Where it logs, validates and ends, each is a run of its own."""

    runs: dict[int, ClassifierRun]
    """By seed, in the order of the stack; those that were given up, too."""
    given_up: set[int]
    eval_step: Callable
    settle_params: Callable[[Params], Params]
    note_failure: Callable[[int, str], None]

    @property
    def first(self) -> ClassifierRun:
        """A seed to ask for what is the same of all."""
        return next(iter(self.runs.values()))

    def list_living(self) -> list[tuple[int, int, ClassifierRun]]:
        """(place in the stack, seed, run) of those that were not given up."""
        return [(at, seed, run) for at, (seed, run) in enumerate(self.runs.items()) if seed not in self.given_up]

    def next_batch(self, step: int) -> Any:
        experiment, length = self.first.experiment, sequence_length(self.first.experiment, self.first.task)
        size, split = experiment.train.batch_size, self.first.splits["train"]
        batch = batches_at(split, list(self.runs), step=step, batch_size=size, length=length)
        return jax.device_put(batch, self.layout.rows)

    def make_interval(self) -> Interval:
        return SeedsInterval(self)

    def settle(self) -> None:
        self.state["params"] = self.settle_params(self.state["params"])

    def validate(self, step: int) -> None:
        self.evaluate([step] * len(self.runs), self.state["params"], "validation")
        states = unstack_state(self.state, len(self.runs))
        for at, seed, run in self.list_living():
            run.state = states[at]
            try:
                require_finite("validation loss", run.scores[step, "validation"].loss, step)
            except UserError as mistake:
                self.give_up(seed, str(mistake))
            else:
                run.validate(step)

    def evaluate(self, steps: Sequence[int], params: Any, split: str) -> None:
        """Fills the seeds' scores with those of their parameters [S, ...], which are of these steps."""
        runs = list(self.runs.values())
        if all((step, split) in run.scores for step, run in zip(steps, runs, strict=True)):
            return
        experiment, task = self.first.experiment, self.first.task
        found = evaluate_seeds(
            self.eval_step,
            params,
            self.first.splits[split],
            num_seeds=len(runs),
            put=self.layout.put,
            batch_size=experiment.train.eval_batch_size,
            length=sequence_length(experiment, task),
            declared=declared_examples(task, experiment.data.validation, split),
        )
        for step, run, evaluation in zip(steps, runs, found, strict=True):
            run.scores[step, split] = evaluation

    def give_up(self, seed: int, reason: str) -> None:
        """Leaves a seed out from here: what becomes of it is neither looked at nor saved. NoSeedLeft after the last."""
        self.given_up.add(seed)
        self.note_failure(seed, reason)
        if not self.list_living():
            raise NoSeedLeft(reason)
        self.log.say(f"{self.runs[seed].name}: {reason}; the other seeds go on")

    def score_all(self) -> None:
        """Best and last parameters of all seeds on both splits, so that ending each finds its scores."""
        states = unstack_state(self.state, len(self.runs))
        steps, params = [int(self.state["step"])] * len(states), [state["params"] for state in states]
        for split in ("validation", "test"):
            self.evaluate(steps, self.state["params"], split)
        for at, _, run in self.list_living():
            run.state, shardings = states[at], run.shardings.state["params"]
            steps[at], params[at], _ = run.checkpoints.restore("best", run.model.abstract, shardings=shardings)
        stacked = stack(params, self.shardings.state["params"])
        for split in ("validation", "test"):
            self.evaluate(steps, stacked, split)


class SeedsInterval(Interval):
    """Numbers of each seed, and their time, since the last log line."""

    def __init__(self, run: SeedsRun):
        super().__init__(run)
        self._seeds = run
        self._of: dict[int, list[dict[str, float]]] = {seed: [] for seed in run.runs}
        self._num_steps = 0

    def handle(self, step: int, numbers: dict[str, jax.Array]) -> None:
        """Takes the numbers [S] of a finished step: gives up seeds where one is not finite, logs when a line is due."""
        found = jax.device_get(numbers)
        for at, seed, _ in self._seeds.list_living():
            values = {name: float(value[at]) for name, value in found.items()}
            self._of[seed].append(values)
            try:
                check_numbers(values, step)
            except UserError as mistake:
                self._seeds.give_up(seed, str(mistake))
        self._num_steps += 1
        if step % self._seeds.settings.log_every_steps == 0:
            self._write(step)
        else:
            self._seeds.log.advance(step)

    def _write(self, step: int) -> None:
        self.pause()
        self.go_on()
        speed = self._num_steps / self._seconds
        self._seeds.clock.speeds.append(speed)
        living = {
            seed: average(self._of[seed]) | {"steps_per_second": speed} for _, seed, _ in self._seeds.list_living()
        }
        for seed, numbers in living.items():
            self._seeds.runs[seed].log.write(step, "train", numbers)
        means = {name: float(np.mean([one[name] for one in living.values()])) for name in ("loss", "accuracy")}
        self._seeds.log.advance(step, means | {"steps_per_second": speed})
        self._of = {seed: [] for seed in self._seeds.runs}
        self._seconds, self._num_steps = 0.0, 0


class SeedLog(RunLog):
    """The log of one of several seeds: its own metrics.jsonl, and a voice among the others'."""

    def __init__(self, console: RunLog, workdir: Path, *, start_step: int, num_steps: int):
        super().__init__(workdir, start_step=start_step, num_steps=num_steps, title="", shows=False)
        self._console = console

    def say(self, text: str) -> None:
        """A line, with the others'."""
        self._console.say(text)
