"""What launch/suite.py runs, and in which order: runs, their commands, and where each has its place."""

import argparse
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

RECORD = "record.json"
# Tasks without a config of their own, and the one whose config they are trained with: smaller sets of the same kind.
SMALLER_SETS = {"retrieval_aan_subset": "retrieval"}
# asked of the configs themselves, which open without JAX: the preset cpu of a config may name another task's data
QUESTION = """
import importlib, sys
for argument in sys.argv[1:]:
    module, _, row = argument.partition(":")
    try:
        print(importlib.import_module("configs." + module).get_config(row).data.task)
    except Exception as error:
        sys.exit(f"configs/{module}.py:{row}: {error}")
"""


class Mistake(Exception):
    """Something that the user can mend, in one line."""


@dataclass(frozen=True)
class Plan:
    """A suite that has a name. One seed of every cell comes before the second of any, and within a seed one row of
    every task before the next row."""

    preset: str
    tasks: tuple[str, ...]
    rows: tuple[str, ...]
    seeds: tuple[int, ...]


PLANS = {
    # From the cheapest task to the dearest. The Transformer and Luna-16 first: one row of each says nothing about a
    # difference, and ten runs give one on all five tasks. Luna-256 shows whether a longer P helps; Luna-128, between
    # the two, tells least.
    "reproduction": Plan(
        preset="paper",
        tasks=("listops", "image", "text", "retrieval_aan_subset", "pathfinder"),
        rows=("transformer", "luna16", "luna256", "luna128"),
        seeds=(1, 11, 65537, 101, 1999),
    ),
    # The same rows and pipeline for two cores: the preset cpu of each config, with less width, length and steps, and
    # the smaller or easier sets that it names. It says nothing about the paper's protocol.
    "small": Plan(
        preset="cpu",
        tasks=("listops", "text", "image", "pathfinder", "retrieval"),
        rows=("transformer", "luna16", "luna256", "luna128"),
        seeds=(0, 1, 2),
    ),
}


@dataclass(frozen=True)
class Run:
    """One training, of one seed or of several at once, below `workdir`.

    `task` is that of its data, `config` what stands behind --config; `lap` counts the seeds.
    """

    name: str
    config: str
    flags: tuple[str, ...]
    task: str
    seeds: tuple[int, ...]
    is_group: bool
    lap: int
    workdir: Path
    log: Path

    @property
    def is_finished(self) -> bool:
        """Whether it has its record, or all of them, which are written last."""
        folders = [self.workdir / f"seed{seed}" for seed in self.seeds] if self.is_group else [self.workdir]
        return all((folder / RECORD).exists() for folder in folders)

    @property
    def last_turn(self) -> float:
        """When it last said something; 0 where it never began."""
        return self.log.stat().st_mtime if self.log.exists() else 0.0


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is: its cores, () for all, and its GPU, "" for none of its own, with others on it."""

    cores: tuple[int, ...] = ()
    gpu: str = ""
    num_sharers: int = 1

    def __str__(self) -> str:
        parts = [f"cores {','.join(map(str, self.cores))}"] if self.cores else []
        return ", ".join([*parts, f"GPU {self.gpu}"] if self.gpu else parts)

    def environment(self) -> dict[str, str]:
        """What a run in it sees: this GPU alone, in nvidia-smi's order, and a fair part of its memory."""
        if not self.gpu:
            return {}
        values = {"CUDA_VISIBLE_DEVICES": self.gpu}
        values["CUDA_DEVICE_ORDER"] = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        if self.num_sharers > 1:  # alone, JAX takes three quarters when it starts
            part = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / self.num_sharers:.2f}")
            values["XLA_PYTHON_CLIENT_MEM_FRACTION"] = part
        return values


def log_path(options: argparse.Namespace, name: str) -> Path:
    """Where the output of a run goes."""
    return options.workdir / "logs" / f"{name.replace('/', '.')}.log"


def prepare_command(options: argparse.Namespace, task: str) -> list[str]:
    """Prepares a task, or verifies it where it is there."""
    return [options.python, "-m", "lra_tasks.prepare", task, "--data_dir", options.data_dir]


