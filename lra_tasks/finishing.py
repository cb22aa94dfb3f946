"""The end of a run: best and last checkpoint on validation and test, and the record."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import jax

from lra_tasks.evaluation import majority_share
from lra_tasks.hosts import is_lead
from lra_tasks.provenance import git_commit, host_cores, library_versions, peak_process_bytes, portable_command
from lra_tasks.record import (
    Device,
    PeakMemory,
    Record,
    Scores,
    SplitCount,
    canonical_hash,
    encode_correctness,
    experiment_hash,
    write_record,
)
from lra_tasks.splits import declared_examples
from lra_tasks.training import ClassifierRun

RECORD = "record.json"


def write_run_record(run: ClassifierRun, workdir: Path, *, seeds_at_once: tuple[int, ...] = ()) -> Record:
    """Scores the best and the last checkpoint and writes `record.json`."""
    shardings = run.shardings.state["params"]
    best_step, best_params, _ = run.checkpoints.restore("best", run.model.abstract, shardings=shardings)
    last_step, last_params = int(run.state["step"]), run.state["params"]
    last, counts = score_checkpoint(run, last_step, last_params)
    best = last if best_step == last_step else score_checkpoint(run, best_step, best_params)[0]
    record = replace(make_record(run, best, last, counts), seeds_at_once=seeds_at_once)
    if is_lead():
        write_record(record, workdir / RECORD)
    return record


def score_checkpoint(run: ClassifierRun, step: int, params: Any) -> tuple[Scores, dict[str, int]]:
    """One set of parameters on the whole validation and test splits, and how many examples each was scored on."""
    validation, test = (run.evaluate(step, params, split) for split in ("validation", "test"))
    scores = Scores(
        step=step,
        validation_accuracy=validation.accuracy,
        validation_loss=validation.loss,
        test_accuracy=test.accuracy,
        test_loss=test.loss,
        test_correctness=encode_correctness(test.correct),
    )
    return scores, {"validation": validation.evaluated, "test": test.evaluated}


def make_record(run: ClassifierRun, best: Scores, last: Scores, counts: dict[str, int]) -> Record:
    """Everything that a reader needs to trust the numbers."""
    experiment, task, clock = run.experiment, run.task, run.clock
    config = experiment.as_dict()
    commit, dirty = git_commit()
    device = jax.local_devices()[0]
    wall_seconds = clock.wall_seconds
    memory = device.memory_stats() or {}
    return Record(
        task=task.name,
        task_title=task.title,
        task_version=task.version,
        row=experiment.row,
        protocol=experiment.protocol,
        config=config,
        config_hash=canonical_hash(config),
        experiment_hash=experiment_hash(config),
        seed=experiment.train.seed,
        commit=commit,
        commit_dirty=dirty,
        command=portable_command("lra_tasks.train", sys.argv[1:]),
        versions=library_versions(),
        device=Device(platform=device.platform, kind=device.device_kind, count=run.layout.mesh.size),
        host_cores=host_cores(),
        num_parameters=run.model.num_parameters,
        splits={
            name: SplitCount(
                declared=declared_examples(task, experiment.data.validation, name),
                evaluated=counts[name],
                majority_share=majority_share(task, run.splits[name]),
            )
            for name in counts
        },
        selection="test" if experiment.data.validation == "test" else "validation",
        best=best,
        last=last,
        steps_per_second=median(clock.speeds) if clock.speeds else None,
        compile_seconds=clock.compile_seconds,
        peak_memory_bytes=PeakMemory(process=peak_process_bytes(), device=memory.get("peak_bytes_in_use")),
        train_wall_seconds=clock.train_seconds,
        wall_seconds=wall_seconds,
        num_steps=experiment.train.num_steps,
        examples_seen=experiment.train.num_steps * experiment.train.batch_size,
        started_at=(datetime.now(UTC) - timedelta(seconds=wall_seconds)).isoformat(timespec="seconds"),
        resumed=clock.resumed,
    )


def print_scores(record: Record, workdir: Path) -> None:
    """The end of a run in three lines."""
    test = record.splits["test"]
    for name in ("best", "last"):
        scores = getattr(record, name)
        print(
            f"{record.row} on {record.task}, seed {record.seed}, {name} checkpoint (step {scores.step}): "
            f"test accuracy {100 * scores.test_accuracy:.2f}% of {test.evaluated} examples "
            f"(validation {100 * scores.validation_accuracy:.2f}%)"
        )
    print(
        f"majority class {100 * test.majority_share:.2f}%, {record.num_parameters:,} parameters, "
        f"{record.train_wall_seconds:.0f} s of training; record: {workdir / 'record.json'}"
    )
