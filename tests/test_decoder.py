"""The decoder layer against an oracle; stacks whole, step by step and in pieces; translation and language models."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models import (
    EMB_DIM,
    MLP_DIM,
    PACK_LENGTH,
    VOCAB_SIZE,
    assert_gradients_match,
    build,
    draw_array,
    draw_mask,
    draw_tokens,
    jit_quickly,
    make_encoder_config,
    make_key,
    make_layer_config,
    make_luna_config,
    make_softmax_config,
    precise,
    raises_naming,
    widen,
)
from oracles.causal import decoder_layer

from luna_jax.attention.linear import LinearConfig
from luna_jax.decoder import Decoder, DecoderConfig, DecoderLayer, Given, reorder
from luna_jax.language_model import LanguageModel, LanguageModelConfig
from luna_jax.seq2seq import FIRST_POSITION, Seq2Seq, Seq2SeqConfig

MECHANISMS = {
    "luna": lambda: make_luna_config(causal_chunk_size=3),
    "luna_own": lambda: make_luna_config(causal_chunk_size=3, contextual_pack=False, tie_kv=True),
    "softmax": make_softmax_config,
}


def make_translation_config(mechanism, dtype="float32", **changes):
    layer = make_layer_config(MECHANISMS[mechanism](), dtype, activation="relu", **changes)
    encoder = make_encoder_config(
        layer, prepend_cls=False, positions="sinusoidal", first_position=FIRST_POSITION, scale_embedding=True,
        embedding_norm=False, pack_embedding="sinusoidal",
    )  # fmt: skip
    return Seq2SeqConfig(encoder, num_decoder_layers=2)


@cache
def build_translation(mechanism, dtype="float32", **changes):
    config = make_translation_config(mechanism, dtype, **changes)
    return build(lambda rngs: Seq2Seq(config, rngs=rngs))


@cache
def build_language_model(mechanism, dtype="float32", norm="post"):
    attention = MECHANISMS[mechanism]()
    layer = make_layer_config(attention, dtype, norm=norm)
    config = LanguageModelConfig(layer, num_layers=2, vocab_size=VOCAB_SIZE, remat=False)
    return build(lambda rngs: LanguageModel(config, rngs=rngs))


def draw_pair():
    """(source, source_mask, target, target_mask) of three ragged rows."""
    return draw_tokens(1, 3, 9), draw_mask(2, 3, 9), draw_tokens(3, 3, 7), draw_mask(4, 3, 7)


@pytest.mark.parametrize(("norm", "weight"), [("post", "softplus"), ("pre", "elu")])
def test_layer_is_the_oracles(norm, weight):
    x, p, context = draw_array(1, 2, 9, EMB_DIM), draw_array(2, 2, PACK_LENGTH, EMB_DIM), draw_array(3, 2, 7, EMB_DIM)
    masks = {"p_mask": jnp.asarray(draw_mask(4, 2, PACK_LENGTH)), "context_mask": jnp.asarray(draw_mask(5, 2, 7))}
    x_mask = draw_mask(6, 2, 9)
    cotangents = draw_array(7, 2, 9, EMB_DIM) * x_mask[..., None], draw_array(8, 2, PACK_LENGTH, EMB_DIM)
    with precise("float64"):
        attention = make_luna_config(causal_weight=weight, causal_chunk_size=4)
        config = make_layer_config(attention, "float64", norm=norm, activation="relu")
        apply, params = build(lambda rngs: DecoderLayer(config, has_context=True, rngs=rngs))

        def weigh(x, p):
            return (x * cotangents[0]).sum() + (p * cotangents[1]).sum()

        def loss(tree):
            given = Given(tree["p"], masks["p_mask"], tree["context"], masks["context_mask"])
            return weigh(*apply(tree["params"], tree["x"], given, x_mask=x_mask, deterministic=True, rngs=None))

        def oracle_loss(tree):
            settings = {"num_heads": 2, "num_pack_heads": 4, "norm": norm, "weight": weight, "x_mask": x_mask}
            return weigh(*decoder_layer(tree["params"], tree["x"], tree["p"], tree["context"], **settings, **masks))

        assert_gradients_match(loss, oracle_loss, {"x": x, "p": p, "context": context, "params": widen(params)})


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_steps_are_the_whole(mechanism, norm):
    """One token at a time from the state gives the scores of the whole target, at every real position."""
    source, source_mask, target, target_mask = draw_pair()
    with precise("float64"):
        apply, params = build_translation(mechanism, "float64", norm=norm)
        whole = np.asarray(jit_quickly(apply)(params, source, source_mask, target, target_mask))

        def run(params):
            start = apply(params, source, source_mask, 7, method="start")

            def step(state, tokens):
                scores, state = apply(params, state, tokens, method="step")
                return state, scores

            return jnp.moveaxis(jax.lax.scan(step, start, jnp.asarray(target).T)[1], 0, 1)

        steps = np.asarray(jit_quickly(run)(params))
        np.testing.assert_allclose(steps[target_mask], whole[target_mask], atol=1e-11)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_target_sees_its_past_and_the_source(mechanism):
    source, source_mask, target, target_mask = draw_pair()
    apply, params = build_translation(mechanism)

    def run(source, target):  # what the test of batch mates compiles, too
        return jit_quickly(apply)(params, source, source_mask, target, target_mask)

    expected = np.asarray(run(source, target))
    later = np.asarray(run(source, np.where(np.arange(7) > 3, (target + 1) % VOCAB_SIZE, target)))
    assert (later[:, :4] == expected[:, :4]).all()
    assert np.abs(later[:, 4:] - expected[:, 4:]).max() > 1e-3
    padded = np.asarray(run(np.where(source_mask, source, 7), np.where(target_mask, target, 9)))
    assert (padded[target_mask] == expected[target_mask]).all()
    assert np.abs(np.asarray(run((source + 1) % VOCAB_SIZE, target)) - expected)[:, 0].max() > 1e-3


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_an_example_does_not_depend_on_its_batch_mates(mechanism):
    source, source_mask, target, target_mask = draw_pair()
    apply, params = build_translation(mechanism)
    whole = np.asarray(jit_quickly(apply)(params, source, source_mask, target, target_mask))
    alone = np.asarray(
        jit_quickly(apply)(params, *(array[1:2] for array in (source, source_mask, target, target_mask)))
    )
    np.testing.assert_allclose(alone[0][target_mask[1]], whole[1][target_mask[1]], atol=1e-5)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_states_follow_their_rows(mechanism):
    """Reordered and repeated rows go on as the rows that they were."""
    source, source_mask, target, _ = draw_pair()
    rows = jnp.asarray([2, 0, 0, 1])
    apply, params = build_translation(mechanism)
    step = jit_quickly(lambda state, tokens: apply(params, state, tokens, method="step"))
    state = jit_quickly(lambda: apply(params, source, source_mask, 7, method="start"))()
    _, state = step(state, target[:, 0])
    expected, _ = step(state, target[:, 1])
    scores, _ = step(reorder(state, rows), target[rows, 1])
    np.testing.assert_allclose(scores, np.asarray(expected)[rows], atol=1e-5)


@pytest.mark.parametrize("mechanism", ["luna", "softmax"])
def test_dropout_follows_its_key_and_every_parameter_is_trained(mechanism):
    arrays = draw_pair()
    apply, params = build_translation(mechanism, dropout_rate=0.3, activation_dropout_rate=0.1)

    def loss(params, key):
        rngs = nnx.Rngs(dropout=key)
        return jnp.sum(jnp.sin(apply(params, *arrays, deterministic=False, rngs=rngs)))

    run = jit_quickly(jax.value_and_grad(loss))
    (first, gradients), (again, _), (other, _) = (run(params, make_key(seed)) for seed in (0, 0, 1))
    assert first == again != other
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # a shift of all scores of a softmax changes nothing, and nobody reads what the last layer packs
        if name.endswith(("key/bias", "pack_key/bias")):
            continue
        unread = mechanism == "luna" and name.startswith("decoder/layers/pack_norm")
        per_layer = np.abs(np.asarray(leaf)).reshape(2, -1).max(axis=1) if "layers/" in name else np.abs(leaf).max()
        assert (per_layer > 0).tolist() == ([True, False] if unread else np.ones_like(per_layer, bool).tolist()), name


COUNTS = [
    (16, True, 69_686_272), (32, True, 69_694_464), (16, False, 77_565_952), (32, False, 77_574_144),
    (0, False, 64_937_984),
]  # fmt: skip


@pytest.mark.parametrize(("pack_length", "tie_kv", "expected"), COUNTS)
def test_parameters_of_the_authors_translation_model(pack_length, tie_kv, expected):
    """Vocabulary 40,624, six and six layers: the totals of running the authors' code; the paper prints millions."""
    attention = make_softmax_config(num_heads=8)
    if pack_length:
        attention = make_luna_config(num_heads=8, num_pack_heads=8, pack_length=pack_length, tie_kv=tie_kv)
    layer = make_layer_config(attention, emb_dim=512, mlp_dim=2048, activation="relu")
    encoder = make_translation_config("luna").encoder
    changes = {"layer": layer, "num_layers": 6, "vocab_size": 40_624, "max_length": 256}
    config = Seq2SeqConfig(type(encoder)(**(vars(encoder) | changes)), num_decoder_layers=6)
    state = nnx.state(nnx.eval_shape(lambda: Seq2Seq(config, rngs=nnx.Rngs(0))), nnx.Param)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state)) == expected


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("mechanism", ["luna_own", "softmax"])
def test_a_language_model_in_pieces_is_the_whole(mechanism, norm):
    tokens, mask = draw_tokens(1, 3, 13), draw_mask(2, 3, 13)
    with precise("float64"):
        apply, params = build_language_model(mechanism, "float64", norm)
        whole = np.asarray(jit_quickly(apply)(params, tokens, mask))

        def run(params):
            state, scores = apply(params, 3, 13, method="start"), []
            for begin, end in ((0, 5), (5, 6), (6, 13)):
                found, state = apply(params, state, tokens[:, begin:end], mask[:, begin:end], method="advance")
                scores.append(found)
            return jnp.concatenate(scores, axis=1), state.count

        pieces, count = jit_quickly(run)(params)
        np.testing.assert_allclose(np.asarray(pieces)[mask], whole[mask], atol=1e-11)
        assert count.tolist() == mask.sum(1).tolist()


