"""Configs and recipes: every file and preset resolves and builds, and has the values of its source."""

import dataclasses
import importlib
import subprocess
import sys

import pytest
from tiny_runs import ROOT, make_experiment

from lra_tasks.model import build_model, classifier_config, model_from_config
from lra_tasks.registry import get_task
from lra_tasks.settings import differences, resolve
from lra_tasks.translation import TRANSLATIONS

# Parameters of every config and preset, by hand, with l = 16 slots; V token rows, N positions, width D, F, C classes:
#   embeddings   V D + [CLS] D + N D if positions are learned + 2 D for the norm of the embedded tokens
#   a layer      7 projections of D^2 + D (pack_query, query, pack_key, pack_value, key, value, out); softmax: 4
#                feed-forward 2 D F + F + D, two norms 4 D, in Luna a norm of P 2 D
#   P            l D + 2 D for its norm; without embedding norms l D; pre-norm ends with 2 D for x and 2 D for p
#   head         D F' + F' + F' C with F' wide; of two documents 2 D F' + F' + F' C
# ListOps      D 512, F 2048, F' 2048:  1,034,240 + 1,838,592 + 2,101,760 + 1,024 + 9,216 + 1,071,104 = 6,055,936
# Text         D 256, F 1024, F' 1024:  1,090,816 + 4 (460,544 + 525,568 + 1,024 + 512) + 4,608 + 265,216 = 5,311,232
#              embeddings: 257 bytes, [CLS], 4,001 positions, norm
# Retrieval    D 128, F 512, F' 512:  545,536 + 4 (115,584 + 131,712 + 512 + 256) + 2,304 + 132,480 = 1,672,576
# Image        D 64, F 128, F' 128:  82,176 + 29,120 + 16,576 + 256 + 128 + 1,152 + 9,600 = 139,008
# Pathfinder   D 128, F 128, F' 256:  164,352 + 115,584 + 33,024 + 512 + 256 + 2,304 + 33,536 = 349,568
# Path-X       as Pathfinder with 15,360 positions more: 349,568 + 1,966,080 = 2,315,648
# A whitened model stores D + D^2 statistics: Pathfinder, cpu.
# Softmax has a layer's 3 (D^2 + D) + 2 D less, and no P. A further slot of P adds D.
NUM_PARAMETERS = {  # (task, preset): (D, Luna-16, softmax)
    ("listops", ""): (512, 6_055_936, 5_257_728),
    ("listops", "paper"): (512, 6_055_936, 5_257_728),
    ("listops", "lra"): (512, 12_121_600, 8_956_416),
    ("listops", "cpu"): (64, 108_288, 81_920),
    ("text", ""): (256, 5_311_232, 4_515_072),
    ("text", "paper"): (256, 5_311_232, 4_515_072),
    ("text", "lra"): (256, 4_286_976, 3_490_816),
    ("text", "cpu"): (64, 105_280, 91_520),
    ("retrieval", ""): (128, 1_672_576, 1_471_104),
    ("retrieval", "paper"): (128, 1_672_576, 1_471_104),
    ("retrieval", "lra"): (128, 1_160_448, 958_976),
    ("retrieval", "cpu"): (32, 86_304, 82_496),
    ("image", ""): (64, 139_008, 125_248),
    ("image", "paper"): (64, 139_008, 125_248),
    ("image", "lra"): (128, 333_824, 281_728),
    ("image", "cpu"): (32, 48_064, 44_256),
    ("pathfinder", ""): (128, 349_568, 297_472),
    ("pathfinder", "paper"): (128, 349_568, 297_472),
    ("pathfinder", "lra"): (32, 48_736, 35_232),
    ("pathfinder", "cpu"): (32, 52_144, 48_336),
    ("pathx", ""): (128, 2_315_648, 2_263_552),
    ("pathx", "lra"): (32, 543_936, 540_128),
    ("pathx", "cpu"): (64, 380_672, 354_304),
}
PACK_LENGTHS = {"luna16": 16, "luna128": 128, "luna256": 256}
NOT_EXPERIMENTS = {"__init__", "base_translation", "recipes_cpu", "recipes_lra", "recipes_translation"}


def read_config(name, preset=""):
    return importlib.import_module(f"configs.{name}").get_config(preset).to_dict()


def list_presets(name):
    """The presets of a config, from the error that lists them."""
    with pytest.raises(ValueError, match="choices: ") as caught:
        read_config(name, "?")
    return ["", *str(caught.value).split("choices: ")[1].removesuffix(" (or none)").split(", ")]


def test_every_config_and_preset_is_in_the_table():
    names = {path.stem for path in (ROOT / "configs").glob("*_*.py")} - NOT_EXPERIMENTS
    names = {name for name in names if not name.startswith(tuple(TRANSLATIONS))}  # see test_translation_recipes
    found = {(name, preset) for name in names for preset in list_presets(name)}
    expected = {(f"{task}_{row}", preset) for task, preset in NUM_PARAMETERS for row in [*PACK_LENGTHS, "transformer"]}
    assert found == expected, "add the new config with its parameter count to NUM_PARAMETERS"


