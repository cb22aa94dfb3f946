"""Rows: every mechanism on every task by one name; a row changes the attention and nothing else."""

import importlib

import pytest

from configs import recipes, rows
from lra_tasks.model import attention_config, build_model
from lra_tasks.registry import get_task
from lra_tasks.settings import MECHANISMS, differences, resolve, sequence_length

TASKS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
PRESETS = ("", "paper", "lra", "cpu")
THIN = {"luna16", "luna128", "luna256", "transformer"}


def read(task, row, preset=""):
    """The config of a task's file, as --config FILE:ARGUMENT gives it."""
    argument = f"{row}:{preset}" if preset else row
    return importlib.import_module(f"configs.{task}").get_config(argument).to_dict()


@pytest.mark.parametrize("row", rows.ROWS)
def test_a_row_changes_the_attention_alone(row):
    """Except under "lra", whose released models have sizes of their own."""
    own = {key.split(".")[0] for key in rows.ROWS[row]} - {"model", "machine"}  # which decides no result
    for task in TASKS:
        for preset in PRESETS:
            if (task, preset) == ("pathx", "paper") or (row, preset) == ("performer_relu", "lra"):
                continue
            experiment = resolve(read(task, row, preset))
            recipe = getattr(recipes, task)(preset).to_dict()
            assert experiment.row == row
            assert own <= {experiment.model.attention}
            if preset != "lra":
                changed = {line.split(":")[0] for line in differences(read(task, row, preset), recipe)}
                assert changed <= {"row", *rows.ROWS[row], *(["model.pooling"] if row in rows.MEAN_POOLED else [])}
                assert experiment.model.pooling == ("mean" if row in rows.MEAN_POOLED else recipe["model"]["pooling"])


@pytest.mark.parametrize(
    ("task", "preset", "num_buckets"),
    [("listops", "", 62), ("text", "", 126), ("text", "cpu", 64), ("image", "lra", 10)],
)
def test_the_papers_number_of_buckets(task, preset, num_buckets):
    """2 N / chunk_size, unless the released model says otherwise."""
    experiment = resolve(read(task, "reformer", preset))
    positions = sequence_length(experiment, get_task(experiment.data.task)) + experiment.model.prepend_cls
    assert attention_config(experiment, positions).num_buckets == num_buckets


def test_every_mechanism_has_a_row():
    assert {row["model.attention"] for row in rows.ROWS.values()} == set(MECHANISMS)


@pytest.mark.parametrize("task", TASKS)
def test_the_thin_files_are_rows(task):
    for row in THIN:
        for preset in PRESETS if task != "pathx" else ("", "lra", "cpu"):
            thin = importlib.import_module(f"configs.{task}_{row}").get_config(preset)
            expected = read(task, row, preset)
            if preset != "lra":  # there a row also sets the switches of all the others
                assert thin.to_dict() == expected
            assert resolve(thin.to_dict()) == resolve(expected)


@pytest.mark.parametrize("row", [row for row in rows.ROWS if row not in THIN])
def test_every_row_builds_small(row):
    experiment = resolve(read("listops", row, "cpu"))
    model = build_model(experiment, get_task(experiment.data.task))
    assert model.num_parameters > 30_000


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", ["", "lra", "cpu"])
def test_every_mechanism_fits_every_task(task, preset):
    """Counts and heads at construction; what depends on the sequence the preset cpu shows when it is built."""
    for row in set(rows.ROWS) - ({"performer_relu"} if preset == "lra" else set()):
        experiment = resolve(read(task, row, preset))
        attention_config(experiment, get_task(experiment.data.task).max_length + 1)


# facts of the reference benchmark, section 4.3 and 4.4: width, feed-forward, heads, layers, pooling, the two rates
RELEASED = {
    ("image", "local"): (128, 128, 2, 1, "mean", 0.3, 0.2),
    ("image", "reformer"): (64, 64, 8, 4, "cls", 0.3, 0.2),
    ("image", "sinkhorn"): (32, 64, 1, 1, "mean", 0.1, 0.2),
    ("pathfinder", "longformer"): (32, 32, 2, 2, "mean", 0.1, 0.1),
    ("pathfinder", "linear"): (128, 128, 2, 1, "mean", 0.2, 0.0),
    ("pathfinder", "performer"): (128, 128, 8, 1, "mean", 0.2, 0.0),
    ("listops", "bigbird"): (512, 1024, 8, 4, "cls", 0.1, 0.1),
    ("text", "linformer"): (256, 1024, 4, 4, "cls", 0.1, 0.1),
}


@pytest.mark.parametrize(("task", "row"), RELEASED)
def test_released_sizes(task, row):
    model = resolve(read(task, row, "lra")).model
    found = (model.emb_dim, model.mlp_dim, model.num_heads, model.num_layers, model.pooling)
    assert (*found, model.dropout_rate, model.attention_dropout_rate) == RELEASED[task, row]
    assert model.prepend_cls == (model.pooling == "cls")


def test_released_switches():
    assert resolve(read("listops", "performer", "lra")).performer.num_features == 2
    assert resolve(read("listops", "performer", "lra")).performer.kernel == "softmax"
    for task in TASKS:
        assert not resolve(read(task, "sinkhorn", "lra")).model.prepend_cls
    assert resolve(read("text", "performer", "lra")).performer.kernel == "relu"
    assert resolve(read("image", "local", "lra")).local.block_size == 64
    assert resolve(read("text", "synthesizer", "lra")).synthesizer.mode == "random"
    assert resolve(read("image", "sinkhorn", "lra")).optim.weight_decay == 0.7


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("cpu", "a preset, which stands behind a row: luna16:cpu"),
        ("performer_relu:lra", "take performer:lra"),
        ("perfomer", "did you mean 'performer'"),
        ("", "choices: luna16"),
        ("performer:cpus", "did you mean 'cpu'"),
    ],
)
def test_an_unknown_name_is_told_the_choices(argument, words):
    with pytest.raises(ValueError, match=words):
        importlib.import_module("configs.listops").get_config(argument)