def test_the_state_of_a_luna_language_model_does_not_grow():
    apply, params = build_language_model("luna_own")
    state = jax.eval_shape(lambda: apply(params, 3, method="start"))
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes == 2 * (3 * 3 * PACK_LENGTH * EMB_DIM + 3) + 3  # pack query and two sums, and the counts
    later = jax.eval_shape(
        lambda: apply(params, apply(params, 3, method="start"), jnp.zeros((3, 50), int), method="advance")
    )
    assert jax.tree.map(lambda leaf: leaf.shape, later[1]) == jax.tree.map(lambda leaf: leaf.shape, state)


def test_a_language_model_sees_its_past_alone():
    tokens = draw_tokens(1, 2, 9)
    apply, params = build_language_model("luna_own")
    run = jit_quickly(lambda tokens: apply(params, tokens, jnp.ones((2, 9), bool)))
    expected, other = np.asarray(run(tokens)), np.asarray(run(np.where(np.arange(9) > 4, (tokens + 1) % 11, tokens)))
    assert (other[:, :5] == expected[:, :5]).all()
    assert np.abs(other[:, 5:] - expected[:, 5:]).max() > 1e-3


MISTAKES = {
    "mechanism": (
        lambda: DecoderConfig(make_layer_config(LinearConfig(2, 0.0, False)), 1, True, False),
        ["LinearConfig", "luna or softmax"],
    ),
    "layers": (lambda: DecoderConfig(make_layer_config(), 0, True, False), ["num_layers=0"]),
    "contextual": (lambda: DecoderConfig(make_layer_config(), 1, False, False), ["contextual_pack=False"]),
    "positions": (lambda: Seq2SeqConfig(make_encoder_config(), 1), ["encoder.positions='learned'", "'sinusoidal'"]),
    "vocabulary": (lambda: LanguageModelConfig(make_layer_config(), 1, 0, False), ["vocab_size=0"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_configuration(name):
    make, words = MISTAKES[name]
    with raises_naming(words):
        make()


def test_mistakes_of_a_call():
    source, source_mask, _, _ = draw_pair()
    apply, params = build_translation("softmax")
    with raises_naming(["25 target positions", "max_length=24"]):
        apply(params, source, source_mask, 25, method="start")
    apply, params = build_language_model("softmax")
    with raises_naming(["max_length=0", "how many"]):
        apply(params, 2, method="start")


def test_remat_changes_no_number():
    arrays = draw_pair()
    apply, params = build_translation("luna")
    config = make_translation_config("luna")
    remat = Seq2SeqConfig(type(config.encoder)(**(vars(config.encoder) | {"remat": True})), 2)
    again, _ = build(lambda rngs: Seq2Seq(remat, rngs=rngs))
    run, other = (
        jit_quickly(jax.value_and_grad(lambda params, apply=apply: jnp.sum(jnp.sin(apply(params, *arrays)))))(params)
        for apply in (apply, again)
    )
    for ours, theirs in zip(jax.tree.leaves(run), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1.0, float(np.abs(theirs).max())))


def test_a_decoder_without_context_has_no_cross_attention():
    config = DecoderConfig(make_layer_config(make_luna_config(contextual_pack=False), mlp_dim=MLP_DIM), 1, False, False)
    _, params = build(lambda rngs: Decoder(config, rngs=rngs))
    assert sorted(params["layers"]) == ["feed_forward", "feed_forward_norm", "self_attention", "self_attention_norm"]
