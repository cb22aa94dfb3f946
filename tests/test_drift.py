"""The drift ledger: every switch changes what it says and nothing else, and its worth is counted from equal runs."""

import importlib
import os
import re
import subprocess
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from models import (
    EMB_DIM,
    PACK_LENGTH,
    build,
    draw_array,
    draw_mask,
    draw_tokens,
    jit_quickly,
    make_classifier_config,
    make_encoder_config,
    make_key,
    make_layer_config,
    make_luna_config,
    make_softmax_config,
    raises_naming,
    read_layer,
    widen,
)
from oracles import attention, encoder
from records import make_record, make_scores
from tiny_runs import ROOT
from tolerances import assert_close

from configs import drift, rows
from configs.ledger import LEDGER
from configs.switches import BUNDLES, PRESETS, SIDES, SWITCHES, TASKS
from lra_tasks import collection
from lra_tasks import drift as entry
from lra_tasks.errors import UserError
from lra_tasks.model import classifier_config, model_from_config
from lra_tasks.record import canonical_hash, experiment_hash, write_record
from lra_tasks.registry import get_task
from lra_tasks.settings import differences, resolve
from lra_tasks.worth import BASELINE, measure
from luna_jax.attention.luna import LunaAttention
from luna_jax.classifier import Classifier, pool
from luna_jax.encoder import Encoder
from luna_jax.fairseq import WeightsError, import_classifier


def read(task, argument):
    return importlib.import_module(f"configs.{task}").get_config(argument)


def look_up(config, key):
    section, _, name = key.partition(".")
    return config[section][name]


# the ledger


def test_every_item_has_a_switch_or_a_reason():
    assert list(LEDGER) == list(range(1, len(LEDGER) + 1))
    switched = {number for switch in SWITCHES.values() for number in switch.items}
    for number, item in LEDGER.items():
        assert (number in switched) != bool(item.no_switch), number
    assert switched <= LEDGER.keys()
    for switch in SWITCHES.values():
        assert set(switch.changes) <= set(TASKS)
        assert all(set(tasks) <= set(switch.changes) for tasks in switch.sides.values()), "a side without a setting"
        assert set(switch.sides) <= set(SIDES)
        assert not switch.against or switch.against in SWITCHES


def test_the_page_is_what_the_entry_writes():
    assert (ROOT / "docs" / "drift.md").read_text() == entry.write_page(), "python -m lra_tasks.drift --markdown"
    for number, item in LEDGER.items():
        assert re.search(rf"^{number}\. {re.escape(item.title)} ", entry.write_ledger(), re.MULTILINE)


# switches


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", TASKS)
def test_a_switch_changes_its_settings_and_nothing_else(task, preset):
    """From the argument of a config to what the model library is told."""
    baseline = read(task, f"luna16:{preset}")
    known = get_task(baseline.data.task)
    plain = classifier_config(resolve(baseline.to_dict()), known)
    variants = drift.list_variants(baseline, task, preset)
    singles = {name for name, switch in SWITCHES.items() if task in switch.changes and preset in switch.presets}
    assert {"tied_kv", "as_paper", "as_head"} <= variants.keys() <= singles | BUNDLES.keys()
    for name, changes in variants.items():
        config = read(task, f"luna16:{preset}+{name}")
        found = {line.split(":")[0] for line in differences(config.to_dict(), baseline.to_dict())}
        assert found == {"protocol", *changes}, name
        assert all(look_up(config, key) == value for key, value in changes.items())
        assert config.protocol == f"{baseline.protocol}+{name}"
        experiment = resolve(config.to_dict())
        assert resolve(experiment.as_dict()) == experiment
        in_model = any(not key.startswith(("optim.", "train.")) for key in changes)
        assert (classifier_config(experiment, known) != plain) == in_model, name


