"""Apollo against its oracle and the equations that it must fulfil; clipping tensor by tensor."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import jit_quickly, precise, raises_naming
from oracles.apollo import run_apollo
from tolerances import assert_close

from luna_jax.apollo import DECAYS, REBOUNDS, SIGMA, apollo, clip_each_by_norm, scale_by_apollo

NUM_STEPS, BETA, EPSILON, DECAY = 8, 0.8, 1e-3, 0.05
KINDS = list(itertools.product(REBOUNDS, DECAYS))
SHAPES = {"scalar": (), "vector": (5,), "cube": (2, 3, 2)}
# of the gradients of each step, so that either side of the maximum in D comes out larger
SIZES = [0.001, 0.1, 1.0, 0.01, 2.0, 0.01, 0.0, 0.3]
RATES = [1e-4, 2e-4, 3e-4, 4e-4, 4e-4, 4e-4, 1e-4, 1e-4]


def draw_problem(shapes=None, seed=3):
    """(parameters, gradients of every step), nested dicts of float64."""
    random = np.random.default_rng(seed)
    shapes = shapes or SHAPES
    params = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    gradients = {
        name: np.stack([size * random.standard_normal(shape) for size in SIZES]) for name, shape in shapes.items()
    }
    return params, gradients


def scan_optimizer(optimizer, params, gradients):
    """(parameters, state) after each step, stacked."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]


def update_once(optimizer, gradient, param):
    """(direction, state) of the first step."""
    return jit_quickly(lambda gradient, param: optimizer.update(gradient, optimizer.init(param), param))(
        gradient, param
    )


def follow_rates(count):
    """RATES as a schedule."""
    return jnp.asarray(RATES)[count]


@functools.cache
def run_ours(rebound, decay):
    """Parameters and Apollo's state after each step of the problem, in float64."""
    options = {"beta": BETA, "epsilon": EPSILON, "rebound": rebound, "weight_decay": DECAY, "decay": decay}
    params, gradients = draw_problem()
    with precise("float64"):
        run = jit_quickly(functools.partial(scan_optimizer, apollo(follow_rates, **options)))
        params, (state, _) = jax.tree.map(np.asarray, run(params, gradients))
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves((params, state[1:])))
    return params, state


def run_oracle(name, rebound, decay, rates=RATES, weight_decay=DECAY, **options):
    """The oracle's (p, m, B, d) after each step, for one parameter of the problem."""
    params, gradients = draw_problem()
    options = {"beta": BETA, "epsilon": EPSILON, "rebound": rebound, "decay": decay} | options
    steps = run_apollo(params[name], gradients[name], rates, weight_decay=weight_decay, **options)
    return [np.stack(arrays) for arrays in zip(*steps, strict=True)]


@pytest.mark.parametrize(("rebound", "decay"), KINDS)
def test_every_step_against_the_oracle(rebound, decay):
    params, state = run_ours(rebound, decay)
    assert state.count.tolist() == list(range(1, NUM_STEPS + 1))
    for name in SHAPES:
        actual = [tree[name] for tree in (params, state.mean, state.diagonal, state.direction)]
        for what, ours, expected in zip("pmBd", actual, run_oracle(name, rebound, decay), strict=True):
            bound = 1e-11 * max(1.0, np.abs(expected).max())
            assert np.abs(ours - expected).max() <= bound, f"{what} of {name}"


@pytest.mark.parametrize("rebound", REBOUNDS)
def test_the_problem_sees_both_sides_of_the_maximum(rebound):
    _, gradients = draw_problem()
    _, mean, diagonal, _ = run_oracle("vector", rebound, "decoupled")
    delta = gradients["vector"] - np.concatenate([np.zeros((1, 5)), mean[:-1]])
    above = np.abs(diagonal) > (SIGMA if rebound == "constant" else np.abs(delta).max(1, keepdims=True))
    assert above.any()
    assert not above.all()


