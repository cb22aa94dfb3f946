"""Configs: every file resolves and builds; every key is declared once; a mistake is named at the start."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
import typing

import pytest
from tiny_runs import ROOT, make_config

from configs import base
from lra_tasks import settings
from lra_tasks.errors import UserError
from lra_tasks.model import build_model, classifier_config, model_from_config
from lra_tasks.registry import get_task
from lra_tasks.settings import MECHANISMS, Experiment, differences, resolve
from luna_jax.attention.registry import ATTENTIONS

# Parameters of every config and preset. ListOps by hand, d = 512, F = 2048, l = 16, 10 classes, head 2048 wide:
#   16 token rows 8,192 + [CLS] 512 + 2,001 positions 1,024,512 + norm 1,024                          1,034,240
#   attention: 7 projections of d^2 + d (pack_query, query, pack_key, pack_value, key, value, out)   1,838,592
#              (softmax: 4)                                                                           1,050,624
#   feed-forward 2,099,712 + two norms 2,048                                                          2,101,760
#   head 2048 (d + 1) + 2048 * 10                                                                     1,071,104
#   Luna besides: P 8,192 + its norm 1,024 + the layer's norm of P 1,024                                 10,240
#   Luna-16: 6,055,936; each further slot of P adds 512; softmax: 5,257,728
# The authors' dictionary has 25 rows, [CLS] among them, and their positions 2 more: 10 * 512 = 5,120 more in each,
# the 6.06 M and 5.26 M of their code (test_authors_counts).
# Preset cpu, d = 64, F = 128, two layers, 65 positions: embeddings 5,376, head 9,600, a layer 29,120 (softmax
# 16,640) + 16,832, and in Luna 128 for the norm of P a layer and 64 l + 128 for P: 108,288 at l = 16; softmax 81,920.
NUM_PARAMETERS = {
    ("listops_luna16", ""): 6_055_936,
    ("listops_luna128", ""): 6_113_280,
    ("listops_luna256", ""): 6_178_816,
    ("listops_transformer", ""): 5_257_728,
    ("listops_luna16", "cpu"): 108_288,
    ("listops_luna128", "cpu"): 115_456,
    ("listops_luna256", "cpu"): 123_648,
    ("listops_transformer", "cpu"): 81_920,
}
NOT_EXPERIMENTS = {"__init__", "base", "recipes"}


def read_config(name, preset=""):
    return importlib.import_module(f"configs.{name}").get_config(preset).to_dict()


def list_presets(name):
    """The presets of a config, from the error that lists them."""
    with pytest.raises(ValueError, match="choices: ") as caught:
        read_config(name, "?")
    return ["", *str(caught.value).split("choices: ")[1].removesuffix(" (or none)").split(", ")]


def test_every_config_and_preset_is_in_the_table():
    names = {path.stem for path in (ROOT / "configs").glob("*.py")} - NOT_EXPERIMENTS
    found = {(name, preset) for name in names for preset in list_presets(name)}
    assert found == NUM_PARAMETERS.keys(), "add the new config with its parameter count to NUM_PARAMETERS"


@pytest.mark.parametrize(("name", "preset"), NUM_PARAMETERS)
def test_every_config_resolves_and_builds(name, preset):
    experiment = resolve(read_config(name, preset))
    model = build_model(experiment, get_task(experiment.data.task))
    assert model.num_parameters == NUM_PARAMETERS[name, preset]
    assert experiment.protocol == (preset or "authors")
    assert name == f"listops_{experiment.row}"
    assert resolve(experiment.as_dict()) == experiment  # config.json reads back as what was run


@pytest.mark.parametrize(("name", "count"), [("listops_luna16", 6_061_056), ("listops_transformer", 5_262_848)])
def test_authors_counts(name, count):
    """With the authors' 24 words beside [CLS] and 2,003 rows of positions, the counts of their models."""
    experiment = resolve(read_config(name))
    config = classifier_config(experiment, get_task("listops"))
    encoder = dataclasses.replace(config.encoder, vocab_size=24, max_length=2003)
    assert model_from_config(dataclasses.replace(config, encoder=encoder)).num_parameters == count


def sections():
    """Section name -> its dataclass, from the annotations of Experiment."""
    found = {}
    for name, kind in typing.get_type_hints(Experiment).items():
        kinds = [k for k in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(k)]
        if kinds:
            found[name] = kinds[0]
    return found


def test_base_declares_exactly_the_fields():
    config = base.get_config().to_dict()
    assert config.keys() == {field.name for field in dataclasses.fields(Experiment)}
    for name, kind in sections().items():
        assert config[name].keys() == {field.name for field in dataclasses.fields(kind)}, name
    assert {name for name, value in config.items() if isinstance(value, dict)} == sections().keys()


def test_no_section_has_a_default():
    for kind in [Experiment, *sections().values()]:
        for field in dataclasses.fields(kind):
            assert field.default is dataclasses.MISSING, (
                f"{kind.__name__}.{field.name}: base.py is the place of defaults"
            )
            assert field.default_factory is dataclasses.MISSING


def test_mechanisms_are_the_registry():
    assert set(MECHANISMS) == ATTENTIONS.keys()
    for name, kind in ATTENTIONS.items():  # a mechanism's section holds its switches and nothing that the model sets
        switches = {field.name for field in dataclasses.fields(sections()[name])}
        accepted = set(inspect.signature(kind).parameters)
        assert switches | {"num_heads", "dropout_rate"} <= accepted