def test_values_of_the_ledger():
    """As the sources have them, beside the recipe's own."""
    expected = {
        ("image", "paper_dropout"): {"model.dropout_rate": 0.1, "model.attention_dropout_rate": 0.3},
        ("retrieval", "paper_rate"): {"optim.learning_rate": 5e-5},
        ("image", "no_last_pixel"): {"data.max_length": 1023},
        ("listops", "six_tied_passes"): {"model.num_layers": 6, "model.tie_layers": True},
        ("text", "eight_pack_heads"): {"luna.num_pack_heads": 8},
        ("pathfinder", "batch_256"): {"train.batch_size": 256},
        ("image", "bert_start"): {"model.initializers": "bert"},
        ("retrieval", "interaction"): {"model.pair_features": "interaction"},
    }
    for (task, name), changes in expected.items():
        assert drift.find_changes(read(task, "luna16"), task, "", name) == changes
    config = read("listops", "luna16:+as_paper").to_dict()
    found = (config["luna"]["tie_kv"], config["model"]["embedding_norm"], config["model"]["num_layers"])
    assert found == (True, False, 6)
    assert config["pack"] == {"embedding": "plain", "slots": "all", "projection": True}
    experiment = resolve(read("image", "luna16:+no_last_pixel").to_dict())
    assert classifier_config(experiment, get_task("image")).encoder.max_length == 1024  # [CLS] and 1,023 pixels


def test_switches_in_any_order_are_one_experiment():
    one, other = (read("text", f"luna16:cpu+{names}") for names in ("all_slots+tied_kv", "tied_kv+all_slots"))
    assert one == other
    assert one.protocol == "cpu+tied_kv+all_slots"


@pytest.mark.parametrize(
    ("task", "argument", "words"),
    [
        ("listops", "luna16:cpu+tide_kv", ["unknown switch 'tide_kv'", "did you mean 'tied_kv'", "choices:"]),
        ("listops", "luna16:cpu+", ["unknown switch ''", "choices:"]),
        ("listops", "luna16:cpu+paper_rate", ["'paper_rate' changes nothing here", "it is for retrieval"]),
        ("listops", "luna16:+one_layer", ["'one_layer' changes nothing here", "so already"]),
        ("listops", "luna16:+as_readme", ["'as_readme' changes nothing here", "so already"]),
        ("pathfinder", "luna16:cpu+batch_256", ["not for the preset cpu"]),
        ("listops", "luna16:lra+tied_kv", ["'tied_kv'", "not behind 'lra'"]),
        ("pathx", "luna16:cpu+tied_kv", ["nobody published", "pathx", "listops, text"]),
        ("listops", "transformer:cpu+tied_kv", ["'tied_kv' is Luna's", "transformer", "luna16"]),
        ("listops", "transformer:cpu+all_slots", ["'all_slots' is Luna's"]),
        ("listops", "luna16:cpu+tied_kv+tied_kv", ["'tied_kv' is there twice"]),
        ("listops", "luna16:cpu+as_paper+tied_kv", ["the others set all that 'tied_kv' sets"]),
        ("listops", "luna16:cpu+tied_kv+as_paper", ["the others set all that 'tied_kv' sets"]),
        ("listops", "luna16:cpu+pool_pack+pool_every_slot", ["model.pooling", "'packed'", "'packed_all'"]),
        ("listops", "luna16:cpu+as_paper+six_tied_passes", ["model.tie_layers", "leave one of them out"]),
        ("listops", "cpu+tied_kv", ["a preset, which stands behind a row"]),
        ("listops_luna16", "cpu+tied_kv", ["configs/TASK.py:luna16:cpu+tied_kv"]),
    ],
)
def test_a_switch_that_does_not_fit_is_named(task, argument, words):
    with raises_naming(words):
        read(task, argument)


def test_other_rows_have_the_switches_that_are_not_lunas():
    found = drift.list_variants(rows.get_config("listops", "transformer:cpu"), "listops", "cpu")
    assert "sinusoids" in found
    assert not any(key.startswith(("luna.", "pack.")) for changes in found.values() for key in changes)


# what the new settings compute


