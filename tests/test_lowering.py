"""Every config's train and eval step lowers for TPU and for CUDA on a machine that has neither."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from jax import export
from meshes import make_machine
from tiny_runs import ROOT, make_experiment

from configs import rows
from lra_tasks.machine import take_machine
from lra_tasks.model import abstract_batch, build_model
from lra_tasks.registry import get_task
from lra_tasks.settings import resolve, sequence_length
from lra_tasks.steps import make_eval_step, make_init, make_part_steps, make_train_step
from lra_tasks.training import build_split_model
from lra_tasks.translation import get_translation
from lra_tasks.translation_batches import PairedSentences
from lra_tasks.translation_model import build_translation_model
from lra_tasks.translation_settings import is_translation, resolve_translation
from lra_tasks.translation_steps import make_scoring_step, make_translation_init, make_translation_train_step

PLATFORMS = ("tpu", "cuda")
MODELS = ("luna16", "luna32", "luna128", "luna256", "transformer")
EXPERIMENTS = sorted(file.stem for model in MODELS for file in (ROOT / "configs").glob(f"*_{model}.py"))
QUICK_ROWS = {("text", row) for row in ("reformer", "sinkhorn", "performer", "bigbird", "rfa_gated")}
TASKS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch):
    """What is chosen by the backend is chosen as for a TPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def lower(step, *arguments):
    """The program of a step, for both platforms; its module holds a main function for each."""
    exported = export.export(step, platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    assert exported.mlir_module_serialized
    return exported


def lower_classifier(config):
    """Train and eval step of a classifier's config, with its own batch sizes and lengths."""
    experiment = resolve(config)
    task = get_task(experiment.data.task)
    model, length = build_model(experiment, task), sequence_length(experiment, task)
    state = jax.eval_shape(make_init(experiment, model))
    train = lower(
        make_train_step(experiment, model), state, abstract_batch(model.config, experiment.train.batch_size, length)
    )
    lower(
        make_eval_step(model), state["params"], abstract_batch(model.config, experiment.train.eval_batch_size, length)
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert [leaf.shape for leaf in train.out_avals[: len(shapes)]] == shapes  # the state comes out as it went in


def lower_translation(config):
    """The same of a translation's, with a batch of 8 pairs of 64 subwords."""
    experiment = resolve_translation(config)
    task = get_translation(experiment.data.task)
    model = build_translation_model(experiment, task.vocab_size, task.max_length)
    state = jax.eval_shape(make_translation_init(experiment, model))
    tokens, mask = jax.ShapeDtypeStruct((8, 64), jnp.int32), jax.ShapeDtypeStruct((8, 64), jnp.bool_)
    batch = PairedSentences(tokens, mask, tokens, tokens, mask, jax.ShapeDtypeStruct((8,), jnp.bool_))
    lower(make_translation_train_step(experiment, model), state, batch)
    lower(make_scoring_step(experiment, model), state["params"], batch)


def lower_config(name, *argument):
    config = importlib.import_module(f"configs.{name}").get_config(*argument).to_dict()
    (lower_translation if is_translation(config) else lower_classifier)(config)


def test_no_config_is_left_out():
    assert len(EXPERIMENTS) == 29
    for name in EXPERIMENTS:
        assert (ROOT / "configs" / f"{name}.py").is_file()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_lowers(name):
    lower_config(name)


@pytest.mark.parametrize(
    ("task", "row"),
    [
        pytest.param(task, row, marks=() if (task, row) in QUICK_ROWS else pytest.mark.slow)
        for task in TASKS
        for row in sorted(rows.ROWS)
        if not row.startswith("luna") and row != "transformer"
    ],
)
def test_every_row_lowers(task, row):
    """The mechanisms that have no file of their own; by default those that sort, draw and scan, in the Text task."""
    lower_config(task, row)


def test_the_parts_of_a_batch_lower():
    """What trains Text by default: a program a length, of which the shortest is lowered, and one that updates."""
    config, settings = take_machine(importlib.import_module("configs.text_luna16").get_config().to_dict())
    experiment = resolve(config)
    model = build_model(experiment, get_task(experiment.data.task))
    state = jax.eval_shape(make_init(experiment, model))
    steps = make_part_steps(experiment, model, num_parts=8)
    total = jax.eval_shape(steps.begin)
    part = abstract_batch(model.config, experiment.train.batch_size // 8, settings.lengths[0])
    assert lower(steps.accumulate, state, total, part).out_avals == tuple(lower(steps.begin).out_avals)
    lower(steps.update, state, total)


def test_a_step_over_a_mesh_lowers():
    """Sequences split, heads split, parameters and batch split: for eight devices that are not here."""
    machine = make_machine(data=2, model=2, sequence=2, shard_params=True)
    experiment, task = make_experiment(data__max_length=15), get_task("listops_small")
    model = build_split_model(experiment, task, machine)
    state = jax.eval_shape(make_init(experiment, model))
    shardings = machine.layout.for_steps(state)
    batch = abstract_batch(model.config, 16, 15)
    train = lower(make_train_step(experiment, model, shardings), state, batch)
    assert train.nr_devices == 8
    assert "all_reduce" in train.mlir_module() or "all-reduce" in train.mlir_module()
    lower(make_eval_step(model, shardings), state["params"], batch)