def train_command(options: argparse.Namespace, run: Run) -> list[str]:
    """Trains a run."""
    where = ["--config", run.config, "--workdir", str(run.workdir), "--data_dir", options.data_dir]
    seeds = ",".join(map(str, run.seeds))
    own = ["--seeds", seeds] if run.is_group else [f"--config.train.seed={seeds}"]
    return [options.python, "-m", "lra_tasks.train", *where, *own, *run.flags, *options.flags]


def results_command(options: argparse.Namespace) -> list[str]:
    """The tables of all records."""
    return [options.python, "-m", "lra_tasks.results", str(options.workdir)]


def make_slots(options: argparse.Namespace) -> list[Slot]:
    """Where the workers are. Mistake for more cores than there are."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each, workers = options.cores_per_run, options.workers
    if each is None:
        each = len(cores) // workers
    if each * workers > len(cores):
        wanted = f"{workers} workers with {each} cores each need {each * workers} cores"
        raise Mistake(f"{wanted}, there are {len(cores)}; lower one of them, or --cores-per-run 0, which ties no run")
    gpus = options.gpus or [""]
    sharers = -(-workers // len(gpus))
    return [Slot(tuple(cores[i * each : (i + 1) * each]), gpus[i % len(gpus)], sharers) for i in range(workers)]


def plan_runs(options: argparse.Namespace) -> list[Run]:
    """All runs in the order in which they start: the first seed of everything first. Mistake for a config that is none.

    With seeds at once a cell is one run, whose seeds lie where they would lie one by one.

    With turns, the run whose last turn is the longest ago comes first among those of a seed.
    """
    if options.plan:
        cells = [(task, row) for row in options.rows for task in options.tasks]
    else:
        cells = [(task, row) for task in options.tasks for row in options.rows]
    for task in options.tasks:
        if not Path(f"configs/{SMALLER_SETS.get(task, task)}.py").is_file():
            raise Mistake(f"--tasks {task}: there is no configs/{task}.py")
    preset = f":{options.preset}" if options.preset else ""
    data = ask_configs(options, [f"{SMALLER_SETS.get(task, task)}:{row}{preset}" for task, row in cells])
    runs = []
    laps = [tuple(options.seeds)] if options.seeds_at_once else [(seed,) for seed in options.seeds]
    for lap, seeds in enumerate(laps):
        for (task, row), prepared in zip(cells, data, strict=True):
            name = f"{task}/{row}/{options.preset or 'authors'}"
            name += "" if options.seeds_at_once else f"/seed{seeds[0]}"
            config, flags = f"configs/{SMALLER_SETS.get(task, task)}.py:{row}{preset}", ()
            if task in SMALLER_SETS:
                prepared, flags = task, (f"--config.data.task={task}",)
            workdir, log = options.workdir / name, log_path(options, name)
            runs.append(Run(name, config, flags, prepared, seeds, options.seeds_at_once, lap, workdir, log))
    if options.slice_minutes is not None:
        runs.sort(key=lambda run: (run.lap, run.last_turn))
    return runs


def ask_configs(options: argparse.Namespace, arguments: list[str]) -> list[str]:
    """The task whose data each config names."""
    try:
        answer = subprocess.run(
            [options.python, "-c", QUESTION, *arguments], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Mistake(f"--python {options.python}: {error.strerror}") from None
    if answer.returncode:
        raise Mistake((answer.stderr.strip().splitlines() or ["the configs cannot be read"])[-1])
    return answer.stdout.split()


def print_plan(options: argparse.Namespace, runs: list[Run]) -> None:
    """The commands, in the order in which they would start."""
    for task in dict.fromkeys(run.task for run in runs if not run.is_finished):
        print(shlex.join(prepare_command(options, task)))
    where = "; ".join(str(slot) for slot in make_slots(options) if str(slot))
    turns = f", in turns of {options.slice_minutes:g} minutes" if options.slice_minutes is not None else ""
    print(f"# at most {options.workers} at a time{turns}" + (f": {where}" if where else ""))
    for run in runs:
        print(f"# finished: {run.name}" if run.is_finished else shlex.join(train_command(options, run)))
    print(shlex.join(results_command(options)))