def test_a_record_without_a_treatment_of_the_pack_is_of_the_same_experiment():
    """The section came later than the first records."""
    config = read("listops", "luna16:cpu").to_dict()
    older = {key: value for key, value in config.items() if key != "pack"}
    assert resolve(older) == resolve(config)
    assert "pack" not in resolve(config).as_dict()
    changed = config | {"pack": config["pack"] | {"slots": "all"}}
    assert resolve(changed).as_dict()["pack"] == changed["pack"]
    softmax = read("listops", "transformer:cpu").to_dict()
    assert "pack" not in resolve(softmax).as_dict()
    with pytest.raises(UserError, match="the section pack needs a packed sequence, which softmax has not"):
        resolve(softmax | {"pack": changed["pack"]})
    with pytest.raises(UserError, match=r"pack\.slots has no effect with model\.attention='softmax'"):
        resolve(softmax, ["pack.slots"])
    with pytest.raises(UserError, match="did you mean 'plain'"):
        resolve(config | {"pack": config["pack"] | {"embedding": "plane"}})


def test_parameters_of_three_switches():
    experiment = resolve(read("listops", "luna16:cpu+plain_pack+pack_projection+linear_head").to_dict())
    model = model_from_config(classifier_config(experiment, get_task("listops_small")))
    pack_norm, projections, head = 2 * 64, 2 * (64**2 + 64), 64 * 128 + 128 + 128 * 10
    assert model.num_parameters == 108_288 - pack_norm + projections - head + 64 * 10


@pytest.mark.parametrize(("embedding", "slots"), [("plain", "all"), ("sinusoidal", "by_length")])
def test_the_packed_sequence_is_treated_as_asked(embedding, slots):
    """P_0 from the sentence in the ledger, then the oracle's layers."""
    config = make_encoder_config(
        make_layer_config(), pack_embedding=embedding, pack_slots=slots, num_layers=1, scale_embedding=True
    )
    apply, params = build(lambda rngs: Encoder(config, rngs=rngs))
    tokens, mask = draw_tokens(1, 2, 7), draw_mask(2, 2, 7)
    mask[1] = np.arange(7) < 2
    encoded = jit_quickly(apply)(params, tokens, mask)

    weights = widen(params)
    settings = encoder.Settings(num_heads=2, num_pack_heads=4, scale_embedding=True)
    shown = {"tokens": weights["embed"]["embedding"]} | {k: weights[k] for k in ("cls", "positions", "embedding_norm")}
    x, x_mask = encoder.embed(shown, tokens, mask, settings)
    p_mask = np.array([[True] * PACK_LENGTH, [True, True, True, slots == "all", slots == "all"]])
    p = weights["pack"]
    if embedding == "sinusoidal":
        sines = np.stack([encoder.compute_sinusoid(slot, EMB_DIM) for slot in range(PACK_LENGTH)])
        p = encoder.apply_layer_norm(weights["pack_embedding_norm"], p * np.sqrt(EMB_DIM) + sines)
    else:
        assert "pack_embedding_norm" not in weights
    p = np.where(p_mask[..., None], p, 0)
    layer = {name: _first(part) for name, part in read_layer(weights["layers"]).items()}
    expected_x, expected_p = encoder.encoder_layer(layer, x, p, settings, x_mask, p_mask)
    assert (np.asarray(encoded.p_mask) == p_mask).all()
    assert_close(np.asarray(encoded.x)[x_mask], expected_x[x_mask], "float32", what="x")
    assert_close(np.asarray(encoded.p)[p_mask], expected_p[p_mask], "float32", what="p")


def _first(tree):
    """One layer of stacked weights."""
    return {k: _first(v) for k, v in tree.items()} if isinstance(tree, dict) else tree[0]


def test_a_plain_pack_is_never_dropped():
    for embedding, is_dropped in (("plain", False), ("as_tokens", True)):
        config = make_encoder_config(make_layer_config(dropout_rate=0.5), pack_embedding=embedding)
        apply, params = build(lambda rngs, config=config: Encoder(config, rngs=rngs))
        run = jit_quickly(partial(apply, method="_embed_pack"))
        p, _ = run(params, np.ones((2, PACK_LENGTH), bool), make_key(0))
        assert bool((np.asarray(p) == 0).any()) == is_dropped


