"""Sentence pairs in batches of about equally many tokens, a pure function of (seed, step).

Pairs of like length share a bucket: both sides are padded to its length, and a batch has max_tokens / length rows, so
that a run compiles one step a bucket. Every pair comes once an epoch; the batches of all buckets are shuffled together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.loader import ALL_ROWS, epoch_order, gather_documents
from lra_tasks.subwords import END, PADDING
from lra_tasks.translation_data import ParallelSplit, Side

MOST_BUCKETS = 6
LENGTH_STEP = 4
"""Bucket lengths are multiples of it, but for the last."""
MOST_LENGTHS = 256
"""Lengths among which buckets are chosen; longer texts are looked at in coarser steps."""
ROW_MULTIPLE = 8
"""Rows of a batch are a multiple of it where there is room: devices and vector units divide them."""


class PairedSentences(NamedTuple):
    """A batch: source [B, M], decoder input and wanted output [B, N], masks True = real; a pytree of arrays.

    Attributes:
        source: int32, each sentence with its end token, padding is 0.
        source_mask: bool.
        target_in: int32, the end token and then the sentence without its own, fairseq's way.
        target_out: int32, the sentence with its end token.
        target_mask: bool, of both.
        example_mask: [B] bool, False for a row that only fills up the last batch of a bucket; all its masks are False.
    """

    source: Any
    source_mask: Any
    target_in: Any
    target_out: Any
    target_mask: Any
    example_mask: Any


@dataclass(frozen=True, eq=False)
class Bucket:
    """Pairs [E] whose longer side has at most `length` subwords, `rows` of them a batch."""

    length: int
    rows: int
    members: np.ndarray

    @property
    def num_batches(self) -> int:
        """Batches an epoch; the last is filled up with rows that are masked."""
        return -(-len(self.members) // self.rows)


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """How a split falls into buckets: the same in every epoch, only the order changes."""

    buckets: tuple[Bucket, ...]
    num_examples: int

    @cached_property
    def batches(self) -> np.ndarray:
        """[num_batches, 2]: (bucket, number of the batch in it) of every batch of an epoch, before it is shuffled."""
        return np.array([(at, number) for at, one in enumerate(self.buckets) for number in range(one.num_batches)])

    @property
    def num_batches(self) -> int:
        """Batches an epoch."""
        return len(self.batches)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(rows, length) of every bucket, hence of every batch."""
        return tuple((one.rows, one.length) for one in self.buckets)