@pytest.mark.parametrize(("decay", "factor"), [("l2", 1.0), ("stable", 1.0), ("decoupled", 0.01)])
def test_sigma_one_is_the_same_with_a_hundredth_of_the_rate(decay, factor):
    """The authors' Apollo before September 2021 had sigma = 1 and rates a hundred times ours (facts, section 8).

    A direction is then a hundredth of ours, so a decay that is added to it outright has to be one, too.
    """
    params, state = run_ours("constant", decay)
    rates = [100.0 * rate for rate in RATES]
    for name in SHAPES:
        old = run_oracle(name, "constant", decay, rates=rates, weight_decay=factor * DECAY, sigma=1.0)
        ours = (params[name], state.mean[name], 100.0 * state.diagonal[name], state.direction[name] / 100.0)
        for actual, expected in zip(ours, old, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_the_weak_secant_equation():
    """What the rank-one update is for: d' B d = -d' (m_new - m) with the new B, if epsilon is as good as 0."""
    params, gradients = draw_problem({"tensor": (2, 3, 2)})
    with precise("float64"):
        run = functools.partial(scan_optimizer, apollo(1e-3, beta=BETA, epsilon=1e-16))
        _, (state, _) = jax.tree.map(np.asarray, jit_quickly(run)(params["tensor"], gradients["tensor"]))
    for step in range(1, NUM_STEPS):
        d, y = state.direction[step - 1], state.mean[step] - state.mean[step - 1]
        np.testing.assert_allclose(np.sum(d * state.diagonal[step] * d), -np.sum(d * y), rtol=1e-8)


@pytest.mark.parametrize("rebound", REBOUNDS)
def test_the_first_direction_is_the_gradient_over_its_floor(rebound):
    gradient, param = np.float32([0.3, -0.2, 0.0]), np.float32([1.0, 2.0, -3.0])
    optimizer = scale_by_apollo(rebound=rebound, weight_decay=0.1, decay="l2")
    direction, state = update_once(optimizer, gradient, param)
    decayed = gradient + 0.1 * param
    expected = decayed / (SIGMA if rebound == "constant" else np.abs(decayed).max() + 1e-4)
    np.testing.assert_allclose(direction, expected, rtol=1e-6)
    np.testing.assert_array_equal(state.diagonal, np.zeros(3))


@pytest.mark.parametrize(("rebound", "default"), [("constant", "l2"), ("belief", "decoupled")])
def test_the_kind_of_decay_follows_the_rebound(rebound, default):
    def first_direction(**options):
        optimizer = scale_by_apollo(rebound=rebound, weight_decay=0.1, **options)
        return update_once(optimizer, np.float32([0.3, -0.2]), np.float32([1.0, 2.0]))[0].tolist()

    assert [decay for decay in DECAYS if first_direction(decay=decay) == first_direction()] == [default]


@pytest.mark.parametrize("rebound", REBOUNDS)
def test_without_gradients_nothing_moves(rebound):
    params = {"a": np.ones((2, 3), np.float32), "b": np.float32(1.0)}
    zeros = jax.tree.map(lambda leaf: np.zeros((3, *leaf.shape), np.float32), params)
    run = functools.partial(scan_optimizer, apollo(0.1, rebound=rebound))
    after, (state, _) = jit_quickly(run)(params, zeros)
    for name in params:
        np.testing.assert_array_equal(after[name], np.broadcast_to(params[name], zeros[name].shape))
    for leaf in jax.tree.leaves(state[1:]):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_the_learning_rate_is_not_in_the_secant():
    params, gradients = (tree["a"].astype(np.float32) for tree in draw_problem({"a": (3, 4)}))
    states = [
        jit_quickly(functools.partial(scan_optimizer, apollo(rate)))(params, gradients)[1] for rate in (1e-3, 9.0)
    ]
    jax.tree.map(np.testing.assert_array_equal, *(state[0] for state in states))


LAYERS = 2
STACKED_SHAPES = {"kernel": (LAYERS, 3, 4), "gain": (LAYERS,)}


def is_stacked(path):
    """Whether a leaf of the test's tree is one of the layers'."""
    return path[0].key == "layers"


def unstack(tree):
    """The layers of a tree whose leaves are [steps, layers, ...], or [layers, ...] where they have no steps."""
    return {str(layer): jax.tree.map(lambda leaf, at=layer: leaf[:, at], tree) for layer in range(LAYERS)}


@pytest.mark.parametrize(("rebound", "decay"), [("constant", "stable"), ("belief", "l2")])
def test_a_stack_of_layers_is_updated_layer_by_layer(rebound, decay):
    params, gradients = draw_problem(STACKED_SHAPES)
    table, table_gradients = draw_problem({"table": (3, 2)}, seed=1)
    whole = {"layers": params, "embed": table}, {"layers": gradients, "embed": table_gradients}
    alone = unstack(jax.tree.map(lambda leaf: leaf[None], params)), unstack(gradients)
    alone = ({"embed": table} | jax.tree.map(lambda leaf: leaf[0], alone[0]), {"embed": table_gradients} | alone[1])
    options = {"beta": BETA, "epsilon": EPSILON, "rebound": rebound, "weight_decay": DECAY, "decay": decay}

    def run(whole, alone):
        clip = functools.partial(clip_each_by_norm, 2.0)
        stacked = optax.chain(clip(is_stacked=is_stacked), apollo(1e-3, **options, is_stacked=is_stacked))
        single = optax.chain(clip(), apollo(1e-3, **options))
        return scan_optimizer(stacked, *whole), scan_optimizer(single, *alone)

    with precise("float64"):
        found = jax.tree.map(np.asarray, jit_quickly(run)(whole, alone))
    (ours, state), (expected, expected_state) = found
    for actual, wanted in zip((ours, *state[1][0][1:]), (expected, *expected_state[1][0][1:]), strict=True):
        actual = {"embed": actual["embed"]} | unstack(actual["layers"])
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15), actual, wanted)


