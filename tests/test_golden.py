"""`luna_jax` gives the recorded outputs, losses and gradients of the authors' modules.

The weights come in through `luna_jax.fairseq`. A recorded gradient has the shape of its weight, so it travels through
the same import and is compared with ours there. A change that fails here is a change of the model, however small: a
result from before and one from after do not compare.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from models import (
    build,
    jit_quickly,
    make_classifier_config,
    make_encoder_config,
    make_layer_config,
    make_luna_config,
    precise,
)
from oracles import recorded
from oracles.derivative import list_arrays
from tolerances import TOLERANCE, assert_gradient_close

from luna_jax.attention.causal_luna import CausalLunaAttention
from luna_jax.attention.luna import LunaAttention
from luna_jax.classifier import Classifier, PairedClassifier
from luna_jax.decoder import DecoderLayer, Given
from luna_jax.encoder import Encoder
from luna_jax.fairseq import (
    import_attention,
    import_causal_attention,
    import_classifier,
    import_decoder_layer,
    import_layer,
)
from luna_jax.layers import EncoderLayer

DTYPES = ["float64", "float32"]
ATTENTION_CASES = ["enc_attn_tied_n24", "enc_attn_untied_n37_ragged", "cross_attn_tied_n24_m37"]
# what gradients of float32 that were stored as float32 are worth in a comparison of float64: half a step of 2^-23
STORED_AS_FLOAT32 = 2.0**-24


def assert_output_close(actual, expected, dtype, what):
    """Absolute difference of outputs, as the recording's README asks."""
    worst = np.abs(np.asarray(actual, np.float64) - expected).max()
    assert worst <= TOLERANCE[dtype], f"{what} differs by {worst:.3e}: the model is not the one that was recorded"


SHIFTS = [("pack_key", "bias"), ("key", "bias")]
"""Parameters that shift all scores of a softmax over positions alike: their gradient is zero in theory."""


def assert_gradients_close(gradients, expected, dtype, stored="float64", shifts=SHIFTS):
    """Every gradient relative to its largest entry; one that is exactly zero in theory against the largest of all."""
    expected = dict(list_arrays(expected))
    largest = max(np.abs(array).max() for array in expected.values())
    actual = dict(list_arrays(jax.tree.map(np.asarray, gradients)))
    assert set(actual) == set(expected)
    for path, array in expected.items():
        is_zero = path[-2:] in shifts
        size = largest if is_zero else np.abs(array).max()
        slack = STORED_AS_FLOAT32 * size if stored == "float32" else 0.0
        worst = np.abs(np.asarray(actual[path], np.float64) - array).max()
        assert worst <= TOLERANCE[dtype] * size + slack, f"{path}: gradient differs by {worst:.3e} of {size:.3e}"
        if is_zero:
            assert np.abs(array).max() <= 1e-6 * largest


def run_gradients(loss, tree, dtype):
    """((loss, aux), gradients) of loss(tree) with every array in `dtype`."""
    return jit_quickly(jax.value_and_grad(loss, has_aux=True))(jax.tree.map(partial(jnp.asarray, dtype=dtype), tree))


def make_recorded_layer_config(dtype, width, num_heads):
    attention = make_luna_config(num_heads=num_heads, num_pack_heads=num_heads, pack_length=8)
    return make_layer_config(attention, dtype, emb_dim=width, mlp_dim=2 * width)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ATTENTION_CASES)