def test_the_packs_output_projection_is_the_oracles():
    apply, params = build(lambda rngs: LunaAttention(EMB_DIM, num_heads=2, pack_projection=True, rngs=rngs))
    x, p, mask = draw_array(1, 2, 6, EMB_DIM), draw_array(2, 2, PACK_LENGTH, EMB_DIM), draw_mask(3, 2, 6)
    y, packed = jit_quickly(apply)(params, jnp.asarray(x, jnp.float32), jnp.asarray(p, jnp.float32), x_mask=mask)

    weights = widen(params)
    linear = attention.apply_linear
    context = [linear(weights[name], x) for name in ("pack_key", "pack_value")]
    expected = linear(
        weights["pack_out"], attention.attend_in_heads(linear(weights["pack_query"], p), *context, 2, mask)
    )
    unpacked = [linear(weights[name], expected) for name in ("key", "value")]
    expected_y = linear(weights["out"], attention.attend_in_heads(linear(weights["query"], x), *unpacked, 2, None))
    assert_close(packed, expected, "float32", what="packed")
    assert_close(np.asarray(y)[mask], expected_y[mask], "float32", what="y")


def test_a_head_without_a_hidden_layer_on_the_mean_of_every_slot():
    config = make_classifier_config(make_encoder_config(num_layers=1), pooling="packed_all", classifier_dim=0)
    apply, params = build(lambda rngs: Classifier(config, rngs=rngs))
    tokens, mask = draw_tokens(1, 2, 7), np.arange(7) < np.array([[7], [2]])
    encode, _ = build(lambda rngs: Encoder(config.encoder, rngs=rngs))
    encoded = jit_quickly(encode)(params["encoder"], tokens, mask)
    mean = np.asarray(encoded.p, np.float64).mean(axis=1)
    assert not np.asarray(encoded.p_mask)[1].all()
    assert_close(pool(encoded, "packed_all"), mean, "float32")
    expected = mean @ np.asarray(params["head"]["logits"]["kernel"], np.float64)
    assert_close(jit_quickly(apply)(params, tokens, mask), expected, "float32")
    assert params["head"].keys() == {"logits"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: make_encoder_config(pack_embedding="plane"),
            ["pack_embedding='plane'", "as_tokens, plain, sinusoidal"],
        ),
        (lambda: make_encoder_config(pack_slots="some"), ["pack_slots='some'", "by_length, all"]),
        (lambda: make_classifier_config(classifier_dim=-1), ["classifier_dim=-1", "at least 0"]),
        (
            lambda: make_classifier_config(
                make_encoder_config(make_layer_config(make_softmax_config())), pooling="packed_all"
            ),
            ["packed_all", "packed sequence"],
        ),
    ],
)
def test_a_mistaken_setting_of_the_library_is_named(make, words):
    with raises_naming(words):
        make()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (make_classifier_config(classifier_dim=0), "classifier_dim=0"),
        (make_classifier_config(make_encoder_config(pack_embedding="plain")), "pack_embedding='as_tokens'; got"),
        (
            make_classifier_config(make_encoder_config(make_layer_config(make_luna_config(pack_projection=True)))),
            "pack_projection=False; got True",
        ),
    ],
)
def test_the_authors_weights_fit_no_such_model(config, words):
    with pytest.raises(WeightsError, match=words):
        import_classifier({}, config)


# what a switch is worth

SETTINGS = {"tied": {"model.tied"}, "deep": {"model.depth"}, "flat": {"model.depth"}}


def make_run(switches=(), *, seed=0, wrong=(), steps=100, **model):
    """A named record of the protocol cpu, whose model has what the switches say; eight examples, some of them wrong."""
    depth = {"deep": 6, "flat": 1}.get(next(iter(switches), ""), 2)
    values = {"tied": "tied" in switches, "depth": depth} | model
    config = {"train": {"seed": seed, "steps": steps}, "model": values}
    protocol = "+".join(["cpu", *switches])
    flags = [int(example not in wrong) for example in range(8)]
    record = make_record(
        seed=seed,
        protocol=protocol,
        config=config,
        config_hash=canonical_hash(config),
        experiment_hash=experiment_hash(config),
        best=make_scores(50, flags),
    )
    return f"{protocol}-{seed}-{steps}", record


