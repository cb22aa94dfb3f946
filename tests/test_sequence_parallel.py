"""Sequences split over devices: the results of one device, and traffic that does not grow with the length."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from models import (
    EMB_DIM,
    PACK_LENGTH,
    build,
    draw_array,
    draw_tokens,
    jit_quickly,
    list_equations,
    make_classifier_config,
    make_encoder_config,
    make_layer_config,
    make_luna_config,
    precise,
    raises_naming,
)
from tolerances import assert_close, assert_gradient_close

from lra_tasks.collectives import list_collectives, total_bytes
from luna_jax.attention.causal_luna import CausalLunaAttention
from luna_jax.attention.luna import LunaAttention
from luna_jax.causal import attend_causally, start_state
from luna_jax.classifier import Classifier
from luna_jax.ops import attend, sinusoid_table
from luna_jax.sequence_parallel import SequenceSplit, make_split_sinusoids, pack_split, split_past

AXIS = "sequence"
CAUSAL = {"causal": True, "contextual_pack": False, "num_pack_heads": 2}
DROPOUT = {"dropout_rate": 0.25, "dropout_key": jax.random.key(3)}


def make_split(num_parts, **others):
    """Sequences in `num_parts` on the test session's devices, beside other axes of the mesh."""
    axes = others | {AXIS: num_parts}
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    kinds = (AxisType.Auto,) * len(axes)
    return SequenceSplit(jax.make_mesh(tuple(axes.values()), tuple(axes), kinds, devices=devices), AXIS)


def draw_part_mask(num_rows, length):
    """Row 0 is full; of row 1 the middle is padding, whole parts of it; of row 2 all but the last position."""
    mask = np.ones((num_rows, length), bool)
    mask[1, 3 : length - 3] = False
    mask[2, : length - 1] = False
    return jnp.asarray(mask)


def differentiate(function, *args):
    """(outputs, gradients of all arguments) against fixed random cotangents; what is no float has none."""

    def loss(*args):
        outputs = function(*args)
        floats = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum((leaf * draw_array(at, *leaf.shape)).sum() for at, leaf in enumerate(floats)), outputs

    numbers = tuple(range(len(args)))
    (_, outputs), gradients = jit_quickly(jax.value_and_grad(loss, argnums=numbers, has_aux=True))(*args)
    return outputs, gradients


def assert_same(found, expected, dtype="float64"):
    """Outputs and gradients of `differentiate`, leaf by leaf; all are finite."""
    for compare, ours, theirs in zip((assert_close, assert_gradient_close), found, expected, strict=True):
        unit = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
        for (path, leaf), other in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
            assert np.isfinite(leaf).all(), path
            options = {"unit": unit} if compare is assert_gradient_close else {}
            compare(leaf, other, dtype, what=jax.tree_util.keystr(path), **options)


@pytest.mark.parametrize("num_parts", [1, 2, 4, 8])
def test_packing_is_attention_to_the_whole(num_parts):
    """Outputs and gradients, with dropout's draws, padding anywhere, huge numbers there, and a row of padding alone."""
    mask = draw_part_mask(4, 16).at[3].set(False)
    with precise("float64"):
        query, key, value = (jnp.asarray(draw_array(seed, 4, n, 2, 3)) for seed, n in ((1, 5), (2, 16), (3, 16)))
        spoiled = [jnp.where(mask[..., None, None], heads, 1e30) for heads in (key, value)]
        expected = differentiate(partial(attend, mask=mask, **DROPOUT), query, key, value)
        split = make_split(num_parts)
        found = differentiate(partial(pack_split, mask=mask, split=split, **DROPOUT), query, *spoiled)
    assert_same(found, expected)
    assert not np.asarray(found[0])[3].any()
    for gradient in found[1][1:]:
        assert not np.asarray(gradient)[~np.asarray(mask)].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packing_in_other_dtypes(dtype):
    heads = [jnp.asarray(draw_array(seed, 2, n, 2, 3), dtype) for seed, n in ((1, 5), (2, 16), (3, 16))]
    found = differentiate(partial(pack_split, mask=None, split=make_split(4)), *heads)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    with precise("float64"):
        expected = differentiate(attend, *(jnp.asarray(array, jnp.float64) for array in heads))
    assert_same(found, expected, dtype)


def test_devices_sum_in_float32_whatever_the_dtype():
    """What is packed, and in the backward pass the gradient of the query, which all devices have in common."""
    query, key = jnp.ones((1, 5, 2, 3), jnp.bfloat16), jnp.ones((1, 16, 2, 3), jnp.bfloat16)
    pack = partial(pack_split, mask=None, split=make_split(4))
    jaxpr = jax.make_jaxpr(jax.grad(lambda *args: jnp.sum(pack(*args)), argnums=(0, 1, 2)))(query, key, key)
    sums = [one for one in list_equations(jaxpr.jaxpr) if one.primitive.name.startswith("psum")]
    shapes = {(number.aval.dtype.name, number.aval.shape) for one in sums for number in one.invars}
    assert shapes == {("float32", query.shape), ("float32", (1, 2, 5))}
    assert sum(number.aval.shape == query.shape for one in sums for number in one.invars) == 2


