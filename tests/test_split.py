"""Batches split by length: loss, update and answers of the padded batch, few programs, no step lost, bad lengths."""

import contextlib
import dataclasses
import importlib
import json
import logging
import re
import signal

import jax
import numpy as np
import pytest
from meshes import make_machine
from models import make_classifier_config, make_encoder_config, make_layer_config
from test_every_kind import make_splits
from tiny_runs import make_config, make_experiment
from tolerances import TOLERANCE, assert_close

from configs import rows
from lra_tasks import training
from lra_tasks.distributed import count_parts
from lra_tasks.errors import UserError
from lra_tasks.evaluation import evaluate_split
from lra_tasks.listops import LISTOPS_SMALL, generate
from lra_tasks.loader import batch_at, parts_at
from lra_tasks.loop import Stopped
from lra_tasks.machine import take_machine
from lra_tasks.model import build_model, model_from_config
from lra_tasks.registry import get_task
from lra_tasks.settings import resolve, sequence_length
from lra_tasks.split_benchmark import show_split
from lra_tasks.steps import make_eval_step, make_init, make_part_steps, make_train_step
from lra_tasks.task import join_documents
from lra_tasks.training import build_split_model, train
from lra_tasks.translation_training import check_mesh

TASK = dataclasses.replace(LISTOPS_SMALL, splits={"train": 60, "validation": 17, "test": 22})
LENGTHS = (16, 64)
"""Two, since each costs a compilation of every program that is tested."""
TINY = {"model__emb_dim": 8, "model__mlp_dim": 8, "model__classifier_dim": 8, "train__batch_size": 8}
TINY |= {"model__num_heads": 2, "model__num_layers": 1}
WELL_CONDITIONED = {"optim__epsilon": 1e-3, "optim__learning_rate": 1e-2, "optim__warmup_steps": 0}
"""With Adam's own epsilon a gradient of rounding errors alone moves its parameter as far as any."""
CASES = {
    "luna": ("listops_luna16", {}),
    "softmax": ("listops_transformer", {}),
    "pairs": ("retrieval_luna16", {"data__max_length": 64}),
    "random draws": ("listops:performer", {"performer__num_features": 8}),
    "float64": ("listops_luna16", {}),
}


def make_tiny(name, **changes):
    """An experiment without dropout; "FILE:ROW" is a row of the table."""
    file, _, row = name.partition(":")
    if not row:
        return make_experiment(file, **TINY | changes)
    config = importlib.import_module(f"configs.{file}").get_config(f"{row}:cpu").to_dict()
    for key, value in (TINY | changes).items():
        section, _, field = key.partition("__")
        config[section][field] = value
    return resolve(config)


def make_wide_model():
    """Luna in float64, whose vocabulary and classes hold those of ListOps."""
    encoder = make_encoder_config(make_layer_config(dtype="float64"), vocab_size=16, max_length=65)
    return model_from_config(make_classifier_config(encoder, num_classes=10))


def take_steps(experiment, model, split, lengths, num_steps=3):
    """(losses and norms of these steps, parameters) of padded batches, and of the same in four parts."""
    order = {"seed": 5, "batch_size": experiment.train.batch_size}
    state = other = jax.jit(make_init(experiment, model))()
    other = jax.tree.map(lambda leaf: leaf + 0, state)  # each way donates its own
    whole, parted = make_train_step(experiment, model), make_part_steps(experiment, model, num_parts=4)
    total, found, padded = parted.begin(), ([], []), set()
    for step in range(num_steps):
        state, numbers = whole(state, batch_at(split, **order, step=step, length=lengths[-1]))
        found[0].append(jax.device_get(numbers))
        for part in parts_at(split, **order, step=step, lengths=lengths, num_parts=4):
            total = parted.accumulate(other, total, part.gather(split))
            padded.add(part.length)
        other, numbers, total = parted.update(other, total)
        found[1].append(jax.device_get(numbers))
    assert padded == set(lengths)
    return (found[0], state["params"]), (found[1], other["params"])


