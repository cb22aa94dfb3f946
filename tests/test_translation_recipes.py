"""Translation's configs: every file and preset resolves and builds, and the authors' recipe has its source's values."""

import importlib

import pytest
from tiny_runs import ROOT

from lra_tasks.errors import UserError
from lra_tasks.translation import TRANSLATIONS, get_translation
from lra_tasks.translation_model import build_translation_model
from lra_tasks.translation_settings import is_translation, resolve_translation

# Parameters by hand, V = 40,624 or 6,000 words, width D, F, L slots: V D + L D + layers. A tied Luna attention has five
# projections of D^2 + D, an untied one seven (in the causal form six), softmax four; a norm 2 D; a feed-forward
# 2 D F + F + D. An encoder layer has one attention and norms of x twice and of P, a decoder layer two and four norms.
NUM_PARAMETERS = {
    ("wmt14_ende_luna16", ""): 69_686_272,
    ("wmt14_ende_luna16", "paper"): 69_686_272,
    ("wmt14_ende_luna16", "untied"): 77_565_952,
    ("wmt14_ende_luna16", "elu"): 69_686_272,
    ("wmt14_ende_luna16", "noncontextual"): 69_686_272 + 11 * 16 * 512,  # a P for each of twelve layers
    ("wmt14_ende_luna32", ""): 69_694_464,
    ("wmt14_ende_luna32", "untied+elu"): 77_574_144,
    ("wmt14_ende_transformer", ""): 64_937_984,
    ("wmt14_ende_transformer", "paper"): 64_937_984,
    ("multi30k_deen_luna16", "cpu"): 6000 * 192 + 16 * 192 + 2 * (5 * 37_056 + 148_032 + 6 * 192)
    + 2 * (10 * 37_056 + 148_032 + 8 * 192),
    ("multi30k_deen_transformer", "cpu"): 6000 * 192 + 2 * (4 * 37_056 + 148_032 + 4 * 192)
    + 2 * (8 * 37_056 + 148_032 + 6 * 192),
}  # fmt: skip


def read_config(name, presets=""):
    return importlib.import_module(f"configs.{name}").get_config(presets)


def list_configs():
    paths = (ROOT / "configs").glob("*_*.py")
    return [path.stem for path in paths if path.stem.startswith(tuple(TRANSLATIONS))]


def test_every_config_is_in_the_table():
    assert {"multi30k_deen_luna16", "wmt14_ende_transformer"} < set(list_configs())
    assert {name for name, _ in NUM_PARAMETERS} == set(list_configs())


@pytest.mark.parametrize(("name", "presets"), NUM_PARAMETERS)
def test_every_config_resolves_and_builds(name, presets):
    config = read_config(name, presets).to_dict()
    assert is_translation(config)
    experiment = resolve_translation(config)
    assert experiment.protocol == (presets or ("ours" if "multi30k" in name else "authors"))
    assert resolve_translation(experiment.as_dict()) == experiment  # config.json reads back as what was run
    task = get_translation(experiment.data.task)
    model = build_translation_model(experiment, task.vocab_size, task.max_length)
    assert model.num_parameters == NUM_PARAMETERS[name, presets]


def test_the_authors_recipe():
    """facts of examples/luna/README.wmt.md at commit 1ea2f78."""
    experiment = resolve_translation(read_config("wmt14_ende_luna32").to_dict())
    model, optim, train = experiment.model, experiment.optim, experiment.train
    assert (model.num_encoder_layers, model.num_decoder_layers, model.emb_dim, model.mlp_dim) == (6, 6, 512, 2048)
    assert (model.num_heads, experiment.luna.num_pack_heads, experiment.luna.pack_length) == (8, 8, 32)
    assert (model.norm, model.activation) == ("post", "relu")
    assert {model.dropout_rate, model.attention_dropout_rate, model.activation_dropout_rate} == {0.1}
    assert (optim.optimizer, optim.learning_rate, optim.beta1, optim.epsilon) == ("apollo", 0.1, 0.9, 1e-4)
    assert (optim.rebound, optim.decay, optim.weight_decay) == ("constant", "l2", 1e-8)
    assert (optim.warmup_steps, optim.initial_learning_rate, optim.milestones) == (1000, 1e-5, (300_000, 450_000))
    assert (optim.schedule, optim.milestone_factor) == ("milestones", 0.1)
    assert (optim.clip_norm, optim.clip_mode) == (0.1, "each")
    assert (train.num_steps, train.label_smoothing) == (500_000, 0.1)
    assert experiment.data.max_tokens == 8 * 8192
    assert experiment.luna.tie_kv
    assert experiment.luna.contextual_pack
    assert experiment.causal.weight == "softplus"


def test_presets_are_the_rows_of_the_papers_tables():
    """Table 4: tied or untied, softplus or elu + 1; Table 5: a P that runs through the layers, or one for each."""
    base = resolve_translation(read_config("wmt14_ende_luna16").to_dict())
    changed = resolve_translation(read_config("wmt14_ende_luna16", "noncontextual+elu+untied").to_dict())
    assert changed.protocol == "untied+elu+noncontextual"
    assert (changed.luna.tie_kv, changed.causal.weight, changed.luna.contextual_pack) == (False, "elu", False)
    assert changed.optim == base.optim
    paper = resolve_translation(read_config("wmt14_ende_transformer", "paper").to_dict())
    assert (paper.optim.clip_norm, paper.optim.clip_mode) == (1.0, "global")
    assert paper.luna is None
    assert paper.causal is None


@pytest.mark.parametrize(
    ("name", "presets", "words"),
    [
        ("wmt14_ende_luna16", "unted", "did you mean 'untied'"),
        ("wmt14_ende_luna16", "cpu", "choices, joined by +: paper, untied"),
        ("multi30k_deen_transformer", "elu", "choices, joined by +: cpu"),
    ],
)
def test_unknown_presets(name, presets, words):
    with pytest.raises(ValueError, match="unknown preset") as caught:
        read_config(name, presets)
    assert words in str(caught.value)


def test_a_switch_of_another_mechanism_is_refused():
    config = read_config("multi30k_deen_transformer").to_dict()
    for key in ("luna.tie_kv", "causal.weight"):
        with pytest.raises(UserError, match=f"{key} has no effect with model.attention='softmax'"):
            resolve_translation(config, [key])
    resolve_translation(config, ["softmax.implementation", "train.seed"])


def test_an_unknown_language_pair():
    with pytest.raises(UserError, match="unknown language pair 'wmt14_deen'; did you mean 'wmt14_ende'"):
        get_translation("wmt14_deen")