@pytest.mark.parametrize("num_parts", [2, 8])
def test_the_past_is_that_of_the_whole(num_parts):
    """Outputs, the state behind them and all gradients; states go in and out; chunks of 3 in parts of 8 and 2."""
    mask = draw_part_mask(3, 16)
    p_mask = jnp.arange(PACK_LENGTH)[None] < jnp.array([[5], [2], [4]])
    keys = (jax.random.key(5), jax.random.key(6))
    with precise("float64"):
        pack_query = jnp.asarray(draw_array(0, 3, PACK_LENGTH, 2, 4))
        before = draw_array(8, 3, 2, 4, PACK_LENGTH)
        heads = [jnp.asarray(draw_array(seed, 3, 16, 2, 4)) for seed in (1, 2, 3, 4)]

        def run(pack_query, sums, heads, past):
            state = start_state(pack_query)
            state = state._replace(keys=sums, values=jnp.swapaxes(sums, 2, 3), count=state.count + 2)
            options = {"mask": mask, "p_mask": p_mask, "dropout_rate": 0.25, "dropout_keys": keys, "past": past}
            return attend_causally(state, *heads, chunk_size=3, **options)

        past = split_past(make_split(num_parts))
        expected, found = (
            differentiate(partial(run, past=kind), pack_query, jnp.asarray(before), heads) for kind in (None, past)
        )
    assert_same(found, expected)
    assert found[0][1].count.tolist() == (2 + jnp.sum(mask, axis=1)).tolist()


ENCODERS = {
    "post": {"attention": {}, "layer": {"norm": "post"}},
    "pre": {"attention": {"tie_kv": True, "contextual_pack": False, "pack_projection": True}, "layer": {"norm": "pre"}},
    "causal": {"attention": CAUSAL, "layer": {"norm": "pre"}, "encoder": {"tie_layers": True}},
}
ENCODERS["post"]["encoder"] = {"remat": True, "positions": "sinusoidal", "first_position": 2}
ENCODERS["pre"]["encoder"] = {"embedding": "linear"}
POOLINGS = {"post": "packed", "pre": "mean", "causal": "cls"}


def build_classifier(name, split, *, dropout_rate=0.0, max_length=20, dtype="float64"):
    """A classifier of the kind `name`, with one dropout rate everywhere."""
    kind = ENCODERS[name]
    types = {"dtype": dtype, "param_dtype": dtype} if dtype == "float64" else {}
    attention = make_luna_config(split=split, dropout_rate=dropout_rate, **kind["attention"])
    rates = {"dropout_rate": dropout_rate, "activation_dropout_rate": dropout_rate}
    layer = make_layer_config(attention, **types, **rates, **kind["layer"])
    encoder = make_encoder_config(layer, max_length=max_length, **kind["encoder"])
    return build(lambda rngs: Classifier(make_classifier_config(encoder, pooling=POOLINGS[name]), rngs=rngs))


def run_classifier(name, split, length, dropout_rate, place=lambda params: params):
    """`differentiate` of the scores of four documents."""
    with precise("float64"):
        apply, params = build_classifier(name, split, dropout_rate=dropout_rate)
        tokens, mask = draw_tokens(1, 4, length), np.arange(length) < np.array([[length], [2], [length], [9]])

        def score(params):
            rngs = nnx.Rngs(dropout=jax.random.key(0)) if dropout_rate else None
            return apply(params, tokens, mask, deterministic=not dropout_rate, rngs=rngs)

        return differentiate(score, place(params))


run_unsplit = cache(partial(run_classifier, split=None))


@pytest.mark.parametrize(("name", "num_parts"), [("post", 4), ("pre", 8), ("causal", 8)])
def test_encoders_of_lengths_that_divide_nothing(name, num_parts):
    """[CLS] and 12 tokens: filled up to 16, of which the last parts are padding alone."""
    expected = run_unsplit(name, length=12, dropout_rate=0.0)
    assert_same(run_classifier(name, make_split(num_parts), 12, 0.0), expected)


def place_on_model_axis(split, params):
    """Kernels split over "model" as heads and width are; all else is left to the compiler."""

    def place(path, leaf):
        names = [key.key for key in path]
        if names[-1] != "kernel" or not {"attention", "feed_forward"} & set(names):
            return leaf
        spec = (None, "model", None) if names[-2] in ("out", "fc2") else (None, None, "model")
        return jax.device_put(leaf, NamedSharding(split.mesh, PartitionSpec(*spec)))

    return jax.tree_util.tree_map_with_path(place, params)


