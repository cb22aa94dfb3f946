"""The end of a translation run: best, last and averaged parameters on validation and test sets, and the record."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import jax

from lra_tasks.bleu import encode_statistics
from lra_tasks.hosts import is_lead
from lra_tasks.provenance import git_commit, host_cores, library_versions, peak_process_bytes, portable_command
from lra_tasks.record_fields import Device, PeakMemory, canonical_hash, experiment_hash, write_record
from lra_tasks.translation import TRAIN, VALIDATION
from lra_tasks.translation_batches import training_batch
from lra_tasks.translation_record import (
    BleuScore,
    Decoding,
    SentenceCount,
    TranslationRecord,
    TranslationScores,
    list_checkpoints,
)
from lra_tasks.translation_settings import DecodeSettings
from lra_tasks.translation_training import TranslationRun, average_snapshots

RECORD = "record.json"


def write_translation_run(run: TranslationRun, workdir: Path) -> TranslationRecord:
    """Translates the test sets with best, last and averaged parameters and writes `record.json`."""
    last_step, last_params = int(run.state["step"]), run.state["params"]
    shardings = run.shardings.state["params"]
    best_step, best_params, _ = run.checkpoints.restore("best", run.model.abstract, shardings=shardings)
    last = score_params(run, (last_step,), last_params)
    best = last if best_step == last_step else score_params(run, (best_step,), best_params)
    steps, params = average_snapshots(run.model, run.checkpoints, run.layout)
    averaged = score_params(run, steps, run.layout.keep(params, shardings)) if len(steps) > 1 else None
    record = make_record(run, best, last, averaged)
    if is_lead():
        write_record(record, workdir / RECORD)
    return record


def score_params(run: TranslationRun, steps: tuple[int, ...], params: Any) -> TranslationScores:
    """One set of parameters: loss and greedy BLEU of the validation split, beam search on every test set."""
    tests = {}
    for test in run.task.tests:
        run.log.say(f"{run.name}: translating {test} with the parameters of step {', '.join(map(str, steps))}")
        bleu = run.translate(params, test)
        tests[test] = BleuScore(
            bleu=bleu.score, signature=bleu.signature, statistics=encode_statistics(bleu.statistics)
        )
    validation = run.translate(params, VALIDATION, greedy=True)
    return TranslationScores(
        steps=steps, validation_loss=run.measure_loss(params), validation_bleu=validation.score, tests=tests
    )


def count_seen(run: TranslationRun) -> tuple[int, int]:
    """(pairs, target subwords with their ends) that the steps of the run were made of."""
    split, plan = run.prepared.splits[TRAIN], run.plan
    epochs, rest = divmod(run.experiment.train.num_steps, plan.num_batches)
    pairs, tokens = epochs * split.num_examples, epochs * len(split.target.tokens)
    for step in range(epochs * plan.num_batches, epochs * plan.num_batches + rest):
        batch = training_batch(split, plan, seed=run.experiment.train.seed, step=step)
        pairs, tokens = pairs + int(batch.example_mask.sum()), tokens + int(batch.target_mask.sum())
    return pairs, tokens


def make_record(
    run: TranslationRun, best: TranslationScores, last: TranslationScores, averaged: TranslationScores | None
) -> TranslationRecord:
    """Everything that a reader needs to trust the numbers."""
    experiment, task, clock, splits = run.experiment, run.task, run.clock, run.prepared.splits
    pairs, tokens = count_seen(run)
    counts = {name: splits[name].num_examples for name in (VALIDATION, *task.tests)}
    return TranslationRecord(
        **describe_origin(experiment.as_dict(), run.layout.mesh.size),
        task=task.name,
        task_title=task.title,
        task_version=task.version,
        row=experiment.row,
        protocol=experiment.protocol,
        seed=experiment.train.seed,
        num_parameters=run.model.num_parameters,
        source_language=task.source_language,
        target_language=task.target_language,
        vocab_size=run.prepared.subwords.size,
        vocab_checksum=run.prepared.subwords.checksum,
        training_pairs=splits[TRAIN].num_examples,
        tokens_seen=tokens,
        decoding=describe_decoding(experiment.decode),
        splits={name: SentenceCount(declared=count, evaluated=count) for name, count in counts.items()},
        selection="validation_bleu",
        best=best,
        last=last,
        averaged=averaged,
        steps_per_second=median(clock.speeds) if clock.speeds else None,
        compile_seconds=clock.compile_seconds,
        train_wall_seconds=clock.train_seconds,
        wall_seconds=clock.wall_seconds,
        num_steps=experiment.train.num_steps,
        examples_seen=pairs,
        started_at=(datetime.now(UTC) - timedelta(seconds=clock.wall_seconds)).isoformat(timespec="seconds"),
        resumed=clock.resumed,
    )


def describe_origin(config: dict[str, Any], num_devices: int) -> dict[str, Any]:
    """The fields of a record that say with what code, where and from which settings."""
    commit, dirty = git_commit()
    device = jax.local_devices()[0]
    memory = device.memory_stats() or {}
    return {
        "config": config,
        "config_hash": canonical_hash(config),
        "experiment_hash": experiment_hash(config),
        "commit": commit,
        "commit_dirty": dirty,
        "command": portable_command("lra_tasks.train", sys.argv[1:]),
        "versions": library_versions(),
        "device": Device(platform=device.platform, kind=device.device_kind, count=num_devices),
        "host_cores": host_cores(),
        "peak_memory_bytes": PeakMemory(process=peak_process_bytes(), device=memory.get("peak_bytes_in_use")),
    }


def describe_decoding(decode: DecodeSettings) -> Decoding:
    """How the test sets are translated."""
    limits = {"length_factor": decode.length_factor, "length_offset": decode.length_offset}
    return Decoding(beam_size=decode.beam_size, length_penalty=decode.length_penalty, **limits)


def print_translation_scores(record: TranslationRecord, workdir: Path) -> None:
    """The end of a run: BLEU of every test set, one line a checkpoint."""
    for name in list_checkpoints(record):
        scores: TranslationScores = getattr(record, name)
        found = ", ".join(f"{test} {score.bleu:.2f}" for test, score in scores.tests.items())
        steps = ", ".join(map(str, scores.steps))
        print(f"{record.row} on {record.task}, seed {record.seed}, {name} (step {steps}): BLEU {found}")
    print(
        f"{record.num_parameters:,} parameters, {record.tokens_seen:,} target subwords seen, "
        f"{record.train_wall_seconds:.0f} s of training; record: {workdir / RECORD}"
    )