@pytest.mark.parametrize("case", CASES)
def test_parts_are_the_padded_batch(case):
    """Loss, accuracy, norms and the parameters behind three steps, whatever the attention."""
    name, changes = CASES[case]
    dtype = "float64" if case == "float64" else "float32"
    experiment = make_tiny(name, **WELL_CONDITIONED, **changes)
    task = get_task(experiment.data.task)
    assert sequence_length(experiment, task) == LENGTHS[-1]
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        model = make_wide_model() if dtype == "float64" else build_model(experiment, task)
        (numbers, params), (others, other_params) = take_steps(experiment, model, make_splits(task)["train"], LENGTHS)
    for one, other in zip(numbers, others, strict=True):
        assert one.keys() == other.keys()
        assert one["loss"].dtype == dtype
        for key in one:
            np.testing.assert_allclose(other[key], one[key], rtol=TOLERANCE[dtype], atol=0, err_msg=key)
    jax.tree.map(lambda one, other: assert_close(other, one, dtype), params, other_params)


def test_every_part_has_dropout_of_its_own_and_every_step():
    """Documents that are all the same: only dropout tells parts and steps apart, and it repeats nothing."""
    experiment = make_tiny("listops_luna16", optim__learning_rate=0.0, optim__initial_learning_rate=0.0)
    seen = []

    def apply(params, batch, key, draws_key):
        jax.debug.callback(seen.append, jax.random.key_data(key))
        return params["table"][batch.tokens[:, 0]]

    params = {"table": np.zeros((16, 10), np.float32)}
    model = dataclasses.replace(build_model(experiment, TASK), apply=apply, init=lambda key: params, abstract=params)
    split = join_documents([np.full(5, 3)] * 8, [1] * 8, np.dtype(np.uint8))
    take_steps(experiment, model, split, (5,), num_steps=2)
    jax.effects_barrier()
    keys = {tuple(map(int, key)) for key in seen}
    assert len(seen) == len(keys) == 2 * (4 + 1)  # four parts and the whole batch


@pytest.fixture(scope="module")
def splits():
    return generate(LISTOPS_SMALL.grammar, 1, TASK.splits)


STEPS = {"train__num_steps": 8, "train__eval_batch_size": 5, "train__eval_every_steps": 4, "train__log_every_steps": 1}
STEPS |= {"train__checkpoint_every_steps": 4, "model__dropout_rate": 0.1}


def train_tiny(workdir, splits, **machine):
    """A whole run on a machine; returns its end and the lines of its log."""
    ended = []
    experiment = make_tiny("listops_luna16", **STEPS)

    def finish(run):
        shardings = run.shardings.state["params"]
        step, params, _ = run.checkpoints.restore("best", run.model.abstract, shardings=shardings)
        ended.extend([run, run.evaluate(step, params, "test"), jax.device_get(run.state)])

    train(experiment, TASK, splits, workdir, finish, make_machine(**machine))
    return ended, [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


SPLIT = {"microbatches": 4, "lengths": LENGTHS}


@pytest.fixture(scope="module")
def straight(splits, tmp_path_factory):
    """A run straight through: what it ended with, its log, the names of what was compiled."""
    logger, handler, lines = logging.getLogger("jax"), logging.Handler(), []
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with jax.log_compiles():
            ended, log = train_tiny(tmp_path_factory.mktemp("straight"), splits, **SPLIT)
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    return ended, log, re.findall(r"Finished XLA compilation of jit\((\w+)\)", "\n".join(lines))


def test_a_run_compiles_a_fixed_set(straight):
    """One program a length to accumulate and one to evaluate, whatever batches come; one that updates, one that
    begins."""
    ended, _, compiled = straight
    run = ended[0]
    assert (compiled.count("update"), compiled.count("begin")) == (1, 1)
    assert compiled.count("accumulate") == compiled.count("eval_step") == len(LENGTHS)
    assert "train_step" not in compiled
    assert len(run.compiled) == len(LENGTHS) + 1
    assert run.clock.compile_seconds > 0


def test_a_run_that_was_stopped_goes_on_to_the_bit(straight, splits, tmp_path, monkeypatch):
    """Stopped between two checkpoints, with dropout."""
    asked = []

    def parts_until(*arguments, step, **options):
        asked.append(step)
        if step == 5:
            signal.raise_signal(signal.SIGTERM)
        return parts_at(*arguments, step=step, **options)

    monkeypatch.setattr(training, "parts_at", parts_until)
    with pytest.raises(Stopped):
        train_tiny(tmp_path, splits, **SPLIT)
    assert asked == list(range(6))
    monkeypatch.setattr(training, "parts_at", parts_at)
    (run, score, state), log = train_tiny(tmp_path, splits, **SPLIT)
    _, expected, expected_state = straight[0]
    assert run.clock.resumed == 1
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)
    np.testing.assert_array_equal(score.correct, expected.correct)
    speeds = "steps_per_second"
    assert [{key: line[key] for key in line if key != speeds} for line in log] == [
        {key: line[key] for key in line if key != speeds} for line in straight[1]
    ]


