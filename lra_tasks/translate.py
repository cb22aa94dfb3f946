"""Translate lines of text with a trained model."""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lra_tasks import cli
from lra_tasks.errors import UserError

USAGE = """Translate lines of text with a trained model; an empty line stays one.

  python -m lra_tasks.translate --workdir runs/multi30k_luna16 < input.txt
  python -m lra_tasks.translate --workdir runs/multi30k_luna16 --input input.txt --output output.txt --beam_size 1

Everything is in the work directory, the vocabulary too; no prepared data is needed."""

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of a trained translation run", required=True)
_INPUT = flags.DEFINE_string("input", None, "file of lines to translate; none: standard input")
_OUTPUT = flags.DEFINE_string("output", None, "file of translations, made or replaced; none: standard output")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "averaged",
    ["averaged", "best", "last"],
    "mean of the newest snapshots, best on validation, or newest",
)
_BEAM_SIZE = flags.DEFINE_integer("beam_size", None, "hypotheses kept; none: the run's", lower_bound=1)
_LENGTH_PENALTY = flags.DEFINE_float("length_penalty", None, "score = log p / length ** this; none: the run's")


def main(_argv: list[str]) -> int:
    """Returns the exit code."""
    workdir = Path(_WORKDIR.value)
    experiment = read_experiment(workdir)
    lines = read_input()

    from lra_tasks.translation import get_translation

    task = get_translation(experiment.data.task)
    subwords = read_subwords(workdir)
    sentences = encode_lines(lines, subwords, task.max_length)
    translations = translate_sentences(experiment, task, workdir, subwords, sentences)
    text = "".join(f"{translation}\n" for translation in translations)
    if _OUTPUT.value is None:
        sys.stdout.write(text)
        return 0
    from lra_tasks.typed_json import write_text

    try:
        write_text(Path(_OUTPUT.value), text)
    except OSError as error:
        raise UserError(f"--output {_OUTPUT.value} cannot be written ({error.strerror or error})") from None
    return 0


def read_experiment(workdir: Path) -> Any:
    """The resolved config of a translation run."""
    from lra_tasks.translation_settings import is_translation, resolve_translation

    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not is_translation(config):
            raise UserError("it is of a classifier, which lra_tasks.evaluate asks; give a translation run")
        return resolve_translation(config)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; --workdir must be the folder of a run of lra_tasks.train") from None
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path} cannot be used ({error})") from None


def read_input() -> list[str]:
    """The lines to translate. UserError for a file that cannot be read, and for a line that is not UTF-8."""
    from lra_tasks.parallel_text import read_lines, split_lines

    if _INPUT.value is not None:
        return read_lines(Path(_INPUT.value))
    if sys.stdin.isatty():
        cli.say("reading lines from the terminal; end with Ctrl-D")
    return split_lines(sys.stdin.buffer.read(), "standard input")


def read_subwords(workdir: Path) -> Any:
    """The vocabulary of the run, which must be the one that its model was trained with."""
    from lra_tasks.subwords import Subwords

    path = workdir / "subwords.model"
    subwords = Subwords.load(path)
    record = workdir / "record.json"
    if record.exists():
        trained = json.loads(record.read_text(encoding="utf-8")).get("vocab_checksum")
        if trained != subwords.checksum:
            raise UserError(
                f"{path} is the vocabulary of another model (sha256 {subwords.checksum[:12]}, the run had "
                f"{str(trained)[:12]}); put the run's own file back"
            )
    return subwords


def encode_lines(lines: list[str], subwords: Any, max_length: int) -> list[list[int]]:
    """Ids of each line with the end token; of an empty line none. UserError names the first line that is too long."""
    sentences = [ids if line.strip() else [] for line, ids in zip(lines, subwords.encode_all(lines), strict=True)]
    for number, ids in enumerate(sentences, 1):
        if len(ids) > max_length:
            raise UserError(
                f"line {number} has {len(ids)} subwords, the model takes at most {max_length}; split the sentence"
            )
    return sentences


def translate_sentences(
    experiment: Any, task: Any, workdir: Path, subwords: Any, sentences: list[list[int]]
) -> list[str]:
    """Translations of all lines, in order."""
    import dataclasses

    from lra_tasks.translation_decoding import Translator
    from lra_tasks.translation_model import build_translation_model

    model = build_translation_model(experiment, subwords.size, task.max_length)
    params = restore_params(experiment, model, workdir)
    decode = experiment.decode
    if _BEAM_SIZE.value is not None:
        decode = dataclasses.replace(decode, beam_size=_BEAM_SIZE.value)
    if _LENGTH_PENALTY.value is not None:
        decode = dataclasses.replace(decode, length_penalty=_LENGTH_PENALTY.value)
    wanted = [number for number, ids in enumerate(sentences) if ids]
    texts = [""] * len(sentences)
    found = Translator(model, subwords, decode).translate(params, [sentences[number] for number in wanted])
    for number, text in zip(wanted, found, strict=True):
        texts[number] = text
    return texts


def restore_params(experiment: Any, model: Any, workdir: Path) -> Any:
    """The parameters of the chosen checkpoint."""
    import jax

    from lra_tasks.checkpoint import Checkpoints
    from lra_tasks.translation_steps import make_translation_init
    from lra_tasks.translation_training import SNAPSHOTS, average_snapshots

    with Checkpoints(workdir) as checkpoints:
        if _CHECKPOINT.value == "averaged":
            if not checkpoints.list_steps(SNAPSHOTS):
                raise UserError(f"{workdir} has no snapshots to average; take --checkpoint best or last")
            return average_snapshots(model, checkpoints)[1]
        if _CHECKPOINT.value == "best":
            return checkpoints.restore("best", model.abstract)[1]
        init = make_translation_init(experiment, model)
        return checkpoints.restore("last", jax.eval_shape(init))[1]["params"]


if __name__ == "__main__":
    cli.run(main, USAGE, takes_arguments=False)