def plan_batches(split: ParallelSplit, *, max_tokens: int) -> BatchPlan:
    """Buckets of a split, at most MOST_BUCKETS of them, that pad least. `max_tokens` is of one side, padding included.

    Raises UserError where the longest sentence does not fit into a batch of one pair.
    """
    longest = split.longest
    if longest.max() > max_tokens:
        raise UserError(
            f"data.max_tokens={max_tokens} does not hold the longest sentence, {longest.max()} subwords; raise it"
        )
    lengths = choose_lengths(longest)
    which = np.searchsorted(lengths, longest)
    buckets = []
    for at, length in enumerate(lengths.tolist()):
        rows = max_tokens // length
        buckets.append(Bucket(length, rows // ROW_MULTIPLE * ROW_MULTIPLE or rows, np.flatnonzero(which == at)))
    return BatchPlan(tuple(buckets), split.num_examples)


def choose_lengths(longest: np.ndarray) -> np.ndarray:
    """At most MOST_BUCKETS rising lengths, the last the longest, to which sentences of lengths `longest` [E] pad least.

    Exact among multiples of LENGTH_STEP, by dynamic programming: costs[b] is the least number of positions for all
    sentences that fit into lengths[b], with the buckets there are so far, the last of them lengths[b].
    """
    top = int(longest.max())
    step = LENGTH_STEP * -(-top // (LENGTH_STEP * MOST_LENGTHS))
    lengths = np.array([*range(step, top, step), top])
    counts = np.searchsorted(np.sort(longest), lengths, side="right")
    useful = np.diff(counts, prepend=0) > 0  # no bucket is empty
    lengths, counts = lengths[useful], counts[useful]
    costs, before = lengths * counts, []
    for _ in range(MOST_BUCKETS - 1):
        split_costs = costs[:, None] + lengths * (counts - counts[:, None])
        split_costs[np.tri(len(lengths), dtype=bool)] = np.iinfo(np.int64).max  # the bucket before is a shorter one
        best = split_costs.argmin(axis=0)
        least = split_costs.min(axis=0)
        before.append(np.where(least < costs, best, -1))
        costs = np.minimum(costs, least)
    at, chosen = len(lengths) - 1, [top]
    for links in reversed(before):
        if links[at] >= 0:
            at = int(links[at])
            chosen.append(int(lengths[at]))
    return np.array(chosen[::-1])


def training_batch(
    split: ParallelSplit, plan: BatchPlan, *, seed: int, step: int, rows: slice = ALL_ROWS
) -> PairedSentences:
    """The batch at `step` (from 0) of the endless stream of shuffled epochs.

    Args:
        split: the pairs.
        plan: their buckets.
        seed: 0 .. 2**64 - 1, chooses the order of every epoch.
        step: number of the batch.
        rows: the rows of the global batch that this host wants; default all.
    """
    numbers, length = choose_pairs(plan, seed=seed, step=step)
    return gather_pairs(split, numbers[rows], length)


def choose_pairs(plan: BatchPlan, *, seed: int, step: int) -> tuple[np.ndarray, int]:
    """The pairs of the batch at `step`, -1 for a row that only fills up, and the length of its bucket."""
    epoch, place = divmod(step, plan.num_batches)
    at, number = plan.batches[epoch_order(seed, 2 * epoch, plan.num_batches)[place]]
    bucket = plan.buckets[at]
    return take_rows(order_pairs(plan, seed, epoch)[at], number, bucket.rows), bucket.length


@lru_cache(maxsize=2)
def order_pairs(plan: BatchPlan, seed: int, epoch: int) -> tuple[np.ndarray, ...]:
    """The pairs of each bucket in the order of an epoch."""
    order = epoch_order(seed, 2 * epoch + 1, plan.num_examples)  # odd; the even ones are of batches
    owners = np.empty(plan.num_examples, np.int8)
    for at, bucket in enumerate(plan.buckets):
        owners[bucket.members] = at
    return tuple(order[owners[order] == at] for at in range(len(plan.buckets)))


def take_rows(members: np.ndarray, number: int, rows: int) -> np.ndarray:
    """Part `number` of `members`, `rows` at once; [rows], -1 for rows that fill up the last part."""
    chosen = members[number * rows : (number + 1) * rows]
    return np.pad(chosen, (0, rows - len(chosen)), constant_values=-1)


def scoring_batches(split: ParallelSplit, *, max_tokens: int) -> Iterator[tuple[np.ndarray, int]]:
    """Every pair once, by bucket, in order, as `choose_pairs` has them: for the loss of a whole split."""
    plan = plan_batches(split, max_tokens=max(max_tokens, int(split.longest.max())))
    for at, number in plan.batches:
        bucket = plan.buckets[at]
        yield take_rows(bucket.members, number, bucket.rows), bucket.length


def gather_pairs(split: ParallelSplit, indices: np.ndarray, length: int) -> PairedSentences:
    """The pairs `indices` [B], -1 for a row that only fills up, both sides padded to `length`."""
    real = indices >= 0
    source, source_mask = gather_side(split.source, indices, length)
    target, target_mask = gather_side(split.target, indices, length)
    target_in = np.pad(target[:, :-1], [(0, 0), (1, 0)], constant_values=END)
    target_in[~target_mask] = PADDING
    return PairedSentences(source, source_mask, target_in, target, target_mask, real)


def gather_side(side: Side, indices: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, length] int32 of the sentences, padded on the right, and their mask."""
    tokens, mask = gather_documents(side, np.maximum(indices, 0), length)
    tokens[indices < 0], mask[indices < 0] = PADDING, False
    return tokens, mask


def measure_padding(split: ParallelSplit, plan: BatchPlan) -> float:
    """Share of the positions of an epoch, both sides, that is padding."""
    room = 2 * sum(one.num_batches * one.rows * one.length for one in plan.buckets)
    return 1.0 - (len(split.source.tokens) + len(split.target.tokens)) / room


def source_batches(
    sentences: Sequence[Sequence[int]], *, max_tokens: int, max_rows: int = 128, bounds: Sequence[int] = ()
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(source [B, M], its mask, numbers [B] of the sentences, -1 for rows that fill up), few shapes, longest last.

    The rows of a bucket are spread evenly over its batches, so that few of them only fill up. With `bounds`, rising
    lengths of which the last holds every sentence, buckets have these and as many rows as fit, so that other sentences
    come in the same shapes; batches are then in the order of their lengths.
    """
    if not len(sentences):
        return
    lengths = np.array([len(sentence) for sentence in sentences])
    lengths_of_buckets = np.array(bounds) if len(bounds) else choose_lengths(lengths)
    which = np.searchsorted(lengths_of_buckets, lengths)
    for at, bound in enumerate(lengths_of_buckets.tolist()):
        members = np.flatnonzero(which == at)
        rows = max(1, min(max_rows, max_tokens // bound))
        num_batches = -(-len(members) // rows)
        if len(bounds):
            members = members[np.argsort(lengths[members], kind="stable")]
        elif num_batches:
            rows = -(-len(members) // num_batches)
        for number in range(num_batches):
            numbers = take_rows(members, number, rows)
            tokens = np.full((rows, bound), PADDING, np.int32)
            # a row that fills up is one end token: with nothing to attend there is no softmax
            tokens[:, 0] = END
            for row, index in zip(tokens, numbers.tolist(), strict=True):
                if index >= 0:
                    row[: lengths[index]] = sentences[index]
            yield tokens, np.arange(bound) < np.where(numbers < 0, 1, lengths[numbers])[:, None], numbers
