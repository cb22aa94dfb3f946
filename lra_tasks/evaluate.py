"""Evaluate a trained model on a split, or let it answer texts of your own."""

import json
from pathlib import Path

from absl import flags

from lra_tasks import cli
from lra_tasks.allocator import keep_freed_memory
from lra_tasks.backend import describe_backend, fit_backend
from lra_tasks.errors import UserError
from lra_tasks.machine import check_lengths, fit_lengths, keep_compiled_programs
from lra_tasks.settings import Experiment, resolve, sequence_length
from lra_tasks.translation_settings import is_translation

USAGE = """Evaluate a trained model on a whole split, or let it answer texts of your own.

  python -m lra_tasks.evaluate --workdir runs/small
  python -m lra_tasks.evaluate --workdir runs/small --split validation --checkpoint last
  python -m lra_tasks.evaluate --workdir runs/text --lengths 1000,2000,4000
  python -m lra_tasks.evaluate --workdir runs/small --text "[MAX 2 9 [MIN 4 7 ] 0 ]"
  python -m lra_tasks.evaluate --workdir runs/small --input expressions.txt
  python -m lra_tasks.evaluate --workdir runs/text --text "A film to fall asleep in."

--input reads one text a line, or, if the name ends in .tsv, a table with the header Source (and Target, if answers are
known)."""

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of a trained run", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "folder of prepared data")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "split to evaluate on")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "best on validation, or the newest")
_LENGTHS = flags.DEFINE_list("lengths", [], "pad each batch of a split to the first of these that holds it: faster")
_INPUT = flags.DEFINE_string("input", None, "file of texts to answer")
_TEXT = flags.DEFINE_string("text", None, "a text to answer")


def main(_argv: list[str]) -> int:
    """Returns the exit code."""
    keep_freed_memory()
    text, path = _TEXT.value, _INPUT.value
    if text is not None and path is not None:
        raise UserError("--text and --input were both given; give one of them")
    lengths = parse_lengths(_LENGTHS.value)
    if lengths and (text is not None or path is not None):
        raise UserError("--lengths is for a whole split, and has no effect on --text and --input; leave it out")
    workdir = Path(_WORKDIR.value)
    experiment = read_experiment(workdir)

    from lra_tasks.registry import get_task
    from lra_tasks.texts import parse_text, read_texts

    task = get_task(experiment.data.task)
    if (text is not None or path is not None) and task.paired:
        raise UserError(f"{task.name} compares two documents, which --text and --input cannot give; leave them out")
    if text is not None:
        answer(experiment, task, workdir, [parse_text(task, text, sequence_length(experiment, task))])
    elif path is not None:
        answer(experiment, task, workdir, read_texts(Path(path), task, sequence_length(experiment, task)))
    else:
        evaluate(experiment, task, workdir, lengths)
    return 0


def read_experiment(workdir: Path) -> Experiment:
    """The resolved config of a run."""
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        experiment = None if is_translation(config) else resolve(config)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; --workdir must be the folder of a run of lra_tasks.train") from None
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path} cannot be read ({error}); train again in another --workdir") from None
    if experiment is None:
        raise UserError(
            f"{workdir} is of a translation run; its BLEU on every test set is in {workdir / 'record.json'}, your own "
            f"text translates: python -m lra_tasks.translate --workdir {workdir} < input.txt"
        )
    return experiment


def restore_params(experiment, task, workdir: Path):
    """(model, step, parameters) of the chosen checkpoint."""
    import jax

    from lra_tasks.checkpoint import Checkpoints
    from lra_tasks.model import build_model
    from lra_tasks.steps import make_init

    keep_compiled_programs()
    experiment = fit_backend(experiment, describe_backend(), cli.say)
    model = build_model(experiment, task)
    with Checkpoints(workdir) as checkpoints:
        if _CHECKPOINT.value == "best":
            step, params, _ = checkpoints.restore("best", model.abstract)
            return model, step, params
        step, state, _ = checkpoints.restore("last", jax.eval_shape(make_init(experiment, model)))
        return model, step, state["params"]


def parse_lengths(words: list[str]) -> tuple[int, ...]:
    """The lengths of --lengths. UserError for what are none."""
    if not all(word.isdecimal() for word in words):
        raise UserError(f"--lengths {','.join(words)} must be whole numbers that rise, as 1000,2000,4000")
    lengths = tuple(map(int, words))
    check_lengths("--lengths", lengths)
    return lengths


def evaluate(experiment, task, workdir: Path, lengths: tuple[int, ...]) -> None:
    """Prints loss and accuracy on a whole split, whose batches are padded to these lengths, if there are any."""
    from lra_tasks.evaluation import evaluate_split, majority_share
    from lra_tasks.steps import make_eval_step
    from lra_tasks.store import read_store

    name, length = _SPLIT.value, sequence_length(experiment, task)
    lengths = fit_lengths("--lengths", lengths, longest=length, attention=experiment.model.attention)
    split = read_store(_DATA_DIR.value, task)[name]
    model, step, params = restore_params(experiment, task, workdir)
    result = evaluate_split(
        make_eval_step(model),
        params,
        split,
        batch_size=experiment.train.eval_batch_size,
        length=length,
        declared=task.splits[name],
        lengths=lengths,
    )
    print(
        f"{experiment.row} on {task.name} {name}, {_CHECKPOINT.value} checkpoint (step {step}): "
        f"accuracy {100 * result.accuracy:.2f}%, loss {result.loss:.4f}, "
        f"{result.evaluated} of {task.splits[name]} examples (majority class {100 * majority_share(task, split):.2f}%)"
    )


def answer(experiment, task, workdir: Path, texts) -> None:
    """Prints, for each text, the prediction and the probabilities of all classes; at the end the accuracy, if known."""
    import numpy as np

    from lra_tasks.steps import make_predict_step
    from lra_tasks.texts import text_batches

    model, step, params = restore_params(experiment, task, workdir)
    predict = make_predict_step(model)
    right = []
    for batch, rows in text_batches(texts, experiment.train.eval_batch_size, sequence_length(experiment, task)):
        for text, probabilities in zip(rows, np.asarray(predict(params, batch)), strict=False):
            prediction = int(probabilities.argmax())
            shares = " ".join(f"{label}:{share:.3f}" for label, share in enumerate(probabilities))
            known = "" if text.label is None else f"  answer {text.label}"
            print(f"prediction {prediction}{known}  {shares}  {text.shown}")
            if text.label is not None:
                right.append(prediction == text.label)
    if right:
        print(
            f"accuracy {100 * sum(right) / len(right):.2f}% of {len(right)} texts "
            f"({_CHECKPOINT.value} checkpoint, step {step})"
        )


if __name__ == "__main__":
    cli.run(main, USAGE, takes_arguments=False)
