"""The optimizer: schedules against the recorded ones, one update against NumPy, clipping."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import precise
from oracles.recorded import CLIPPING, read_schedule
from tiny_runs import make_config
from tolerances import assert_close

from lra_tasks.optim import make_optimizer, make_schedule
from lra_tasks.settings import SCHEDULES, resolve

FLOAT32 = 2e-6
"""A few roundings to 2^-24, relative to the largest number on the way, which is the peak of a schedule."""


def make_settings(**changes):
    """Optimizer settings with the given values changed."""
    return resolve(make_config(**{f"optim__{key}": value for key, value in changes.items()})).optim


SETTINGS = {
    "inverse_sqrt": ({"learning_rate": 5e-5, "warmup_steps": 8000, "initial_learning_rate": 1e-7}, 10**6),
    "polynomial_decay": (
        {"learning_rate": 1e-5, "warmup_steps": 2000, "initial_learning_rate": 0.0, "schedule": "linear"},
        65520,
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("title", SETTINGS)
def test_schedule_as_recorded(title, dtype):
    """The authors' schedulers, value for value."""
    changes, num_steps = SETTINGS[title]
    with precise(dtype):
        schedule = make_schedule(make_settings(**changes), num_steps)
        for count, expected in read_schedule(title):
            actual = schedule(jnp.asarray(count))
            assert actual.dtype == dtype
            # 1e-20: the last value of a decay is what rounding leaves of zero
            bound = FLOAT32 * changes["learning_rate"] if dtype == "float32" else 1e-12 * expected + 1e-20
            assert abs(float(actual) - expected) <= bound, count


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_and_peak(name):
    """Every schedule starts at the initial rate, rises linearly and reaches the peak after the warm-up."""
    schedule = make_schedule(
        make_settings(schedule=name, learning_rate=0.5, warmup_steps=10, initial_learning_rate=0.1), num_steps=110
    )
    np.testing.assert_allclose([schedule(0), schedule(5), schedule(10)], [0.1, 0.3, 0.5], rtol=FLOAT32)


@pytest.mark.parametrize(
    ("name", "middle", "end"),
    [
        ("constant", 0.5, 0.5),
        ("cosine", 0.25, 0.0),
        ("cosine_cycle", 0.25 * (1 + math.cos(math.pi * 50 / 110)), 0.25 * (1 + math.cos(math.pi * 100 / 110))),
        ("linear", 0.25, 0.0),
        ("inverse_sqrt", 0.5 * (10 / 60) ** 0.5, 0.5 * (10 / 110) ** 0.5),
    ],
)
def test_end_points(name, middle, end):
    schedule = make_schedule(make_settings(schedule=name, learning_rate=0.5, warmup_steps=10), num_steps=110)
    np.testing.assert_allclose([schedule(60), schedule(110)], [middle, end], rtol=FLOAT32, atol=1e-8)


def test_lra_rsqrt_is_the_same_family():
    """LRA's `rsqrt` with constant c and warm-up W is c * min(1, t/W) / sqrt(max(t, W)): peak c / sqrt(W)."""
    constant, warmup = 0.05, 8000
    schedule = make_schedule(
        make_settings(learning_rate=constant / warmup**0.5, warmup_steps=warmup, initial_learning_rate=0.0), 10**6
    )
    for step in (1, 100, 8000, 8001, 30000):
        expected = constant * min(1.0, step / warmup) / max(step, warmup) ** 0.5
        np.testing.assert_allclose(schedule(step), expected, rtol=0, atol=FLOAT32 * constant / warmup**0.5)


def test_no_warmup_starts_at_the_peak():
    for name in SCHEDULES:
        schedule = make_schedule(make_settings(schedule=name, learning_rate=0.5, warmup_steps=0), num_steps=100)
        np.testing.assert_allclose(schedule(0), 0.5, rtol=FLOAT32)


def adamw(params, gradients, moments, rate, count, s):
    """One update in float64, as Loshchilov & Hutter (2019) write it, algorithm 2 with their schedule in `rate`."""
    m = s.beta1 * moments[0] + (1 - s.beta1) * gradients
    v = s.beta2 * moments[1] + (1 - s.beta2) * gradients**2
    corrected = (m / (1 - s.beta1**count)) / (np.sqrt(v / (1 - s.beta2**count)) + s.epsilon)
    return params - rate * (corrected + s.weight_decay * params), (m, v)


def test_updates_against_numpy():
    """Three updates: bias correction, decay decoupled and times the current rate, on matrices and biases alike."""
    settings = make_settings(
        learning_rate=0.5, warmup_steps=4, initial_learning_rate=0.1, weight_decay=0.3, clip_norm=0.0, epsilon=1e-3
    )
    random = np.random.default_rng(0)
    params = {"kernel": random.standard_normal((3, 4)), "bias": random.standard_normal(4)}
    gradients = [{name: random.standard_normal(leaf.shape) for name, leaf in params.items()} for _ in range(3)]
    optimizer = make_optimizer(settings, make_schedule(settings, 100))
    ours = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), params)
    state = optimizer.init(ours)
    moments = {name: (np.zeros_like(leaf), np.zeros_like(leaf)) for name, leaf in params.items()}
    for count, gradient in enumerate(gradients, 1):
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        rate = 0.1 + 0.4 * (count - 1) / 4  # the first update uses schedule(0)
        for name in params:
            params[name], moments[name] = adamw(params[name], gradient[name], moments[name], rate, count, settings)
            assert_close(ours[name], params[name], "float32", what=f"{name} after update {count}")


def sgd_direction(clip_norm, gradients):
    """What the optimizer's clipping makes of gradients, read from Adam's first moment."""
    settings = make_settings(clip_norm=clip_norm, beta1=0.0)
    optimizer = make_optimizer(settings, make_schedule(settings, 100))
    _, state = optimizer.update(gradients, optimizer.init(gradients), gradients)
    return optax.tree.get(state, "mu")


def test_clipping_as_recorded():
    """The global norm, as fairseq clips; its 1e-6 in the denominator is below float32 here."""
    gradients = {str(place): jnp.asarray(leaf, jnp.float32) for place, leaf in enumerate(CLIPPING["input"])}
    np.testing.assert_allclose(optax.tree.norm(gradients), CLIPPING["total"]["returned"], rtol=FLOAT32)
    clipped = sgd_direction(CLIPPING["max_norm"], gradients)
    for place, expected in enumerate(CLIPPING["total"]["grads"]):
        np.testing.assert_allclose(clipped[str(place)], np.array(expected), rtol=FLOAT32)


def test_clipping_leaves_small_gradients_and_zero_means_none():
    gradients = {"a": jnp.array([3.0, 4.0])}
    np.testing.assert_array_equal(sgd_direction(5.5, gradients)["a"], gradients["a"])
    np.testing.assert_array_equal(sgd_direction(0.0, gradients)["a"], gradients["a"])
    np.testing.assert_allclose(sgd_direction(0.5, gradients)["a"], [0.3, 0.4], rtol=FLOAT32)
