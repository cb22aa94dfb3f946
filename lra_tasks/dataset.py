"""Every task as a versioned tensorflow-datasets data set of array_record files, written and read without TensorFlow.

Anybody can read a prepared task, without this package:

    import tensorflow_datasets as tfds
    source = tfds.builder_from_directory("data/listops/1.0.0").as_data_source(split="test")
    source[0]  # {"tokens": uint8 [N], "label": int}

A paired task is two data sets, so that each document is stored once: data/<task>/documents/<version> with the one split
"documents" of {"tokens"}, and data/<task>/pairs/<version> with {"pair": int32 [2], "label"}, two document numbers.
By name the file format has to be said, because tfds forgets its default when a data_dir is given:

    tfds.data_source("listops", split="test", data_dir="data", builder_kwargs={"file_format": "array_record"})

Importing this module imports tensorflow-datasets; only preparation does.
"""

import contextlib
import io
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from lra_tasks.errors import UserError
from lra_tasks.registry import TASKS
from lra_tasks.task import Progress, Request, Split, Task, ignore_progress

FILE_FORMAT = "array_record"
READ_AT_ONCE = 1000
DOCUMENTS, PAIRS = "documents", "pairs"


@dataclass(frozen=True)
class Rows:
    """One split of one data set: how many rows, and row number -> features."""

    count: int
    read: Callable[[int], dict[str, Any]]


def list_parts(task: Task) -> tuple[str, ...]:
    """Names of the data sets of a task: one without a name, or documents and pairs."""
    return (DOCUMENTS, PAIRS) if task.paired else ("",)


def make_rows(task: Task, part: str, splits: dict[str, Split]) -> dict[str, Rows]:
    """The splits of one data set of a task."""
    if part == DOCUMENTS:
        shared = next(iter(splits.values()))
        return {DOCUMENTS: Rows(len(shared.offsets) - 1, lambda index: {"tokens": shared.document(index)})}
    return {name: Rows(split.num_examples, partial(read_example, split)) for name, split in splits.items()}


def read_example(split: Split, index: int) -> dict[str, Any]:
    """The features of an example: its tokens, or its two document numbers, and its label."""
    features = {"tokens": split.document(index)} if split.pairs is None else {"pair": split.pairs[index]}
    return {**features, "label": int(split.labels[index])}


class TaskDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The rows of a task in the order of the split.

    `DatasetInfo` is built by hand: tfds' own helper wants each builder in a package of its own.
    """

    TASK: Task

    def __init__(self, *, splits: dict[str, Split] | None = None, progress: Progress = ignore_progress, **kwargs):
        """A builder that writes `splits`; without them it makes the task's own. `kwargs` as every tfds builder's."""
        self._splits = splits
        self._progress = progress
        super().__init__(file_format=kwargs.pop("file_format", None) or FILE_FORMAT, **kwargs)

    @property
    def part(self) -> str:
        """ "" or, of a paired task, "documents" or "pairs"."""
        return self.builder_config.name if self.builder_config is not None else ""

    def _info(self) -> tfds.core.DatasetInfo:
        task, part = self.TASK, self.part
        tokens = tfds.features.Tensor(
            shape=(None,), dtype=task.vocabulary.dtype.type, encoding=tfds.features.Encoding.BYTES
        )
        features: dict[str, Any] = {} if part == PAIRS else {"tokens": tokens}
        if part == PAIRS:
            features["pair"] = tfds.features.Tensor(shape=(2,), dtype=np.int32)
        if part != DOCUMENTS:
            features["label"] = tfds.features.ClassLabel(num_classes=task.num_classes)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{task.title}. Token ids of the vocabulary: {' '.join(task.vocabulary.tokens)}",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order of a split is part of the data
        )

    def _split_generators(self, dl_manager):
        splits = self._splits or self._make_splits(dl_manager)
        rows = make_rows(self.TASK, self.part, splits)
        total, before, generators = sum(one.count for one in rows.values()), 0, {}
        for name, one in rows.items():
            generators[name] = self._generate_examples(one, before, total)
            before += one.count
        return generators

    def _make_splits(self, dl_manager) -> dict[str, Split]:
        folder = Path(self.data_dir).parent
        request = Request(
            raw_dir=None,
            work_dir=folder / "work",
            download_dir=folder / "downloads",
            num_workers=1,
            progress=self._progress,
            report=lambda text: None,
            fetch=lambda url: Path(dl_manager.download(url)),
        )
        return self.TASK.make_splits(request)[0]

    def _generate_examples(self, rows: Rows, before: int, total: int):
        for index in range(rows.count):
            if index % READ_AT_ONCE == 0:
                self._progress(name_stage("write", self.part), before + index, total)
            yield index, rows.read(index)


def name_stage(verb: str, part: str) -> str:
    """The stage of a progress report."""
    return f"{verb} {part or 'records'}"


def make_builder_class(task: Task) -> type[TaskDataset]:
    """The registered builder class of a task: its name and version are the task's."""
    fields: dict[str, Any] = {"name": task.name, "VERSION": tfds.core.Version(task.version), "TASK": task}
    if task.paired:
        fields["BUILDER_CONFIGS"] = [tfds.core.BuilderConfig(name=part) for part in list_parts(task)]
    return type(task.name.title().replace("_", ""), (TaskDataset,), fields | {"__module__": __name__})