def test_two_devices_are_one(straight, splits, tmp_path):
    """Each part's rows over two devices, with dropout; evaluations too."""
    (_, score, _), log = train_tiny(tmp_path, splits, **SPLIT, data=2)
    for line, expected in zip(log, straight[1], strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE["float32"], abs=0)
    assert score.evaluated == TASK.splits["test"]
    np.testing.assert_array_equal(score.correct, straight[0][1].correct)
    assert score.loss == pytest.approx(straight[0][1].loss, rel=TOLERANCE["float32"])


@pytest.mark.parametrize("name", ["listops_luna16", "retrieval_luna16"])
def test_an_evaluation_in_order_of_length_gives_the_answers_in_order(name):
    """The same as that of the padded split, from few shapes, shortest first, of which only the last is filled up."""
    experiment = make_tiny(name, data__max_length=24)
    task = get_task(experiment.data.task)
    split, model = make_splits(task)["train"], build_model(experiment, task)
    step, params, shapes = make_eval_step(model), model.init(jax.random.key(2)), []

    def watched(params, batch):
        shapes.append((batch[0].shape, int(batch.example_mask.sum())))
        return step(params, batch)

    sizes = {"batch_size": 5, "length": 24, "declared": 24}
    expected = evaluate_split(step, params, split, **sizes)
    found = evaluate_split(watched, params, split, **sizes, lengths=(8, 16, 24))
    np.testing.assert_array_equal(found.correct, expected.correct)
    assert 0 < expected.correct.sum() < 24
    assert (found.accuracy, found.evaluated) == (expected.accuracy, 24)
    assert found.loss == pytest.approx(expected.loss, rel=TOLERANCE["float32"])
    assert [rows for _, rows in shapes] == [5, 5, 5, 5, 4]
    assert {shape[0] for shape, _ in shapes} == {5}
    padded = [shape[1] for shape, _ in shapes]
    assert padded == sorted(padded)
    assert set(padded) <= {8, 16, 24}
    assert len(set(padded)) > 1
    with pytest.raises(UserError, match="24 examples were evaluated, 23 are declared"):
        evaluate_split(step, params, split, **sizes | {"declared": 23}, lengths=(8, 24))


