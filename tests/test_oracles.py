"""The oracles agree with the recorded outputs and gradients of the authors' own modules, so they may judge ours."""

import numpy as np
import pytest
from oracles import attention, derivative, encoder, recorded

EXACT = 1e-12
ATTENTION_CASES = ["enc_attn_tied_n24", "enc_attn_untied_n37_ragged", "cross_attn_tied_n24_m37"]
CLASSIFIER = encoder.Settings(num_heads=2, num_pack_heads=2)


def get_context_mask(case):
    return ~case["mask.context_pad"] if "mask.context_pad" in case else None


def run_attention(case, tree):
    cross = {"context": tree["C"]} if "C" in tree else {}
    mask = get_context_mask(case)
    return attention.luna_attention(tree["w"], tree["X"], tree["P"], num_heads=4, **cross, context_mask=mask)


def run_layer(case, tree):
    settings = encoder.Settings(num_heads=4, num_pack_heads=4)
    return encoder.encoder_layer(tree["w"], tree["X"], tree["P"], settings, get_context_mask(case))


def run_classifier(case, weights):
    return encoder.classify(weights, *recorded.split_tokens(case["in.src_tokens"]), CLASSIFIER)


def run_retrieval(case, weights):
    documents = (*recorded.split_tokens(case["in.src_tokens"]), *recorded.split_tokens(case["in.src1_tokens"]))
    return encoder.classify_pair(weights, *documents, CLASSIFIER)


def assert_gradients(function, tree, gradients):
    """Every recorded gradient, along one random direction an array; those kept in float32 to float32's rounding."""
    random = np.random.default_rng(0)
    largest = max(np.abs(array).max() for _, array in derivative.list_arrays(gradients))
    for path, gradient in derivative.list_arrays(gradients):
        direction = random.standard_normal(gradient.shape)
        measured = derivative.differentiate(function, tree, path, direction)
        bound = 2e-7 * max(np.abs(gradient * direction).sum(), 1e-6 * largest)
        assert abs(measured - (gradient * direction).sum()) <= bound, path


@pytest.mark.parametrize("name", ATTENTION_CASES)
def test_attention_oracle_gives_the_recorded_outputs_and_gradients(name):
    case = recorded.read_case(name)
    inputs = [key for key in "XPC" if f"in.{key}" in case]
    tree = {key: case[f"in.{key}"] for key in inputs} | {"w": recorded.read_attention(recorded.get_weights(case))}
    y, packed = run_attention(case, tree)
    assert np.abs(y - case["out64.Y_X"]).max() < EXACT
    assert np.abs(packed - case["out64.Y_P"]).max() < EXACT

    def loss(moved):
        y, packed = run_attention(case, moved)
        return (y * case["cot.Y_X"]).sum() + (packed * case["cot.Y_P"]).sum()

    assert abs(loss(tree) - case["loss64"]) < EXACT * 1e2
    gradients = {key: case[f"g64.in.{key}"] for key in inputs}
    assert_gradients(loss, tree, gradients | {"w": recorded.read_attention(recorded.get_weights(case, "g64.w."))})


def test_layer_oracle_gives_the_recorded_outputs_and_gradients():
    case = recorded.read_case("enc_layer_postln_gelu_untied")
    tree = {"X": case["in.X"], "P": case["in.P"], "w": recorded.read_layer(recorded.get_weights(case), "0.")}
    x, p = run_layer(case, tree)
    assert np.abs(x - case["out64.X_layer0"]).max() < EXACT
    assert np.abs(p - case["out64.P_layer0"]).max() < EXACT

    def loss(moved):
        x, p = run_layer(case, moved)
        return (x * case["cot.X_layer0"]).sum() + (p * case["cot.P_layer0"]).sum()

    gradients = {"X": case["g64.in.X"], "P": case["g64.in.P"]}
    gradients["w"] = recorded.read_layer(recorded.get_weights(case, "g64.w."), "0.")
    assert_gradients(loss, tree, gradients)


def test_classifier_oracle_gives_the_recorded_intermediates_and_logits():
    case = recorded.read_case("lra_classifier_cls")
    weights = recorded.read_classifier(recorded.get_weights(case))
    tokens, mask = recorded.split_tokens(case["in.src_tokens"])
    x, p, x_mask, p_mask = encoder.encode(weights["encoder"], tokens, mask, CLASSIFIER)
    assert np.abs(x - case["out64.last_X"])[x_mask].max() < EXACT
    assert np.abs(p - case["out64.last_P"])[p_mask].max() < EXACT
    embedded, _ = encoder.embed(weights["encoder"], tokens, mask, CLASSIFIER)
    assert np.abs(embedded - case["out64.emb_X"]).max() < EXACT


@pytest.mark.parametrize(
    ("name", "run"), [("lra_classifier_cls", run_classifier), ("lra_retrieval_cls", run_retrieval)]
)
def test_model_oracles_give_the_recorded_loss_and_gradients(name, run):
    case = recorded.read_case(name)
    weights = recorded.read_classifier(recorded.get_weights(case))
    logits = run(case, weights)
    assert np.abs(logits - case["out64.logits"]).max() < EXACT
    assert abs(encoder.cross_entropy(logits, case["in.target"]) - case["out64.loss"]) < EXACT
    gradients = recorded.read_classifier(recorded.get_weights(case, "g64.w."))
    kept = {
        "encoder": {
            name: gradients["encoder"][name] for name in ("cls", "tokens", "positions", "pack", "embedding_norm")
        },
        "hidden": gradients["hidden"],
        "output": gradients["output"],
    }
    assert_gradients(lambda moved: encoder.cross_entropy(run(case, moved), case["in.target"]), weights, kept)
