"""What launch/suite.py is asked for: its command line, its runs in their order, and their commands."""

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RECORD = "record.json"
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
class Run:
    """One training. `task` is that of its data, `config` what stands behind --config."""

    name: str
    config: str
    task: str
    seed: int
    workdir: Path

    @property
    def is_finished(self) -> bool:
        """Whether it has its record, which is written last."""
        return (self.workdir / RECORD).exists()


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is: its cores, () for all, and its GPU, "" for none of its own."""

    cores: tuple[int, ...]
    gpu: str

    def __str__(self) -> str:
        parts = [f"cores {','.join(map(str, self.cores))}"] if self.cores else []
        return ", ".join([*parts, f"GPU {self.gpu}"] if self.gpu else parts)


def prepare_command(options: argparse.Namespace, task: str) -> list[str]:
    """Prepares a task, or verifies it where it is there."""
    return [options.python, "-m", "lra_tasks.prepare", task, "--data_dir", options.data_dir]


def train_command(options: argparse.Namespace, run: Run) -> list[str]:
    """Trains a run."""
    where = ["--config", run.config, "--workdir", str(run.workdir), "--data_dir", options.data_dir]
    return [options.python, "-m", "lra_tasks.train", *where, f"--config.train.seed={run.seed}", *options.flags]


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
    return [Slot(tuple(cores[i * each : (i + 1) * each]), gpus[i % len(gpus)]) for i in range(workers)]


def plan_runs(options: argparse.Namespace) -> list[Run]:
    """All runs in the order in which they start: seed 0 of everything first. Mistake for a config that is none."""
    names = [(task, row) for task in options.tasks for row in options.rows]
    for task in options.tasks:
        if not Path(f"configs/{task}.py").is_file():
            raise Mistake(f"--tasks {task}: there is no configs/{task}.py")
    preset = f":{options.preset}" if options.preset else ""
    question = [options.python, "-c", QUESTION, *(f"{task}:{row}{preset}" for task, row in names)]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Mistake(f"--python {options.python}: {error.strerror}") from None
    if answer.returncode:
        raise Mistake((answer.stderr.strip().splitlines() or ["the configs cannot be read"])[-1])
    tasks = dict(zip(names, answer.stdout.split(), strict=True))
    runs = []
    for seed in options.seeds:
        for task, row in names:
            name = f"{task}/{row}/{options.preset or 'authors'}/seed{seed}"
            config = f"configs/{task}.py:{row}{preset}"
            runs.append(Run(name, config, tasks[task, row], seed, options.workdir / name))
    return runs


def print_plan(options: argparse.Namespace, runs: list[Run]) -> None:
    """The commands, in the order in which they would start."""
    for task in dict.fromkeys(run.task for run in runs if not run.is_finished):
        print(shlex.join(prepare_command(options, task)))
    where = "; ".join(str(slot) for slot in make_slots(options) if str(slot))
    print(f"# at most {options.workers} at a time" + (f": {where}" if where else ""))
    for run in runs:
        print(f"# finished: {run.name}" if run.is_finished else shlex.join(train_command(options, run)))
    print(shlex.join(results_command(options)))


class Parser(argparse.ArgumentParser):
    """Mistakes in one line, as the other commands have them."""

    def error(self, message: str):
        """One line and exit code 2."""
        raise Mistake(f"{message}; --help lists all options")


def parse_list(text: str) -> list[str]:
    """`a,b`: at least one, none twice."""
    words = [word.strip() for word in text.split(",")]
    if not all(words) or len(set(words)) < len(words):
        raise argparse.ArgumentTypeError(f"{text!r} names nothing or something twice; give names as a,b")
    return words


def parse_seeds(text: str) -> list[int]:
    """`0,1,2`."""
    if not all(word.isdigit() for word in parse_list(text)):
        raise argparse.ArgumentTypeError(f"{text!r}; give numbers as 0,1,2")
    return [int(word) for word in parse_list(text)]


def parse_count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def parse_options(arguments: list[str], usage: str) -> argparse.Namespace:
    """The command line; what stands behind -- is for lra_tasks.train."""
    own, flags = arguments, []
    if "--" in arguments:
        place = arguments.index("--")
        own, flags = arguments[:place], arguments[place + 1 :]
    parser = Parser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--tasks", type=parse_list, required=True, help="configs of tasks: listops,text,retrieval,image,pathfinder")
    add("--rows", type=parse_list, required=True, help="rows of configs/rows.py: luna16,transformer,performer")
    add("--seeds", type=parse_seeds, default=[0], help="0,1,2 (default: 0)")
    add("--preset", default="", help="cpu, paper or lra, with +switches; default: the authors' recipe")
    add("--workdir", type=Path, required=True, help="folder of all work directories")
    add("--data_dir", default="data", help="folder of prepared data (default: data)")
    add("--workers", type=parse_count, help="runs at a time (default: one, or one a GPU)")
    add("--hours", type=float, help="time budget (default: none)")
    add("--cores-per-run", type=parse_count, help="Linux: cores of a run (default: an equal share); 0 ties no run")
    add("--gpus", type=parse_list, default=[], help="0,1: each run sees one of them")
    add("--python", default=sys.executable, help="the Python that has the project's libraries")
    add("--dry-run", action="store_true", help="print the commands and run nothing")
    options = parser.parse_args(own)
    if options.workers is None:
        options.workers = max(1, len(options.gpus))
    if options.workers < 1 or not (options.hours is None or options.hours > 0):
        raise Mistake("--workers and --hours must be more than 0")
    options.flags = [*shlex.split(os.environ.get("TRAIN_FLAGS", "")), *flags]
    return options