def test_what_cannot_be_a_stack_is_refused():
    params = {"layers": jnp.ones(())}
    with raises_naming(["['layers']", "axis of layers"]):
        clip_each_by_norm(1.0, is_stacked=is_stacked).update(params, optax.EmptyState())
    optimizer = scale_by_apollo(is_stacked=is_stacked)
    with raises_naming(["['layers']", "axis of layers"]):
        optimizer.update(params, optimizer.init(params))


def test_clipping_takes_every_tensor_by_itself():
    gradients = {
        "long": jnp.array([[3.0, 4.0]]),
        "short": jnp.array([0.3, 0.4]),
        "zero": jnp.zeros(3),
        "one": jnp.array(-9.0),
    }
    clipped, _ = jit_quickly(clip_each_by_norm(1.0).update)(gradients, optax.EmptyState())
    np.testing.assert_allclose(clipped["long"], [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(clipped["short"], gradients["short"])
    np.testing.assert_array_equal(clipped["zero"], gradients["zero"])
    np.testing.assert_allclose(clipped["one"], -1.0, rtol=2e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(dtype):
    """A gradient of 3 makes a direction of 300, whose fourth power float16 has not; updates keep the dtype."""
    optimizer, gradient = scale_by_apollo(), jnp.array([3.0, -2.0, 0.1, 0.0], dtype)
    update = jit_quickly(optimizer.update)
    narrow = wide = optimizer.init(gradient)
    for _ in range(3):
        updates, narrow = update(gradient, narrow)
        expected, wide = update(gradient.astype(jnp.float32), wide)
        assert (updates.dtype, expected.dtype) == (dtype, jnp.float32)
        assert all(leaf.dtype == jnp.float32 for leaf in narrow[1:])
        np.testing.assert_array_equal(updates, expected.astype(dtype))
        jax.tree.map(np.testing.assert_array_equal, narrow, wide)
        gradient = gradient[::-1]


def test_clipping_squares_half_precision_in_float32():
    gradient = jnp.array([300.0, 400.0], jnp.float16)
    clipped, _ = clip_each_by_norm(5.0).update(gradient, optax.EmptyState())
    assert clipped.dtype == jnp.float16
    np.testing.assert_allclose(clipped, [3.0, 4.0], rtol=2e-3)


@pytest.mark.parametrize("rebound", REBOUNDS)
def test_float32_follows_float64(rebound):
    params, gradients = (jnp.asarray(tree["cube"], jnp.float32) for tree in draw_problem())
    options = {"beta": BETA, "epsilon": EPSILON, "rebound": rebound, "weight_decay": DECAY, "decay": "decoupled"}
    actual, _ = jit_quickly(functools.partial(scan_optimizer, apollo(follow_rates, **options)))(params, gradients)
    assert actual.dtype == jnp.float32
    assert_close(actual, run_ours(rebound, "decoupled")[0]["cube"], "float32")


def test_a_donated_state_has_no_buffer_twice():
    params = {"a": jnp.ones((4, 4))}
    optimizer = scale_by_apollo()
    update = jax.jit(lambda state: optimizer.update({"a": jnp.ones((4, 4))}, state)[1], donate_argnums=0)
    assert int(update(optimizer.init(params)).count) == 1


def test_other_transformations_around_it():
    """In a chain, under a mask: what is frozen stays, and the state is found by its names."""
    params = {"a": jnp.ones((2, 3)), "frozen": jnp.ones(3)}
    gradients = {"a": jnp.full((2, 3), 0.5), "frozen": jnp.ones(3)}
    trained = {"a": True, "frozen": False}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1e3),
        optax.masked(apollo(0.01), trained),
        optax.masked(optax.set_to_zero(), {"a": False, "frozen": True}),
    )
    updates, state = update_once(optimizer, gradients, params)
    np.testing.assert_allclose(updates["a"], np.full((2, 3), -0.01 * 0.5 / SIGMA), rtol=1e-6)
    np.testing.assert_array_equal(updates["frozen"], np.zeros(3))
    np.testing.assert_allclose(optax.tree.get(state, "direction")["a"], np.full((2, 3), 0.5 / SIGMA), rtol=1e-6)


@pytest.mark.parametrize("rebound", REBOUNDS)
def test_a_logistic_regression_is_learnt(rebound):
    """Badly scaled inputs, warm-up of 50 of 300 steps; the loss of guessing is log 2."""
    random = np.random.default_rng(0)
    weights = random.standard_normal(6)
    inputs = random.standard_normal((200, 6)) * np.array([3.0, 1.0, 1.0, 0.3, 0.3, 0.1])
    labels = jnp.asarray(inputs @ weights > 0, jnp.float32)
    inputs = jnp.asarray(inputs, jnp.float32)
    peak = {"constant": 0.02, "belief": 0.1}[rebound]
    schedule = optax.join_schedules([optax.linear_schedule(0.0, peak, 50), optax.constant_schedule(peak)], [50])
    optimizer = apollo(schedule, rebound=rebound)

    def loss(params):
        return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(inputs @ params["w"] + params["b"], labels))

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = {"w": jnp.zeros(6), "b": jnp.zeros(())}
    losses = jit_quickly(lambda carry: jax.lax.scan(step, carry, length=300)[1])((params, optimizer.init(params)))
    assert losses[0] == pytest.approx(np.log(2.0), rel=1e-6)
    assert losses[-1] < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rebound": "beleif"}, ["rebound='beleif'", "constant, belief"]),
        ({"decay": "l1"}, ["decay='l1'", "l2, decoupled, stable"]),
        ({"decay": ""}, ["decay=''", "l2, decoupled, stable"]),
        ({"beta": 1.0}, ["beta=1.0", "below 1"]),
        ({"beta": -0.1}, ["beta=-0.1", "at least 0"]),
        ({"epsilon": 0.0}, ["epsilon=0.0", "above 0"]),
        ({"epsilon": float("nan")}, ["epsilon=nan", "above 0"]),
        ({"epsilon": float("inf")}, ["epsilon=inf", "finite"]),
        ({"weight_decay": -1.0}, ["weight_decay=-1.0", "at least 0"]),
        ({"weight_decay": float("inf")}, ["weight_decay=inf", "finite"]),
    ],
)
def test_mistakes_are_named_at_the_door(options, words):
    with raises_naming(words):
        apollo(0.1, **options)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_a_norm_that_clips_everything_is_refused(max_norm):
    with raises_naming([f"max_norm={max_norm}", "above 0"]):
        clip_each_by_norm(max_norm)


def test_decay_asks_for_the_parameters():
    optimizer, gradient = scale_by_apollo(weight_decay=0.1), jnp.ones(2)
    with raises_naming(["weight_decay=0.1", "parameters"]):
        optimizer.update(gradient, optimizer.init(gradient))