def test_attention(name, dtype):
    case, tied = recorded.read_case(name), "untied" not in name
    import_weights = partial(import_attention, emb_dim=32, tie_kv=tied)
    names = {"x": "X", "p": "P"} | ({"context": "C"} if "in.C" in case else {})
    masks = {}
    if "mask.context_pad" in case:
        masks["context_mask" if "context" in names else "x_mask"] = ~case["mask.context_pad"]
    with precise(dtype):
        settings = {"num_heads": 4, "tie_kv": tied, "dtype": dtype, "param_dtype": dtype}
        apply, _ = build(lambda rngs: LunaAttention(32, **settings, rngs=rngs))

        def loss(tree):
            y, packed = apply(tree["params"], **tree["inputs"], **masks)
            return (y * case["cot.Y_X"]).sum() + (packed * case["cot.Y_P"]).sum(), (y, packed)

        tree = {"params": import_weights(recorded.get_weights(case))}
        tree["inputs"] = {ours: case[f"in.{theirs}"] for ours, theirs in names.items()}
        (value, (y, packed)), gradients = run_gradients(loss, tree, dtype)
        assert_output_close(y, case["out64.Y_X"], dtype, "Y_X")
        assert_output_close(packed, case["out64.Y_P"], dtype, "Y_P")
        assert abs(float(value) - case["loss64"]) <= TOLERANCE[dtype] * max(1.0, abs(case["loss64"]))
        expected = {"params": import_weights(recorded.get_weights(case, "g64.w."))}
        expected["inputs"] = {ours: case[f"g64.in.{theirs}"] for ours, theirs in names.items()}
        assert_gradients_close(gradients, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer(dtype):
    case = recorded.read_case("enc_layer_postln_gelu_untied")
    config = make_recorded_layer_config(dtype, 32, 4)
    with precise(dtype):
        apply, _ = build(lambda rngs: EncoderLayer(config, rngs=rngs))

        def loss(tree):
            x, p = apply(tree["params"], tree["x"], tree["p"], x_mask=~case["mask.context_pad"])
            return (x * case["cot.X_layer0"]).sum() + (p * case["cot.P_layer0"]).sum(), (x, p)

        tree = {
            "params": import_layer(recorded.get_weights(case, "w.0."), config),
            "x": case["in.X"],
            "p": case["in.P"],
        }
        (value, (x, p)), gradients = run_gradients(loss, tree, dtype)
        assert_output_close(x, case["out64.X_layer0"], dtype, "X")
        assert_output_close(p, case["out64.P_layer0"], dtype, "P")
        assert abs(float(value) - case["loss64"]) <= TOLERANCE[dtype] * max(1.0, abs(case["loss64"]))
        inputs = {"x": gradients.pop("x"), "p": gradients.pop("p")}
        assert_gradients_close(inputs, {"x": case["g64.in.X"], "p": case["g64.in.P"]}, dtype)
        expected = {"params": import_layer(recorded.get_weights(case, "g64.w.0."), config)}
        assert_gradients_close(gradients, expected, dtype, stored="float32")


CAUSAL_CASES = {"causal_softplus_untied_n24": (False, "softplus"), "causal_elu_tied_n24": (True, "elu")}


def build_causal(name, dtype, chunk_size):
    tied, weight = CAUSAL_CASES[name]
    settings = {"num_heads": 4, "tie_kv": tied, "weight": weight, "chunk_size": chunk_size}
    types = {"dtype": dtype, "param_dtype": dtype}
    return build(lambda rngs: CausalLunaAttention(32, **settings, **types, rngs=rngs))[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("name", CAUSAL_CASES)
def test_causal_attention(name, chunk_size, dtype):
    case = recorded.read_case(name)
    import_weights = partial(import_causal_attention, emb_dim=32, tie_kv=CAUSAL_CASES[name][0])
    with precise(dtype):
        apply = build_causal(name, dtype, chunk_size)

        def loss(tree):
            y, _ = apply(tree["params"], **tree["inputs"])
            return (y * case["cot.Y"]).sum(), y

        tree = {"params": import_weights(recorded.get_weights(case)), "inputs": {"x": case["in.X"], "p": case["in.P"]}}
        (value, y), gradients = run_gradients(loss, tree, dtype)
        assert_output_close(y, case["out64.Y"], dtype, "Y")
        assert abs(float(value) - case["loss64"]) <= TOLERANCE[dtype] * max(1.0, abs(case["loss64"]))
        expected = {"params": import_weights(recorded.get_weights(case, "g64.w."))}
        expected["inputs"] = {"x": case["g64.in.X"], "p": case["g64.in.P"]}
        stored = "float64" if "untied" in name else "float32"
        assert_gradients_close(gradients, expected, dtype, stored, shifts=[])  # no softmax over positions here


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CAUSAL_CASES)
def test_causal_attention_step_by_step(name, dtype):
    case = recorded.read_case(name)
    weights = import_causal_attention(recorded.get_weights(case), 32, tie_kv=CAUSAL_CASES[name][0])
    with precise(dtype):
        apply = build_causal(name, dtype, 64)
        params, x, p = jax.tree.map(partial(jnp.asarray, dtype=dtype), (weights, case["in.X"], case["in.P"]))

        def step(state, x_t):
            y, state = apply(params, x_t[:, None], state, method="attend")
            return state, (y[:, 0], state)

        start = apply(params, p, method="start")
        _, (y, states) = jit_quickly(lambda x: jax.lax.scan(step, start, x))(jnp.moveaxis(x, 1, 0))
        assert_output_close(jnp.moveaxis(y, 0, 1), case["inc64.Y"], dtype, "Y")
        names = {"pack_query": "prev_pquery", "keys": "prev_key_accum_mat", "values": "prev_value_accum_mat"}
        for ours, theirs in names.items():
            for t in (0, 23) if f"state64.t0.{theirs}" in case else ():
                assert_output_close(
                    getattr(states, ours)[t], case[f"state64.t{t}.{theirs}"], dtype, f"{ours} after {t}"
                )
        assert states.count[:, 0].tolist() == list(range(1, 25))


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoder_layer(dtype):
    """The whole sequence with gradients, and the same outputs step by step."""
    case = recorded.read_case("dec_layer_postln_tied")
    attention = make_luna_config(num_heads=4, num_pack_heads=4, pack_length=8, tie_kv=True, causal_chunk_size=5)
    config = make_layer_config(attention, dtype, emb_dim=32, mlp_dim=64, activation="relu")
    context_mask = jnp.asarray(~case["mask.enc_pad"])
    with precise(dtype):
        apply, _ = build(lambda rngs: DecoderLayer(config, has_context=True, rngs=rngs))

        def loss(tree):
            given = Given(tree["p"], None, tree["context"], context_mask)
            x, p = apply(tree["params"], tree["x"], given, x_mask=None, deterministic=True, rngs=None)
            return (x * case["cot.X_layer0"]).sum() + (p * case["cot.P_layer0"]).sum(), (x, p)

        tree = {"params": import_decoder_layer(recorded.get_weights(case, "w.0."), config)}
        tree |= {"x": case["in.X"], "p": case["in.P"], "context": case["in.E"]}
        (value, (x, p)), gradients = run_gradients(loss, tree, dtype)
        assert_output_close(x, case["out64.X_layer0"], dtype, "X")
        assert_output_close(p, case["out64.P_layer0"], dtype, "P")
        assert abs(float(value) - case["loss64"]) <= TOLERANCE[dtype] * max(1.0, abs(case["loss64"]))
        inputs = {name: gradients.pop(name) for name in ("x", "p", "context")}
        expected = {"x": case["g64.in.X"], "p": case["g64.in.P"], "context": case["g64.in.E"]}
        assert_gradients_close(inputs, expected, dtype)
        expected = {"params": import_decoder_layer(recorded.get_weights(case, "g64.w.0."), config)}
        assert_gradients_close(gradients, expected, dtype, stored="float32")

        tree = jax.tree.map(partial(jnp.asarray, dtype=dtype), tree)
        given = Given(tree["p"], None, tree["context"], context_mask)
        start, _ = apply(tree["params"], given, max_length=24, batch_size=3, method="start")

        def step(state, x_t):
            x, state = apply(tree["params"], x_t[:, None], state, None, None, method="advance")
            return state, x[:, 0]

        steps = jit_quickly(lambda x: jax.lax.scan(step, start, x)[1])(jnp.moveaxis(tree["x"], 1, 0))
        assert_output_close(jnp.moveaxis(steps, 0, 1), case["inc64.X_layer0"], dtype, "X step by step")


def make_recorded_classifier_config(dtype, num_classes, **changes):
    layer = make_recorded_layer_config(dtype, 16, 2)
    encoder = make_encoder_config(layer, vocab_size=recorded.CLS, max_length=40)
    return make_classifier_config(encoder, classifier_dim=24, num_classes=num_classes, **changes)


def read_documents(case):
    """tokens and mask of one document, or of two, without the recorded CLS."""
    names = [name for name in ("in.src_tokens", "in.src1_tokens") if name in case]
    return [array for name in names for array in recorded.split_tokens(case[name])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "model", "pair_features", "num_classes"),
    [("lra_classifier_cls", Classifier, None, 3), ("lra_retrieval_cls", PairedClassifier, "concat", 2)],
)
def test_model(name, model, pair_features, num_classes, dtype):
    case = recorded.read_case(name)
    config = make_recorded_classifier_config(dtype, num_classes, pair_features=pair_features)
    import_weights = partial(import_classifier, config=config)
    documents = read_documents(case)
    with precise(dtype):
        apply, _ = build(lambda rngs: model(config, rngs=rngs))

        def loss(params):
            logits = apply(params, *documents)
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, case["in.target"]).sum(), logits

        (value, logits), gradients = run_gradients(loss, import_weights(recorded.get_weights(case)), dtype)
        assert_output_close(logits, case["out64.logits"], dtype, "logits")
        assert_output_close(value, case["out64.loss"], dtype, "loss")
        expected = import_weights(recorded.get_weights(case, "g64.w."))
        assert_gradients_close(gradients, expected, dtype, stored="float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_encoder_of_the_classifier(dtype):
    case, config = recorded.read_case("lra_classifier_cls"), make_recorded_classifier_config(dtype, 3)
    with precise(dtype):
        apply, _ = build(lambda rngs: Encoder(config.encoder, rngs=rngs))
        params = import_classifier(recorded.get_weights(case), config)["encoder"]
        params = jax.tree.map(partial(jnp.asarray, dtype=dtype), params)
        encoded = jit_quickly(apply)(params, *read_documents(case))
        x_mask, p_mask = np.asarray(encoded.x_mask), np.asarray(encoded.p_mask)
        assert p_mask.sum(1).tolist() == [8, 8, 5]
        assert_output_close(np.asarray(encoded.x)[x_mask], case["out64.last_X"][x_mask], dtype, "last X")
        assert_output_close(np.asarray(encoded.p)[p_mask], case["out64.last_P"][p_mask], dtype, "last P")


def test_the_recorded_float32_is_no_closer_to_float64_than_the_tolerance():
    """What the tolerance of float32 is worth: the authors' own two precisions differ by a good part of it."""
    case = recorded.read_case("enc_attn_untied_n37_ragged")
    worst = np.abs(case["out32.Y_X"] - case["out64.Y_X"]).max()
    assert 1e-7 < worst < TOLERANCE["float32"]


def test_gradients_of_key_biases_vanish():
    """softmax does not see a shift of all its scores; tied projections serve as values too and are no such case."""
    case = recorded.read_case("enc_attn_untied_n37_ragged")
    for name in ("pk_proj.bias", "k_proj.bias"):
        zero = np.zeros_like(case[f"g64.w.{name}"])
        assert_gradient_close(case[f"g64.w.{name}"], zero, "float64", unit=np.abs(case["g64.w.v_proj.bias"]).max())


def test_models_carry_no_parameter_without_a_recorded_gradient():
    config = make_recorded_classifier_config("float32", 3)
    graph_params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Classifier(config, rngs=nnx.Rngs(0))), nnx.Param))
    imported = import_classifier(recorded.get_weights(recorded.read_case("lra_classifier_cls")), config)
    ours = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(graph_params)}
    assert ours == {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(imported)}