def test_dropout_draws_are_the_same_beside_data_and_model_axes():
    """All dropouts at once, on a mesh of all three axes: [CLS] and 15 tokens need no filling."""
    split = make_split(2, data=2, model=2)
    found = run_classifier("post", split, 15, 0.25, place=partial(place_on_model_axis, split))
    assert_same(found, run_unsplit("post", length=15, dropout_rate=0.25))


def compile_step(name, length, dropout_rate):
    """Forward and backward of a classifier in eight parts, with dropout as it is drawn in training."""
    apply, params = build_classifier(name, make_split(8), dropout_rate=dropout_rate, max_length=length, dtype="float32")
    tokens, mask = np.zeros((2, length - 1), np.int32), np.ones((2, length - 1), bool)

    def loss(params, tokens, mask, key):
        rngs = nnx.Rngs(dropout=key)
        return jnp.sum(apply(params, tokens, mask, deterministic=not dropout_rate, rngs=rngs))

    return jit_quickly(jax.grad(loss)).lower(params, tokens, mask, jax.random.key(0)).compile()


@pytest.mark.parametrize(("name", "dropout_rate"), [("pre", 0.1), ("causal", 0.0)])
def test_traffic_does_not_depend_on_the_length(name, dropout_rate):
    """Two rows, so that no [B N, D] hides a gathered sequence; forward and backward, positions and pooling too."""
    found = [list_collectives(compile_step(name, length, dropout_rate).as_text()) for length in (64, 512)]
    assert found[0] == found[1]
    assert 0 < total_bytes(found[0]) < 64 * 1024


def test_sinusoids_are_those_of_the_table():
    """Across the borders of the two small tables, from a first position on."""
    with precise("float64"):
        for width in (6, 7):
            found = jax.jit(lambda width=width: make_split_sinusoids(2, 4096, width, make_split(8)))()
            np.testing.assert_allclose(found, sinusoid_table(4098, width)[2:], atol=1e-11)


def test_queries_of_any_length_recall_a_context_that_is_split():
    """Cross attention: the context divides over the parts, and x need not."""
    split, results = make_split(4), []
    x, p, context = draw_array(1, 3, 7, EMB_DIM), draw_array(2, 3, PACK_LENGTH, EMB_DIM), draw_array(3, 3, 16, EMB_DIM)
    with precise("float64"):
        for kind in (None, split):
            types = {"dtype": "float64", "param_dtype": "float64", "split": kind}
            make = partial(LunaAttention, EMB_DIM, num_heads=2, num_pack_heads=4, tie_kv=True, **types)
            apply, params = build(lambda rngs, make=make: make(rngs=rngs))
            run = partial(apply, context_mask=draw_part_mask(3, 16))
            results.append(differentiate(lambda *args, run=run: run(*args[:3], context=args[3]), params, x, p, context))
    assert_same(results[1], results[0])


def test_a_state_goes_on_by_single_positions():
    """Eight positions in parts, then one, which no split can divide: the outputs of nine."""
    split, x = make_split(4), jnp.asarray(draw_array(1, 2, 9, EMB_DIM), jnp.float32)
    p = draw_array(2, 2, PACK_LENGTH, EMB_DIM).astype(np.float32)
    make = partial(CausalLunaAttention, EMB_DIM, num_heads=2, chunk_size=3)
    whole, params = build(lambda rngs: make(rngs=rngs))
    parts, _ = build(lambda rngs: make(split=split, rngs=rngs))

    @jit_quickly
    def run(x):
        first, state = parts(params, x[:, :8], parts(params, p, method="start"), method="attend")
        last, _ = parts(params, x[:, 8:], state, method="attend")
        return jnp.concatenate([first, last], axis=1), whole(params, x, p)[0]

    found, expected = run(x)
    assert_close(found, expected, "float32")


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_split_is_refused():
    split = make_split(8)
    assert split == make_split(8)
    assert hash(split) == hash(make_split(8))
    assert (split.num_parts, split.fill_up(16), split.fill_up(17)) == (8, 16, 24)
    with raises_naming(["'sequences'", "sequence"]):
        SequenceSplit(split.mesh, "sequences")
    with raises_naming(["Explicit", "AxisType.Auto"]):
        SequenceSplit(jax.make_mesh((2,), (AXIS,), (AxisType.Explicit,), devices=jax.devices()[:2]), AXIS)
    x, p = jnp.ones((1, 17, EMB_DIM)), jnp.ones((1, PACK_LENGTH, EMB_DIM))
    for make in (LunaAttention, CausalLunaAttention):
        apply, params = build(lambda rngs, make=make: make(EMB_DIM, num_heads=2, split=split, rngs=rngs))
        with raises_naming(["17", "8", "24", "masked"]):
            apply(params, x, p)
