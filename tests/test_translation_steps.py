"""Translation's train step: the smoothed loss against loops, what counts in it, what a stack of layers is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import QUICK_COMPILE
from tiny_translation_runs import make_config, make_experiment
from tolerances import assert_close

from configs import multi30k_deen_transformer
from lra_tasks.translation_batches import PairedSentences
from lra_tasks.translation_model import build_translation_model
from lra_tasks.translation_settings import resolve_translation
from lra_tasks.translation_steps import (
    make_optimizer,
    make_scoring_step,
    make_translation_init,
    make_translation_train_step,
    score_tokens,
)

VOCAB_SIZE, MAX_LENGTH = 20, 12
NO_WARMUP = {"optim__warmup_steps": 0, "optim__schedule": "constant", "optim__learning_rate": 0.02}


def make_batch(num_pairs=6, length=8, num_real=None, seed=0):
    """Random sentences of 2 to 6 words and the end token 2; target = source. Rows from `num_real` on are no pairs."""
    random = np.random.default_rng(seed)
    tokens, mask = np.zeros((num_pairs, length), np.int32), np.zeros((num_pairs, length), bool)
    for row in range(num_pairs if num_real is None else num_real):
        words = random.integers(3, VOCAB_SIZE, random.integers(2, 7))
        tokens[row, : len(words) + 1], mask[row, : len(words) + 1] = [*words, 2], True
    target_in = np.where(mask, np.pad(tokens[:, :-1], [(0, 0), (1, 0)], constant_values=2), 0)
    return PairedSentences(tokens, mask, target_in, tokens, mask, mask.any(axis=1))


def sum_by_loops(scores, batch, smoothing):
    """(smoothed loss, nll, right tokens, tokens) in float64, a token at a time."""
    loss = nll = 0.0
    right = count = 0
    for row in range(scores.shape[0]):
        for place in range(scores.shape[1]):
            if not batch.target_mask[row, place]:
                continue
            here, wanted = scores[row, place].astype(np.float64), batch.target_out[row, place]
            normaliser = max(here) + math.log(sum(math.exp(score - max(here)) for score in here))
            losses = [normaliser - score for score in here]
            nll += losses[wanted]
            loss += (1 - smoothing) * losses[wanted] + smoothing / len(here) * sum(losses)
            right += int(np.argmax(here) == wanted)
            count += 1
    return loss, nll, right, count


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_scores_against_loops(smoothing):
    batch = make_batch(num_real=5)
    scores = 3 * np.random.default_rng(1).standard_normal((*batch.target_out.shape, VOCAB_SIZE)).astype(np.float32)
    row = np.flatnonzero(batch.target_mask[0])[1]
    scores[0, row, batch.target_out[0, row]] = 50.0  # one that is right, and sure of it
    found = score_tokens(jnp.asarray(scores), batch, smoothing)
    loss, nll, right, count = sum_by_loops(scores, batch, smoothing)
    assert_close(found.loss, loss, "float32")
    assert_close(found.nll, nll, "float32")
    assert (int(found.correct), int(found.count)) == (right, count)
    assert right >= 1
    if smoothing == 0.0:
        assert float(found.loss) == float(found.nll)


def test_padding_counts_nothing():
    """Neither its scores, be they not a number, nor their gradients."""
    batch = make_batch(num_real=4)
    scores = np.random.default_rng(1).standard_normal((*batch.target_out.shape, VOCAB_SIZE)).astype(np.float32)
    ruined = np.where(batch.target_mask[..., None], scores, np.nan)
    assert [*score_tokens(jnp.asarray(scores), batch, 0.1)] == [*score_tokens(jnp.asarray(ruined), batch, 0.1)]
    gradient = jax.grad(lambda scores: score_tokens(scores, batch, 0.1).loss)(jnp.asarray(scores))
    np.testing.assert_array_equal(np.any(np.asarray(gradient) != 0, axis=-1), batch.target_mask)


@pytest.fixture(scope="module")
def tiny():
    """(experiment, model, state of step 0 as NumPy, compiled train step that donates nothing, scoring step)."""
    experiment = make_experiment(optim__weight_decay=0.0, **NO_WARMUP)
    model = build_translation_model(experiment, VOCAB_SIZE, MAX_LENGTH)
    init = jax.jit(make_translation_init(experiment, model)).lower().compile(compiler_options=QUICK_COMPILE)
    state = jax.device_get(init())
    step = jax.jit(make_translation_train_step(experiment, model).__wrapped__).lower(state, make_batch())
    scoring = make_scoring_step(experiment, model).lower(state["params"], make_batch())
    compiled = [one.compile(compiler_options=QUICK_COMPILE) for one in (step, scoring)]
    return experiment, model, state, *compiled


def test_numbers_are_those_of_the_loss(tiny):
    """Without a padded row and with some: means over tokens, not over sentences or positions."""
    _, _, state, step, scoring = tiny
    for batch in (make_batch(), make_batch(num_real=3)):
        _, numbers = step(state, batch)
        sums = scoring(state["params"], batch)
        assert int(numbers["target_tokens"]) == int(sums.count) == batch.target_mask.sum()
        for name in ("loss", "nll"):  # dropout is all that is between the two
            assert float(numbers[name]) == pytest.approx(float(getattr(sums, name)) / int(sums.count), rel=0.2)
        assert 0 <= float(numbers["accuracy"]) <= 1
    assert {*numbers} == {
        *("loss", "nll", "accuracy", "target_tokens", "gradient_norm", "parameter_norm", "learning_rate")
    }


def test_garbage_in_padding_changes_nothing(tiny):
    """Ids behind a sentence's end, and in rows that only fill up, reach neither loss nor parameters."""
    _, _, state, step, _ = tiny
    batch, garbage = make_batch(num_real=4), np.random.default_rng(3).integers(3, VOCAB_SIZE, (6, 8)).astype(np.int32)
    spoilt = batch._replace(
        source=np.where(batch.source_mask, batch.source, garbage),
        target_in=np.where(batch.target_mask, batch.target_in, garbage),
        target_out=np.where(batch.target_mask, batch.target_out, garbage),
    )
    jax.tree.map(np.testing.assert_array_equal, step(state, batch), step(state, spoilt))


