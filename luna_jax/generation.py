"""Sequences out of a model that scores the next token: greedy search, beam search and sampling. Pure, for `jax.jit`.

A model is a function step(state, tokens [B]) -> (scores [B, V], state): the scores of the token behind `tokens`. The
state is any pytree; only beam search touches its rows, through `reorder(state, rows [R])`, whose row r continues the
old row rows[r]. Every search is a `jax.lax.while_loop` that ends with its last row.

What holds for all three:

- `start` is the token that the model is fed first, one for all rows or one each [B]; it is not part of the result.
- `limits` [B] are the most tokens of each row, the end token among them, which is forced there (fairseq's max_len_a
  source + max_len_b); they are clipped to 1 .. `max_length`, which is static and the default of every row.
- `padding` and `forbidden` tokens are never generated. They keep their share of the probability, as in fairseq: a score
  is the log probability that the model gives.
- The log softmax is in float32 at least, and so are the scores. NaN means that nothing is possible.
- A mistake in a static argument is a ValueError; ids are held against the V that `step` shows.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from luna_jax.axes import Array
from luna_jax.generation_rules import Reorder, Rules, State, Step, lay_down, score_possible


class Generated(NamedTuple):
    """One sequence a row, without the token it began with."""

    tokens: Int[Array, "B T"]
    """Padding behind the end token."""
    lengths: Int[Array, "B"]
    """Tokens up to and with the end token."""
    scores: Float[Array, "B"]
    """Sum of their log probabilities."""


class Beams(NamedTuple):
    """The hypotheses of every row that beam search finished, best first; k is the width of the beam."""

    tokens: Int[Array, "B k T"]
    """Padding behind the end token."""
    lengths: Int[Array, "B k"]
    """Tokens up to and with the end token; 0 where there are fewer hypotheses than k."""
    scores: Float[Array, "B k"]
    """Sum of log probabilities over length ** length_penalty; -inf where there is no hypothesis."""


def greedy_search(
    step: Step,
    state: State,
    *,
    batch_size: int,
    start: int | Array,
    end: int,
    max_length: int,
    limits: Array | None = None,
    padding: int = 0,
    forbidden: tuple[int, ...] = (),
) -> Generated:
    """The most probable token, again and again, until the end token or the row's limit.

    A row for which nothing is possible (NaN) ends there with score -inf.
    """
    rows = {"batch_size": batch_size, "start": start, "max_length": max_length, "limits": limits}
    rules = lay_down(step, state, **rows, end=end, padding=padding, forbidden=forbidden)
    return _follow(step, state, lambda logs, position: jnp.argmax(logs, axis=-1), rules, max_length, padding)


def sample(
    step: Step,
    state: State,
    key: Array,
    *,
    batch_size: int,
    start: int | Array,
    end: int,
    max_length: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    limits: Array | None = None,
    padding: int = 0,
    forbidden: tuple[int, ...] = (),
) -> Generated:
    """Tokens drawn from softmax(scores / temperature), until the end token or the row's limit.

    `top_k` above 0: among the k most probable alone; `top_p` below 1: then among the fewest of these that together have
    that share. Temperature 0 is greedy. Each draw has a key of its own, of the row's number and the position, so that a
    row does not depend on the others (JAX's rbg keys cannot do that: under vmap they share one stream). The scores are
    the model's own, at temperature 1. A prompt is the caller's: advance the state over all but its last token, which is
    `start`. A row for which nothing is possible (NaN) ends there with score -inf.
    """
    if not 0.0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}; it must be finite and at least 0, which is greedy")
    if top_k < 0:
        raise ValueError(f"top_k={top_k}; give a number of tokens, or 0 for all")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p={top_p} is not in (0, 1]; 1 keeps every token")
    rows = {"batch_size": batch_size, "start": start, "max_length": max_length, "limits": limits}
    rules = lay_down(step, state, **rows, end=end, padding=padding, forbidden=forbidden)
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch_size))

    def choose(logs, position):
        if temperature == 0.0:
            return jnp.argmax(logs, axis=-1)
        best = jnp.max(logs, axis=-1, keepdims=True)  # at 0, so that no temperature is too small
        kept = keep_probable((logs - best) / temperature, top_k, top_p)
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, position)
        return jax.vmap(jax.random.categorical)(keys, kept)

    return _follow(step, state, choose, rules, max_length, padding)


def keep_probable(logs: Float[Array, "B V"], top_k: int, top_p: float) -> Float[Array, "B V"]:
    """Scores with -inf in place of all but the `top_k` best (0: all), and then of what lies behind a share of `top_p`.

    The best token always stays; of equal ones the lower id goes first.
    """
    limited = 0 < top_k < logs.shape[-1]
    if not limited and top_p == 1.0:
        return logs
    order = jnp.argsort(-logs, axis=-1)
    ranks = jnp.argsort(order, axis=-1)
    if limited:
        logs = jnp.where(ranks < top_k, logs, -jnp.inf)
    if top_p < 1.0:
        shares = jax.nn.softmax(jnp.take_along_axis(logs, order, axis=-1), axis=-1)
        before = jnp.cumsum(shares, axis=-1) - shares
        logs = jnp.where(jnp.take_along_axis(before, ranks, axis=-1) < top_p, logs, -jnp.inf)
    return logs


def beam_search(
    step: Step,
    state: State,
    reorder: Reorder,
    *,
    batch_size: int,
    beam_size: int,
    start: int | Array,
    end: int,
    max_length: int,
    length_penalty: float | Array,
    limits: Array | None = None,
    padding: int = 0,
    forbidden: tuple[int, ...] = (),
) -> Beams:
    """The k = `beam_size` best finished hypotheses by fairseq's score, sum(log p) / length ** length_penalty.

    The length counts the end token. `state` has B rows and is repeated to B k. Of the 2 k best candidates of a step,
    end tokens among the first k finish a hypothesis, and the best k others live on: end tokens starve no beam. A row is
    done, and frozen, when no live hypothesis can beat its worst finished one: log p never rises, so the most that a sum
    can come to is that sum over the largest length ** length_penalty still open to it, of the limit or, with a negative
    penalty, of the next length. fairseq stops as soon as k are finished, so ours finds no worse ones. Width 1 is greedy
    search: it is done when its one hypothesis has ended.
    """
    if not isinstance(length_penalty, Array) and not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty={length_penalty} is not finite; 1 scores by the mean, 0 by the sum")
    state = reorder(state, jnp.repeat(jnp.arange(batch_size), max(beam_size, 1)))
    rows = {"batch_size": batch_size, "beam_size": beam_size, "start": start, "max_length": max_length}
    rules = lay_down(step, state, **rows, limits=limits, end=end, padding=padding, forbidden=forbidden)
    dtype, shape = rules.dtype, (batch_size, beam_size)
    divisors = (jnp.arange(1, max_length + 1, dtype=dtype) ** length_penalty).astype(dtype)

    def advance(search):
        logits, state = step(search.state, search.last.reshape(-1))
        logs = score_possible(logits, rules, search.position).reshape(*shape, -1)
        search, parents = _extend(search, logs, end, divisors, rules.limits.reshape(shape)[:, 0])
        rows = jnp.arange(batch_size)[:, None] * beam_size + parents
        return search._replace(state=reorder(state, rows.reshape(-1)))

    blank, nothing = jnp.full((*shape, max_length), padding, jnp.int32), jnp.full(shape, -jnp.inf, dtype)
    live = nothing.at[:, 0].set(0.0)
    begin = _Search(
        jnp.int32(0), state, rules.first.reshape(shape), blank, live, blank, jnp.zeros(shape, jnp.int32), nothing
    )

    def is_going(search):
        return (search.position < max_length) & jnp.any(search.live_scores > -jnp.inf)

    search = jax.lax.while_loop(is_going, advance, begin)
    return Beams(search.tokens, search.lengths, search.scores)


class _Search(NamedTuple):
    """Beam search under way. Live hypotheses have not ended; finished ones are sorted, best first."""

    position: Array
    state: State
    last: Array  # [B, k], the token to go on from
    live_tokens: Array  # [B, k, T]
    live_scores: Array  # [B, k], sums of log probabilities; -inf: not alive, nor is anything that comes of it
    tokens: Array  # [B, k, T]
    lengths: Array  # [B, k]
    scores: Array  # [B, k]


def _extend(search: _Search, logs: Array, end: int, divisors: Array, limits: Array) -> tuple[_Search, Array]:
    """One token more, of log probability `logs` [B, k, V]: the search, and which of its beams each beam continues."""
    beam_size, vocab_size = logs.shape[1:]
    totals = (search.live_scores[:, :, None] + logs).reshape(logs.shape[0], -1)
    found, places = jax.lax.top_k(totals, min(2 * beam_size, totals.shape[1]))
    parents, chosen = places // vocab_size, places % vocab_size
    tokens = _pick(search.live_tokens, parents).at[:, :, search.position].set(chosen)
    is_end = chosen == end
    position = search.position + 1

    ended = jnp.where(is_end, found / divisors[position - 1], -jnp.inf)[:, :beam_size]
    # top_k takes the first of equal scores, so what has not ended, -inf, never takes the place of a -inf that is there
    scores, best = jax.lax.top_k(jnp.concatenate([search.scores, ended], axis=1), beam_size)
    lengths = jnp.concatenate([search.lengths, jnp.full_like(search.lengths, position)], axis=1)
    finished = _pick(jnp.concatenate([search.tokens, tokens[:, :beam_size]], axis=1), best)

    live, kept = jax.lax.top_k(jnp.where(is_end, -jnp.inf, found), beam_size)
    following = divisors[jnp.minimum(position, divisors.shape[0] - 1)]
    can_win = live[:, 0] / jnp.maximum(following, divisors[limits - 1]) > scores[:, -1]
    if beam_size == 1:
        can_win &= scores[:, -1] == -jnp.inf
    live = jnp.where(can_win[:, None], live, -jnp.inf)
    last, live_tokens = _pick(chosen, kept), _pick(tokens, kept)
    # the state is still the old one, for the caller to reorder
    new = _Search(position, search.state, last, live_tokens, live, finished, _pick(lengths, best), scores)
    return new, _pick(parents, kept)


def _pick(array: Array, places: Array) -> Array:
    """array[b, places[b, j]] of [B, J] or [B, J, T]."""
    return array[jnp.arange(array.shape[0])[:, None], places]


class _Path(NamedTuple):
    """One sequence a row, under way."""

    position: Array
    state: State
    last: Array  # [B]
    is_done: Array  # [B]
    made: Generated


def _follow(step: Step, state: State, choose: Callable, rules: Rules, max_length: int, padding: int) -> Generated:
    """The tokens that choose(log probabilities [B, V], position) takes, until every row has ended."""

    def advance(path):
        logits, state = step(path.state, path.last)
        logs = score_possible(logits, rules, path.position)
        chosen = jnp.where(jnp.any(logs > -jnp.inf, axis=-1), choose(logs, path.position), rules.end).astype(jnp.int32)
        gained = jnp.take_along_axis(logs, chosen[:, None], axis=-1)[:, 0]
        tokens = path.made.tokens.at[:, path.position].set(jnp.where(path.is_done, padding, chosen))
        lengths = jnp.where(path.is_done, path.made.lengths, path.position + 1)
        scores = path.made.scores + jnp.where(path.is_done, 0.0, gained)
        is_done = path.is_done | (chosen == rules.end)
        return _Path(path.position + 1, state, chosen, is_done, Generated(tokens, lengths, scores))

    num_rows = rules.first.shape[0]
    blank = jnp.full((num_rows, max_length), padding, jnp.int32)
    begin = Generated(blank, jnp.zeros(num_rows, jnp.int32), jnp.zeros(num_rows, rules.dtype))
    path = _Path(jnp.int32(0), state, rules.first, jnp.zeros(num_rows, bool), begin)

    def is_going(path):
        return (path.position < max_length) & ~jnp.all(path.is_done)

    return jax.lax.while_loop(is_going, advance, path).made
