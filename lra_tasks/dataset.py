"""Every task as a versioned tensorflow-datasets data set of array_record files, written and read without TensorFlow.

Anybody can read a prepared task, without this package:

    import tensorflow_datasets as tfds
    source = tfds.builder_from_directory("data/listops/1.0.0").as_data_source(split="test")
    source[0]  # {"tokens": uint8 [N], "label": int}

or by name, where the file format has to be said, because tfds forgets its default when a data_dir is given:

    tfds.data_source("listops", split="test", data_dir="data", builder_kwargs={"file_format": "array_record"})

Importing this module imports tensorflow-datasets; only preparation does.
"""

import contextlib
import io
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from lra_tasks.errors import UserError
from lra_tasks.registry import TASKS
from lra_tasks.task import Progress, Split, Task, ignore_progress

FILE_FORMAT = "array_record"
READ_AT_ONCE = 1000


class SequenceDataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One token sequence and its label an example, in the order of the split.

    `DatasetInfo` is built by hand: tfds' own helper wants each builder in a package of its own.
    """

    TASK: Task

    def __init__(self, *, splits: dict[str, Split] | None = None, progress: Progress = ignore_progress, **kwargs):
        """A builder that writes `splits`; without them it makes the task's own. `kwargs` as every tfds builder's."""
        self._splits = splits
        self._progress = progress
        super().__init__(file_format=kwargs.pop("file_format", None) or FILE_FORMAT, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        task = self.TASK
        tokens = tfds.features.Tensor(
            shape=(None,), dtype=task.vocabulary.dtype.type, encoding=tfds.features.Encoding.BYTES
        )
        label = tfds.features.ClassLabel(num_classes=task.num_classes)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{task.title}. Token ids of the vocabulary: {' '.join(task.vocabulary.tokens)}",
            features=tfds.features.FeaturesDict({"tokens": tokens, "label": label}),
            disable_shuffling=True,  # the order of a split is part of the data
        )

    def _split_generators(self, dl_manager):
        splits = self._splits or self.TASK.make_splits(None, 1, self._progress)[0]
        total = sum(split.num_examples for split in splits.values())
        before = 0
        generators = {}
        for name, split in splits.items():
            generators[name] = self._generate_examples(split, before, total)
            before += split.num_examples
        return generators

    def _generate_examples(self, split: Split, before: int, total: int):
        for index in range(split.num_examples):
            if index % READ_AT_ONCE == 0:
                self._progress("write records", before + index, total)
            yield index, {"tokens": split.example(index), "label": int(split.labels[index])}


def make_builder_class(task: Task) -> type[SequenceDataset]:
    """The registered builder class of a task: its name and version are the task's."""
    fields = {"name": task.name, "VERSION": tfds.core.Version(task.version), "TASK": task, "__module__": __name__}
    return type(task.name.title().replace("_", ""), (SequenceDataset,), fields)


BUILDERS: dict[str, type[SequenceDataset]] = {name: make_builder_class(task) for name, task in TASKS.items()}


def write_records(folder: Path, task: Task, splits: dict[str, Split], progress: Progress) -> None:
    """Writes the record files of a task, with tfds' metadata, straight into `folder`.

    Raises UserError when the disk refuses: array_record reports that as a RuntimeError with the system's words inside.
    """
    builder_folder = folder / "tfds"
    with quiet_tfds():
        builder = BUILDERS[task.name](
            splits=splits, progress=progress, data_dir=str(builder_folder), version=task.version
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


def read_records(folder: Path, task: Task, progress: Progress) -> dict[str, Split]:
    """The splits in the record files of `folder`. Raises UserError when they cannot be read."""
    try:
        with quiet_tfds():
            sources = cast(dict[str, Any], tfds.builder_from_directory(str(folder)).as_data_source())
            missing = [name for name in task.splits if name not in sources]
            if missing:
                raise UserError(f"the records in {folder} have no split {missing[0]}")
            total = sum(len(sources[name]) for name in task.splits)
            splits, before = {}, 0
            for name in task.splits:
                splits[name] = read_split(sources[name], task, partial(report_from, progress, before, total))
                before += len(sources[name])
            return splits
    except UserError:
        raise
    except Exception as error:  # tfds, array_record and protobuf each raise their own kinds for a damaged file
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the records in {folder} cannot be read ({first}); --rebuild makes them anew") from error


def report_from(progress: Progress, before: int, total: int, done: int) -> None:
    """Progress within one split, counted over all splits."""
    progress("read records", before + done, total)


def read_split(source: Any, task: Task, advance: Callable[[int], None]) -> Split:
    """Flat arrays of one split of records."""
    sequences, labels = [], []
    for begin in range(0, len(source), READ_AT_ONCE):
        advance(begin)
        for example in source.__getitems__(list(range(begin, min(begin + READ_AT_ONCE, len(source))))):
            sequences.append(example["tokens"])
            labels.append(example["label"])
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    tokens = np.concatenate(sequences) if sequences else np.zeros(0, task.vocabulary.dtype)
    return Split(tokens, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.array(labels, np.uint8))


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