def test_worth_is_the_variants_accuracy_less_its_baselines():
    baseline = [make_run(seed=seed, wrong=(seed,)) for seed in (0, 1)]
    variant = [make_run(["tied"], seed=0, wrong=(0, 1, 2)), make_run(["tied"], seed=1, wrong=(1, 2))]
    other = make_run(["tied"], seed=0, wrong=(), steps=200)  # trained for longer: no partner of these, and has none
    found, notes, faults = measure([*baseline, *variant, other], SETTINGS, {})
    assert len(found) == 1
    one = found[0]
    assert (one.switch, one.against, one.protocol, one.seeds) == ("tied", BASELINE, "cpu", ((0, 1), (0, 1)))
    assert one.by_seed == (-25.0, -12.5)
    assert one.test.difference == pytest.approx(-18.75)
    assert one.means == (68.75, 87.5)
    assert one.over_seeds.low < one.test.difference < one.over_seeds.high
    assert faults == ["luna16 on listops (cpu+tied): no run of cpu with otherwise the same settings to compare it with"]
    assert notes == []


def test_both_sides_of_a_difference_are_compared_where_the_baseline_is_on_neither():
    runs = [make_run(), make_run(["deep"], wrong=(0, 1, 2, 3)), make_run(["flat"], wrong=(0,))]
    found, _, faults = measure(runs, SETTINGS, {"deep": "flat"})
    assert not faults
    compared = [(one.switch, one.against, one.test.difference) for one in found]
    assert compared == [("deep", BASELINE, -50.0), ("deep", "flat", -37.5), ("flat", BASELINE, -12.5)]
    assert all(one.over_seeds is None for one in found)
    p_values = sorted(one.test.p_value for one in found)
    assert min(one.p_value_holm for one in found) == pytest.approx(3 * p_values[0])
    tables = entry.lay_out(found, {"deep": "7", "flat": "7"}, "best")
    assert len(tables) == 1
    assert [line[:3] for line in tables[0].lines] == [("7", "deep", "cpu"), ("7", "deep", "flat"), ("7", "flat", "cpu")]
    assert tables[0].lines[0][3:8] == ("1 / 1", "50.00, 1 at chance", "100.00", "-50.00", "-50.00")


def test_runs_of_two_lengths_are_two_tables():
    runs = [
        make_run(switches, steps=steps, wrong=(0,) if switches else ())
        for steps in (100, 200)
        for switches in ((), ("tied",))
    ]
    found, _, faults = measure(runs, SETTINGS, {})
    assert not faults
    tables = entry.lay_out(found, {"tied": "9"}, "best")
    assert [len(table.lines) for table in tables] == [1, 1]
    assert tables[0].caption != tables[1].caption
    assert all(one.p_value_holm == one.test.p_value for one in found)


def test_a_variant_without_a_switch_of_ours_is_left_out():
    found, _, faults = measure([make_run(), make_run(["tide"])], SETTINGS, {})
    assert not found
    assert faults == ["luna16 on listops (cpu+tide): there is no switch 'tide'"]


def test_several_switches_are_one_variant():
    found, _, faults = measure([make_run(), make_run(["deep", "tied"], wrong=(3,))], SETTINGS, {"deep": "flat"})
    assert not faults
    assert [(one.switch, one.against, one.test.difference) for one in found] == [("deep+tied", BASELINE, -12.5)]


def test_records_become_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collection, "check_task", lambda record, where: None)  # these have eight examples
    for name, tied, wrong in (("cpu", False, 0), ("cpu+tied_kv", True, 1)):
        config = {"train": {"seed": 3}, "luna": {"tie_kv": tied}}
        hashes = {"config_hash": canonical_hash(config), "experiment_hash": experiment_hash(config)}
        scores = make_scores(50, [0] * wrong + [1] * (8 - wrong))
        record = make_record(seed=3, protocol=name, config=config, best=scores, **hashes)
        write_record(record, tmp_path / name / "record.json")
    assert entry.print_worth([tmp_path], "best") == 0
    shown = capsys.readouterr().out
    assert re.search(r"\| +9 \| tied_kv \| cpu +\| 1 / 1 \| +87\.50 \| +100\.00 \| +-12\.50 \| +-12\.50 \|", shown)
    (tmp_path / "cpu" / "record.json").unlink()
    assert entry.print_worth([tmp_path], "best") == 1
    out, err = capsys.readouterr()
    assert "left out: luna16 on listops (cpu+tied_kv): no run of cpu with otherwise the same settings" in err
    assert "no variant with a baseline among these records" in out


