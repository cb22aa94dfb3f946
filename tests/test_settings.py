"""Settings: every key is declared once; a mistake is named at the start, also one that only the task shows."""

import dataclasses
import inspect
import subprocess
import sys
import typing

import pytest
from tiny_runs import ROOT, make_config, make_experiment

from configs import base
from lra_tasks import settings
from lra_tasks.errors import UserError
from lra_tasks.machine import take_machine
from lra_tasks.model import build_model, classifier_config
from lra_tasks.registry import get_task
from lra_tasks.settings import MECHANISMS, Experiment, check_task, differences, resolve, sequence_length
from luna_jax.attention.registry import ATTENTIONS

TASK = get_task("listops_small")


def sections():
    """Section name -> its dataclass, from the annotations of Experiment."""
    found = {}
    for name, kind in typing.get_type_hints(Experiment).items():
        kinds = [k for k in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(k)]
        if kinds:
            found[name] = kinds[0]
    return found


def test_base_declares_exactly_the_fields():
    config, _ = take_machine(base.get_config().to_dict())  # whose fields it builds, none missing and none added
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
        ({"model__embedding": "lineal"}, ["model.embedding", "did you mean 'linear'", "table"]),
        ({"model__pair_features": "concats"}, ["model.pair_features", "did you mean 'concat'", "interaction"]),
        ({"data__max_length": -1}, ["data.max_length=-1", "at least 0"]),
        ({"data__validation": "heldout"}, ["data.validation", "did you mean 'held_out'", "test"]),
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


@pytest.mark.parametrize(("max_length", "expected"), [(0, 64), (1, 1), (63, 63), (64, 64)])
def test_documents_are_as_long_as_asked_for(max_length, expected):
    experiment = make_experiment(data__max_length=max_length)
    assert sequence_length(experiment, TASK) == expected
    assert classifier_config(experiment, TASK).encoder.max_length == expected + 1  # and [CLS]


def test_a_length_that_the_task_never_has_is_refused():
    experiment = make_experiment(data__max_length=65)
    for refuse in (check_task, sequence_length, build_model):
        with pytest.raises(UserError, match=r"data.max_length=65 exceeds the 64 tokens of listops_small; give 1 to 64"):
            refuse(experiment, TASK)


def test_only_pixels_are_numbers():
    experiment = make_experiment(model__embedding="linear")
    check_task(experiment, get_task("image"))
    for name, kind in {"listops_small": "words", "text": "bytes"}.items():
        with pytest.raises(UserError, match=rf"model.embedding='linear' .*{name} are {kind}; take 'table'"):
            check_task(experiment, get_task(name))


def test_features_of_a_pair_are_refused_where_there_are_none():
    experiment = make_experiment(model__pair_features="interaction")
    check_task(experiment, TASK, ["model.emb_dim"])
    check_task(experiment, get_task("retrieval"), ["model.pair_features"])
    with pytest.raises(UserError, match=r"model.pair_features has no effect on listops_small.*leave it out"):
        check_task(experiment, TASK, ["model.emb_dim", "model.pair_features"])


@pytest.mark.parametrize("pair_features", ["concat", "interaction"])
def test_two_documents_have_a_head_of_their_own(pair_features):
    experiment = make_experiment(model__pair_features=pair_features)
    assert classifier_config(experiment, get_task("retrieval")).pair_features == pair_features
    assert classifier_config(experiment, TASK).pair_features is None


def test_unknown_task():
    with pytest.raises(UserError, match=r"unknown task 'listop'; did you mean 'listops'\? choices: .*listops_small"):
        get_task("listop")


def test_differences_name_the_keys():
    here, there = make_config(train__seed=1), make_config(row="other")
    del there["model"]["dtype"]
    assert differences(here, there) == [
        "model.dtype: 'float32' here, None there",
        "row: 'luna16' here, 'other' there",
        "train.seed: 1 here, 0 there",
    ]
    assert differences(here, here) == []


def test_settings_import_no_jax():
    code = "import sys, lra_tasks.settings, lra_tasks.registry; print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    assert settings.MECHANISMS  # the same module that was imported here
