"""The stack of layers: its size in the compiler, its memory, what is shared between layers, how many weights it has."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models import (
    EMB_DIM,
    PACK_LENGTH,
    build,
    draw_mask,
    draw_tokens,
    jit_quickly,
    list_equations,
    make_classifier_config,
    make_encoder_config,
    make_key,
    make_layer_config,
    make_luna_config,
    make_softmax_config,
)
from tolerances import assert_close, assert_gradient_close

from luna_jax.classifier import Classifier, PairedClassifier
from luna_jax.encoder import Encoder

BATCH = (draw_tokens(1, 2, 9), draw_mask(2, 2, 9))


@cache
def build_encoder(contextual_pack=True, **changes):
    layer = make_layer_config(make_luna_config(contextual_pack=contextual_pack, dropout_rate=0.1), dropout_rate=0.1)
    config = make_encoder_config(layer, **changes)
    return build(lambda rngs: Encoder(config, rngs=rngs))


def make_loss(apply, batch=BATCH):
    def loss(params, key):
        rngs = None if key is None else nnx.Rngs(dropout=key)
        encoded = apply(params, *batch, deterministic=key is None, rngs=rngs)
        return (encoded.x**4).mean() + (encoded.p**4).mean()

    return loss


@pytest.mark.parametrize("settings", [{}, {"remat": True}, {"tie_layers": True}, {"contextual_pack": False}], ids=str)
def test_what_is_compiled_does_not_grow_with_depth_where_layers_are_a_loop(monkeypatch, settings):
    monkeypatch.setattr("luna_jax.encoder.UNROLLED_LAYERS", 1)
    sizes = []
    for num_layers in (2, 8):
        apply, params = build_encoder(num_layers=num_layers, **settings)
        traced = jax.jit(jax.value_and_grad(make_loss(apply))).trace(params, make_key(0))
        sizes.append((len(list(list_equations(traced.jaxpr.jaxpr))), len(traced.lower().as_text())))
    (few_equations, few_characters), (many_equations, many_characters) = sizes
    assert many_equations == few_equations
    # the numbers 2 and 8 have one digit each; a split of keys may name a longer shape
    assert abs(many_characters - few_characters) <= 32


def test_a_short_stack_is_no_loop_and_gives_the_same(monkeypatch):
    def trace(most):
        monkeypatch.setattr("luna_jax.encoder.UNROLLED_LAYERS", most)
        apply, params = build_encoder(num_layers=3)
        traced = jax.jit(jax.value_and_grad(make_loss(apply))).trace(params, make_key(0))
        lowered = traced.lower()
        return lowered.as_text(), lowered.compile()(params, make_key(0))

    (loop, in_loop), (unrolled, out_of_loop) = trace(2), trace(3)
    assert loop.count("stablehlo.while") == unrolled.count("stablehlo.while") + 2  # forward and backward
    jax.tree.map(lambda one, other: assert_close(one, other, "float32"), in_loop, out_of_loop)


@cache
def measure(remat):
    """(loss, gradients, bytes of temporary memory) of four layers on 256 positions, without dropout."""
    apply, params = build_encoder(num_layers=4, max_length=257, remat=remat)
    batch = (draw_tokens(1, 4, 256), draw_mask(2, 4, 256))
    compiled = jit_quickly(jax.value_and_grad(make_loss(apply, batch))).lower(params, None).compile()
    value, gradients = compiled(params, None)
    return value, gradients, compiled.memory_analysis().temp_size_in_bytes


def test_remat_changes_neither_value_nor_gradient():
    (value, gradients, _), (remat_value, remat_gradients, _) = measure(False), measure(True)
    assert_close(remat_value, value, "float32")
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    for actual, expected in zip(jax.tree.leaves(remat_gradients), jax.tree.leaves(gradients), strict=True):
        # the sum of a softmax's gradients is zero but for rounding, so a gradient may have no size of its own
        assert_gradient_close(actual, expected, "float32", unit=largest)


def test_remat_saves_memory():
    """Kept without it: about ten activations a layer; with it: the layer's input, and one layer's at a time."""
    assert measure(True)[2] < 0.6 * measure(False)[2]


def test_tied_layers_have_one_layers_weights_and_equal_a_stack_of_copies():
    tied, tied_params = build_encoder(tie_layers=True, num_layers=3)
    untied, untied_params = build_encoder(num_layers=3)
    for one, three in zip(*(jax.tree.leaves(each["layers"]) for each in (tied_params, untied_params)), strict=True):
        assert three.shape == (3, *one.shape)
    copies = tied_params | {"layers": jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), tied_params["layers"])}
    expected = jit_quickly(tied)(tied_params, *BATCH)
    for actual, wanted in zip(jit_quickly(untied)(copies, *BATCH), expected, strict=True):
        assert_close(actual, wanted, "float32")


def disturb_first_pack_norm(params):
    """The same parameters but for the norm that only the first layer's packed output goes through."""
    norm = jax.tree.map(lambda leaf: leaf.at[0].add(1.0), params["layers"]["pack_norm"])
    return params | {"layers": params["layers"] | {"pack_norm": norm}}


