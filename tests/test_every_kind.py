"""A run from splits to record for the kinds of task that ListOps is not: bytes, pairs of documents, pixels."""

import dataclasses
import json

import numpy as np
import pytest
from meshes import make_machine
from tiny_runs import make_experiment

from lra_tasks.finishing import write_run_record
from lra_tasks.image import IMAGE
from lra_tasks.record import read_record
from lra_tasks.retrieval import RETRIEVAL_AAN_SUBSET
from lra_tasks.splits import choose_splits
from lra_tasks.task import Split, join_documents
from lra_tasks.text import TEXT
from lra_tasks.training import train

SIZES = {"train": 24, "validation": 10, "test": 14}
STEPS = {"train__num_steps": 4, "train__batch_size": 8, "train__eval_batch_size": 6, "train__eval_every_steps": 2}
KINDS = {
    "text_luna16": (TEXT, {"data__validation": "test", "data__max_length": 20}),
    "retrieval_luna16": (RETRIEVAL_AAN_SUBSET, {"data__max_length": 20}),
    "image_luna16": (IMAGE, {"model__pooling": "packed"}),
}


def make_splits(task):
    """Random documents of the task's vocabulary; pictures have one length."""
    random = np.random.default_rng(0)

    def draw():
        length = task.max_length if task.vocabulary.kind == "pixels" else random.integers(1, 40)
        return random.integers(task.vocabulary.first_id, task.vocabulary.size, length)

    def make(size):
        labels = random.integers(0, task.num_classes, size)
        return join_documents([draw() for _ in range(size)], labels, task.vocabulary.dtype)

    splits = {name: make(size) for name, size in SIZES.items()}
    if not task.paired:
        return splits
    shared = make(9)
    pairs = {name: random.integers(0, 9, (size, 2)).astype(np.int32) for name, size in SIZES.items()}
    return {name: Split(shared.tokens, shared.offsets, splits[name].labels, pairs[name]) for name in SIZES}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "image_luna16" else name for name in KINDS]
)
def test_a_run_ends_in_a_record(tmp_path, name):
    task, changes = KINDS[name]
    task = dataclasses.replace(task, splits=SIZES)
    experiment = make_experiment(name, **STEPS, **changes)
    splits = choose_splits(make_splits(task), experiment.data.validation)
    train(experiment, task, splits, tmp_path, lambda run: write_run_record(run, tmp_path), make_machine())
    record = read_record(tmp_path / "record.json")
    legacy = experiment.data.validation == "test"
    assert record.selection == ("test" if legacy else "validation")
    assert record.task == task.name
    assert record.protocol == "cpu"
    assert {key: count.evaluated for key, count in record.splits.items()} == {
        "validation": SIZES["test" if legacy else "validation"],
        "test": SIZES["test"],
    }
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [2, 4]
