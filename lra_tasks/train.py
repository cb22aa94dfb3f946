"""Train a model on a task, evaluate it on the whole test split and write its record."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lra_tasks import cli
from lra_tasks.allocator import keep_freed_memory
from lra_tasks.backend import check_backend, describe_backend
from lra_tasks.errors import UserError
from lra_tasks.machine import MachineSettings, Processes, keep_compiled_programs, take_machine
from lra_tasks.provenance import git_commit, library_versions
from lra_tasks.seeds import SeedFolders, parse_seeds
from lra_tasks.settings import Experiment, check_task, differences, resolve
from lra_tasks.translation_settings import TranslationExperiment, is_translation, resolve_translation
from lra_tasks.workdirs import Place, RunFolder

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

--seeds 1,11,65537 trains seeds at once, for small models on a large accelerator: one program, and in WORKDIR/seed1,
seed11, ... the files of a run by itself. A seed whose numbers are not finite any more is given up, the others go on.

Several hosts: --distributed=auto on a TPU slice, under Slurm, on GKE or with Open MPI; elsewhere --coordinator,
--num_processes and --process_id. The mesh: --config.machine.data, model, sequence.

Exit codes: 0 finished, 1 some of --seeds failed and the others are finished, 2 a mistake to mend, 75 stopped by a
signal with everything saved, or another host died (run it again to go on), 134 JAX ended the process since another host
died (the same)."""

EXIT_STOPPED = 75
"""EX_TEMPFAIL: a scheduler may requeue."""

_CONFIG = cli.config_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; made if it is missing", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data", "folder of prepared data; ListOps is prepared there if it is missing"
)
_SEEDS = flags.DEFINE_list("seeds", None, "train these seeds of the config at once, as 1,11,65537")
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
    """The first, of several seeds."""
    place: Place
    prepare: Callable[["Machine"], "Prepared"]
    """Checks the model on its mesh and reads the data."""


@dataclass(frozen=True)
class Prepared:
    """A job whose data are there."""

    data: dict[str, Any]
    """What tells these data from others, for hosts to compare."""
    train: Callable[[], int]
    """Trains, and returns the exit code."""