def test_a_batch_without_pairs_is_harmless(tiny):
    _, _, state, step, _ = tiny
    after, numbers = step(state, make_batch(num_real=0))
    assert (float(numbers["loss"]), float(numbers["gradient_norm"]), int(numbers["target_tokens"])) == (0.0, 0.0, 0)
    jax.tree.map(np.testing.assert_array_equal, after["params"], state["params"])


def test_dropout_is_a_function_of_the_step(tiny):
    _, _, state, step, _ = tiny
    first, again, later = (
        float(step(state | {"step": np.int32(number)}, make_batch())[1]["loss"]) for number in (0, 0, 1)
    )
    assert first == again != later


def test_it_learns_to_copy(tiny):
    _, _, state, step, _ = tiny
    losses = []
    for _ in range(60):
        state, numbers = step(state, make_batch())
        losses.append(float(numbers["nll"]))
    assert losses[-1] < 1.0 < math.log(VOCAB_SIZE) < losses[0], losses[::10]
    assert int(state["step"]) == 60


def softmax_config():
    config = make_config()
    twin = multi30k_deen_transformer.get_config("cpu").to_dict()
    return config | {"model": config["model"] | {"attention": "softmax"}, "softmax": twin["softmax"]}


@pytest.mark.parametrize(
    "config",
    [make_config(), make_config(luna__contextual_pack=False), make_config(luna__tie_kv=False), softmax_config()],
    ids=["luna", "noncontextual", "untied", "softmax"],
)
def test_stacked_leaves_are_those_with_an_axis_of_layers(config):
    """Two layers against three: what grows is stacked, for Apollo and the clipping are of single tensors."""
    found = []
    for num_layers in (2, 3):
        config["model"] |= {"num_encoder_layers": num_layers, "num_decoder_layers": num_layers}
        model = build_translation_model(resolve_translation(config), VOCAB_SIZE, MAX_LENGTH)
        found.append((model, jax.tree_util.tree_leaves_with_path(model.abstract)))
    (model, two), (_, three) = found
    stacked = 0
    for (path, small), (_, large) in zip(two, three, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert model.is_stacked(path) == (small.shape != large.shape), name
        assert not model.is_stacked(path) or (small.shape[0], large.shape[0]) == (2, 3), name
        stacked += model.is_stacked(path)
    assert 0 < stacked < len(two)


def test_apollo_updates_layer_by_layer():
    """The step of a decoder layer's matrix is that of the matrix alone: the train step says which arrays are stacks."""
    experiment = make_experiment(
        optim__optimizer="apollo",
        optim__beta2=0.98,
        optim__epsilon=1e-4,
        optim__weight_decay=0.0,
        optim__clip_norm=0.1,
        optim__clip_mode="each",
        model__num_decoder_layers=2,
        **NO_WARMUP,
    )
    model = build_translation_model(experiment, VOCAB_SIZE, MAX_LENGTH)
    optimizer, _ = make_optimizer(experiment, model)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), model.abstract)
    update = jax.jit(lambda params: optimizer.update(params, optimizer.init(params), params)[0])
    updates = update.lower(params).compile(compiler_options=QUICK_COMPILE)(params)
    pairs = [jax.tree_util.tree_leaves_with_path(tree) for tree in (updates, params)]
    for (path, found), (_, gradient) in zip(*pairs, strict=True):
        tensors = zip(found, gradient, strict=True) if model.is_stacked(path) else [(found, gradient)]
        for moved, sent in tensors:
            # the first step: the clipped gradient over sigma = 0.01, times the rate
            clipped = sent * min(1.0, 0.1 / (np.linalg.norm(sent) + 1e-6))
            np.testing.assert_allclose(moved, -0.02 * clipped / 0.01, rtol=1e-4, atol=1e-7)
