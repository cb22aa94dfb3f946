"""Translation's optimizers: schedules and clipping as recorded, what reaches Apollo and Adam, what is refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import jit_quickly, precise
from oracles.recorded import CLIPPING, read_schedule
from tolerances import assert_close

from configs import base_translation
from lra_tasks.errors import UserError
from lra_tasks.optim import make_optimizer, make_schedule
from lra_tasks.settings import OptimSettings
from lra_tasks.translation_optim import make_translation_optimizer, make_translation_schedule
from lra_tasks.translation_settings import NEUTRAL, SCHEDULES, TranslationOptimSettings
from lra_tasks.typed_json import build
from luna_jax.apollo import apollo

FLOAT32 = 2e-6
"""A few roundings to 2^-24, relative to the largest number on the way."""
BASE = base_translation.get_config().optim.to_dict()
APOLLO = {"optimizer": "apollo", "epsilon": 1e-4}
MILESTONES = {
    "schedule": "milestones",
    "learning_rate": 0.1,
    "warmup_steps": 1000,
    "initial_learning_rate": 1e-5,
    "milestones": (300_000, 450_000),
}
RECORDED = {
    "milestone": (MILESTONES, 500_000),
    "inverse_sqrt": ({"learning_rate": 5e-5, "warmup_steps": 8000, "initial_learning_rate": 1e-7}, 10**6),
    "polynomial_decay": (
        {"learning_rate": 1e-5, "warmup_steps": 2000, "initial_learning_rate": 0.0, "schedule": "linear"},
        65_520,
    ),
}


def make_settings(**changes):
    """The base config's settings with the given values changed, checked as when a config is read."""
    return build(TranslationOptimSettings, BASE | changes)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("title", RECORDED)
def test_schedule_as_recorded(title, dtype):
    """The authors' schedulers, value for value; update k + 1 uses the value of count k."""
    changes, num_steps = RECORDED[title]
    with precise(dtype):
        schedule = jax.jit(make_translation_schedule(make_settings(**changes), num_steps))
        for count, expected in read_schedule(title):
            bound = FLOAT32 * changes["learning_rate"] if dtype == "float32" else 1e-12 * expected + 1e-20
            assert abs(float(schedule(jnp.asarray(count))) - expected) <= bound, count


def test_milestones_without_warmup():
    settings = make_settings(
        schedule="milestones", learning_rate=1.0, warmup_steps=0, milestones=(1, 3), milestone_factor=0.5
    )
    schedule = make_translation_schedule(settings, 10)
    np.testing.assert_array_equal([schedule(count) for count in range(5)], [1.0, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "milestones"])
def test_the_other_schedules_are_those_of_classification(name):
    settings = make_settings(schedule=name, learning_rate=0.5, warmup_steps=10, initial_learning_rate=0.1)
    fields = {field.name for field in dataclasses.fields(OptimSettings)}
    same = OptimSettings(**{key: value for key, value in dataclasses.asdict(settings).items() if key in fields})
    ours, theirs = make_translation_schedule(settings, 110), make_schedule(same, 110)
    assert [float(ours(count)) for count in (0, 5, 10, 60, 110)] == [
        float(theirs(count)) for count in (0, 5, 10, 60, 110)
    ]


