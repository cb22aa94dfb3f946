"""Train a model on a task, evaluate it on the whole test split and write its record."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lra_tasks import cli
from lra_tasks.errors import UserError
from lra_tasks.machine import MachineSettings, Processes, keep_compiled_programs, take_machine
from lra_tasks.provenance import git_commit, library_versions
from lra_tasks.settings import Experiment, check_task, differences, resolve
from lra_tasks.translation_settings import TranslationExperiment, is_translation, resolve_translation
from lra_tasks.typed_json import write_text

if TYPE_CHECKING:
    from lra_tasks.loop import Machine

USAGE = """Train a model on a task, evaluate it on the whole test split and write its record.

  python -m lra_tasks.train --config configs/listops_luna16.py --workdir runs/listops_luna16
  python -m lra_tasks.train --config configs/listops_luna16.py:cpu --workdir runs/small
  python -m lra_tasks.train --config configs/listops_luna16.py --workdir runs/seed1 --config.train.seed=1
  python -m lra_tasks.train --config configs/multi30k_deen_luna16.py:cpu --workdir runs/translation

The same command again goes on where the run stopped. configs/base.py explains every key, configs/base_translation.py
those of translation. In the work directory: config.json (resolved), metrics.jsonl, checkpoints/{last,best}, of a
translation also subwords.model and checkpoints/snapshots, and at the end record.json.

Several hosts: --distributed=auto on a TPU slice, under Slurm, on GKE or with Open MPI; elsewhere --coordinator,
--num_processes and --process_id. The mesh: --config.machine.data, model, sequence.

