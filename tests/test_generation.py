"""Greedy search, beam search and sampling against an oracle that lists every sequence; limits, early stop, NaN."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import build, draw_mask, draw_tokens, jit_quickly, make_encoder_config, precise, raises_naming
from oracles.search import (
    find_log_probabilities,
    list_hypotheses,
    list_probable,
    rank_hypotheses,
    search_beams,
    search_greedily,
)
from scipy.stats import chisquare
from tolerances import assert_close

from luna_jax import decoder
from luna_jax.generation import beam_search, greedy_search, keep_probable, sample
from luna_jax.seq2seq import Seq2Seq, Seq2SeqConfig

VOCAB_SIZE, LENGTH, START, END = 5, 4, 1, 2
LIMITS = np.array([4, 3, 2, 1])
IDS = {"start": START, "end": END, "max_length": LENGTH}


class History(NamedTuple):
    """The state of a model that remembers every token: its scores are drawn for each history alone."""

    row: Any  # [R], whose table it is
    node: Any  # [1, R], one to one with the tokens so far; like a decoder's leaves, with the batch on axis 1


def number_history(tokens):
    """The node of these tokens, the start token among them."""
    node = 0
    for token in tokens:
        node = node * VOCAB_SIZE + int(token) + 1
    return node


def draw_tables(seed, num_rows=4, scale=1.5):
    """Scores [B, node, V] behind every history of up to LENGTH tokens."""
    num_nodes = number_history([VOCAB_SIZE - 1] * LENGTH) + 1
    return np.random.default_rng(seed).standard_normal((num_rows, num_nodes, VOCAB_SIZE)) * scale


def make_step(tables, on_step=None):
    def step(state, tokens):
        if on_step is not None:
            jax.debug.callback(on_step)
        node = state.node * VOCAB_SIZE + tokens[None] + 1
        return tables[state.row, node[0]], History(state.row, node)

    return step


def start_histories(num_rows):
    return History(jnp.arange(num_rows), jnp.zeros((1, num_rows), jnp.int32))


def reorder(state, rows):
    return History(state.row[rows], state.node[:, rows])


def search(tables, limits, length_penalty, *, beam_size, on_step=None, **options):
    """Beam search over [B, node, V]."""
    rows = {"batch_size": len(tables), "limits": limits, "length_penalty": length_penalty}
    step, state = make_step(tables, on_step), start_histories(len(tables))
    return beam_search(step, state, reorder, beam_size=beam_size, **(IDS | rows | options))


def go_greedily(tables, limits, *, on_step=None, **options):
    """Greedy search over [B, node, V]."""
    rows = {"batch_size": len(tables), "limits": limits}
    return greedy_search(make_step(tables, on_step), start_histories(len(tables)), **(IDS | rows | options))


def draw(tables, key, limits=None, *, on_step=None, **options):
    """Sampling over [B, node, V]."""
    rows = {"batch_size": len(tables), "limits": limits, "temperature": 1.0}
    return sample(make_step(tables, on_step), start_histories(len(tables)), key, **(IDS | rows | options))


@cache
def compiled(function, **options):
    """The function with these options, compiled once in the session for each shape and dtype; gives NumPy arrays."""
    run = jit_quickly(partial(function, **options))
    return lambda *args: jax.device_get(run(*args))


def find_scores_in(table, start=START):
    """What the oracles ask: the scores behind tokens."""
    return lambda tokens: table[number_history((start, *tokens))].tolist()


def assert_beams_are(beams, row, expected, *, padding=0):
    """One row of beams is [(score, tokens)], best first, and nothing behind it."""
    tokens, lengths, scores = (array[row] for array in beams)
    for place, (score, hypothesis) in enumerate(expected):
        assert tuple(tokens[place, : lengths[place]]) == hypothesis
        assert abs(scores[place] - score) <= 1e-10 * max(1.0, abs(score))
    assert not lengths[len(expected) :].any()
    assert np.all(scores[len(expected) :] == -np.inf)
    assert np.all(tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] == padding)


def assert_rows_equal(made, expected, rows):
    """The same tokens, lengths and, up to rounding, scores."""
    np.testing.assert_array_equal(made.tokens[rows], expected.tokens[rows])
    np.testing.assert_array_equal(made.lengths[rows], expected.lengths[rows])
    np.testing.assert_allclose(made.scores[rows], expected.scores[rows], rtol=1e-12)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0, -0.7])
def test_a_wide_beam_is_exhaustive_search(length_penalty):
    """40 hypotheses of at most four tokens: width 40 finds all. Rows with a lower limit have fewer."""
    tables = draw_tables(0)
    with precise("float64"):
        beams = compiled(search, beam_size=40)(tables, LIMITS, length_penalty)
    for row, limit in enumerate(LIMITS):
        hypotheses = list_hypotheses(find_scores_in(tables[row]), end=END, limit=limit)
        assert len(hypotheses) == [40, 13, 4, 1][row]
        assert_beams_are(beams, row, rank_hypotheses(hypotheses, length_penalty))


def draw_search(seed):
    """(tables, limits, length_penalty): end tokens from rare to almost sure."""
    random = np.random.default_rng(seed)
    tables = draw_tables(seed)
    tables[..., END] += random.uniform(-3.0, 5.0)
    return tables, random.integers(1, LENGTH, 4, endpoint=True), random.uniform(-2.0, 2.0)


@pytest.mark.parametrize("beam_size", [2, 3])
@given(st.integers(0, 100_000))
@settings(max_examples=60)
def test_an_early_stop_changes_nothing(beam_size, seed):
    """The oracle goes on to the limit; rows that end sooner wait, frozen, for the others."""
    tables, limits, length_penalty = draw_search(seed)
    with precise("float64"):
        beams = compiled(search, beam_size=beam_size)(tables, limits, length_penalty)
    for row, limit in enumerate(limits):
        expected = search_beams(find_scores_in(tables[row]), beam_size, length_penalty, end=END, limit=limit)
        assert_beams_are(beams, row, expected)


@pytest.mark.parametrize(
    ("length_penalty", "probabilities", "second"),
    [
        # sum -7.24: over 3 it is worse than the second one's -4.48 / 2, over 4 it is better
        (1.0, {(): {END: 0.98, 3: 0.012, 4: 0.008}, (3,): {END: 0.94, 3: 0.06}, (3, 3): {3: 1.0}}, (3, 3, 3, END)),
        # sum -2.70: times 4 it is worse than the second one's -4.21 * 2, times 3 it is better
        (-1.0, {(): {END: 0.918, 3: 0.082}, (3,): {END: 0.18, 3: 0.82}}, (3, 3, END)),
    ],
)
def test_a_hypothesis_that_can_still_win_goes_on(length_penalty, probabilities, second):
    table = np.full(draw_tables(0, num_rows=1)[0].shape, -50.0)
    table[:, END] = 0.0
    for tokens, following in probabilities.items():
        table[number_history((START, *tokens))] = [np.log(following.get(token, 1e-20)) for token in range(VOCAB_SIZE)]
    with precise("float64"):
        beams = compiled(search, beam_size=2)(np.stack([table] * 4), LIMITS, length_penalty)
    expected = search_beams(find_scores_in(table), 2, length_penalty, end=END, limit=LENGTH)
    assert [tokens for _, tokens in expected] == [(END,), second]
    assert_beams_are(beams, 0, expected)


@given(st.integers(0, 100_000))
@settings(max_examples=60)
def test_width_1_is_greedy_search(seed):
    tables, limits, length_penalty = draw_search(seed)
    with precise("float64"):
        greedy = compiled(go_greedily)(tables, limits)
        beams = compiled(search, beam_size=1)(tables, limits, length_penalty)
    for row, limit in enumerate(limits):
        tokens, total = search_greedily(find_scores_in(tables[row]), end=END, limit=limit)
        length = len(tokens)
        assert greedy.tokens[row].tolist() == [*tokens, *[0] * (LENGTH - length)]
        assert greedy.lengths[row] == length
        assert abs(greedy.scores[row] - total) < 1e-10
        assert_beams_are(beams, row, [(total / length**length_penalty, tokens)])


def test_a_row_does_not_depend_on_its_batch_mates():
    """Neither when they go on for longer, nor when they are done at once."""
    tables = draw_tables(3)
    tables[1, :, END] += 4.0
    with precise("float64"):
        for seed in range(8):  # a row's number is part of its key, so row 0 stays row 0
            key = jax.random.key(seed)
            drawn, alone = (compiled(draw)(tables[:count], key, LIMITS[:count]) for count in (4, 1))
            assert_rows_equal(drawn, alone, [0])
        together = compiled(search, beam_size=3)(tables, LIMITS, 0.6)
        for row in range(4):
            part = slice(row, row + 1)
            alone = compiled(search, beam_size=3)(tables[part], LIMITS[part], 0.6)
            assert_rows_equal(jax.tree.map(lambda array, part=part: array[part], together), alone, [0])


FINISHERS = {
    "greedy": (lambda tables, limits, on_step: go_greedily(tables, limits, on_step=on_step), 1),
    "sample": (lambda tables, limits, on_step: draw(tables, jax.random.key(0), limits, on_step=on_step), 1),
    # the end token alone in step 1; two that are hopeless in step 2, and whatever comes then is worse
    "beam": (lambda tables, limits, on_step: search(tables, limits, 0.0, beam_size=2, on_step=on_step), 2),
}


@pytest.mark.parametrize("kind", FINISHERS)
def test_the_loop_stops_when_every_row_is_done(kind):
    run, num_steps = FINISHERS[kind]
    counted = []
    run = jit_quickly(partial(run, on_step=lambda: counted.append(1)))

    def count(end_scores, limits):
        counted.clear()
        tables = draw_tables(0, num_rows=2, scale=0.1)
        tables[..., END] = np.array(end_scores)[:, None]
        jax.block_until_ready(run(tables, np.array(limits)))
        jax.effects_barrier()
        return len(counted)

    assert count([50.0, 50.0], [4, 4]) == num_steps
    assert count([50.0, -50.0], [4, 4]) == LENGTH  # one row alone keeps it going
    assert count([-50.0, -50.0], [3, 2]) == 3
    assert count([-50.0, 50.0], [1, 1]) == 1


def test_it_compiles_once():
    traced = []

    def run(tables, limits, length_penalty):
        traced.append(1)
        return search(tables, limits, length_penalty, beam_size=2)

    run = jit_quickly(run)
    first = run(draw_tables(0), LIMITS, 1.0)
    second = run(draw_tables(1), LIMITS[::-1].copy(), 0.5)
    assert len(traced) == 1
    assert not np.array_equal(first.scores, second.scores)


def test_scores_are_the_models_own_in_float32_at_least():
    """Recomputed from the table in float64; padding keeps its share."""
    tables = draw_tables(7)
    rounded = np.asarray(jnp.asarray(tables, jnp.bfloat16), np.float64)
    for dtype, tolerance, values in [("bfloat16", 1e-6, rounded), ("float64", 1e-12, tables)]:
        with precise(dtype):
            given_tables = jnp.asarray(tables, dtype)
            beams = compiled(search, beam_size=2)(given_tables, LIMITS, 0.6)
            drawn = compiled(draw)(given_tables, jax.random.key(1), LIMITS)
        assert beams.scores.dtype == drawn.scores.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
        for row in range(4):
            best = (beams.tokens[row, 0], beams.lengths[row, 0], beams.scores[row, 0], 0.6)
            for tokens, length, score, length_penalty in [best, (*(array[row] for array in drawn), 0.0)]:
                total = sum_logs(values[row], tokens[:length].tolist())
                assert abs(score - total / int(length) ** length_penalty) < tolerance * abs(total)


def sum_logs(table, tokens):
    """Log probability of tokens, by the oracle."""
    find_scores = find_scores_in(table)
    return sum(find_log_probabilities(find_scores(tokens[:i]))[token] for i, token in enumerate(tokens))


def test_padding_and_forbidden_tokens_are_never_generated():
    """However probable; and padding fills what is left."""
    tables = draw_tables(2, scale=0.1)
    tables[..., [3, 4]] += 8.0
    options = {"padding": 4, "forbidden": (3,)}
    with precise("float64"):
        beams = compiled(search, beam_size=40, **options)(tables, LIMITS, 1.0)
        drawn = compiled(draw, **options)(tables, jax.random.key(0), LIMITS)
    for row, limit in enumerate(LIMITS):
        hypotheses = list_hypotheses(find_scores_in(tables[row]), end=END, limit=limit, impossible=(3, 4))
        assert_beams_are(beams, row, rank_hypotheses(hypotheses, 1.0), padding=4)
        length = drawn.lengths[row]
        assert not np.isin(drawn.tokens[row, :length], [3, 4]).any()
        assert np.all(drawn.tokens[row, length:] == 4)
        assert np.flatnonzero(drawn.tokens[row] == END).tolist() == [length - 1]


def test_every_row_may_have_its_own_start():
    tables, starts = draw_tables(6), np.array([1, 4, 3, 0])

    def run(tables, start):
        limits = jnp.asarray(LIMITS)
        return search(tables, limits, 1.0, beam_size=2, start=start), go_greedily(tables, limits, start=start)

    with precise("float64"):
        beams, greedy = jax.device_get(jit_quickly(run)(tables, starts))
    for row, (start, limit) in enumerate(zip(starts, LIMITS, strict=True)):
        find_scores = find_scores_in(tables[row], start)
        assert_beams_are(beams, row, search_beams(find_scores, 2, 1.0, end=END, limit=limit))
        assert abs(greedy.scores[row] - search_greedily(find_scores, end=END, limit=limit)[1]) < 1e-10


def test_limits_are_clipped_to_what_there_is():
    tables = draw_tables(5)
    tables[..., END] -= 9.0
    with precise("float64"):
        made = compiled(go_greedily)(tables, np.array([-1, 0, 5, 100]))
    assert made.lengths.tolist() == [1, 1, LENGTH, LENGTH]
    assert np.flatnonzero(made.tokens == END).tolist() == [0, 4, 11, 15]


def test_smallest_sizes():
    """One row, one beam, one token: the end token, whose log probability is the score."""
    tables = draw_tables(8, num_rows=1)
    expected = sum_logs(tables[0], [END])
    beams = compiled(search, beam_size=1, max_length=1)(tables, None, 1.0)
    greedy = compiled(go_greedily, max_length=1)(tables, None)
    assert beams.tokens.tolist() == [[[END]]]
    assert greedy.tokens.tolist() == [[END]]
    for made in (beams, greedy):
        assert made.lengths.ravel().tolist() == [1]
        assert_close(made.scores.ravel(), [expected], "float32")


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_nan_ends_its_row_and_no_other(broken):
    """From the second token on row 1 has no probabilities: nothing more of it can finish, and the loop ends."""
    tables = draw_tables(9)
    tables[:, number_history([START]), END] -= 50.0
    damaged = tables.copy()
    damaged[1, number_history([START]) + 1 :] = broken
    with precise("float64"):
        for run in (
            lambda tables, limits: compiled(search, beam_size=3)(tables, limits, 0.6),
            compiled(go_greedily),
            lambda tables, limits: compiled(draw)(tables, jax.random.key(3), limits),
        ):
            made = run(damaged, LIMITS)
            assert_rows_equal(made, run(tables, LIMITS), [0, 2, 3])
            if made.lengths.ndim == 2:
                assert made.lengths[1].tolist() == [0, 0, 0]
                assert np.all(made.scores[1] == -np.inf)
                continue
            assert made.tokens[1, 0] not in (0, END)
            assert made.tokens[1, 1:].tolist() == [END, 0, 0]
            assert made.lengths[1] == 2
            assert made.scores[1] == -np.inf


def assert_drawn_from(tokens, scores, kept):
    """Chi-square of drawn tokens against softmax(scores) over those kept, at one in a thousand."""
    assert set(tokens.tolist()) == set(kept)
    if len(kept) > 1:
        probabilities = np.exp(find_log_probabilities([scores[token] for token in kept]))
        counts = np.bincount(tokens, minlength=len(scores))[kept]
        assert chisquare(counts, probabilities * len(tokens)).pvalue > 1e-3


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 0.9), (1.5, 3, 0.7)])
def test_draws_have_the_models_frequencies(temperature, top_k, top_p):
    """Of the first token, and of the second behind each first; padding is left out, and what top-k and top-p leave."""
    num_rows = 3000
    table = draw_tables(12, num_rows=1, scale=0.7)[0]
    rows = partial(draw, temperature=temperature, top_k=top_k, top_p=top_p, max_length=3)
    tables = np.broadcast_to(table, (num_rows, *table.shape))
    tokens = np.asarray(jit_quickly(rows)(tables, jax.random.key(13)).tokens)
    for history in [(START,), *((START, first) for first in range(VOCAB_SIZE) if first != END)]:
        scores = np.where(np.arange(VOCAB_SIZE) == 0, -np.inf, table[number_history(history)] / temperature)
        kept = [token for token in list_probable(scores.tolist(), top_k, top_p) if token]
        follow = tokens[np.all(tokens[:, : len(history) - 1] == history[1:], axis=1), len(history) - 1]
        if len(follow):
            assert_drawn_from(follow, scores, kept)


@given(
    st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    st.integers(0, 7),
    st.sampled_from([1e-6, 0.31, 0.5, 0.83, 1.0]),
)
def test_the_oracle_keeps_the_same_tokens(scores, top_k, top_p):
    """Ties included."""
    with precise("float64"):
        kept = keep_probable(jnp.asarray([scores], jnp.float64), top_k, top_p)[0]
    expected = np.full(6, -np.inf)
    tokens = list_probable(scores, top_k, top_p)
    expected[tokens] = np.array(scores)[tokens]
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("temperature", [0.0, 1e-42])
def test_temperature_0_is_greedy_search(temperature):
    tables = draw_tables(14)
    greedy = compiled(go_greedily)(tables, LIMITS)
    for key in (0, 1):
        drawn = compiled(draw, temperature=temperature)(tables, jax.random.key(key), LIMITS)
        np.testing.assert_array_equal(drawn.tokens, greedy.tokens)
        np.testing.assert_array_equal(drawn.scores, greedy.scores)


MISTAKES = {
    "beam_size": (partial(search, length_penalty=1.0), {"beam_size": 0}, ["beam_size=0"]),
    "length_penalty": (search, {"beam_size": 2, "length_penalty": float("nan")}, ["length_penalty=nan", "finite"]),
    "max_length": (go_greedily, {"max_length": 0}, ["max_length=0", "at least 1"]),
    "batch_size": (go_greedily, {"batch_size": 0}, ["batch_size=0", "at least 1"]),
    "end": (go_greedily, {"end": 5}, ["end=5", "0 to 4"]),
    "start": (go_greedily, {"start": -1}, ["start=-1", "0 to 4"]),
    "starts": (go_greedily, {"start": jnp.zeros(3, int)}, ["start", "(3,)", "4 rows"]),
    "padding": (go_greedily, {"padding": 9}, ["padding=9", "0 to 4"]),
    "forbidden": (go_greedily, {"forbidden": (3, 7)}, ["forbidden=7", "0 to 4"]),
    "end is padding": (go_greedily, {"end": 0}, ["end=0", "padding=0"]),
    "end is forbidden": (go_greedily, {"forbidden": (1, 2)}, ["end=2", "forbidden=(1, 2)"]),
    "limits": (go_greedily, {"limits": jnp.ones(3, int)}, ["limits", "(3,)", "4 rows"]),
    "temperature": (draw, {"temperature": -0.1}, ["temperature=-0.1", "0"]),
    "no temperature": (draw, {"temperature": float("nan")}, ["temperature=nan"]),
    "top_p": (draw, {"top_p": 0.0}, ["top_p=0.0", "(0, 1]"]),
    "high top_p": (draw, {"top_p": 1.1}, ["top_p=1.1", "(0, 1]"]),
    "top_k": (draw, {"top_k": -1}, ["top_k=-1"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named_at_the_door(name, unchecked_shapes):
    function, options, words = MISTAKES[name]
    key = {"key": jax.random.key(0)} if function is draw else {}
    with raises_naming(words):
        function(jnp.asarray(draw_tables(0)), **({"limits": None} | key | options))


def test_scores_of_another_shape_are_refused():
    for shape in [(3, 5), (4, 1, 5)]:
        with raises_naming([str(shape), "4"]):
            greedy_search(lambda state, tokens, shape=shape: (jnp.zeros(shape), state), 0, batch_size=4, **IDS)


def test_beams_of_a_model_have_the_scores_of_their_tokens():
    """Real states, reordered: each hypothesis, replayed for itself, has the log probability that it was found with."""
    encoder = make_encoder_config(prepend_cls=False, positions="sinusoidal", embedding_norm=False)
    apply, params = build(lambda rngs: Seq2Seq(Seq2SeqConfig(encoder, num_decoder_layers=2), rngs=rngs))
    source, source_mask = draw_tokens(1, 2, 6), draw_mask(2, 2, 6)

    def run(params):
        state, step = apply(params, source, source_mask, LENGTH, method="start"), partial(apply, params, method="step")
        options = {"batch_size": 2, "beam_size": 3, "length_penalty": 0.0, **IDS}
        beams = beam_search(step, state, decoder.reorder, **options)

        def replay(carry, expected):
            state, tokens = carry
            logits, state = step(state, tokens)
            return (state, expected), jnp.take_along_axis(jax.nn.log_softmax(logits), expected[:, None], axis=1)[:, 0]

        first = decoder.reorder(state, jnp.repeat(jnp.arange(2), 3)), jnp.full(6, START)
        return beams, jax.lax.scan(replay, first, beams.tokens.reshape(6, LENGTH).T)[1].T.reshape(2, 3, LENGTH)

    beams, logs = jax.device_get(jit_quickly(run)(params))
    assert beams.lengths.min() > 1
    assert len({tuple(tokens) for tokens in beams.tokens[0].tolist()}) == 3
    totals = np.where(np.arange(LENGTH) < beams.lengths[..., None], logs, 0.0).sum(axis=-1)
    assert_close(beams.scores, totals, "float32")
