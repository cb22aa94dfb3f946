"""Translation's settings: every key is declared once; a mistake, and a switch without effect, is named at the start."""

import dataclasses
import json
import subprocess
import sys
import typing

import pytest
from tiny_runs import ROOT
from tiny_translation_runs import make_config, make_experiment

from configs import base_translation, multi30k_deen_transformer
from lra_tasks import translation_settings
from lra_tasks.errors import UserError
from lra_tasks.machine import take_machine
from lra_tasks.record_fields import experiment_hash
from lra_tasks.settings import resolve
from lra_tasks.translation_settings import TranslationExperiment, is_translation, resolve_translation
from lra_tasks.typed_json import JsonError


def sections():
    """Section name -> its dataclass, from the annotations of TranslationExperiment."""
    found = {}
    for name, kind in typing.get_type_hints(TranslationExperiment).items():
        kinds = [k for k in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(k)]
        if kinds:
            found[name] = kinds[0]
    return found


def make_softmax(**changes):
    """The config of the Transformer twin."""
    config = multi30k_deen_transformer.get_config("cpu").to_dict()
    for key, value in changes.items():
        section, _, field = key.partition("__")
        config[section][field] = value
    return config


def test_base_declares_exactly_the_fields():
    config, _ = take_machine(base_translation.get_config().to_dict())
    assert config.keys() == {field.name for field in dataclasses.fields(TranslationExperiment)}
    for name, kind in sections().items():
        assert config[name].keys() == {field.name for field in dataclasses.fields(kind)}, name
    assert {name for name, value in config.items() if isinstance(value, dict)} == sections().keys()


def test_no_section_has_a_default():
    for kind in [TranslationExperiment, *sections().values()]:
        for field in dataclasses.fields(kind):
            assert field.default is dataclasses.MISSING, f"{kind.__name__}.{field.name}: the base config has defaults"
            assert field.default_factory is dataclasses.MISSING


def test_what_the_base_says_is_neutral():
    """A run whose switch is off and one that never heard of the switch have equal configs."""
    config = base_translation.get_config().to_dict()
    assert {key: config["optim"][key] for key in translation_settings.NEUTRAL} == translation_settings.NEUTRAL
    assert config["decode"]["length_penalty"] == translation_settings.NEUTRAL_PENALTY


def test_only_the_sections_in_use_are_kept_and_read_back():
    luna, softmax = make_experiment(), resolve_translation(make_softmax())
    assert "softmax" not in luna.as_dict()
    assert not {"luna", "causal"} & softmax.as_dict().keys()
    for experiment in (luna, softmax):
        assert resolve_translation(json.loads(json.dumps(experiment.as_dict()))) == experiment
    milestones = make_experiment(
        optim__schedule="milestones", optim__milestones=(100, 200), optim__milestone_factor=0.5
    )
    assert resolve_translation(json.loads(json.dumps(milestones.as_dict()))) == milestones