def test_adam_is_that_of_classification():
    changes = {"beta1": 0.7, "beta2": 0.8, "epsilon": 1e-3, "weight_decay": 0.1, "clip_norm": 0.5}
    settings = make_settings(**changes)
    fields = {field.name for field in dataclasses.fields(OptimSettings)}
    same = OptimSettings(**{key: value for key, value in dataclasses.asdict(settings).items() if key in fields})
    params, gradients = {"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([3.0, 4.0])}
    schedule = optax.constant_schedule(0.1)
    found = []
    for optimizer in (make_translation_optimizer(settings, schedule), make_optimizer(same, schedule)):
        found.append(optimizer.update(gradients, optimizer.init(params), params))
    jax.tree.map(np.testing.assert_array_equal, *found)


def clip_only(gradients, **changes):
    """What clipping makes of gradients, read from Apollo's mean gradient after a step without decay."""
    settings = make_settings(**APOLLO, **changes, beta1=0.0)
    optimizer = make_translation_optimizer(settings, optax.constant_schedule(1.0))
    _, state = jit_quickly(optimizer.update)(gradients, optimizer.init(gradients))
    return optax.tree.get(state, "mean")


@pytest.mark.parametrize(("mode", "recorded"), [("global", "total"), ("each", "each")])
def test_clipping_as_recorded(mode, recorded):
    gradients = [jnp.asarray(leaf, jnp.float32) for leaf in CLIPPING["input"]]
    clipped = clip_only(gradients, clip_norm=CLIPPING["max_norm"], clip_mode=mode)
    for ours, expected in zip(clipped, CLIPPING[recorded]["grads"], strict=True):
        np.testing.assert_allclose(ours, np.array(expected), rtol=FLOAT32)


def test_no_clipping_and_clipping_of_small_gradients():
    gradients = {"a": jnp.array([3.0, 4.0])}
    for changes in ({}, {"clip_norm": 5.5}, {"clip_norm": 5.5, "clip_mode": "each"}):
        np.testing.assert_array_equal(clip_only(gradients, **changes)["a"], gradients["a"])


def test_everything_reaches_apollo():
    """Values far from the defaults, three steps, one leaf a stack of two layers: the same as Apollo by hand."""
    changes = {"epsilon": 0.01, "rebound": "belief", "weight_decay": 0.2, "decay": "stable"}
    rates = {"learning_rate": 0.5, "warmup_steps": 4, "initial_learning_rate": 0.1}
    settings = make_settings(optimizer="apollo", **changes, **rates, beta1=0.6, clip_norm=2.0, clip_mode="each")
    schedule = make_translation_schedule(settings, 100)
    ours = make_translation_optimizer(settings, schedule, lambda path: path[0].key == "layers")
    theirs = apollo(lambda count: 0.1 + 0.1 * count, **changes, beta=0.6)
    params = {"layers": jnp.array([[1.0, 2.0], [-3.0, 0.5]]), "table": jnp.array([0.1, 0.2])}
    gradient = {"layers": jnp.array([[0.3, 0.4], [6.0, 8.0]]), "table": jnp.array([0.0, 1.0])}
    clipped = gradient | {"layers": jnp.array([[0.3, 0.4], [1.2, 1.6]])}

    def follow(optimizer, params, gradient):
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            gradient = jax.tree.map(lambda leaf: -leaf[..., ::-1], gradient)
        return params

    def split(tree):
        return {"0": tree["layers"][0], "1": tree["layers"][1], "table": tree["table"]}

    def run(params):
        return split(follow(ours, params, gradient)), follow(theirs, split(params), split(clipped))

    for actual, expected in zip(*(found.values() for found in jit_quickly(run)(params)), strict=True):
        assert_close(actual, expected, "float32")


def test_neutral_values_are_those_of_the_base_config():
    assert {key: NEUTRAL[key] for key in NEUTRAL} == {key: BASE[key] for key in NEUTRAL}


def raises_user_error(*words):
    """A context that expects a UserError of one line with all these words in it."""
    return pytest.raises(UserError, match="^" + "".join(f"(?=.*{re.escape(word)})" for word in words) + r".*\Z")


DECAYING = {"weight_decay": 0.1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (APOLLO | {"beta2": 0.999}, ["optim.beta2=0.999", "'apollo'", "0.98"]),
        ({"rebound": "belief"}, ["optim.rebound='belief'", "'adam'", "'constant'"]),
        (DECAYING | {"decay": "l2"}, ["optim.decay='l2'", "'adam'", "'decoupled'"]),
        (APOLLO | {"decay": "l2"}, ["optim.decay='l2'", "optim.weight_decay=0", "'decoupled'"]),
        ({"milestones": (5000,)}, ["optim.milestones=(5000,)", "'inverse_sqrt'", "()"]),
        ({"milestone_factor": 0.5}, ["optim.milestone_factor=0.5", "'inverse_sqrt'", "0.1"]),
        ({"warmup_steps": 0, "initial_learning_rate": 0.01}, ["optim.initial_learning_rate=0.01", "warmup_steps=0"]),
        ({"clip_mode": "each"}, ["optim.clip_mode='each'", "optim.clip_norm=0", "'global'"]),
    ],
)
def test_a_switch_without_effect_is_refused(changes, words):
    with raises_user_error(*words):
        make_settings(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "appollo"}, ["optim.optimizer='appollo'", "did you mean 'apollo'?"]),
        ({"schedule": "milestone"}, ["optim.schedule='milestone'", "did you mean 'milestones'?"]),
        (APOLLO | {"rebound": "believe"}, ["optim.rebound='believe'", "did you mean 'belief'?"]),
        (APOLLO | DECAYING | {"decay": "l1"}, ["optim.decay='l1'", "stable"]),
        ({"clip_norm": 1.0, "clip_mode": "all"}, ["optim.clip_mode='all'", "each, global"]),
        ({"clip_norm": -1.0}, ["optim.clip_norm=-1.0", "at least 0"]),
        ({"learning_rate": float("nan")}, ["optim.learning_rate=nan", "at least 0"]),
        ({"beta1": 1.0}, ["optim.beta1=1.0", "below 1"]),
        (APOLLO | {"epsilon": 0.0}, ["optim.epsilon=0", "1e-4"]),
        (MILESTONES | {"milestones": ()}, ["optim.milestones", "'constant'"]),
        (MILESTONES | {"milestones": (1000, 2000)}, ["(1000, 2000)", "behind the warm-up's 1000"]),
        (MILESTONES | {"milestones": (3000, 2000)}, ["(3000, 2000)", "rise"]),
        (MILESTONES | {"milestone_factor": 1.0}, ["optim.milestone_factor=1.0", "below 1"]),
        (MILESTONES | {"milestones": (3000.5,)}, ["milestones[0]", "int"]),
    ],
)
def test_mistakes_are_named_at_the_door(changes, words):
    with raises_user_error(*words):
        make_settings(**changes)
