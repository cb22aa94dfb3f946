"""Batches: every example once an epoch, a function of (seed, step) alone, hosts' rows, and whole evaluations."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lra_tasks import loader
from lra_tasks.errors import UserError
from lra_tasks.loader import batch_at, epoch_order, eval_batches, measure, order_by_length, pad_documents, parts_at
from lra_tasks.task import Split

LENGTH = 9


def make_split(num_examples):
    """Examples that carry their own number: example e is (e % 7 + 1) tokens of value e + 1, label e % 10."""
    lengths = np.arange(num_examples) % 7 + 1
    tokens = np.repeat(np.arange(num_examples) + 1, lengths).astype(np.uint16)
    return Split(tokens, np.concatenate([[0], np.cumsum(lengths)]), (np.arange(num_examples) % 10).astype(np.uint8))


def numbers(batch):
    return (batch.tokens[:, 0] - 1).tolist()


def check_rows(batch, split):
    for row, mask, label, number in zip(batch.tokens, batch.token_mask, batch.labels, numbers(batch), strict=True):
        example = split.document(number)
        assert row[mask].tolist() == example.tolist()
        assert not row[~mask].any()
        assert mask.sum() == len(example)
        assert label == split.labels[number]


@given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 2**64 - 1), st.integers(1, 4))
def test_every_example_once_an_epoch(num_examples, batch_size, seed, epochs):
    """Epochs run on through the batches: the stream cut at multiples of E gives permutations, nothing is dropped."""
    split = make_split(num_examples)
    steps = -(-epochs * num_examples // batch_size)
    batches = [batch_at(split, seed=seed, step=s, batch_size=batch_size, length=LENGTH) for s in range(steps)]
    stream = [number for batch in batches for number in numbers(batch)]
    for epoch in range(epochs):
        part = stream[epoch * num_examples : (epoch + 1) * num_examples]
        assert part == epoch_order(seed, epoch, num_examples).tolist()
        assert sorted(part) == list(range(num_examples))
    for batch in batches:
        check_rows(batch, split)
        assert batch.example_mask.all()
        assert batch.tokens.shape == batch.token_mask.shape == (batch_size, LENGTH)
        assert [a.dtype for a in batch] == [np.int32, bool, np.int32, bool]


def test_a_batch_is_a_function_of_seed_and_step():
    """Any order of calls, a fresh cache, and other splits and seeds in between change nothing."""
    split, other = make_split(50), make_split(31)
    wanted = {step: numbers(batch_at(split, seed=3, step=step, batch_size=16, length=LENGTH)) for step in range(20)}
    for step in (19, 0, 7, 7, 12, 3, 19, 1):
        batch_at(other, seed=3, step=step, batch_size=8, length=LENGTH)
        batch_at(split, seed=4, step=step, batch_size=16, length=LENGTH)
        loader.epoch_order.cache_clear()
        assert numbers(batch_at(split, seed=3, step=step, batch_size=16, length=LENGTH)) == wanted[step]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_order(seed, epoch, 100).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(order) for order in orders}) == 4
    assert all(order != sorted(order) for order in orders)


def test_order_is_pinned():
    found = hashlib.sha256(epoch_order(1, 2, 1000).astype("<i8").tobytes()).hexdigest()[:16]
    assert found == "095c3c829aab2441", (
        "the order of the examples has changed: a run that is resumed would see other batches than before it stopped, "
        "and no recorded run can be repeated. If that is meant, say so in the changelog and measure again"
    )


def test_orders_are_uniform():
    """Where an example lands is uniform over the places, within binomial bounds for each of the 5 x 5 counts."""
    counts = np.zeros((5, 5), int)
    total = 4000
    for epoch in range(total):
        counts[np.arange(5), epoch_order(8, epoch, 5)] += 1
    assert (abs(counts - total / 5) < 4.5 * np.sqrt(total * 0.2 * 0.8)).all()


@given(st.integers(2, 40), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32))
def test_hosts_together_see_each_example_once(num_examples, hosts, rows_a_host, seed):
    split, batch_size = make_split(num_examples), hosts * rows_a_host
    seen = []
    for step in range(-(-num_examples // batch_size)):
        whole = batch_at(split, seed=seed, step=step, batch_size=batch_size, length=LENGTH)
        parts = []
        for host in range(hosts):
            rows = slice(host * rows_a_host, (host + 1) * rows_a_host)
            parts.append(batch_at(split, seed=seed, step=step, batch_size=batch_size, length=LENGTH, rows=rows))
        for name in whole._fields:
            assert np.array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))
        seen += numbers(whole)
    assert sorted(seen[:num_examples]) == list(range(num_examples))


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 3))
def test_an_evaluation_covers_each_example_once_in_order(num_examples, rows_a_host, hosts):
    split, batch_size, seen = make_split(num_examples), rows_a_host * hosts, []
    parts = [
        list(
            eval_batches(
                split, batch_size=batch_size, length=LENGTH, rows=slice(h * rows_a_host, (h + 1) * rows_a_host)
            )
        )
        for h in range(hosts)
    ]
    assert len({len(part) for part in parts}) == 1, "every host makes the same number of steps"
    for step in zip(*parts, strict=True):
        for batch in step:
            assert batch.tokens.shape == (rows_a_host, LENGTH)
            assert [a.dtype for a in batch] == [np.int32, bool, np.int32, bool]
            assert not batch.tokens[~batch.example_mask].any()
            assert not batch.token_mask[~batch.example_mask].any()
            real = type(batch)(*(array[batch.example_mask] for array in batch))
            check_rows(real, split)
            seen += numbers(real)
    assert seen == list(range(num_examples))


def test_longer_examples_keep_their_first_tokens():
    split = Split(np.arange(1, 8, dtype=np.uint8), np.array([0, 5, 7]), np.zeros(2, np.uint8))
    batch = next(eval_batches(split, batch_size=2, length=3))
    assert batch.tokens.tolist() == [[1, 2, 3], [6, 7, 0]]
    assert batch.token_mask.tolist() == [[True] * 3, [True, True, False]]


def test_free_text_is_padded_and_never_cut():
    batch = pad_documents([np.array([3, 4], np.uint8), np.array([5], np.uint8)], 4)
    assert batch.tokens.tolist() == [[3, 4, 0, 0], [5, 0, 0, 0]]
    assert batch.example_mask.all()
    with pytest.raises(UserError, match=r"text 2 has 5 tokens, the model takes at most 4"):
        pad_documents([np.ones(4, np.uint8), np.ones(5, np.uint8)], 4)


@given(st.integers(8, 40), st.integers(1, 4), st.integers(1, 3), st.integers(0, 30), st.booleans())
def test_parts_are_the_batch_sorted_by_length(num_examples, num_parts, rows_a_part, step, paired):
    """Each example of the batch once, each part padded to the first length that holds its longest, cut at the last."""
    split = make_split(num_examples)
    if paired:
        pairs = np.random.default_rng(step).integers(0, num_examples, (num_examples, 2))
        split = Split(split.tokens, split.offsets, split.labels, pairs)
    lengths, order = (2, 3, 6), {"seed": 3, "step": step, "batch_size": num_parts * rows_a_part}
    parts = parts_at(split, **order, lengths=lengths, num_parts=num_parts)
    indices = loader.stream_indices(num_examples, **order)
    assert sorted(index for part in parts for index in part.indices) == sorted(indices)
    documents = split.pairs if paired else np.arange(num_examples)[:, None]
    sizes = [[min(max(split.lengths[documents[index]]), 6) for index in part.indices] for part in parts]
    assert np.concatenate(sizes).tolist() == sorted(np.concatenate(sizes))
    for part, found in zip(parts, sizes, strict=True):
        assert len(found) == rows_a_part
        assert part.length == min(length for length in lengths if length >= max(found))
        batch = part.gather(split, slice(0, 1))
        assert batch[0].shape == (1, part.length)
        assert batch.labels[0] == split.labels[part.indices[0]]
        longer = max(mask.sum() for mask in ([batch.first_mask, batch.second_mask] if paired else [batch.token_mask]))
        assert longer == found[0]


def test_equal_lengths_keep_their_order():
    """So that every host and every NumPy version finds the same parts, and evaluations the same batches."""
    split = make_split(20)
    order = order_by_length(split, 5)
    assert order.tolist() == sorted(range(20), key=lambda number: min(number % 7 + 1, 5))
    assert measure(split, order, 5).tolist() == sorted(min(number % 7 + 1, 5) for number in range(20))
    (part,) = parts_at(split, seed=1, step=0, batch_size=20, lengths=(5,), num_parts=1)
    stream = loader.stream_indices(20, seed=1, step=0, batch_size=20).tolist()
    assert part.indices.tolist() == sorted(stream, key=lambda number: min(number % 7 + 1, 5))
