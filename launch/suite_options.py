"""The command line of launch/suite.py."""

import argparse
import math
import os
import sys
from pathlib import Path

from suite_plan import PLANS, Mistake

# what the suite says to each run itself
GIVEN = (
    *("config", "workdir", "data_dir", "seeds", "config.train.seed", "config.data.task"),
    *("distributed", "coordinator", "num_processes", "process_id"),
)


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
    """`0,1,2`: none twice."""
    if not all(word.isdecimal() for word in parse_list(text)):
        raise argparse.ArgumentTypeError(f"{text!r}; give numbers as 0,1,2")
    seeds = [int(word) for word in parse_list(text)]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def parse_count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def parse_time(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return number


def parse_options(arguments: list[str], usage: str) -> argparse.Namespace:
    """The command line; what stands behind -- is for lra_tasks.train."""
    own, flags = arguments, []
    if "--" in arguments:
        place = arguments.index("--")
        own, flags = arguments[:place], arguments[place + 1 :]
    parser = Parser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--tasks", type=parse_list, help="configs of tasks: listops,text,retrieval,image,pathfinder")
    add("--rows", type=parse_list, help="rows of configs/rows.py: luna16,transformer,performer")
    add("--seeds", type=parse_seeds, help="0,1,2 (default: 0)")
    add("--seeds_at_once", action="store_true", help="all seeds of a cell in one process, as one program")
    plans = " or ".join(PLANS)
    add("--preset", default="", help=f"cpu, paper or lra, with +switches (default: the authors' recipe); or {plans}")
    add("--workdir", type=Path, required=True, help="folder of all work directories")
    add("--data_dir", default="data", help="folder of prepared data (default: data)")
    add("--workers", type=parse_count, help="runs at a time (default: one, or one a GPU)")
    add("--hours", type=parse_time, help="time budget (default: none)")
    add("--slice_minutes", type=parse_time, help="a run saves after so long, and the next one has its turn")
    add("--cores-per-run", type=parse_count, help="Linux: cores of a run (default: an equal share); 0 ties no run")
    add("--gpus", type=parse_list, default=[], help="0,1: each run sees one of them")
    add("--python", default=sys.executable, help="the Python that has the project's libraries")
    add("--dry-run", action="store_true", help="print the commands and run nothing")
    options = parser.parse_args(own)
    if options.workers is None:
        options.workers = max(1, len(options.gpus))
    if options.workers < 1:
        raise Mistake("--workers 0: give at least 1")
    fill_in(options)
    options.flags = [*os.environ.get("TRAIN_FLAGS", "").split(), *flags]
    for flag in options.flags:
        if flag.startswith("-") and flag.partition("=")[0].lstrip("-") in GIVEN:
            raise Mistake(f"{flag}: the suite gives this flag to each run itself")
    return options


def fill_in(options: argparse.Namespace) -> None:
    """The tasks, rows and seeds of a plan, in its order, or a part of them."""
    options.plan = options.preset if options.preset in PLANS else ""
    if not options.plan:
        for name in ("tasks", "rows"):
            if getattr(options, name) is None:
                plans = " or ".join(PLANS)
                raise Mistake(f"--{name} is missing; name some, or take --preset {plans}; --help lists all options")
        options.seeds = options.seeds or [0]
        return
    plan = PLANS[options.plan]
    for name in ("tasks", "rows", "seeds"):
        mine, all_of_it = getattr(options, name), getattr(plan, name)
        for value in mine or ():
            if value not in all_of_it:
                choices = ", ".join(map(str, all_of_it))
                raise Mistake(f"--{name} {value} is not in the plan {options.plan}; it has {choices}")
        setattr(options, name, [value for value in all_of_it if mine is None or value in mine])
    options.preset = plan.preset
