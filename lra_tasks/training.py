"""Training a classifier: set-up, what a step, a validation and a checkpoint are, and what happens at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax

from lra_tasks.calibration import make_calibrate, make_settle
from lra_tasks.checkpoint import Checkpoints
from lra_tasks.distributed import SEQUENCE, StepShardings, check_divisible, count_parts
from lra_tasks.errors import UserError
from lra_tasks.evaluation import Evaluation, evaluate_split
from lra_tasks.gradients import Total
from lra_tasks.hosts import is_lead
from lra_tasks.loader import batch_at, parts_at
from lra_tasks.loop import Machine, Run, read_best_score, require_finite, restore_or_init, run_to_the_end
from lra_tasks.machine import MachineSettings, fit_lengths
from lra_tasks.model import Model, Params, abstract_batch, build_model
from lra_tasks.runlog import RunLog
from lra_tasks.settings import Experiment, sequence_length
from lra_tasks.splits import declared_examples
from lra_tasks.steps import PartSteps, State, make_eval_step, make_init, make_part_steps, make_train_step
from lra_tasks.task import AnyBatch, Split, Task
from luna_jax.sequence_parallel import SequenceSplit


@dataclass
class ClassifierRun(Run):
    """A classifier in training."""

    experiment: Experiment
    task: Task
    splits: dict[str, Split]
    model: Model
    eval_step: Callable
    settle_params: Callable[[Params], Params]
    """Statistics of the training examples, where a model has any."""
    scores: dict[tuple[int, str], Evaluation] = field(default_factory=dict)
    """What this process has evaluated, by step and split."""
    lengths: tuple[int, ...] = ()
    """That batches are padded to; (): all to the longest."""

    def next_batch(self, step: int) -> Any:
        train = self.experiment.train
        length = sequence_length(self.experiment, self.task)

        def gather(rows: slice) -> AnyBatch:
            split, size = self.splits["train"], train.batch_size
            return batch_at(split, seed=train.seed, step=step, batch_size=size, length=length, rows=rows)

        return self.layout.put(train.batch_size, gather)

    def settle(self) -> None:
        self.state["params"] = self.settle_params(self.state["params"])

    def validate(self, step: int) -> None:
        scored = self.evaluate(step, self.state["params"], "validation")
        require_finite("validation loss", scored.loss, step)
        self.log.write(step, "validation", {"loss": scored.loss, "accuracy": scored.accuracy})
        notes = {"validation_accuracy": scored.accuracy, "validation_loss": scored.loss}
        improved = scored.accuracy > self.best_score
        self.log.say(
            f"{self.name} step {step}  validation loss {scored.loss:.3f}  accuracy {100 * scored.accuracy:.2f}%"
            + ("  best so far" if improved else "")
        )
        self.keep_best(step, scored.accuracy, notes)

    def evaluate(self, step: int, params: Any, split: str) -> Evaluation:
        """The parameters of a step on a whole split; evaluated once, whoever asks."""
        if (step, split) not in self.scores:
            self.scores[step, split] = evaluate_split(
                self.eval_step,
                params,
                self.splits[split],
                put=self.layout.put,
                batch_size=self.layout.round_up(self.experiment.train.eval_batch_size),
                length=sequence_length(self.experiment, self.task),
                declared=declared_examples(self.task, self.experiment.data.validation, split),
                lengths=self.lengths,
            )
        return self.scores[step, split]


@dataclass(kw_only=True)
class SplitRun(ClassifierRun):
    """A classifier in training whose batches are split by length; loss and update are those of the whole batch."""

    train_step: PartSteps
    num_parts: int
    total: Total
    """Of no part, between steps."""

    def next_batch(self, step: int) -> tuple[AnyBatch, ...]:
        train, split = self.experiment.train, self.splits["train"]
        order = {"seed": train.seed, "step": step, "batch_size": train.batch_size}
        parts = parts_at(split, **order, lengths=self.lengths, num_parts=self.num_parts)
        return tuple(self.layout.put(len(part.indices), partial(part.gather, split)) for part in parts)

    def take_step(self, batch: tuple[AnyBatch, ...]) -> dict[str, Any]:
        steps = self.train_step
        for part in batch:
            self.total = self.call_compiled(steps.accumulate, part, self.state, self.total, part)
        self.state, numbers, self.total = self.call_compiled(steps.update, (), self.state, self.total)
        return numbers


def build_split_model(experiment: Experiment, task: Task, machine: Machine) -> Model:
    """The model of an experiment on a mesh. UserError for sizes that the mesh does not divide."""
    model, layout, settings = experiment.model, machine.layout, machine.settings
    sizes = {"model.num_heads": model.num_heads, "model.mlp_dim": model.mlp_dim}
    if experiment.luna is not None:
        sizes["luna.num_pack_heads"] = experiment.luna.num_pack_heads
    check_divisible(layout, settings, experiment.train.batch_size, sizes)
    if settings.microbatches > 1 and model.feature_norm == "whitened":
        raise UserError(
            f"machine.microbatches={settings.microbatches} changes what model.feature_norm='whitened' takes its "
            "statistics of; set it to 1"
        )
    split = SequenceSplit(layout.mesh, SEQUENCE) if layout.mesh.shape[SEQUENCE] > 1 else None
    built = build_model(experiment, task, split)
    if lengths := choose_lengths(experiment, task, settings):
        check_shortest(experiment.model.attention, built, lengths[0])
    return built


def choose_lengths(experiment: Experiment, task: Task, settings: MachineSettings) -> tuple[int, ...]:
    """The lengths that batches are padded to; (): all to the longest. UserError where they cannot be."""
    longest, attention = sequence_length(experiment, task), experiment.model.attention
    return fit_lengths("machine.lengths", settings.lengths, longest=longest, attention=attention)


def check_shortest(attention: str, model: Model, length: int) -> None:
    """UserError where the shortest length is too short for an attention mechanism, for its blocks for example."""
    try:
        jax.eval_shape(model.apply, model.abstract, abstract_batch(model.config, 1, length))
    except ValueError as mistake:
        raise UserError(f"machine.lengths begins with {length}: {attention}: {mistake}") from None


def choose_steps(
    experiment: Experiment, task: Task, model: Model, shardings: StepShardings, machine: Machine
) -> tuple[type[ClassifierRun], dict[str, Any]]:
    """The kind of run that a machine asks for, and what it needs beyond every run's."""
    settings = machine.settings
    num_parts = count_parts(machine.layout, settings, experiment.train.batch_size)
    if not (lengths := choose_lengths(experiment, task, settings)):
        return ClassifierRun, {"train_step": make_train_step(experiment, model, shardings, microbatches=num_parts)}
    if experiment.model.feature_norm == "whitened":
        num_parts = 1
    steps = make_part_steps(experiment, model, shardings, num_parts=num_parts)
    return SplitRun, {"train_step": steps, "total": steps.begin(), "num_parts": num_parts, "lengths": lengths}