# the runs

FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case $2 in
  lra_tasks.drift) case $3 in --task) printf 'one\tmodel.a=1\ntwo\tmodel.b=2\n' ;; *) echo "the table of $3" ;; esac ;;
  lra_tasks.train) case $* in *"$FAIL"*) exit "$CODE" ;; esac; mkdir -p "$6"; touch "$6/record.json" ;;
esac
"""


@pytest.fixture
def launch(tmp_path):
    """Runs launch/drift.sh with a Python that only writes down what it was asked for."""
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def run(*arguments, fail="nothing", code=1):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        settings = {"PYTHON": python, "WORK": tmp_path / "my runs", "LOG": log, "FAIL": fail, "CODE": code}
        environment = os.environ | {name: str(value) for name, value in settings.items()}
        command = ["bash", "launch/drift.sh", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done, [line for line in (log.read_text() if log.exists() else "").splitlines() if "--task" not in line]

    return run


def test_the_runs_go_on_where_they_stopped(launch, tmp_path):
    """Every variant of every seed, one at a time; a second call trains none of them again."""
    stopped, asked = launch("listops", "cpu", "0 1", fail="cpu+two/seed0", code=75)
    assert stopped.returncode == 75
    assert len(asked) == 3
    broken, asked = launch("listops", "cpu", "0 1", fail="cpu+two/seed0", code=1)
    assert broken.returncode == 1
    assert "failed with exit code 1" in broken.stderr
    assert [re.search(r"cpu[^/]*/seed\d", line)[0] for line in asked[:-1]] == [
        "cpu+two/seed0", "cpu/seed1", "cpu+one/seed1", "cpu+two/seed1",
    ]  # fmt: skip
    finished, asked = launch("listops", "cpu", "0 1")
    assert finished.returncode == 0
    assert [line.split()[1] for line in asked] == ["lra_tasks.train", "lra_tasks.drift"]
    assert finished.stdout.endswith(f"the table of {tmp_path}/my runs/listops/luna16\n")


def test_a_dry_run_prints_commands_that_can_be_copied(launch, tmp_path):
    done, asked = launch("--dry-run", "--only", "two", "image", "", "0,3", "--", "--config.train.num_steps=9")
    assert (done.returncode, asked) == (0, [])
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    work = f"'{tmp_path}/my runs/image/luna16/authors+two/seed3'"
    assert f"--config configs/image.py:luna16:+two --workdir {work} --data_dir data --config.train.seed=3" in lines[3]
    assert lines[3].endswith("--config.train.num_steps=9")
    assert "--config configs/image.py:luna16 " in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "three", "listops"], ["three", "not a switch that changes listops", "one two"]),
        (["listops", "cpu", "0", "1"], ["unexpected argument 1"]),
        (["--dryrun", "listops"], ["unknown option --dryrun"]),
        (["--only"], ["--only needs names"]),
    ],
)
def test_a_mistake_on_the_command_line_is_named(launch, arguments, words):
    done, asked = launch(*arguments)
    assert (done.returncode, asked) == (2, [])
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pathx", "", "luna16"), ["--task 'pathx'", "choices:", "listops"]),
        (("listops", "lra", "luna16"), ["--preset 'lra'", "authors, cpu, paper"]),
        (("listops", "cpu", "luna17"), ["--row 'luna17'", "did you mean 'luna16'"]),
    ],
)
def test_variants_are_listed_for_what_exists(arguments, words):
    with pytest.raises(UserError) as caught:
        entry.list_variants(*arguments)
    assert all(word in str(caught.value) for word in words)
    assert ("tied_kv", "luna.tie_kv=True") in entry.list_variants("listops", "authors", "luna16")