Exit codes: 0 finished, 2 a mistake to mend, 75 stopped by a signal with everything saved, or another host died (run it
again to go on), 134 JAX ended the process since another host died (the same)."""

EXIT_STOPPED = 75
"""EX_TEMPFAIL: a scheduler may requeue."""

CONFIG = "config.json"

_CONFIG = cli.config_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; made if it is missing", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data", "folder of prepared data; ListOps is prepared there if it is missing"
)
_PROFILE = flags.DEFINE_bool("profile", False, "write a trace of a few steps below the work directory")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", None, ["auto"], "one process a host, found through TPU metadata, Slurm, GKE or Open MPI"
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the processes meet")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "processes of this run, one a host")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "number of this process, from 0")


@dataclass(frozen=True)
class Job:
    """What a config asks to be trained."""

    experiment: Experiment | TranslationExperiment
    prepare: Callable[["Machine"], "Prepared"]
    """Checks the model on its mesh and reads the data."""


@dataclass(frozen=True)
class Prepared:
    """A job whose data are there."""

    data: dict[str, Any]
    """What tells these data from others, for hosts to compare."""
    train: Callable[[Path], None]
    """Trains in a work directory."""


def main(_argv: list[str]) -> int:
    """Returns the exit code."""
    config, settings = take_machine(_CONFIG.value.to_dict())
    make_job = make_translation_job if is_translation(config) else make_classification_job
    job = make_job(config, cli.overridden_keys())
    processes = Processes(_DISTRIBUTED.value == "auto", _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    workdir = Path(_WORKDIR.value)
    if processes.is_alone and (workdir / "record.json").exists():  # said at once, before JAX is imported
        open_workdir(workdir, job.experiment)
        return say_finished(workdir)

    from jax.errors import JaxRuntimeError

    from lra_tasks import hosts
    from lra_tasks.checkpoint import CheckpointError
    from lra_tasks.loop import Stopped

    hosts.meet(processes, heartbeat_seconds=settings.heartbeat_seconds)
    try:
        code = train_on_all(job, workdir, settings)
    except Stopped as stopped:
        code = EXIT_STOPPED
        if hosts.is_lead():
            cli.say(str(stopped))
    except BrokenPipeError:  # nobody reads our output any more: not the work directory's fault
        raise
    except (OSError, CheckpointError, JaxRuntimeError) as error:  # what one host may meet alone
        if not processes.is_alone:
            hosts.leave_at_once(error)
        if not isinstance(error, OSError):
            raise
        fault = error.strerror or error
        raise UserError(
            f"{workdir} cannot be written ({fault}); make room or rights and run the same command again"
        ) from error
    except UserError:  # what all hosts know
        hosts.part()
        raise
    hosts.part()
    return code


def train_on_all(job: Job, workdir: Path, settings: MachineSettings) -> int:
    """What every process of a run does, once they have met: agree, prepare, train."""
    from lra_tasks import hosts
    from lra_tasks.distributed import make_layout
    from lra_tasks.loop import Machine
    from lra_tasks.profiling import Profile

    fault = keep_compiled_programs(settings.compilation_cache)
    if fault and hosts.is_lead():
        cli.say(fault)
    code = {"commit": git_commit(), "versions": library_versions()}
    start = {"config": job.experiment.as_dict(), "machine": asdict(settings), "code": code}
    hosts.require_same("config or code", start, differences)
    profile = Profile(workdir / "profile" if _PROFILE.value and hosts.is_lead() else None)
    machine = Machine(settings, make_layout(settings), profile)
    is_new = not (workdir / CONFIG).exists()
    hosts.on_the_lead(lambda: open_workdir(workdir, job.experiment))
    hosts.require_shared(workdir)
    if (workdir / "record.json").exists():
        return say_finished(workdir) if hosts.is_lead() else 0
    try:
        prepared = hosts.in_turn(lambda: job.prepare(machine))
        hosts.require_same("data", prepared.data, differences)
    except UserError:
        if is_new and hosts.is_lead():  # a run that never began claims no work directory
            (workdir / CONFIG).unlink()
            with contextlib.suppress(OSError):
                workdir.rmdir()
        raise
    prepared.train(workdir)
    return 0


def say_finished(workdir: Path) -> int:
    """The answer to a run that has its record."""
    print(f"{workdir} is finished; its record is {workdir / 'record.json'}")
    return 0


def make_classification_job(config: dict[str, Any], overridden: list[str]) -> Job:
    """A classifier on a task of Long Range Arena."""
    from lra_tasks.registry import get_task

    experiment = resolve(config, overridden)
    task = get_task(experiment.data.task)
    check_task(experiment, task, overridden)

    def prepare(machine: "Machine") -> Prepared:
        from lra_tasks.console import Console
        from lra_tasks.preparation import ensure_prepared
        from lra_tasks.training import build_split_model

        build_split_model(experiment, task, machine)  # what it cannot be is said before anything is prepared
        with Console() as console:
            prepared = ensure_prepared(task, Path(_DATA_DIR.value), console.report, console.progress)

        from lra_tasks.splits import choose_splits, identify

        splits = choose_splits(prepared, experiment.data.validation)

        def train_in(workdir: Path) -> None:
            from lra_tasks.finishing import write_run_record
            from lra_tasks.training import train

            finish = make_finish(workdir, write_run_record, print_scores)
            train(experiment, task, splits, workdir, finish, machine)

        return Prepared(identify(splits), train_in)

    return Job(experiment, prepare)


def make_translation_job(config: dict[str, Any], overridden: list[str]) -> Job:
    """An encoder-decoder on a translation task."""
    from lra_tasks.translation import get_translation

    experiment = resolve_translation(config, overridden)
    task = get_translation(experiment.data.task)

    def prepare(machine: "Machine") -> Prepared:
        from lra_tasks.translation_data import read_translation
        from lra_tasks.translation_model import build_translation_model
        from lra_tasks.translation_training import check_mesh

        check_mesh(experiment, machine)
        build_translation_model(experiment, task.vocab_size, task.max_length)
        prepared = read_translation(_DATA_DIR.value, task)

        def train_in(workdir: Path) -> None:
            from lra_tasks.translation_finishing import print_translation_scores, write_translation_run
            from lra_tasks.translation_training import train_translation

            finish = make_finish(workdir, write_translation_run, print_translation_scores)
            train_translation(experiment, task, prepared, workdir, finish, machine)

        counts = {name: split.num_examples for name, split in prepared.splits.items()}
        return Prepared({"pairs": counts, "vocabulary": prepared.subwords.checksum}, train_in)

    return Job(experiment, prepare)


def make_finish(workdir: Path, write: Callable[[Any, Path], Any], show: Callable[[Any, Path], None]):
    """What ends a run: all hosts score it and come to the record, one says what is in it."""
    from lra_tasks import hosts

    def finish(run: Any) -> None:
        record = write(run, workdir)
        if hosts.is_lead():
            show(record, workdir)

    return finish


def open_workdir(workdir: Path, experiment: Experiment | TranslationExperiment) -> None:
    """Makes the work directory and its config.json, or refuses one that holds another config."""
    path, config = workdir / CONFIG, experiment.as_dict()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if (workdir / "checkpoints").exists():
                raise UserError(f"{workdir} has checkpoints but no {CONFIG}; take another --workdir")
            write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be used ({error.strerror or error}); take a folder you may write to"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); take another --workdir") from None
    if not isinstance(before, dict):
        raise UserError(f"{path} is not a config; take another --workdir")
    found = differences(config, before)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{workdir} holds another config ({'; '.join(found[:3])}{more}); take another --workdir or that config"
        )


def print_scores(record, workdir: Path) -> None:
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


if __name__ == "__main__":
    cli.run(main, USAGE, takes_arguments=False)