def train(
    experiment: Experiment,
    task: Task,
    splits: dict[str, Split],
    workdir: Path,
    finish: Callable[[ClassifierRun], None],
    machine: Machine,
) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step, as `run_to_the_end` says."""
    with open_run(experiment, task, splits, workdir, machine) as run:
        run_to_the_end(run, finish)


@contextmanager
def open_run(
    experiment: Experiment, task: Task, splits: dict[str, Split], workdir: Path, machine: Machine
) -> Iterator[ClassifierRun]:
    """The run of a work directory, at its newest checkpoint or at the start; closes its log and checkpoints."""
    layout, model = machine.layout, build_split_model(experiment, task, machine)

    def calibrate(state: State) -> State:
        if experiment.model.feature_norm == "calibrated":
            state["params"] = make_calibrate(experiment, task, model, splits["train"])(state["params"])
        return state

    statistics = make_settle(experiment, task, model, splits["train"])

    def settle(params: Params) -> Params:
        settled = statistics(params)
        return params if settled is params else layout.keep(settled, shardings.state["params"])

    with Checkpoints(workdir, clean=True) as checkpoints:
        state, clock, shardings = restore_or_init(make_init(experiment, model), checkpoints, layout, calibrate)
        start, num_steps = int(state["step"]), experiment.train.num_steps
        title = f"{experiment.row} seed {experiment.train.seed}"
        with RunLog(workdir, start_step=start, num_steps=num_steps, title=title, writes=is_lead()) as log:
            kind, steps = choose_steps(experiment, task, model, shardings, machine)
            yield kind(
                name=experiment.row,
                settings=experiment.train,
                layout=layout,
                shardings=shardings,
                checkpoints=checkpoints,
                log=log,
                state=state,
                clock=clock,
                best_score=read_best_score(checkpoints, "validation_accuracy", model.abstract, shardings),
                profile=machine.profile,
                experiment=experiment,
                task=task,
                splits=splits,
                model=model,
                eval_step=make_eval_step(model, shardings),
                settle_params=settle,
                **steps,
            )
