"""Translate lines of text with a trained model."""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lra_tasks import cli
from lra_tasks.allocator import keep_freed_memory
from lra_tasks.backend import describe_backend, fit_backend
from lra_tasks.errors import UserError
from lra_tasks.machine import keep_compiled_programs

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
    keep_freed_memory()
    workdir = Path(_WORKDIR.value)
    experiment = read_experiment(workdir)
    decode = choose_decoding(experiment.decode)
    lines = read_input()

    from lra_tasks.subwords import Subwords
    from lra_tasks.translation import get_translation
    from lra_tasks.translation_data import MODEL

    task = get_translation(experiment.data.task)
    subwords = Subwords.load(workdir / MODEL)
    sentences = encode_lines(lines, subwords, task.max_length)

    from lra_tasks.translation_decoding import Translator
    from lra_tasks.translation_model import build_translation_model

    experiment = fit_backend(experiment, describe_backend(), cli.say)
    model = build_translation_model(experiment, subwords.size, task.max_length)
    params = restore_params(experiment, model, workdir, subwords)
    write_output(translate_sentences(Translator(model, subwords, decode), params, sentences))
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


def choose_decoding(decode: Any) -> Any:
    """The run's way to search, with what the flags change. UserError for a penalty that nothing would read."""
    import dataclasses

    from lra_tasks.translation_settings import NEUTRAL_PENALTY

    beam_size, penalty = _BEAM_SIZE.value, _LENGTH_PENALTY.value
    if beam_size is None:
        beam_size = decode.beam_size
    if penalty is None:
        penalty = decode.length_penalty if beam_size > 1 else NEUTRAL_PENALTY
    elif beam_size == 1:
        raise UserError(
            "--length_penalty has no effect on a single hypothesis; leave it out or take a wider --beam_size"
        )
    return dataclasses.replace(decode, beam_size=beam_size, length_penalty=penalty)


def read_input() -> list[str]:
    """The lines to translate. UserError for a file that cannot be read, and for a line that is not UTF-8."""
    from lra_tasks.parallel_text import read_lines, split_lines

    if _INPUT.value is not None:
        return read_lines(Path(_INPUT.value))
    if sys.stdin.isatty():
        cli.say("reading lines from the terminal; end with Ctrl-D")
    return split_lines(sys.stdin.buffer.read(), "standard input")


def encode_lines(lines: list[str], subwords: Any, max_length: int) -> list[list[int]]:
    """Ids of each line with the end token; of an empty line none. UserError names the first line that is too long."""
    sentences = [ids if line.strip() else [] for line, ids in zip(lines, subwords.encode_all(lines), strict=True)]
    for number, ids in enumerate(sentences, 1):
        if len(ids) > max_length:
            raise UserError(
                f"line {number} has {len(ids)} subwords, the model takes at most {max_length}; split the sentence"
            )
    return sentences


def restore_params(experiment: Any, model: Any, workdir: Path, subwords: Any) -> Any:
    """The parameters of the chosen checkpoint, which must be of this vocabulary."""
    import jax

    from lra_tasks.checkpoint import Checkpoints
    from lra_tasks.translation_data import MODEL
    from lra_tasks.translation_steps import make_translation_init
    from lra_tasks.translation_training import SNAPSHOTS, average_snapshots, require_vocabulary

    keep_compiled_programs()
    kind = {"averaged": SNAPSHOTS}.get(_CHECKPOINT.value, _CHECKPOINT.value)
    with Checkpoints(workdir) as checkpoints:
        _, notes = checkpoints.read_notes(kind)
        require_vocabulary(notes, subwords, workdir, f"bring back its own {workdir / MODEL}")
        if kind == SNAPSHOTS:
            return average_snapshots(model, checkpoints)[1]
        if kind == "best":
            return checkpoints.restore(kind, model.abstract)[1]
        return checkpoints.restore(kind, jax.eval_shape(make_translation_init(experiment, model)))[1]["params"]


def translate_sentences(translator: Any, params: Any, sentences: list[list[int]]) -> list[str]:
    """Translations of all lines, in order; what has no ids stays empty."""
    from lra_tasks.console import Console

    wanted = [number for number, ids in enumerate(sentences) if ids]
    texts = [""] * len(sentences)
    with Console() as console:
        found = translator.translate(
            params,
            [sentences[number] for number in wanted],
            report=lambda done: console.progress("translate", done, len(wanted)),
        )
    for number, text in zip(wanted, found, strict=True):
        texts[number] = text
    return texts


def write_output(texts: list[str]) -> None:
    """A line a translation, in UTF-8 whatever the locale. UserError for a file that cannot be written."""
    from lra_tasks.typed_json import write_bytes

    content = "".join(f"{text}\n" for text in texts).encode("utf-8")
    if _OUTPUT.value is None:
        sys.stdout.buffer.write(content)
        return
    try:
        write_bytes(Path(_OUTPUT.value), content)
    except OSError as error:
        raise UserError(f"--output {_OUTPUT.value} cannot be written ({error.strerror or error})") from None


if __name__ == "__main__":
    cli.run(main, USAGE, takes_arguments=False)
