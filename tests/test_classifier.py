"""Poolings and heads against the oracle, for one document and for two."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import (
    assert_gradients_match,
    build,
    draw_array,
    draw_mask,
    draw_tokens,
    jit_quickly,
    make_classifier_config,
    make_encoder_config,
    make_layer_config,
    make_softmax_config,
    precise,
    raises_naming,
    read_classifier,
    widen,
)
from oracles import encoder
from tolerances import TOLERANCE, assert_close

from luna_jax.classifier import Classifier, PairedClassifier, pool
from luna_jax.encoder import Encoded

LABELS = np.array([2, 0])


@cache
def build_classifier(model=Classifier, dtype="float32", num_layers=1, **changes):
    config = make_classifier_config(
        make_encoder_config(make_layer_config(dtype=dtype), num_layers=num_layers), **changes
    )
    return build(lambda rngs: model(config, rngs=rngs))


def draw_documents(model, length=9):
    """One document a row, or two of different lengths; the last row is shorter than the pack."""
    documents = []
    for seed, size in ((1, length), (2, length - 2))[: 1 if model is Classifier else 2]:
        mask = draw_mask(seed, 2, size)
        mask[-1] = np.arange(size) < seed
        documents += [draw_tokens(seed, 2, size), mask]
    return documents


def run_oracle(model, params, documents, pooling):
    settings = encoder.Settings(num_heads=2, num_pack_heads=4, pooling=pooling)
    weights = read_classifier(params, num_layers=1)
    if model is Classifier:
        return encoder.classify(weights, *documents, settings)
    # the oracle puts the second document first, as the authors do; our head's rows stand the other way round
    first, second = np.split(weights["hidden"]["kernel"], 2)
    weights["hidden"] = weights["hidden"] | {"kernel": np.concatenate([second, first])}
    return encoder.classify_pair(weights, *documents, settings)


# [CLS] of both models is held to the recorded gradients in test_golden.py
@pytest.mark.parametrize("pooling", ["mean", "packed"])
def test_losses_and_gradients_are_the_oracles(pooling):
    documents = draw_documents(Classifier)
    with precise("float64"):
        apply, params = build_classifier(Classifier, "float64", pooling=pooling)

        def loss(params):
            logits = apply(params, *documents)
            return -jax.nn.log_softmax(logits)[np.arange(2), LABELS].sum()

        def oracle_loss(params):
            return encoder.cross_entropy(run_oracle(Classifier, params, documents, pooling), LABELS)

        assert_gradients_match(loss, oracle_loss, widen(params))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_logits_are_the_oracles_and_never_below_float32(dtype):
    documents = draw_documents(Classifier)
    with precise(dtype):
        apply, params = build_classifier(dtype=dtype)
        logits = jit_quickly(apply)(params, *documents)
        assert logits.dtype == ("float64" if dtype == "float64" else "float32")
        assert_close(logits, run_oracle(Classifier, widen(params), documents, "cls"), dtype)


def test_logits_of_two_documents_are_the_oracles():
    documents = draw_documents(PairedClassifier)
    apply, params = build_classifier(PairedClassifier, pooling="packed")
    expected = run_oracle(PairedClassifier, widen(params), documents, "packed")
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


def test_two_documents_share_one_encoder():
    _, single = build_classifier()
    _, paired = build_classifier(PairedClassifier)
    shapes = [jax.tree.map(jnp.shape, params["encoder"]) for params in (single, paired)]
    assert shapes[0] == shapes[1]
    assert paired["head"]["hidden"]["kernel"].shape[0] == 2 * single["head"]["hidden"]["kernel"].shape[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling": "max"}, ["pooling='max'", "cls", "mean", "packed"]),
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
