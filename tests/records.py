"""Small records for tests: eight test examples, four validation examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lra_tasks import record


def make_scores(step: int, flags: Sequence[int], **changes: Any) -> record.Scores:
    """Scores of a checkpoint that gets the flagged test examples right, and half of the validation examples."""
    values: dict[str, Any] = {
        "step": step,
        "validation_accuracy": 0.5,
        "validation_loss": 1.25,
        "test_accuracy": sum(flags) / len(flags),
        "test_loss": 1.5,
        "test_correctness": record.encode_correctness(np.array(flags, dtype=bool)),
    }
    return record.Scores(**(values | changes))


def make_record(*, seed: Any = 1, steps: int = 100, num_correct: int = 5, **changes: Any) -> record.Record:
    """A valid record: 4 of 8 right at the last checkpoint, `num_correct` at the best. `steps` is in the config too."""
    config = {"train": {"seed": seed, "steps": steps}, "model": {"pack_length": 16, "rate": 0.1}}
    flags = [1] * num_correct + [0] * (8 - num_correct)
    values: dict[str, Any] = {
        "task": "listops",
        "task_title": "ListOps",
        "task_version": "1.0.0",
        "row": "luna16",
        "protocol": "authors",
        "config": config,
        "config_hash": record.canonical_hash(config),
        "experiment_hash": record.experiment_hash(config),
        "seed": seed,
        "commit": "abc123",
        "commit_dirty": False,
        "command": ("python", "-m", "lra_tasks.train", "--config=configs/listops_luna16.py"),
        "versions": {"python": "3.11.9", "jax": "0.10.2", "orbax": None},
        "device": record.Device(platform="gpu", kind="NVIDIA H200", count=1),
        "host_cores": 2,
        "num_parameters": 6_060_000,
        "splits": {
            "validation": record.SplitCount(declared=4, evaluated=4, majority_share=0.25),
            "test": record.SplitCount(declared=8, evaluated=8, majority_share=0.125),
        },
        "selection": "validation",
        "best": make_scores(50, flags),
        "last": make_scores(steps, [0, 0, 0, 0, 1, 1, 1, 1]),
        "steps_per_second": 12.5,
        "compile_seconds": 3.5,
        "peak_memory_bytes": record.PeakMemory(process=1_000_000, device=2_000_000),
        "train_wall_seconds": 8.0,
        "wall_seconds": 14.0,
        "num_steps": steps,
        "examples_seen": 3200,
        "started_at": "2026-01-31T09:30:00+00:00",
        "resumed": 0,
    }
    return record.Record(**(values | changes))