def test_only_the_section_in_use_is_kept():
    assert "softmax" not in resolve(make_config()).as_dict()
    assert "luna" not in resolve(make_config("listops_transformer")).as_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__attention": "lunar"}, ["model.attention", "'lunar'", "did you mean 'luna'", "softmax"]),
        ({"model__norm": "pots"}, ["model.norm", "did you mean 'post'", "pre"]),
        ({"model__pooling": "max"}, ["model.pooling", "'max'", "cls, mean, packed"]),
        ({"model__activation": "gleu"}, ["model.activation", "did you mean 'gelu'"]),
        ({"model__positions": "rotary"}, ["model.positions", "learned, sinusoidal"]),
        ({"model__initializers": "bart"}, ["model.initializers", "did you mean 'bert'"]),
        ({"model__dtype": "float16"}, ["model.dtype", "bfloat16, float32"]),
        ({"optim__schedule": "cosin"}, ["optim.schedule", "did you mean 'cosine'"]),
        ({"model__emb_dim": 0}, ["model.emb_dim=0", "at least 1"]),
        ({"model__num_heads": 3}, ["model.num_heads=3", "does not divide", "16"]),
        ({"luna__num_pack_heads": 5}, ["luna.num_pack_heads=5", "does not divide"]),
        ({"luna__pack_length": 0}, ["luna.pack_length=0", "at least 1"]),
        ({"model__dropout_rate": 1.0}, ["model.dropout_rate=1.0", "below 1"]),
        ({"model__dropout_rate": float("nan")}, ["model.dropout_rate=nan"]),
        ({"optim__learning_rate": -1.0}, ["optim.learning_rate=-1.0", "at least 0"]),
        ({"optim__learning_rate": float("inf")}, ["optim.learning_rate=inf"]),
        ({"optim__beta2": 1.0}, ["optim.beta2=1.0", "below 1"]),
        ({"train__seed": -1}, ["train.seed=-1", "at least 0"]),
        ({"train__seed": 2**32}, ["train.seed=4294967296"]),
        ({"train__num_steps": 0}, ["train.num_steps=0", "at least 1"]),
        ({"train__log_every_steps": 0}, ["train.log_every_steps=0"]),
        ({"model__prepend_cls": False}, ["model.pooling='cls'", "model.prepend_cls=True"]),
        ({"model__emb_dim": "16"}, ["model.emb_dim = '16'", "int"]),
        ({"model__emb_dim": 16.0}, ["model.emb_dim", "int"]),
        ({"model__tie_layers": 1}, ["model.tie_layers = 1", "bool"]),
        ({"train__seed": True}, ["train.seed = True", "int"]),
        ({"row": 3}, ["row = 3", "text"]),
        ({"model__widht": 3}, ["model", "unknown widht"]),
        ({"colour": 3}, ["unknown colour"]),
    ],
)
def test_a_mistake_is_named(changes, words):
    with pytest.raises(UserError) as caught:
        resolve(make_config(**changes))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__pooling": "packed"}, ["model.pooling='packed'", "cls or mean"]),
        ({"softmax__implementation": "flash"}, ["softmax.implementation='flash'", "cudnn, unfused, xla"]),
        (
            {"softmax__implementation": "cudnn", "model__attention_dropout_rate": 0.1},
            ["softmax.implementation='cudnn'", "attention_dropout_rate"],
        ),
    ],
)
def test_a_mistake_with_softmax_is_named(changes, words):
    with pytest.raises(UserError) as caught:
        resolve(make_config("listops_transformer", **changes))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("missing", ["model", "luna", "train", "row", "model.dtype", "optim.beta1"])
def test_a_missing_key_is_named(missing):
    config = make_config()
    section, _, key = missing.rpartition(".")
    del (config[section] if section else config)[key]
    with pytest.raises(UserError, match=key):
        resolve(config)


@pytest.mark.parametrize("config", [[1], "text", None, 3, {}, {"model": 3}])
def test_what_is_no_config_is_refused(config):
    with pytest.raises(UserError, match="config"):
        resolve(config)


def test_an_override_that_would_be_ignored_is_refused():
    with pytest.raises(UserError, match=r"softmax.implementation has no effect with model.attention='luna'"):
        resolve(make_config(), ["softmax.implementation"])
    with pytest.raises(UserError, match=r"luna.pack_length has no effect with model.attention='softmax'"):
        resolve(make_config("listops_transformer"), ["train.seed", "luna.pack_length"])
    resolve(make_config(), ["luna.pack_length", "train.seed", "row"])


def test_unknown_task():
    with pytest.raises(
        UserError, match=r"unknown task 'listop'; did you mean 'listops'\? choices: listops, listops_small"
    ):
        get_task("listop")


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"unknown preset 'cpus'; did you mean 'cpu'\? choices: cpu"):
        read_config("listops_luna16", "cpus")


def test_differences_name_the_keys():
    here, there = make_config(train__seed=1), make_config(row="other")
    del there["model"]["dtype"]
    assert differences(here, there) == [
        "model.dtype: 'float32' here, None there",
        "row: 'luna16' here, 'other' there",
        "train.seed: 1 here, 0 there",
    ]
    assert differences(here, here) == []


def test_configs_import_nothing_heavy():
    """Flags and configs are read before JAX is imported, and a config is data: it imports none of our code."""
    names = [name for name, _ in NUM_PARAMETERS]
    code = (
        f"import importlib, sys\n"
        f"for name in {sorted(set(names))}: importlib.import_module('configs.' + name).get_config('cpu')\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(found & {'jax', 'flax', 'numpy', 'lra_tasks', 'luna_jax'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_settings_import_no_jax():
    code = "import sys, lra_tasks.settings, lra_tasks.registry; print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    assert settings.MECHANISMS  # the same module that was imported here
