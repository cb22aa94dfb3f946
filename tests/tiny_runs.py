"""Runs small enough for tests: a tiny experiment, its data, and entries started as processes of their own."""

import fcntl
import functools
import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from quick_compile import QUICK_COMPILE as QUICK_COMPILE  # for tests that compile by hand
from quick_compile import QUICK_FLAGS

from lra_tasks.listops import LISTOPS_SMALL, generate
from lra_tasks.settings import Experiment, resolve
from lra_tasks.store import write_store
from lra_tasks.task import Batch, PairedBatch

ROOT = Path(__file__).parent.parent
TINY_OVERRIDES = {
    "model.emb_dim": 16,
    "model.mlp_dim": 16,
    "model.num_heads": 2,
    "model.num_layers": 1,
    "model.classifier_dim": 16,
    "luna.num_pack_heads": 2,
    "luna.pack_length": 4,
    "train.batch_size": 16,
}
"""Of the preset cpu; a step takes milliseconds, compiling it a second or two."""


def make_config(name="listops_luna16", preset="cpu", **changes):
    """A config with the tiny overrides as a nested dict; `model__emb_dim=8` changes model.emb_dim."""
    config = importlib.import_module(f"configs.{name}").get_config(preset).to_dict()
    for key, value in {**TINY_OVERRIDES, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        section, _, field = key.rpartition(".")
        (config[section] if section else config)[field] = value
    return config


def make_experiment(name="listops_luna16", **changes) -> Experiment:
    """A tiny experiment."""
    return resolve(make_config(name, **changes))


def make_batch(batch_size=8, length=12, seed=0, num_real=None):
    """Random tokens; label = first token % 10, so that it can be learnt. Rows from `num_real` on are no examples."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 16, (batch_size, length)).astype(np.int32)
    lengths = random.integers(4, length + 1, batch_size)
    mask = np.arange(length) < lengths[:, None]
    example_mask = np.arange(batch_size) < (batch_size if num_real is None else num_real)
    return Batch(np.where(mask, tokens, 0), mask, (tokens[:, 0] % 10).astype(np.int32), example_mask)


def make_paired_batch(length=12):
    """All four pairs of two random documents; label = whether the two differ, which neither shows alone."""
    one, other = (make_batch(1, length, seed=seed)[:2] for seed in (1, 2))
    tokens, mask = (np.concatenate(arrays) for arrays in zip(one, other, strict=True))
    first, second = np.array([[0, 0, 1, 1], [0, 1, 0, 1]])
    labels = (first != second).astype(np.int32)
    return PairedBatch(tokens[first], mask[first], tokens[second], mask[second], labels, np.ones(4, bool))


def write_small_store(data_dir: Path) -> Path:
    """Prepares listops_small's store without its records; returns the data folder."""
    write_store(data_dir, LISTOPS_SMALL, generate(LISTOPS_SMALL.grammar, LISTOPS_SMALL.seed, LISTOPS_SMALL.splits), {})
    return data_dir


RUN_OVERRIDES = TINY_OVERRIDES | {
    "model.dropout_rate": 0.05,  # so that the state of dropout matters, too
    "optim.learning_rate": 0.01,
    "optim.warmup_steps": 20,
    "train.num_steps": 240,
    "train.eval_batch_size": 300,  # divides neither split
    "train.log_every_steps": 10,
    "train.eval_every_steps": 40,
    "train.checkpoint_every_steps": 30,
}


def train_command(workdir: Path, data_dir: Path, **changes):
    """The README's command with small overrides."""
    overrides = RUN_OVERRIDES | {key.replace("__", "."): value for key, value in changes.items()}
    config = [
        "--config",
        "configs/listops_luna16.py:cpu",
        *(f"--config.{key}={value}" for key, value in overrides.items()),
    ]
    return ["train", *config, "--workdir", workdir, "--data_dir", data_dir]


def start(command, *, environment=None, before=(), **options) -> subprocess.Popen:
    """`python -m lra_tasks.COMMAND...` in the repository, its output in pipes; behind the words `before`, if any."""
    environment = os.environ | {"XLA_FLAGS": QUICK_FLAGS, "JAX_NUM_CPU_DEVICES": "1"} | (environment or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    line = [*before, sys.executable, "-m", f"lra_tasks.{command[0]}", *map(str, command[1:])]
    return subprocess.Popen(line, cwd=ROOT, env=environment, **pipes | options)


def finish(process) -> subprocess.CompletedProcess:
    """Waits for a process."""
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(*command, **options) -> subprocess.CompletedProcess:
    """Starts an entry and waits for it."""
    return finish(start(command, **options))


def read_metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def once_a_session(folder: Path, name: str, make: Callable[[Path], Any]) -> Any:
    """What `make` returns for a folder of this name that all workers of a test session share: the first makes it.

    `folder` is pytest's for the worker, or for the session where it has none. The others read the first one's answer.
    """
    shared = folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder
    outcome = shared / f"{name}.pickle"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            outcome.write_bytes(pickle.dumps(make(shared / name)))
    return pickle.loads(outcome.read_bytes())


@functools.cache
def uninterrupted_run(folder: Path) -> tuple[Path, Path, subprocess.CompletedProcess]:
    """(work directory, data folder, the process) of one run straight through, made once a test session.

    Each worker has a copy of its own, beside the run that was made.
    """

    def make(place: Path) -> tuple[Path, Path, subprocess.CompletedProcess]:
        data_dir = write_small_store(place / "small_data")
        command = train_command(place / "run", data_dir)
        return place / "run", data_dir, run(*command, environment={"JAX_LOG_COMPILES": "1"})

    made, data_dir, done = once_a_session(folder, "made", make)
    workdir = made.parent / f"straight{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    if made.exists():  # else the process says why
        shutil.copytree(made, workdir)
    return workdir, data_dir, done


def assert_one_line_error(finished, *words):
    """Exit code 2, nothing on stdout, exactly one line on stderr, and these words in it."""
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    lines = finished.stderr.splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], lines[0]