BUILDERS: dict[str, type[TaskDataset]] = {name: make_builder_class(task) for name, task in TASKS.items()}


def write_records(folder: Path, task: Task, part: str, splits: dict[str, Split], progress: Progress) -> None:
    """Writes the record files of a data set of a task, with tfds' metadata, straight into `folder`.

    Raises UserError when the disk refuses: array_record reports that as a RuntimeError with the system's words inside.
    """
    builder_folder = folder / "tfds"
    with quiet_tfds():
        builder = BUILDERS[task.name](
            splits=splits, progress=progress, data_dir=str(builder_folder), version=task.version, config=part or None
        )
        try:
            builder.download_and_prepare()
        except RuntimeError as error:
            refusal = re.search(r"\w+\(\) failed: ([^;\n]+)", str(error))
            if refusal is None:
                raise
            raise UserError(f"cannot write the records in {folder.parent}: {refusal.group(1)}") from error
    for path in Path(builder.data_dir).iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(builder_folder)


def compare_records(folder: Path, task: Task, part: str, splits: dict[str, Split], progress: Progress) -> str | None:
    """Reads the record files back; returns what in them is not as in `splits`, None when all is."""
    rows = make_rows(task, part, splits)
    total, before = sum(one.count for one in rows.values()), 0
    with open_records(folder) as sources:
        for name, one in rows.items():
            if name not in sources or len(sources[name]) != one.count:
                return f"split {name}"
            for begin, found in read_in_chunks(sources[name]):
                progress(name_stage("read", part), before + begin, total)
                for index, example in enumerate(found, begin):
                    if not all(np.array_equal(example[key], value) for key, value in one.read(index).items()):
                        return f"example {index} of split {name}"
            before += one.count
    return None


def read_records(folders: dict[str, Path], task: Task, work_dir: Path, progress: Progress) -> dict[str, Split]:
    """The splits in the record files of a task, tokens as memory maps of files in `work_dir`.

    Raises UserError when they cannot be read.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    if task.paired:
        with open_records(folders[DOCUMENTS]) as sources:
            shared = read_split(sources[DOCUMENTS], task, DOCUMENTS, work_dir, progress)
        with open_records(folders[PAIRS]) as sources:
            pairs = {name: read_split(source, task, PAIRS, work_dir, progress) for name, source in sources.items()}
        return {name: Split(shared.tokens, shared.offsets, one.labels, one.pairs) for name, one in pairs.items()}
    with open_records(folders[""]) as sources:
        return {name: read_split(source, task, name, work_dir, progress) for name, source in sources.items()}


def read_split(source: Any, task: Task, name: str, work_dir: Path, progress: Progress) -> Split:
    """One split of records; what a data set has not is empty."""
    path, dtype = work_dir / f"{name}_tokens.bin", task.vocabulary.dtype
    lengths, labels, pairs = [], [], []
    with open(path, "wb") as file:
        for begin, found in read_in_chunks(source):
            progress("read records", begin, len(source))
            for example in found:
                tokens = example.get("tokens", ())
                file.write(np.asarray(tokens, dtype).tobytes())
                lengths.append(len(tokens))
                labels.append(example.get("label", 0))
                pairs.append(example.get("pair", (0, 0)))
    tokens = np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split(tokens, offsets, np.array(labels, np.uint8), np.array(pairs, np.int32) if task.paired else None)


def read_in_chunks(source: Any) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(number of the first, examples) of a data source."""
    for begin in range(0, len(source), READ_AT_ONCE):
        yield begin, source.__getitems__(list(range(begin, min(begin + READ_AT_ONCE, len(source)))))


@contextlib.contextmanager
def open_records(folder: Path, remedy: str = "--rebuild makes them anew") -> Iterator[dict[str, Any]]:
    """The data sources of a folder of records by split. Raises UserError when they, or what is read, are damaged."""
    try:
        with quiet_tfds():
            yield cast(dict[str, Any], tfds.builder_from_directory(str(folder)).as_data_source())
    except UserError:
        raise
    except Exception as error:  # tfds, array_record and protobuf each raise their own kinds for a damaged file
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the records in {folder} cannot be read ({first}); {remedy}") from error


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Mutes tfds' progress bars, its log and what it prints; ours is the one report."""
    tfds.disable_progress_bar()
    log = logging.getLogger("absl")  # where tfds logs
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