@pytest.mark.parametrize(("task", "preset"), NUM_PARAMETERS)
def test_every_config_resolves_and_builds(task, preset):
    width, luna16, softmax = NUM_PARAMETERS[task, preset]
    experiments = {row: resolve(read_config(f"{task}_{row}", preset)) for row in [*PACK_LENGTHS, "transformer"]}
    for row, experiment in experiments.items():
        assert experiment.row == row
        assert experiment.protocol == (preset or ("ours" if task == "pathx" else "authors"))
        assert resolve(experiment.as_dict()) == experiment  # config.json reads back as what was run
    for row, count in {"luna16": luna16, "transformer": softmax}.items():
        model = build_model(experiments[row], get_task(experiments[row].data.task))
        assert model.num_parameters == count
        assert experiments[row].model.emb_dim == width
    base = experiments["luna16"]
    for row, length in PACK_LENGTHS.items():  # the other sizes differ in the slots of P alone
        luna = dataclasses.replace(base.luna, pack_length=length)
        assert experiments[row] == dataclasses.replace(base, row=row, luna=luna)


def test_a_slot_of_the_pack_is_a_vector():
    task = get_task("listops_small")
    counts = [build_model(make_experiment(luna__pack_length=length), task).num_parameters for length in (4, 5)]
    assert counts[1] - counts[0] == make_experiment().model.emb_dim


# With the authors' vocabularies (24 words beside [CLS], else 263) and rows of positions (their longest + 2), the counts
# of their own models, 6.06, 5.31, 1.67, 0.140 and 0.351 million, and of their Transformers.
AUTHORS_COUNTS = {
    "listops": (24, 2003, 6_061_056, 5_262_848),
    "text": (263, 4004, 5_313_536, 4_517_376),
    "retrieval": (263, 4004, 1_673_728, 1_472_256),
    "image": (263, 1026, 139_520, 125_760),
    "pathfinder": (263, 1028, 350_848, 298_752),
}


@pytest.mark.parametrize("task", AUTHORS_COUNTS)
def test_authors_counts(task):
    vocab_size, max_length, *counts = AUTHORS_COUNTS[task]
    for row, count in zip(("luna16", "transformer"), counts, strict=True):
        experiment = resolve(read_config(f"{task}_{row}"))
        config = classifier_config(experiment, get_task(experiment.data.task))
        encoder = dataclasses.replace(config.encoder, vocab_size=vocab_size, max_length=max_length)
        assert model_from_config(dataclasses.replace(config, encoder=encoder)).num_parameters == count


@pytest.mark.parametrize(
    ("task", "theirs", "ours_more"),
    [
        # a projection's bias, four a layer; no row for unknown words, no bias on the scores
        ("listops", 8_948_746, 4 * 4 * 512 - 512 - 10),
        ("text", 3_486_722, 4 * 4 * 256 - 2),
        # and [CLS], and a head with one hidden layer instead of two (512, 256)
        ("retrieval", 1_087_618, 4 * 4 * 128 + 128 - (512 * 256 + 256 + 256 * 2 + 2) + 512 * 2),
        # and projections as wide as the model, not half as wide
        ("image", 248_458, 4 * (128 * 128 + 128) - 4 * 128 * 64 - 10),
        ("pathfinder", 26_530, 4 * (4 * (32 * 32 + 32) - 4 * 32 * 16) - 2),
        ("pathx", 537_954, 4 * (32 * 32 + 32) - 4 * 32 * 16 - 2),
    ],
)
def test_counts_of_the_lra_reference(task, theirs, ours_more):
    """Ours differ by what the README's deviations name."""
    assert NUM_PARAMETERS[task, "lra"][2] == theirs + ours_more