@pytest.mark.parametrize("contextual_pack", [True, False])
def test_a_layers_packed_output_reaches_the_next_layer_only_if_contextual(contextual_pack):
    apply, params = build_encoder(contextual_pack=contextual_pack, num_layers=2)
    run = jit_quickly(apply)
    encoded, disturbed = run(params, *BATCH), run(disturb_first_pack_norm(params), *BATCH)
    assert (np.asarray(encoded.x) != disturbed.x).any() == contextual_pack
    assert (np.asarray(encoded.p) != disturbed.p).any() == contextual_pack


def test_own_packs_are_one_a_layer():
    assert build_encoder(contextual_pack=False, num_layers=3)[1]["pack"].shape == (3, PACK_LENGTH, EMB_DIM)
    assert build_encoder(num_layers=3)[1]["pack"].shape == (PACK_LENGTH, EMB_DIM)


# task: width, feed-forward, layers, head's hidden layer, classes, words, rows of positions, documents, and by hand
# from these the parameters of the authors' Luna (16 slots, untied) and Transformer; facts of their architectures:
# 6.06M 5.26M, 5.31M 4.52M, 1.67M 1.47M, 0.140M 0.126M, 0.351M 0.299M
COUNTS = {
    "listops": ((512, 2048, 1, 2048, 10, 25, 2003, 1), 6_061_056, 5_262_848),
    "text": ((256, 1024, 4, 1024, 2, 264, 4004, 1), 5_313_536, 4_517_376),
    "retrieval": ((128, 512, 4, 512, 2, 264, 4004, 2), 1_673_728, 1_472_256),
    "image": ((64, 128, 1, 128, 10, 264, 1026, 1), 139_520, 125_760),
    "pathfinder": ((128, 128, 1, 256, 2, 264, 1028, 1), 350_848, 298_752),
}
PUBLISHED_MILLIONS = {
    "listops": (6.06, 5.26),
    "text": (5.31, 4.52),
    "retrieval": (1.67, 1.47),
    "image": (0.140, 0.126),
    "pathfinder": (0.351, 0.299),
}


def count_parameters(attention, sizes):
    width, mlp_dim, num_layers, classifier_dim, num_classes, words, rows, num_documents = sizes
    layer = make_layer_config(attention, emb_dim=width, mlp_dim=mlp_dim)
    # their table has a row for <CLS>, ours a vector of its own; two of their positions belong to no token
    encoder = make_encoder_config(layer, num_layers=num_layers, vocab_size=words - 1, max_length=rows - 2)
    model, features = (Classifier, None) if num_documents == 1 else (PairedClassifier, "concat")
    head = {"pair_features": features, "classifier_dim": classifier_dim, "num_classes": num_classes}
    config = make_classifier_config(encoder, **head)
    state = nnx.state(nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0))), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(state)))


@pytest.mark.parametrize("task", COUNTS)
def test_parameters_are_the_authors_but_for_two_rows_of_positions(task):
    sizes, luna, transformer = COUNTS[task]
    width = sizes[0]
    assert count_parameters(make_luna_config(pack_length=16), sizes) == luna - 2 * width
    assert count_parameters(make_softmax_config(), sizes) == transformer - 2 * width
    for count, millions in zip((luna, transformer), PUBLISHED_MILLIONS[task], strict=True):
        assert abs(count / 1e6 - millions) <= (0.0005 if millions < 1 else 0.005)
