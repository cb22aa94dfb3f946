"""Training several seeds of one classifier at once: one program, and of each seed the files of a run by itself."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import jax

from lra_tasks.calibration import make_calibrate, make_settle
from lra_tasks.checkpoint import Checkpoints
from lra_tasks.clock import Clock
from lra_tasks.distributed import StepShardings
from lra_tasks.errors import UserError
from lra_tasks.loop import Machine, read_best_score, restore_or_init, run_to_the_end
from lra_tasks.model import Model, Params
from lra_tasks.runlog import RunLog
from lra_tasks.seeds import SeedFolders, name_seeds
from lra_tasks.seeds_checkpoints import SeedCheckpoints
from lra_tasks.seeds_loop import SeedLog, SeedsRun
from lra_tasks.seeds_steps import make_seeds_eval_step, make_seeds_init, make_seeds_train_step, stack, unstack
from lra_tasks.settings import Experiment
from lra_tasks.steps import State, make_eval_step, make_init
from lra_tasks.task import Split, Task
from lra_tasks.training import ClassifierRun, build_split_model


def choose_machine(machine: Machine, report: Callable[[str], None]) -> Machine:
    """The machine as seeds at once can use it: `report` is told what is not. UserError for several devices.

    The seeds' batches are of different lengths, so that they have no parts by length in common.
    """
    settings = machine.settings
    if machine.layout.mesh.size > 1:
        raise UserError(
            f"--seeds trains on one device, and the mesh has {machine.layout.mesh.size}; set "
            "--config.machine.data=1, and so model and sequence, or leave out --seeds"
        )
    if settings.lengths:
        report("--seeds: all batches are padded to the longest example, machine.lengths is not used")
    whole = replace(settings, lengths=(), microbatches=max(1, settings.microbatches))
    return replace(machine, settings=whole)


@dataclass(frozen=True)
class SeedsJob:
    """What is trained at once, and where each seed lies."""

    experiments: dict[int, Experiment]
    """By seed; they differ in it alone."""
    task: Task
    splits: dict[str, Split]
    folders: SeedFolders
    machine: Machine

    @property
    def first(self) -> Experiment:
        """To ask for what is the same of all."""
        return next(iter(self.experiments.values()))

    def complete(
        self, model: Model, make: Callable[..., Callable[[Params], Params]], shardings: Any = None
    ) -> Callable:
        """Parameters [S, ...] -> the same, with the statistics of each seed's own examples that `make` is about."""
        each = [make(one, self.task, model, self.splits["train"]) for one in self.experiments.values()]

        def complete(params: Params) -> Params:
            parts = zip(each, unstack(params, len(each)), strict=True)
            return stack([complete_one(part) for complete_one, part in parts], shardings)

        return complete


def train_seeds(job: SeedsJob, finish: Callable[[int, ClassifierRun], None]) -> None:
    """Trains all seeds, from their newest common checkpoint or from the start, to the last step.

    A seed with a number that is not finite is given up, and noted in its folder; with each of the others `finish` is
    called. Raises Stopped after a signal, with everything saved, and NoSeedLeft.
    """
    seeds, first, layout = list(job.experiments), job.first, job.machine.layout
    model = build_split_model(first, job.task, job.machine)

    def calibrate(state: State) -> State:
        if first.model.feature_norm == "calibrated":
            state["params"] = job.complete(model, make_calibrate)(state["params"])
        return state

    def finish_all(run: SeedsRun) -> None:
        run.score_all()
        for _, seed, one in run.list_living():
            finish(seed, one)

    with SeedCheckpoints({seed: job.folders.folder(seed) for seed in seeds}) as checkpoints, ExitStack() as logs:
        init = make_seeds_init(first, model, seeds)
        state, clock, shardings = restore_or_init(init, checkpoints, layout, calibrate)
        run = make_run(job, model, checkpoints, state, clock, shardings, logs)
        run_to_the_end(run, finish_all)


def make_run(
    job: SeedsJob,
    model: Model,
    checkpoints: SeedCheckpoints,
    state: State,
    clock: Clock,
    shardings: StepShardings,
    logs: ExitStack,
) -> SeedsRun:
    """The seeds as one run, from this state; `logs` closes what it writes to."""
    seeds, first, microbatches = list(job.experiments), job.first, job.machine.settings.microbatches
    start = {"start_step": int(state["step"]), "num_steps": first.train.num_steps}
    log = logs.enter_context(RunLog(None, title=f"{first.row} seeds {name_seeds(seeds)}", **start))
    whitened = first.model.feature_norm == "whitened"
    run = SeedsRun(
        name=first.row,
        settings=first.train,
        layout=job.machine.layout,
        shardings=shardings,
        checkpoints=checkpoints,
        log=log,
        state=state,
        train_step=make_seeds_train_step(first, model, seeds, shardings, microbatches=microbatches),
        clock=clock,
        best_score=0.0,
        profile=job.machine.profile,
        runs={},
        given_up=checkpoints.given_up,
        eval_step=make_seeds_eval_step(model, shardings),
        settle_params=job.complete(model, make_settle, shardings.state["params"]) if whitened else lambda same: same,
        note_failure=job.folders.note_failure,
    )
    for seed in seeds:
        own = logs.enter_context(SeedLog(log, job.folders.folder(seed), **start))
        run.runs[seed] = make_seed_run(job, seed, model, checkpoints.of[seed], own, clock)
    return run


def make_seed_run(
    job: SeedsJob, seed: int, model: Model, checkpoints: Checkpoints, log: RunLog, clock: Clock
) -> ClassifierRun:
    """One of the seeds as a run that takes no step; the others' clock is its own."""
    experiment, layout = job.experiments[seed], job.machine.layout
    abstract = jax.eval_shape(make_init(experiment, model))
    shardings = layout.for_steps(abstract)
    return ClassifierRun(
        name=f"{experiment.row} seed {seed}",
        settings=experiment.train,
        layout=layout,
        shardings=shardings,
        checkpoints=checkpoints,
        log=log,
        state=abstract,
        train_step=None,
        clock=clock,
        best_score=read_best_score(checkpoints, "validation_accuracy", model.abstract, shardings),
        profile=job.machine.profile,
        experiment=experiment,
        task=job.task,
        splits=job.splits,
        model=model,
        eval_step=make_eval_step(model),
        settle_params=lambda same: same,
    )
