"""A run killed with SIGKILL at random moments and started again each time, against the run straight through.

  python tests/kill.py --kills 20 --seed 0

Checkpoints come every few steps, so that many kills fall into saving. In the end the losses of all steps and every bit
of the parameters are the uninterrupted run's. The test suite does it with five kills (`make test-all`).
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import numpy as np
from tiny_runs import finish, read_metrics, start, train_command, write_small_store

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.model import build_model
from lra_tasks.registry import get_task
from lra_tasks.settings import resolve
from lra_tasks.steps import make_init

STEPS = {"train__num_steps": 600, "train__checkpoint_every_steps": 3, "train__eval_every_steps": 60}
STEPS |= {"train__log_every_steps": 1}
LONGEST_DELAY = 5.0
"""Seconds from the opening of the log, before a step is compiled, to the kill, at most."""


@dataclass(frozen=True)
class Kill:
    """One end by force."""

    step: int
    """The last step that was logged."""
    in_save: bool
    """Whether a checkpoint was half written."""


def kill_at_random(command, workdir: Path, rest: float) -> Kill | None:
    """Starts the run and kills it `rest` seconds after it has opened its log; None if it ended before."""
    log, begun = workdir / "metrics.jsonl", time.time()
    process = start(command)
    while process.poll() is None and not (log.exists() and log.stat().st_mtime > begun and log.stat().st_size):
        time.sleep(0.002)
    deadline = time.monotonic() + rest
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    if finish(process).returncode != -signal.SIGKILL:
        return None
    half = [folder for folder in (workdir / "checkpoints").glob("*/*") if "tmp" in folder.name]
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if line.endswith("}")]
    return Kill(max(steps, default=0), bool(half))


def compare(workdir: Path, expected: Path) -> None:
    """AssertionError unless the losses of all steps and the states at the end are equal bit for bit."""
    numbers = [
        [{key: value for key, value in line.items() if key != "steps_per_second"} for line in read_metrics(folder)]
        for folder in (workdir, expected)
    ]
    assert numbers[0] == numbers[1]
    states = []
    for folder in (workdir, expected):
        experiment = resolve(json.loads((folder / "config.json").read_text()))
        model = build_model(experiment, get_task("listops_small"))
        with Checkpoints(folder) as checkpoints:
            states.append(checkpoints.restore("last", jax.eval_shape(make_init(experiment, model)))[1])
    jax.tree.map(np.testing.assert_array_equal, *states)


def kill_and_compare(folder: Path, num_kills: int, seed: int) -> list[Kill]:
    """Both runs below `folder`, compared; the kills, of which there are fewer if the run ends before."""
    data_dir, chance = write_small_store(folder / "data"), random.Random(seed)
    straight, killed = (train_command(folder / name, data_dir, **STEPS) for name in ("straight", "killed"))
    ended = finish(start(straight))
    assert ended.returncode == 0, ended.stderr
    kills = []
    while len(kills) < num_kills and (
        kill := kill_at_random(killed, folder / "killed", chance.uniform(0, LONGEST_DELAY))
    ):
        kills.append(kill)
        print(f"kill {len(kills)}: behind step {kill.step}{', while saving' if kill.in_save else ''}", flush=True)
    ended = finish(start(killed))
    assert ended.returncode == 0, ended.stderr
    compare(folder / "killed", folder / "straight")
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = kill_and_compare(Path(folder), options.kills, options.seed)
    saving = sum(kill.in_save for kill in kills)
    print(f"{len(kills)} kills, {saving} while saving: losses and parameters equal the uninterrupted run's bit for bit")


if __name__ == "__main__":
    main()