COLUMNS = {
    "authors": "model.emb_dim model.mlp_dim model.num_heads model.num_layers model.classifier_dim train.batch_size "
    "train.num_steps optim.learning_rate optim.warmup_steps optim.weight_decay model.dropout_rate "
    "model.attention_dropout_rate model.pooling model.initializers",
    "lra": "model.emb_dim model.mlp_dim model.num_heads model.num_layers model.dropout_rate "
    "model.attention_dropout_rate model.pooling model.positions data.max_length train.batch_size train.num_steps "
    "train.eval_every_steps optim.learning_rate optim.warmup_steps optim.schedule optim.weight_decay optim.clip_norm",
}
LRA_MODELS = {
    "listops": (512, 1024, 8, 4, 0.1, 0.1, "cls", "sinusoidal", 0),
    "text": (256, 1024, 4, 4, 0.1, 0.1, "cls", "sinusoidal", 1000),
    "retrieval": (128, 512, 4, 4, 0.1, 0.1, "cls", "sinusoidal", 0),
    "image": (128, 128, 8, 1, 0.3, 0.2, "cls", "learned", 0),
    "pathfinder": (32, 32, 4, 4, 0.2, 0.1, "mean", "sinusoidal", 0),
    "pathx": (32, 32, 2, 1, 0.1, 0.1, "mean", "learned", 0),
}
LRA_TRAINING = {
    "listops": (32, 5_000, 50, 0.05 / 1000**0.5, 1000, "inverse_sqrt", 0.1, 0.0),
    "text": (32, 20_000, 100, 0.05 / 8000**0.5, 8000, "inverse_sqrt", 0.1, 0.0),
    "retrieval": (32, 5_000, 100, 0.05 / 8000**0.5, 8000, "inverse_sqrt", 0.1, 0.0),
    "image": (256, 35_000, 175, 5e-4, 175, "cosine_cycle", 0.0, 0.0),
    "pathfinder": (512, 62_400, 312, 1e-3, 312, "cosine_cycle", 0.0, 0.0),
    "pathx": (64, 500_000, 2500, 1e-3, 2500, "cosine_cycle", 0.0, 1.0),
}
VALUES = {
    "authors": {
        "listops": (512, 2048, 8, 1, 2048, 32, 5_000, 1e-4, 1000, 1e-4, 0.1, 0.1, "cls", "bert"),
        "text": (256, 1024, 4, 4, 1024, 32, 20_000, 5e-5, 8000, 1e-4, 0.3, 0.3, "cls", "bert"),
        "retrieval": (128, 512, 4, 4, 512, 32, 20_000, 5e-4, 8000, 1e-4, 0.1, 0.1, "cls", "fairseq"),
        "image": (64, 128, 8, 1, 128, 256, 35_000, 5e-3, 4000, 0.0, 0.3, 0.1, "cls", "fairseq"),
        "pathfinder": (128, 128, 4, 1, 256, 512, 62_500, 1e-3, 4000, 0.0, 0.2, 0.1, "mean", "fairseq"),
    },
    "lra": {task: (*LRA_MODELS[task], *LRA_TRAINING[task]) for task in LRA_MODELS},
}
TABLE_7 = {  # where the paper's appendix differs from what its authors ran
    "retrieval": {"optim.learning_rate": 5e-5},
    "image": {"model.dropout_rate": 0.1, "model.attention_dropout_rate": 0.3},
}
EVERYWHERE = {
    "authors": {"optim.beta1": 0.9, "optim.beta2": 0.98, "optim.epsilon": 1e-8, "optim.clip_norm": 0.0}
    | {"optim.schedule": "inverse_sqrt", "optim.initial_learning_rate": 1e-7, "model.norm": "post"}
    | {"model.positions": "learned", "model.prepend_cls": True, "model.embedding_norm": True, "luna.tie_kv": False}
    | {"model.pair_features": "concat", "model.embedding": "table", "data.validation": "held_out"},
    "lra": {"optim.beta1": 0.9, "optim.beta2": 0.98, "optim.epsilon": 1e-9, "optim.initial_learning_rate": 0.0}
    | {"model.norm": "pre", "model.embedding_norm": False, "model.initializers": "lra", "model.embedding": "table"},
}


def look_up(config, key):
    section, _, name = key.partition(".")
    return config[section][name]


@pytest.mark.parametrize(("protocol", "task"), [(name, task) for name, tasks in VALUES.items() for task in tasks])
def test_a_protocol_has_the_values_of_its_source(protocol, task):
    config = read_config(f"{task}_luna16", {"authors": ""}.get(protocol, protocol))
    expected = dict(zip(COLUMNS[protocol].split(), VALUES[protocol][task], strict=True)) | EVERYWHERE[protocol]
    for key, value in expected.items():
        found = look_up(config, key)
        assert found == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), key
    assert config["luna"]["num_pack_heads"] == config["model"]["num_heads"]


@pytest.mark.parametrize("task", VALUES["authors"])
def test_the_paper_differs_where_its_table_does(task):
    authors, paper = (read_config(f"{task}_luna16", preset) for preset in ("", "paper"))
    expected = {"protocol": "paper"} | TABLE_7.get(task, {})
    found = differences(paper, authors)
    assert {line.split(":")[0] for line in found} == set(expected)
    for key, value in TABLE_7.get(task, {}).items():
        assert look_up(paper, key) == value


def test_peculiarities_of_lra():
    """Text has no validation split of its own there, and pictures have [CLS] only where it is pooled."""
    for task in VALUES["lra"]:
        config = read_config(f"{task}_luna16", "lra")
        assert config["data"]["validation"] == ("test" if task == "text" else "held_out")
        assert config["model"]["prepend_cls"] == (config["model"]["pooling"] == "cls")
        assert config["model"]["activation_dropout_rate"] == config["model"]["dropout_rate"]


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"unknown preset 'cpus'; did you mean 'cpu'\? choices: paper, lra, cpu"):
        read_config("listops_luna16", "cpus")


def test_configs_import_nothing_heavy():
    """Flags and configs are read before JAX is imported, and a config is data: it imports none of our code."""
    names = sorted({f"{task}_{row}" for task, _ in NUM_PARAMETERS for row in [*PACK_LENGTHS, "transformer"]})
    code = (
        f"import importlib, sys\n"
        f"for name in {names}: importlib.import_module('configs.' + name).get_config('cpu')\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(found & {'jax', 'flax', 'numpy', 'lra_tasks', 'luna_jax'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