@pytest.mark.parametrize(
    ("machine", "changes", "words"),
    [
        ({"lengths": (8, 32)}, {}, r"machine.lengths=\(8, 32\) ends below the 64 tokens .* add 64, or cut examples"),
        ({"lengths": (8, 64), "microbatches": 3}, {}, "cannot be split into 3 equal parts"),
        ({"lengths": (8, 64), "microbatches": 4, "data": 4}, {}, r"equal parts \(data 4 x microbatches 4\)"),
        ({"lengths": (8, 64), "microbatches": 2}, {"model__feature_norm": "whitened"}, "set it to 1"),
        ({"lengths": (8, 64)}, {"name": "listops:bigbird"}, "pattern of bigbird attention .* leave it empty"),
        ({"lengths": (8, 64)}, {"name": "listops:local"}, "machine.lengths begins with 8: local: block_size=16 is"),
    ],
)
def test_lengths_that_an_experiment_cannot_have(machine, changes, words):
    changes = {"name": "listops_luna16"} | changes
    experiment = make_tiny(**changes)
    with pytest.raises(UserError, match=words):
        build_split_model(experiment, TASK, make_machine(**machine))


@pytest.mark.parametrize("lengths", [(64, 32), (32, 32, 64), (0, 64), (-1, 64)])
def test_lengths_that_do_not_rise(lengths):
    section = make_machine().settings.__dict__ | {"lengths": lengths}
    with pytest.raises(UserError, match=r"machine.lengths=\(.*\) must be at least 1 each and rise"):
        take_machine({"machine": section})


def test_translation_has_lengths_of_its_own():
    with pytest.raises(UserError, match=r"machine.lengths=\(64,\): translation .* set it to \(\)"):
        check_mesh(None, make_machine(lengths=(64,)))


def test_how_many_parts_a_batch_has():
    """As many as the rows of a device allow, up to eight; never more than was asked for, and one without lengths."""
    split = {"lengths": (8, 64), "microbatches": 0}
    found = {data: make_machine(data=data, **split) for data in (1, 2, 4, 8)}
    parts = {data: count_parts(machine.layout, machine.settings, 32) for data, machine in found.items()}
    assert parts == {1: 8, 2: 8, 4: 8, 8: 4}
    one = found[1]
    assert [count_parts(one.layout, one.settings, size) for size in (12, 7, 11)] == [6, 7, 1]
    for changes, expected in (({"microbatches": 2}, 2), ({"lengths": ()}, 1)):
        machine = make_machine(**split | changes)
        assert count_parts(machine.layout, machine.settings, 32) == expected


@pytest.mark.parametrize("row", rows.ROWS)
def test_recipes_split_what_is_long_and_of_many_lengths(row):
    """Not what has one length, nor the small presets, nor a mechanism that would come to other results."""
    for task in ("listops", "text", "retrieval", "image", "pathfinder", "pathx"):
        for preset in ("", "lra", "cpu"):
            if (row, preset) == ("performer_relu", "lra"):
                continue
            _, settings = take_machine(rows.get_config(task, f"{row}:{preset}").to_dict())
            is_split = task in ("listops", "text") and preset != "cpu" and row != "bigbird"
            assert bool(settings.lengths) == is_split, (task, preset)
            if is_split:
                assert (settings.microbatches, len(settings.lengths)) == (0, 8)
                assert settings.lengths[-1] == get_task(task).max_length


def test_the_benchmark_trains_both_ways_on_the_same_batches(capsys):
    """Losses without dropout agree; a line and a number for each task whose data are there."""
    config = make_config(**TINY)
    config["machine"] |= {"lengths": LENGTHS, "microbatches": 4}
    (speed,) = show_split("nowhere", lambda name: config, num_steps=2, names=["listops"])
    assert speed.loss_difference < TOLERANCE["float32"]
    assert (speed.num_parts, speed.padded_parts, speed.num_steps, speed.lengths) == (4, 1, 2, LENGTHS)
    assert speed.ratio == speed.padded_seconds / speed.split_seconds > 0
    assert 1 < speed.token_ratio < speed.real_ratio
    assert "listops_small" in capsys.readouterr().out
    config["data"]["task"] = "text"
    assert show_split("nowhere", lambda name: config, num_steps=2, names=["text"]) == []
    assert "text is not prepared in nowhere" in capsys.readouterr().out