def test_seeds_share_a_hash_and_nothing_else_does():
    one, other = make_experiment(), make_experiment(train__seed=7)
    assert experiment_hash(one.as_dict()) == experiment_hash(other.as_dict())
    for changes in ({"luna__tie_kv": False}, {"causal__weight": "elu"}, {"decode__beam_size": 3}):
        assert experiment_hash(make_experiment(**changes).as_dict()) != experiment_hash(one.as_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__attention": "lunar"}, ["model.attention='lunar'", "did you mean 'luna'", "softmax"]),
        ({"model__attention": "reformer"}, ["model.attention", "luna, softmax"]),
        ({"model__norm": "pots"}, ["model.norm", "did you mean 'post'"]),
        ({"model__activation": "gleu"}, ["model.activation", "did you mean 'gelu'"]),
        ({"model__dtype": "float16"}, ["model.dtype", "bfloat16, float32"]),
        ({"model__num_decoder_layers": 0}, ["model.num_decoder_layers=0", "at least 1"]),
        ({"model__num_heads": 3}, ["model.num_heads=3", "does not divide model.emb_dim=32"]),
        ({"model__dropout_rate": 1.0}, ["model.dropout_rate=1.0", "below 1"]),
        ({"luna__num_pack_heads": 5}, ["luna.num_pack_heads=5", "does not divide"]),
        ({"luna__pack_length": 0}, ["luna.pack_length=0", "at least 1"]),
        ({"causal__weight": "relu"}, ["causal.weight='relu'", "elu, softplus"]),
        ({"causal__chunk_size": 0}, ["causal.chunk_size=0", "at least 1"]),
        ({"data__max_tokens": 0}, ["data.max_tokens=0", "at least 1"]),
        ({"train__seed": -1}, ["train.seed=-1", "at least 0"]),
        ({"train__label_smoothing": 1.0}, ["train.label_smoothing=1.0", "below 1"]),
        ({"train__average_every_steps": 0}, ["train.average_every_steps=0", "at least 1"]),
        ({"train__num_averaged": 0}, ["train.num_averaged=0", "at least 1"]),
        ({"decode__beam_size": 0}, ["decode.beam_size=0", "at least 1"]),
        ({"decode__length_penalty": -0.5}, ["decode.length_penalty=-0.5", "at least 0"]),
        ({"decode__length_penalty": float("nan")}, ["decode.length_penalty=nan", "at least 0"]),
        ({"decode__beam_size": 1, "decode__length_penalty": 0.6}, ["no effect with decode.beam_size=1", "1.0"]),
        ({"decode__length_factor": 0.0, "decode__length_offset": 0}, ["both 0"]),
    ],
)
def test_mistakes(changes, words):
    with pytest.raises(UserError) as caught:
        make_experiment(**changes)
    for word in words:
        assert word in str(caught.value)


def test_a_key_that_is_missing_unknown_or_of_another_type():
    missing, unknown = make_config(), make_config(train__epochs=3)
    del missing["decode"]["beam_size"]
    for config, words in (
        (missing, "decode: missing beam_size"),
        (unknown, "train: unknown epochs"),
        (make_config(train__num_steps="many"), "train.num_steps = 'many'"),
    ):
        with pytest.raises(JsonError, match=words):
            resolve_translation(config)


@pytest.mark.parametrize("config", [{}, [], "x", {"kind": "translation"}, {"kind": "translation", "model": 3}])
def test_what_is_no_translation_config(config):
    with pytest.raises(UserError, match="kind='translation' and the section model"):
        resolve_translation(config)


def test_the_two_kinds_are_told_apart():
    assert is_translation(make_config())
    assert not any(map(is_translation, ({"kind": "classification"}, {}, None, "translation")))
    with pytest.raises(UserError, match="unknown causal, decode, kind"):
        resolve(make_config())


def test_what_has_no_effect_is_refused():
    chunked = make_softmax(softmax__implementation="chunked", softmax__chunk_size=4)
    assert resolve_translation(chunked, ["softmax.chunk_size"]).softmax.chunk_size == 4
    for config, key, words in (
        (make_softmax(), "causal.chunk_size", "no effect with model.attention='softmax'"),
        (make_config(), "softmax.chunk_size", "no effect with model.attention='luna'"),
        (make_softmax(), "softmax.chunk_size", "read with softmax.implementation='chunked' alone"),
    ):
        with pytest.raises(UserError, match=words):
            resolve_translation(config, [key])


def test_cudnn_has_no_dropout():
    with pytest.raises(UserError, match=r"set model\.attention_dropout_rate to 0"):
        resolve_translation(make_softmax(softmax__implementation="cudnn", model__attention_dropout_rate=0.1))


def test_reading_settings_imports_nothing_heavy():
    code = (
        "import sys, lra_tasks.translation_settings, lra_tasks.translation, configs.wmt14_ende_luna16 as config\n"
        "lra_tasks.translation_settings.resolve_translation(config.get_config('paper').to_dict())\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(found & {'jax', 'flax', 'optax', 'sentencepiece', 'sacrebleu'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