def main(_argv: list[str]) -> int:
    """Returns the exit code."""
    keep_freed_memory()
    config, settings = take_machine(_CONFIG.value.to_dict())
    processes = Processes(_DISTRIBUTED.value == "auto", _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    workdir = Path(_WORKDIR.value)
    job = make_job(config, cli.overridden_keys(), workdir, processes)
    if processes.is_alone and job.place.is_done:  # said at once, before JAX is imported
        job.place.open()
        return job.place.conclude()

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


def make_job(config: dict[str, Any], overridden: list[str], workdir: Path, processes: Processes) -> Job:
    """The job of the command line. UserError for what cannot be trained, or not at once."""
    if _SEEDS.value is None:
        make = make_translation_job if is_translation(config) else make_classification_job
        return make(config, overridden, workdir)
    seeds = parse_seeds(_SEEDS.value)
    if "train.seed" in overridden:
        raise UserError("--seeds and --config.train.seed were both given; give one of them")
    if is_translation(config):
        raise UserError("--seeds trains classifiers at once, not translations; train them one by one")
    if not processes.is_alone:
        raise UserError("--seeds trains in one process; leave it out, or --distributed and --coordinator")
    return make_seeds_job(config, overridden, workdir, seeds)


def train_on_all(job: Job, workdir: Path, settings: MachineSettings) -> int:
    """What every process of a run does, once they have met: agree, prepare, train."""
    from lra_tasks import hosts
    from lra_tasks.distributed import make_layout
    from lra_tasks.loop import Machine
    from lra_tasks.profiling import Profile

    faults = [keep_compiled_programs(settings.compilation_cache), check_backend(job.experiment, describe_backend())]
    for fault in filter(None, faults if hosts.is_lead() else []):
        cli.say(fault)
    code = {"commit": git_commit(), "versions": library_versions()}
    start = {"config": job.experiment.as_dict(), "machine": asdict(settings), "code": code}
    hosts.require_same("config or code", start, differences)
    profile = Profile(workdir / "profile" if _PROFILE.value and hosts.is_lead() else None)
    machine = Machine(settings, make_layout(settings), profile)
    hosts.on_the_lead(job.place.open)
    hosts.require_shared(workdir)
    if job.place.is_done:
        return job.place.conclude() if hosts.is_lead() else 0
    try:
        prepared = hosts.in_turn(lambda: job.prepare(machine))
        hosts.require_same("data", prepared.data, differences)
    except UserError:
        if hosts.is_lead():
            job.place.withdraw()
        raise
    return prepared.train()


def make_classification_job(config: dict[str, Any], overridden: list[str], workdir: Path) -> Job:
    """A classifier on a task of Long Range Arena."""
    experiment, task = read_classification(config, overridden)

    def train_in(splits: dict[str, Any], machine: "Machine") -> int:
        from lra_tasks.finishing import print_scores, write_run_record
        from lra_tasks.training import train

        train(experiment, task, splits, workdir, make_finish(workdir, write_run_record, print_scores), machine)
        return 0

    def prepare(machine: "Machine") -> Prepared:
        from lra_tasks.training import build_split_model

        build_split_model(experiment, task, machine)  # what it cannot be is said before anything is prepared
        return read_splits(experiment, task, lambda splits: train_in(splits, machine))

    return Job(experiment, RunFolder(workdir, experiment), prepare)


def make_seeds_job(config: dict[str, Any], overridden: list[str], workdir: Path, seeds: tuple[int, ...]) -> Job:
    """Several seeds of a classifier at once."""
    first, task = read_classification(config, overridden)
    experiments = {seed: replace(first, train=replace(first.train, seed=seed)) for seed in seeds}
    folders = SeedFolders(workdir, experiments)

    def train_in(splits: dict[str, Any], machine: "Machine") -> int:
        from lra_tasks.finishing import print_scores, write_run_record
        from lra_tasks.seeds_loop import NoSeedLeft
        from lra_tasks.seeds_training import SeedsJob, train_seeds

        def finish(seed: int, run: Any) -> None:
            write = partial(write_run_record, seeds_at_once=folders.list_sharers(seed))
            make_finish(folders.folder(seed), write, print_scores)(run)

        for group in folders.list_groups():
            members = {seed: experiments[seed] for seed in group}
            with contextlib.suppress(NoSeedLeft):
                train_seeds(SeedsJob(members, task, splits, folders, machine), finish)
        return folders.tell_failures()

    def prepare(machine: "Machine") -> Prepared:
        from lra_tasks.seeds_training import choose_machine
        from lra_tasks.training import build_split_model

        machine = choose_machine(machine, cli.say)
        build_split_model(first, task, machine)
        return read_splits(first, task, lambda splits: train_in(splits, machine))

    return Job(first, folders, prepare)


def read_classification(config: dict[str, Any], overridden: list[str]) -> tuple[Experiment, Any]:
    """The experiment of a config, and its task."""
    from lra_tasks.registry import get_task

    experiment = resolve(config, overridden)
    task = get_task(experiment.data.task)
    check_task(experiment, task, overridden)
    return experiment, task


def read_splits(experiment: Experiment, task: Any, train_on: Callable[[dict[str, Any]], int]) -> Prepared:
    """The data of a classifier, prepared where they are missing."""
    from lra_tasks.console import Console
    from lra_tasks.preparation import ensure_prepared
    from lra_tasks.splits import choose_splits, identify

    with Console() as console:
        prepared = ensure_prepared(task, Path(_DATA_DIR.value), console.report, console.progress)
    splits = choose_splits(prepared, experiment.data.validation)
    return Prepared(identify(splits), lambda: train_on(splits))


def make_translation_job(config: dict[str, Any], overridden: list[str], workdir: Path) -> Job:
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

        def train() -> int:
            from lra_tasks.translation_finishing import print_translation_scores, write_translation_run
            from lra_tasks.translation_training import train_translation

            finish = make_finish(workdir, write_translation_run, print_translation_scores)
            train_translation(experiment, task, prepared, workdir, finish, machine)
            return 0

        counts = {name: split.num_examples for name, split in prepared.splits.items()}
        return Prepared({"pairs": counts, "vocabulary": prepared.subwords.checksum}, train)

    return Job(experiment, RunFolder(workdir, experiment), prepare)


def make_finish(workdir: Path, write: Callable[[Any, Path], Any], show: Callable[[Any, Path], None]):
    """What ends a run: all hosts score it and come to the record, one says what is in it."""
    from lra_tasks import hosts

    def finish(run: Any) -> None:
        record = write(run, workdir)
        if hosts.is_lead():
            show(record, workdir)

    return finish


if __name__ == "__main__":
    cli.run(main, USAGE, takes_arguments=False)
