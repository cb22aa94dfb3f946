"""Poolings and heads against the oracle, for one document and for two."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models import (
    assert_gradients_match,
    build,
    draw_array,
    draw_mask,
    draw_tokens,
    jit_quickly,
    list_equations,
    make_classifier_config,
    make_encoder_config,
    make_key,
    make_layer_config,
    make_softmax_config,
    precise,
    raises_naming,
    read_classifier,
    widen,
)
from oracles import encoder
from tolerances import TOLERANCE, assert_close

from luna_jax.classifier import Calibration, Classifier, PairedClassifier, Whitening, pool, whitening_of
from luna_jax.encoder import Encoded

LABELS = np.array([2, 0])


@cache
def build_classifier(model=Classifier, dtype="float32", num_layers=1, **changes):
    features = {"pair_features": None if model is Classifier else "concat"}
    encoder = make_encoder_config(make_layer_config(dtype=dtype), num_layers=num_layers)
    config = make_classifier_config(encoder, **features | changes)
    return build(lambda rngs: model(config, rngs=rngs))


def draw_documents(model, length=9):
    """One document a row, or two of different lengths; the last row is shorter than the pack."""
    documents = []
    for seed, size in ((1, length), (2, length - 2))[: 1 if model is Classifier else 2]:
        mask = draw_mask(seed, 2, size)
        mask[-1] = np.arange(size) < seed
        documents += [draw_tokens(seed, 2, size), mask]
    return documents


def run_oracle(model, params, documents, pooling, pair_features="concat"):
    settings = encoder.Settings(num_heads=2, num_pack_heads=4, pooling=pooling, pair_features=pair_features)
    weights = read_classifier(params, num_layers=1)
    if model is Classifier:
        return encoder.classify(weights, *documents, settings)
    if pair_features == "interaction":
        return encoder.classify_pair(weights, *documents, settings)
    # the oracle puts the second document first, as the authors do; our head's rows stand the other way round
    first, second = np.split(weights["hidden"]["kernel"], 2)
    weights["hidden"] = weights["hidden"] | {"kernel": np.concatenate([second, first])}
    return encoder.classify_pair(weights, *documents, settings)


# [CLS] of one document, and of two side by side, is held to the recorded gradients in test_golden.py
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (Classifier, {"pooling": "mean"}),
        (Classifier, {"pooling": "packed"}),
        (PairedClassifier, {"pooling": "packed", "pair_features": "interaction"}),
    ],
)
def test_losses_and_gradients_are_the_oracles(model, changes):
    documents = draw_documents(model)
    with precise("float64"):
        apply, params = build_classifier(model, "float64", **changes)

        def loss(params):
            logits = apply(params, *documents)
            return -jax.nn.log_softmax(logits)[np.arange(2), LABELS].sum()

        def oracle_loss(params):
            return encoder.cross_entropy(run_oracle(model, params, documents, **changes), LABELS)

        assert_gradients_match(loss, oracle_loss, widen(params))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_logits_are_the_oracles_and_never_below_float32(dtype):
    documents = draw_documents(Classifier)
    with precise(dtype):
        apply, params = build_classifier(dtype=dtype)
        logits = jit_quickly(apply)(params, *documents)
        assert logits.dtype == ("float64" if dtype == "float64" else "float32")
        assert_close(logits, run_oracle(Classifier, widen(params), documents, "cls"), dtype)


@pytest.mark.parametrize(
    ("pair_features", "pooling"), [("concat", "mean"), ("concat", "packed"), ("interaction", "cls")]
)
def test_logits_of_two_documents_are_the_oracles(pair_features, pooling):
    documents = draw_documents(PairedClassifier)
    apply, params = build_classifier(PairedClassifier, pooling=pooling, pair_features=pair_features)
    expected = run_oracle(PairedClassifier, widen(params), documents, pooling, pair_features)
    assert_close(jit_quickly(apply)(params, *documents), expected, "float32")


@pytest.mark.parametrize("pooling", ["cls", "mean", "packed"])
def test_pooling_reads_real_positions_alone(pooling):
    x_mask, p_mask = draw_mask(1, 3, 6), draw_mask(2, 3, 4)
    x, p = draw_array(3, 3, 6, 8), draw_array(4, 3, 4, 8)
    spoiled = [np.where(mask[..., None], array, np.nan) for array, mask in ((x, x_mask), (p, p_mask))]
    features = pool(Encoded(*(jnp.asarray(array) for array in (*spoiled, x_mask, p_mask))), pooling)
    assert_close(features, encoder.pool(x, p, x_mask, p_mask, pooling), "float32")


def test_logits_do_not_depend_on_batch_mates_or_padding_but_on_the_order_of_documents():
    apply, params = build_classifier(PairedClassifier, pooling="packed")
    run = jit_quickly(apply)
    documents = draw_documents(PairedClassifier)
    expected = run(params, *documents)
    assert_close(run(params, *(array[:1] for array in documents)), expected[:1], "float32")
    padded = [np.pad(array, [(0, 0), (0, 11 - array.shape[1])]) for array in documents]
    assert_close(run(params, *padded), expected, "float32")
    swapped = np.asarray(run(params, *padded[2:], *padded[:2]))
    assert np.abs(expected - swapped).min() > 1e-3


@pytest.mark.parametrize(("pair_features", "num_parts"), [("concat", 2), ("interaction", 4)])
def test_two_documents_share_one_encoder(pair_features, num_parts):
    _, single = build_classifier()
    _, paired = build_classifier(PairedClassifier, pair_features=pair_features)
    shapes = [jax.tree.map(jnp.shape, params["encoder"]) for params in (single, paired)]
    assert shapes[0] == shapes[1]
    assert paired["head"]["hidden"]["kernel"].shape[0] == num_parts * single["head"]["hidden"]["kernel"].shape[0]


def test_each_of_two_documents_has_dropout_of_its_own():
    config = make_classifier_config(
        make_encoder_config(make_layer_config(dropout_rate=0.5), num_layers=1), pair_features="concat"
    )
    apply, params = build(lambda rngs: PairedClassifier(config, rngs=rngs))

    def run(key):
        documents = draw_documents(PairedClassifier)
        return apply(params, *documents, deterministic=False, rngs=nnx.Rngs(dropout=key))

    equations = list(list_equations(jax.make_jaxpr(run)(make_key(0)).jaxpr))
    draws = [each.outvars[0].aval.shape for each in equations if each.primitive.name == "random_bits"]
    assert draws
    assert {shape[0] for shape in draws} == {4}, "two examples of two documents"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "max"}, ["pooling='max'", "cls", "mean", "packed"]),
        ({"pair_features": "sum"}, ["pair_features='sum'", "concat", "interaction"]),
        ({"encoder": make_encoder_config(prepend_cls=False)}, ['"cls"', "prepend_cls=True"]),
        (
            {"pooling": "packed", "encoder": make_encoder_config(make_layer_config(make_softmax_config()))},
            ['"packed"', "packed sequence", "cls", "mean"],
        ),
    ],
)
def test_a_mistaken_setting_names_the_value_and_the_choices(changes, words):
    with raises_naming(words):
        make_classifier_config(**changes)


@pytest.mark.parametrize(
    ("model", "pair_features", "words"),
    [
        (Classifier, "concat", ["pair_features='concat'", "PairedClassifier"]),
        (PairedClassifier, None, ["pair_features=None", "concat", "interaction"]),
    ],
)
def test_features_of_a_pair_need_the_model_of_a_pair(model, pair_features, words):
    with raises_naming(words):
        model(make_classifier_config(pair_features=pair_features), rngs=nnx.Rngs(0))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("place", [1, 3])
def test_a_mistaken_mask_of_a_pair_is_named(place):
    apply, params = build_classifier(PairedClassifier)
    documents = draw_documents(PairedClassifier)
    documents[place] = documents[place][:, 1:]
    with raises_naming([("first_mask", "second_mask")[place // 2], str(documents[place].shape)]):
        apply(params, *documents)


@pytest.mark.parametrize("model", [Classifier, PairedClassifier])
def test_a_calibration_standardises_the_pooled_vectors_of_a_first_batch(model):
    """Mean 0, deviation 1 in what it was set from; before that nothing is changed; afterwards no batch mate matters."""
    pair_features = None if model is Classifier else "interaction"
    config = make_classifier_config(pair_features=pair_features, pooling="mean")
    plain = model(config, rngs=nnx.Rngs(0))
    calibrated = model(dataclasses.replace(config, feature_norm="calibrated"), rngs=nnx.Rngs(0))
    assert plain.calibration is None
    documents = [jnp.asarray(document) for document in draw_documents(model)]
    vectors = calibrated.encode(*documents)
    assert jnp.array_equal(calibrated.calibration(vectors), vectors)
    assert jnp.array_equal(calibrated(*documents), plain(*documents))
    module = Calibration(vectors.shape[-1], param_dtype=jnp.float32)
    flat = vectors.at[:, 0].set(3.0)
    module.calibrate(flat)
    out = module(flat)
    assert jnp.allclose(jnp.mean(out, axis=0), 0.0, atol=1e-4)
    assert jnp.allclose(jnp.std(out[:, 1:], axis=0), 1.0, rtol=0.05)
    assert jnp.array_equal(out[:, 0], jnp.zeros_like(out[:, 0])), "a feature that never varies is not blown up"
    assert jnp.array_equal(module(flat[:1]), out[:1])


def draw_correlated(seed, num_examples):
    """Vectors whose deviations lie in one direction, nearly, and are a hundredth of them."""
    random = np.random.default_rng(seed)
    alike = random.standard_normal((num_examples, 1)) + 0.2 * random.standard_normal((num_examples, 4))
    return jnp.asarray(1.0 + 0.01 * alike, jnp.float32)


def test_a_whitening_decorrelates():
    """By the batch in training; by what was stored in evaluation, where no batch mate matters."""
    module, vectors = Whitening(4, param_dtype=jnp.float32), draw_correlated(0, 4000)
    assert jnp.array_equal(module(vectors), vectors), "before anything is stored"
    module.calibrate(vectors)
    stored, own = module(vectors), module(vectors, from_batch=True)
    assert jnp.allclose(stored, own, atol=1e-3)
    assert np.allclose(np.cov(stored.T), np.eye(4), atol=0.08)
    assert abs(np.corrcoef(vectors.T)[0, 1]) > 0.9
    assert jnp.allclose(module(vectors[:1]), stored[:1], atol=1e-3)
    constant = module(vectors.at[:, 0].set(3.0), from_batch=True)
    assert jnp.isfinite(constant).all()
    assert jnp.abs(constant[:, 0]).max() < 1.1, "a feature that never varies is not blown up"


def test_a_whitening_sends_no_gradient_through_its_root():
    """d/dv of z = (v - mean(v)) / std(v) M with M held fixed: what the statistics' noise would do is left out."""
    vectors = draw_correlated(1, 16)
    module, weights = Whitening(4, param_dtype=jnp.float32), jnp.arange(64.0).reshape(16, 4) ** 0.5
    _, matrix = whitening_of(vectors)
    root = matrix * (jnp.std(vectors, axis=0) + 1e-6)[:, None]

    def by_hand(v):
        return jnp.sum(weights * (((v - v.mean(0)[None]) / (v.std(0) + 1e-6)[None]) @ root))

    found = jax.grad(lambda v: jnp.sum(weights * module(v, from_batch=True)))(vectors)
    expected = jax.grad(by_hand)(vectors)
    assert jnp.allclose(found, expected, rtol=1e-2, atol=1e-2 * jnp.abs(expected).max())


@pytest.mark.parametrize("model", [Classifier, PairedClassifier])
def test_a_whitened_classifier_uses_the_batch_in_training_alone(model):
    pair_features = None if model is Classifier else "concat"
    config = make_classifier_config(pair_features=pair_features, pooling="mean", feature_norm="whitened")
    plain = model(dataclasses.replace(config, feature_norm="none"), rngs=nnx.Rngs(0))
    whitened = model(config, rngs=nnx.Rngs(0))
    documents = [jnp.asarray(document) for document in draw_documents(model)]
    assert jnp.allclose(whitened(*documents), plain(*documents), rtol=1e-5), "nothing is stored yet"
    trained = whitened(*documents, deterministic=False, rngs=nnx.Rngs(dropout=0))
    assert not jnp.allclose(trained, plain(*documents), rtol=1e-2)
