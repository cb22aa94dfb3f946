"""Train a model on a task, evaluate it on the whole test split and write its record."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from lra_tasks import cli
from lra_tasks.errors import UserError
from lra_tasks.settings import Experiment, check_task, differences, resolve
from lra_tasks.translation_settings import TranslationExperiment, is_translation, resolve_translation
from lra_tasks.typed_json import write_text

USAGE = """Train a model on a task, evaluate it on the whole test split and write its record.

  python -m lra_tasks.train --config configs/listops_luna16.py --workdir runs/listops_luna16
  python -m lra_tasks.train --config configs/listops_luna16.py:cpu --workdir runs/small
  python -m lra_tasks.train --config configs/listops_luna16.py --workdir runs/seed1 --config.train.seed=1
  python -m lra_tasks.train --config configs/multi30k_deen_luna16.py:cpu --workdir runs/translation

The same command again goes on where the run stopped. configs/base.py explains every key, configs/base_translation.py
those of translation. In the work directory: config.json (resolved), metrics.jsonl, checkpoints/{last,best}, of a
translation also subwords.model and checkpoints/snapshots, and at the end record.json.

Exit codes: 0 finished, 2 a mistake to mend, 75 stopped by a signal with everything saved (run it again to go on)."""

EXIT_STOPPED = 75
"""EX_TEMPFAIL: a scheduler may requeue."""

CONFIG = "config.json"

_CONFIG = cli.config_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; made if it is missing", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "data", "folder of prepared data; ListOps is prepared there if it is missing"
)


@dataclass(frozen=True)
class Job:
    """What a config asks to be trained."""

    experiment: Experiment | TranslationExperiment
    prepare: Callable[[], Callable[[Path], None]]
    """Checks the model and reads the data; gives the function that trains in a work directory."""


def main(_argv: list[str]) -> int:
    """Returns the exit code."""
    config, overridden = _CONFIG.value.to_dict(), cli.overridden_keys()
    make_job = make_translation_job if is_translation(config) else make_classification_job
    job = make_job(config, overridden)
    workdir = Path(_WORKDIR.value)
    is_new = not (workdir / CONFIG).exists()
    open_workdir(workdir, job.experiment)
    if (workdir / "record.json").exists():
        print(f"{workdir} is finished; its record is {workdir / 'record.json'}")
        return 0
    try:
        train = job.prepare()
    except UserError:
        if is_new:  # a run that never began claims no work directory
            (workdir / CONFIG).unlink()
            with contextlib.suppress(OSError):
                workdir.rmdir()
        raise

    from lra_tasks.loop import Stopped

    try:
        train(workdir)
    except Stopped as stopped:
        cli.say(str(stopped))
        return EXIT_STOPPED
    except BrokenPipeError:  # nobody reads our output any more: not the work directory's fault
        raise
    except OSError as error:
        fault = error.strerror or error
        raise UserError(
            f"{workdir} cannot be written ({fault}); make room or rights and run the same command again"
        ) from error
    return 0


def make_classification_job(config: dict[str, Any], overridden: list[str]) -> Job:
    """A classifier on a task of Long Range Arena."""
    from lra_tasks.registry import get_task

    experiment = resolve(config, overridden)
    task = get_task(experiment.data.task)
    check_task(experiment, task, overridden)

    def prepare() -> Callable[[Path], None]:
        from lra_tasks.console import Console
        from lra_tasks.model import build_model
        from lra_tasks.preparation import ensure_prepared

        build_model(experiment, task)  # so that what its attention cannot be is said before anything is prepared
        with Console() as console:
            prepared = ensure_prepared(task, Path(_DATA_DIR.value), console.report, console.progress)

        from lra_tasks.finishing import write_run_record
        from lra_tasks.splits import choose_splits
        from lra_tasks.training import train

        splits = choose_splits(prepared, experiment.data.validation)
        return lambda workdir: train(
            experiment, task, splits, workdir, lambda run: print_scores(write_run_record(run, workdir), workdir)
        )

    return Job(experiment, prepare)


def make_translation_job(config: dict[str, Any], overridden: list[str]) -> Job:
    """An encoder-decoder on a translation task."""
    from lra_tasks.translation import get_translation

    experiment = resolve_translation(config, overridden)
    task = get_translation(experiment.data.task)

    def prepare() -> Callable[[Path], None]:
        from lra_tasks.translation_data import read_translation
        from lra_tasks.translation_model import build_translation_model

        build_translation_model(experiment, task.vocab_size, task.max_length)
        prepared = read_translation(_DATA_DIR.value, task)

        from lra_tasks.translation_finishing import print_translation_scores, write_translation_run
        from lra_tasks.translation_training import train_translation

        return lambda workdir: train_translation(
            experiment,
            task,
            prepared,
            workdir,
            lambda run: print_translation_scores(write_translation_run(run, workdir), workdir),
        )

    return Job(experiment, prepare)


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
