"""Parallel text, from files or from tensorflow-datasets, with every line that has no partner or no words named."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lra_tasks.archives import hash_file, name_damage
from lra_tasks.errors import UserError
from lra_tasks.task import Progress, ignore_progress
from lra_tasks.translation import ALIASES, TRAIN, TranslationTask

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Sides = tuple[list[str], list[str]]
"""Source and target lines; line n of one translates line n of the other."""


@dataclass(frozen=True)
class ParallelText:
    """Lines of both sides of each split, the empty ones of training left out, and where they come from."""

    lines: dict[str, Sides]
    places: dict[str, tuple[str, str]]
    """Names of both sides of a split, for messages."""
    source: dict[str, Any]
    num_empty: int = 0
    """Training pairs left out because a side is empty."""


def read_parallel_text(
    task: TranslationTask, raw_dir: Path | None, tfds_dir: Path | None, progress: Progress = ignore_progress
) -> ParallelText:
    """All splits of a task, from one of the two folders. UserError names the file and the line of what is wrong."""
    if raw_dir is not None:
        found = read_files(task, raw_dir)
    elif tfds_dir is not None:
        found = read_tfds(task, tfds_dir, progress)
    else:
        source, target = task.languages
        also = f", or --tfds_dir, where {task.tfds_name} is prepared" if task.tfds_name else ""
        raise UserError(
            f"{task.name} is read from your files; give --raw_dir, a folder with train.{source}, train.{target} and so "
            f"on, plain or .gz{also}"
        )
    lines, num_empty = {}, 0
    for split, sides in found.lines.items():
        places = found.places[split]
        require_partners(sides, places)
        empty = [index for index, pair in enumerate(zip(*sides, strict=True)) if not all(map(str.strip, pair))]
        if empty and split != TRAIN:
            place = places[0] if not sides[0][empty[0]].strip() else places[1]
            raise UserError(
                f"{place}, line {empty[0] + 1:,}: empty; a sentence that is scored needs words on both sides"
            )
        if len(empty) == len(sides[0]):
            raise UserError(f"{places[0]} and {places[1]} hold no pair of sentences; give at least one")
        if split == TRAIN:
            num_empty = len(empty)
        lines[split] = leave_out(sides, set(empty))
    return ParallelText(lines, found.places, found.source, num_empty)


def leave_out(sides: Sides, indices: set[int]) -> Sides:
    """Both sides without some lines."""
    if not indices:
        return sides
    first, second = ([line for index, line in enumerate(side) if index not in indices] for side in sides)
    return first, second


def require_partners(sides: Sides, places: tuple[str, str]) -> None:
    """Raises UserError, naming the first line without a partner, unless both sides have as many lines."""
    first, second = map(len, sides)
    if first != second:
        longer, shorter = places if first > second else places[::-1]
        alone = min(first, second) + 1
        raise UserError(
            f"{places[0]} has {first:,} lines and {places[1]} has {second:,}; {longer}, line {alone:,}, has no "
            f"partner in {shorter}: line n of one side must translate line n of the other"
        )


def read_files(task: TranslationTask, raw_dir: Path) -> ParallelText:
    """Both sides of every split as the files have them."""
    lines, places = {}, {}
    for split in task.splits:
        source, target = find_files(task, raw_dir, split)
        lines[split] = read_lines(source), read_lines(target)
        places[split] = str(source), str(target)
    return ParallelText(lines, places, {"kind": "parallel files", "sha256": hash_files(task, raw_dir)})


def hash_files(task: TranslationTask, raw_dir: Path) -> dict[str, str]:
    """sha256 by name of every file that is read in `raw_dir`. UserError for a missing one."""
    paths = [path for split in task.splits for path in find_files(task, raw_dir, split)]
    return {path.name: hash_file(path) for path in paths}


def find_files(task: TranslationTask, raw_dir: Path, split: str) -> tuple[Path, Path]:
    """The files of both sides of a split, plain before .gz. UserError names what was looked for."""
    if not raw_dir.is_dir():
        source, target = task.languages
        raise UserError(f"--raw_dir {raw_dir} is not a folder; it must hold train.{source}, train.{target} and so on")
    looked_for = []
    for name in ALIASES.get(split, (split,)):
        choices = [[raw_dir / f"{name}.{language}{end}" for end in ("", ".gz")] for language in task.languages]
        found = [next((path for path in side if path.is_file()), None) for side in choices]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
        for side, path in zip(choices, found, strict=True):
            looked_for += [choice.name for choice in side if path is None]
    raise UserError(f"{raw_dir} lacks the {split} files of {task.name}; looked for {', '.join(looked_for)}")


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, plain or .gz. UserError names the file, and the line that is not UTF-8."""
    try:
        with name_damage(path):
            content = path.read_bytes()
            return split_lines(gzip.decompress(content) if path.suffix == ".gz" else content, str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None


def split_lines(content: bytes, name: str) -> list[str]:
    r"""Lines of UTF-8 text; `name` is said of one that is not.

    Only \n, or \r\n, ends a line: crawled sentences have U+0085 and U+2028 inside, which end one for `str.splitlines`,
    and a line more on one side shifts all pairs behind it.
    """
    content = content.removeprefix(BYTE_ORDER_MARK)
    rows = content.removesuffix(b"\n").split(b"\n") if content else ()
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            lines.append(row.rstrip(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number:,}: not UTF-8 ({error.reason} at byte {error.start}); convert it"
            ) from None
    return lines


def read_tfds(task: TranslationTask, tfds_dir: Path, progress: Progress = ignore_progress) -> ParallelText:
    """Both sides of every split out of a prepared tensorflow-datasets data set, without TensorFlow."""
    from lra_tasks import dataset  # imports tensorflow-datasets, 1 s

    folder = find_version(task, tfds_dir)
    lines: dict[str, Sides] = {}
    with dataset.open_records(folder, f"prepare it again, {describe_preparation(task, tfds_dir)}") as sources:
        for split in task.splits:
            if split not in sources:
                raise UserError(f"{folder} has no split {split}; it has {', '.join(sources)}")
            lines[split] = [], []
            for begin, examples in dataset.read_in_chunks(sources[split]):
                progress(f"read {split}", begin, len(sources[split]))
                for side, language in zip(lines[split], task.languages, strict=True):
                    side += [as_line(example[language]) for example in examples]
    places = {split: (f"{folder} {split} (source)", f"{folder} {split} (target)") for split in lines}
    source = {"kind": "tensorflow-datasets", "name": task.tfds_name, "version": folder.name}
    return ParallelText(lines, places, source)


def find_version(task: TranslationTask, tfds_dir: Path) -> Path:
    """The folder of the newest prepared version. UserError says how it is prepared."""
    if task.tfds_name is None:
        raise UserError(f"{task.name} is not in tensorflow-datasets; give its files as --raw_dir")
    versions = {}
    for path in (tfds_dir / task.tfds_name).glob("*.*.*"):
        numbers = path.name.split(".")
        if path.is_dir() and all(number.isdecimal() for number in numbers):
            versions[tuple(map(int, numbers))] = path
    if not versions:
        raise UserError(
            f"{task.tfds_name} is not prepared in {tfds_dir}; prepare it {describe_preparation(task, tfds_dir)}"
        )
    return versions[max(versions)]


def describe_preparation(task: TranslationTask, tfds_dir: Path) -> str:
    """The remedy where tensorflow-datasets has nothing that can be read: only TensorFlow unpacks the archives."""
    return (
        'on a machine with TensorFlow: python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{task.tfds_name}', data_dir='{tfds_dir}', file_format='array_record').download_and_prepare()\""
    )


def as_line(text: bytes | str) -> str:
    """A sentence as read from a text feature, on one line."""
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    return decoded.replace("\n", " ").rstrip("\r")
