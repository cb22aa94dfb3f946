"""A batch as a pure function of (seed, step): the step is the whole data state, whatever the number of hosts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.task import AnyBatch, Batch, PairedBatch, Split, join_documents

ALL_ROWS = slice(None)


class Documents(Protocol):
    """Token sequences one after the other; document d is tokens[offsets[d]:offsets[d + 1]]."""

    @property
    def tokens(self) -> np.ndarray:
        """All of them, [T]."""
        ...

    @property
    def offsets(self) -> np.ndarray:
        """[K + 1]."""
        ...


@lru_cache(maxsize=64)  # two epochs of each of the seeds that are trained at once
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order [E] of one epoch.

    Raw 64-bit words of a counter-based generator, sorted stably: unlike `Generator.permutation`, whose stream may
    change, this gives the same order with every NumPy version.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(num_examples)
    order = np.argsort(keys, kind="stable")
    order.flags.writeable = False
    return order


def stream_indices(num_examples: int, *, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Example numbers [B] of the batch at `step` in the endless stream of shuffled epochs; nothing is dropped."""
    begin = step * batch_size
    parts, missing = [], batch_size
    while missing:
        epoch, place = divmod(begin, num_examples)
        part = epoch_order(seed, epoch, num_examples)[place : place + missing]
        parts.append(part)
        begin += len(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def gather_documents(split: Documents, documents: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, length] int32 of the documents [B], cut or padded with 0 on the right, and their mask."""
    begins = split.offsets[documents]
    lengths = np.minimum(split.offsets[documents + 1] - begins, length)
    if len(lengths) and lengths.min() == length:
        tokens = np.empty((len(documents), length), np.int32)
    else:
        tokens = np.zeros((len(documents), length), np.int32)
    # One slice copy a row: half the time of one fancy index over the whole batch at 2,000 tokens.
    for row, begin, size in zip(tokens, begins.tolist(), lengths.tolist(), strict=True):
        row[:size] = split.tokens[begin : begin + size]
    return tokens, np.arange(length) < lengths[:, None]


def gather(split: Split, indices: np.ndarray, length: int) -> AnyBatch:
    """The examples `indices` [B], each document cut to its first `length` tokens and padded with 0 to it."""
    labels, example_mask = split.labels[indices].astype(np.int32), np.ones(len(indices), bool)
    if split.pairs is None:
        return Batch(*gather_documents(split, indices, length), labels, example_mask)
    first, second = (gather_documents(split, documents, length) for documents in split.pairs[indices].T)
    return PairedBatch(*first, *second, labels, example_mask)


def batch_at(split: Split, *, seed: int, step: int, batch_size: int, length: int, rows: slice = ALL_ROWS) -> AnyBatch:
    """The training batch at `step` (from 0). Batches run on over epochs, so every example comes once an epoch.

    Args:
        split: the examples.
        seed: 0 .. 2**64 - 1, chooses the order of every epoch.
        step: number of the batch.
        batch_size: examples of the global batch, B.
        length: N; longer examples keep their first N tokens.
        rows: the rows of the global batch that this host wants; default all.
    """
    indices = stream_indices(split.num_examples, seed=seed, step=step, batch_size=batch_size)
    return gather(split, indices[rows], length)


def measure(split: Split, indices: np.ndarray, longest: int) -> np.ndarray:
    """Tokens [B] of the examples `indices` [B], the longer of two documents, each cut to `longest`."""
    documents = indices if split.pairs is None else split.pairs[indices]
    lengths = np.minimum(split.offsets[documents + 1] - split.offsets[documents], longest)
    return lengths if split.pairs is None else lengths.max(axis=1)


def choose_length(lengths: Sequence[int], longest: int) -> int:
    """The first of the rising `lengths` that holds `longest` tokens; the last one must."""
    return lengths[int(np.searchsorted(lengths, longest))]


@dataclass(frozen=True)
class Part:
    """Examples of a batch that are padded to a length of their own."""

    indices: np.ndarray
    """Numbers of the examples, [B / num_parts]."""
    length: int
    """N."""

    def gather(self, split: Split, rows: slice = ALL_ROWS) -> AnyBatch:
        """These examples, or those rows of them that a host wants."""
        return gather(split, self.indices[rows], self.length)


def parts_at(
    split: Split, *, seed: int, step: int, batch_size: int, lengths: Sequence[int], num_parts: int
) -> tuple[Part, ...]:
    """The examples of `batch_at`, sorted by length into parts of as many rows; every host finds the same.

    Args:
        split, seed, step, batch_size: as of `batch_at`.
        lengths: of which each part is padded to the first that holds its longest example; they rise, and examples
            beyond the last keep their first tokens.
        num_parts: divides the batch size.
    """
    indices = stream_indices(split.num_examples, seed=seed, step=step, batch_size=batch_size)
    sizes = measure(split, indices, lengths[-1])
    order = np.argsort(sizes, kind="stable").reshape(num_parts, -1)
    return tuple(Part(indices[rows], choose_length(lengths, sizes[rows[-1]])) for rows in order)


def order_by_length(split: Split, longest: int) -> np.ndarray:
    """Numbers [E] of all examples, the shortest first, equal ones in the order of the split."""
    return np.argsort(measure(split, np.arange(split.num_examples), longest), kind="stable")


def eval_batches(split: Split, *, batch_size: int, length: int, rows: slice = ALL_ROWS) -> Iterator[AnyBatch]:
    """Every example once, in order; the last batch is filled up with rows whose `example_mask` is False."""
    start, stop, _ = rows.indices(batch_size)
    for begin in range(0, split.num_examples, batch_size):
        yield eval_batch(split, begin, length, slice(start, stop))


def eval_batch(split: Split, begin: int, length: int, rows: slice, order: np.ndarray | None = None) -> AnyBatch:
    """Rows `rows` of the batch that begins with example `begin`, filled up behind the last example.

    `order` [E]: the examples are taken in it.
    """
    places = np.arange(begin + rows.start, begin + rows.stop)
    real = places < split.num_examples
    batch = gather(split, places[real] if order is None else order[places[real]], length)
    return batch if real.all() else fill_up(batch, len(places))


def fill_up(batch: AnyBatch, batch_size: int) -> AnyBatch:
    """`batch` with zero rows added up to `batch_size`; their masks are False."""
    missing = batch_size - len(batch.labels)
    return type(batch)(*(np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) for array in batch))


def pad_documents(documents: Sequence[np.ndarray], length: int) -> AnyBatch:
    """Encoded free texts as one batch with labels 0. Raises UserError for a document longer than `length` tokens."""
    for place, document in enumerate(documents, 1):
        if len(document) > length:
            raise UserError(f"text {place} has {len(document)} tokens, the model takes at most {length}")
    split = join_documents(documents, [0] * len(documents), np.dtype(np.int32))
    return gather(split, np.arange(len(documents)), length)
