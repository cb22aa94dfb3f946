"""Luna attention against loops in float64, its two dropouts, its symmetries, its masks and its errors."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from models import (
    EMB_DIM,
    PACK_LENGTH,
    assert_gradients_match,
    build,
    draw_array,
    draw_mask,
    jit_quickly,
    list_equations,
    make_key,
    precise,
    raises_naming,
    widen,
)
from oracles import attention
from tolerances import TOLERANCE, assert_close

from luna_jax.attention.luna import LunaAttention

VARIANTS = {
    "untied": {"num_heads": 2},
    "tied": {"num_heads": 2, "tie_kv": True},
    "fewer_pack_heads": {"num_heads": 4, "num_pack_heads": 2},
    "more_pack_heads_tied": {"num_heads": 1, "num_pack_heads": 8, "tie_kv": True},
}
CONTEXT_LENGTHS = {1: 5, 2: 1, 17: 29, 63: 64}


@cache
def build_luna(variant="untied", dtype="float32", **changes):
    param_dtype = "float64" if dtype == "float64" else "float32"
    settings = VARIANTS[variant] | changes
    return build(lambda rngs: LunaAttention(EMB_DIM, **settings, dtype=dtype, param_dtype=param_dtype, rngs=rngs))


def draw_inputs(length, context_length=None):
    """(arrays, masks) of a call with two rows; the first row of each mask is all real."""
    arrays = {"x": draw_array(1, 2, length, EMB_DIM), "p": draw_array(2, 2, PACK_LENGTH, EMB_DIM)}
    masks = {"p_mask": draw_mask(3, 2, PACK_LENGTH)}
    if context_length is None:
        return arrays, masks | {"x_mask": draw_mask(4, 2, length)}
    arrays["context"] = draw_array(5, 2, context_length, EMB_DIM)
    return arrays, masks | {"context_mask": draw_mask(6, 2, context_length)}


def run_oracle(variant, weights, arrays, masks):
    heads = {name: value for name, value in VARIANTS[variant].items() if name != "tie_kv"}
    context_mask = masks.get("context_mask", masks.get("x_mask"))
    return attention.luna_attention(weights, **arrays, **heads, context_mask=context_mask, p_mask=masks["p_mask"])


def weigh(y, packed):
    """A scalar in which every output entry has its own weight."""
    return (y * draw_array(8, *y.shape)).sum() + (packed * draw_array(9, *packed.shape)).sum()


CASES = [("fewer_pack_heads", length, cross) for length in CONTEXT_LENGTHS for cross in (False, True)]
CASES += [("more_pack_heads_tied", length, False) for length in CONTEXT_LENGTHS]
CASES += [("untied", 17, True), ("tied", 17, True)]


@pytest.mark.parametrize(("variant", "length", "cross"), CASES)
def test_outputs_and_gradients_are_the_oracles(variant, length, cross):
    arrays, masks = draw_inputs(length, CONTEXT_LENGTHS[length] if cross else None)
    with precise("float64"):
        apply, params = build_luna(variant, "float64")
        tree = {"arrays": arrays, "params": widen(params)}

        def loss(tree):
            return weigh(*apply(tree["params"], **tree["arrays"], **masks))

        def oracle_loss(tree):
            return weigh(*run_oracle(variant, tree["params"], tree["arrays"], masks))

        assert_gradients_match(loss, oracle_loss, tree)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_the_oracles_in_every_dtype(variant, dtype):
    arrays, masks = draw_inputs(17)
    with precise(dtype):
        apply, params = build_luna(variant, dtype)
        inputs = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
        y, packed = jit_quickly(apply)(params, **inputs, **masks)
        assert y.dtype == packed.dtype == dtype
        rounded = {name: np.asarray(array, np.float64) for name, array in inputs.items()}
        expected_y, expected_packed = run_oracle(variant, widen(params), rounded, masks)
        assert_close(y, expected_y, dtype, what="y")
        assert_close(packed, expected_packed, dtype, what="packed")


def test_self_attention_is_cross_attention_on_itself():
    arrays, masks = draw_inputs(17)
    apply, params = build_luna()
    own = jit_quickly(apply)(params, **arrays, **masks)
    given = {"context": arrays["x"], "context_mask": masks["x_mask"], "p_mask": masks["p_mask"]}
    assert all(
        (np.asarray(a) == b).all() for a, b in zip(own, jit_quickly(apply)(params, **arrays, **given), strict=True)
    )


@pytest.mark.parametrize(("tie_kv", "num_projections"), [(True, 5), (False, 7)])
def test_parameters_are_five_or_seven_square_projections(tie_kv, num_projections):
    _, params = build_luna(tie_kv=tie_kv)
    assert len(params) == num_projections
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_projections * (EMB_DIM**2 + EMB_DIM)


def test_both_softmaxes_of_bfloat16_run_in_float32():
    apply, params = build_luna(dtype="bfloat16")
    arrays, masks = draw_inputs(17)
    inputs = {name: jnp.asarray(array, jnp.bfloat16) for name, array in arrays.items()}
    jaxpr = jax.make_jaxpr(lambda: apply(params, **inputs, **masks))().jaxpr
    exponentials = [equation for equation in list_equations(jaxpr) if equation.primitive.name == "exp"]
    shapes = sorted(equation.outvars[0].aval.shape for equation in exponentials)
    assert shapes == sorted([(2, 2, PACK_LENGTH, 17), (2, 2, 17, PACK_LENGTH)])
    assert {equation.outvars[0].aval.dtype.name for equation in exponentials} == {"float32"}
    products = [equation for equation in list_equations(jaxpr) if equation.primitive.name == "dot_general"]
    scores = [product.outvars[0].aval for product in products if product.outvars[0].aval.shape in shapes]
    assert [score.dtype.name for score in scores] == ["float32", "float32"]


# dropout


def test_dropout_falls_on_the_probabilities_of_both_softmaxes():
    apply, params = build_luna("fewer_pack_heads", dropout_rate=0.5)
    arrays, masks = draw_inputs(17)

    def run(key):
        return apply(params, **arrays, **masks, deterministic=False, rngs=nnx.Rngs(dropout=key))

    jaxpr = jax.make_jaxpr(run)(make_key(0)).jaxpr
    draws = [
        equation.outvars[0].aval.shape for equation in list_equations(jaxpr) if equation.primitive.name == "random_bits"
    ]
    assert sorted(draws) == sorted([(2, 2, PACK_LENGTH, 17), (2, 4, 17, PACK_LENGTH)])


def test_dropout_keeps_the_expected_value_of_pack_and_of_unpack():
    """Both are linear in the probabilities that are dropped, so their means are the results without dropout."""
    apply, params = build_luna(dropout_rate=0.4)
    num_rows = 4000
    x, p = (np.broadcast_to(draw_array(seed, 1, 6, EMB_DIM), (num_rows, 6, EMB_DIM)) for seed in (1, 2))
    x_mask = np.broadcast_to(np.arange(6) < 4, (num_rows, 6))

    @jit_quickly
    def run(key, x, p, x_mask):
        """(packed, unpacked from the packed of no dropout), dropped if there is a key."""
        memory, _ = apply(params, p, x, x_mask, method="remember")
        unpacked = apply(params, x, memory, method="recall", dropout_key=key)
        return apply(params, p, x, x_mask, method="remember", dropout_key=key)[1], unpacked

    for draws, expected in zip(run(make_key(0), x, p, x_mask), run(None, x, p, x_mask), strict=True):
        draws = np.asarray(draws, np.float64)
        assert draws.std(0).max() > 0.05
        assert (np.abs(draws.mean(0) - expected[0]) <= 5 * draws.std(0) / num_rows**0.5 + 1e-6).all()


def test_dropout_follows_its_key_and_is_off_when_deterministic():
    apply, params = build_luna(dropout_rate=0.5)
    plain, _ = build_luna()
    arrays, masks = draw_inputs(17)

    @jit_quickly
    def run(key):
        rngs = nnx.Rngs(dropout=key)
        ignoring = apply(params, **arrays, **masks, deterministic=True, rngs=rngs)
        drawn = rngs.dropout.count[...]
        dropped = apply(params, **arrays, **masks, deterministic=False, rngs=rngs)
        return dropped, ignoring, plain(params, **arrays, **masks), drawn

    first, ignoring, expected, drawn = run(make_key(0))
    (again, *_), (other, *_) = run(make_key(0)), run(make_key(1))
    assert int(drawn) == 0
    for part in range(2):
        assert (np.asarray(first[part]) == again[part]).all()
        assert (np.asarray(first[part]) != other[part]).any()
        assert (np.asarray(first[part]) != expected[part]).any()
        assert (np.asarray(ignoring[part]) == expected[part]).all()


@pytest.mark.parametrize(("rate", "bound"), [(0.0, 0.0), (1e-6, 1e-4)])
def test_dropout_rate_zero_and_almost_zero_change_nothing(rate, bound):
    arrays, masks = draw_inputs(17)
    plain, params = build_luna()
    apply, _ = build_luna(dropout_rate=rate)

    @jit_quickly
    def run(key):
        dropped = apply(params, **arrays, **masks, deterministic=False, rngs=nnx.Rngs(dropout=key))
        return dropped, plain(params, **arrays, **masks)

    for dropped, expected in zip(*run(make_key(3)), strict=True):
        assert np.abs(np.asarray(dropped) - expected).max() <= bound


# properties


@cache
def compile_luna():
    """Jitted (outputs, gradients of a weighted sum of the real outputs) of one small attention, in float32."""
    apply, params = build_luna("more_pack_heads_tied")

    def loss(params, arrays, masks):
        y, packed = apply(params, **arrays, **masks)
        y = jnp.where(masks["x_mask"][..., None], y, 0.0)
        packed = jnp.where(masks["p_mask"][..., None], packed, 0.0)
        return weigh(y, packed), (y, packed)

    compiled = jit_quickly(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def run(arrays, masks):
        (_, outputs), gradients = compiled(params, arrays, masks)
        return jax.tree.map(np.asarray, (outputs, gradients))

    return run


@given(seed=st.integers(0, 99), garbage=st.sampled_from([1e30, -1e30, 1e9, -3.0]))
def test_padding_holds_any_garbage_and_gets_no_gradient(seed, garbage):
    arrays, _ = draw_inputs(9)
    masks = {"x_mask": draw_mask(seed, 2, 9)[::-1], "p_mask": draw_mask(seed + 1, 2, PACK_LENGTH)}
    spoiled = {
        "x": np.where(masks["x_mask"][..., None], arrays["x"], garbage),
        "p": np.where(masks["p_mask"][..., None], arrays["p"], garbage),
    }
    run = compile_luna()
    (clean, clean_gradients), (outputs, gradients) = run(arrays, masks), run(spoiled, masks)
    for actual, expected in zip(
        jax.tree.leaves((outputs, gradients)), jax.tree.leaves((clean, clean_gradients)), strict=True
    ):
        assert (actual == expected).all()
    assert (gradients[1]["x"][~masks["x_mask"]] == 0).all()
    assert (gradients[1]["p"][~masks["p_mask"]] == 0).all()


@cache
def compile_cross():
    apply, params = build_luna("fewer_pack_heads")
    return lambda arrays, masks: jax.tree.map(np.asarray, jit_quickly(apply)(params, **arrays, **masks))


@given(seed=st.integers(0, 999))
def test_the_order_of_the_context_does_not_matter(seed):
    arrays, masks = draw_inputs(4, 13)
    order = np.random.default_rng(seed).permutation(13)
    moved = arrays | {"context": arrays["context"][:, order]}
    moved_masks = masks | {"context_mask": masks["context_mask"][:, order]}
    for actual, expected in zip(compile_cross()(moved, moved_masks), compile_cross()(arrays, masks), strict=True):
        assert_close(actual, expected, "float32")


@given(seed=st.integers(0, 999))
def test_permuting_pack_slots_permutes_the_packed_and_leaves_the_unpacked(seed):
    arrays, masks = draw_inputs(4, 13)
    order = np.random.default_rng(seed).permutation(PACK_LENGTH)
    moved, moved_masks = arrays | {"p": arrays["p"][:, order]}, masks | {"p_mask": masks["p_mask"][:, order]}
    y, packed = compile_cross()(arrays, masks)
    moved_y, moved_packed = compile_cross()(moved, moved_masks)
    assert_close(moved_packed, packed[:, order], "float32")
    assert_close(moved_y, y, "float32")


@given(seed=st.integers(0, 999), scale=st.sampled_from([1.0, 1e3]))
def test_a_row_does_not_depend_on_its_batch_mates(seed, scale):
    arrays, masks = draw_inputs(4, 13)
    others = {name: np.array(array) for name, array in arrays.items()}
    for offset, array in enumerate(others.values()):
        array[1] = scale * draw_array(seed + offset, *array.shape[1:])
    other_masks = {name: np.stack([mask[0], ~mask[1]]) for name, mask in masks.items()}
    for actual, expected in zip(compile_cross()(others, other_masks), compile_cross()(arrays, masks), strict=True):
        assert (actual[0] == expected[0]).all()


def test_a_row_without_a_real_position_is_finite_and_so_is_its_gradient():
    arrays, masks = draw_inputs(9)
    no_x, no_p = np.zeros((2, 9), bool), np.zeros((2, PACK_LENGTH), bool)
    (_, packed), _ = compile_luna()(arrays, masks | {"x_mask": no_x})
    assert (packed == 0).all()
    apply, params = build_luna("more_pack_heads_tied")

    @jit_quickly
    def run(params):
        def loss(params):
            y, packed = apply(params, **arrays, x_mask=no_x, p_mask=no_p)
            return weigh(y, packed), y

        return jax.grad(loss, has_aux=True)(params)

    gradients, y = run(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert_close(y, np.broadcast_to(params["out"]["bias"], y.shape), "float32")


# errors


MISTAKES = {
    "x_mask_with_context": ({"context": np.ones((2, 3, EMB_DIM), np.float32)}, ["x_mask", "context_mask"]),
    "context_mask_alone": ({"x_mask": None, "context_mask": np.ones((2, 4), bool)}, ["context_mask", "x_mask"]),
    "no_p": ({"p": None}, ["p", "pack_length"]),
    "float_mask": ({"x_mask": np.ones((2, 4), np.float32)}, ["x_mask", "float32", "bool"]),
    "integer_p_mask": ({"p_mask": np.ones((2, PACK_LENGTH), np.int32)}, ["p_mask", "int32", "bool"]),
    "short_mask": ({"x_mask": np.ones((2, 3), bool)}, ["x_mask", "(2, 3)", "(2, 4)"]),
    "long_p_mask": ({"p_mask": np.ones((2, 6), bool)}, ["p_mask", "(2, 6)", "(2, 5)"]),
    "narrow_x": ({"x": np.ones((2, 4, 7), np.float32)}, ["x", "(2, 4, 7)", "8"]),
    "flat_p": ({"p": np.ones((PACK_LENGTH, EMB_DIM), np.float32)}, ["p", "(5, 8)", "batch"]),
    "other_batch_of_p": ({"p": np.ones((3, PACK_LENGTH, EMB_DIM), np.float32)}, ["p", "batch size 3", "x has 2"]),
    "other_batch_of_context": (
        {"x_mask": None, "context": np.ones((1, 3, EMB_DIM), np.float32)},
        ["context", "batch size 1", "x has 2"],
    ),
    "no_rngs": ({"deterministic": False}, ["deterministic=False", "rngs"]),
}


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_call_names_the_value_and_the_remedy(mistake):
    changes, words = MISTAKES[mistake]
    apply, params = build_luna(dropout_rate=0.1)
    call = {"x": np.ones((2, 4, EMB_DIM), np.float32), "p": np.ones((2, PACK_LENGTH, EMB_DIM), np.float32)}
    call |= {"x_mask": np.ones((2, 4), bool)}
    with raises_naming(words):
        apply(params, **(call | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 3}, ["num_heads=3", "emb_dim=8"]),
        ({"num_heads": 0}, ["num_heads=0", "emb_dim=8"]),
        ({"num_heads": 2, "num_pack_heads": 5}, ["num_pack_heads=5", "emb_dim=8"]),
        ({"num_heads": 2, "dropout_rate": 1.0}, ["dropout_rate=1.0", "[0, 1)"]),
        ({"num_heads": 2, "dropout_rate": -0.1}, ["dropout_rate=-0.1", "[0, 1)"]),
    ],
)
def test_a_mistaken_setting_names_the_value_and_the_choices(changes, words):
    with raises_naming(words):
        LunaAttention(EMB_DIM, **changes, rngs=nnx.Rngs(0))
