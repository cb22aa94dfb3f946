"""The vectorised grammar: its answers, its statistics, its bytes."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tasks import answer

from lra_tasks import listops_trees
from lra_tasks.listops import GRAMMARS, SEED
from lra_tasks.listops_trees import Grammar, make_chunk
from lra_tasks.vocab import LISTOPS_VOCABULARY

LISTOPS = GRAMMARS["listops"]
CHUNKS = 6
# An independent plain-Python recursion of the reference's node choices, 2,284,572 draws: 189,040 accepted.
ORACLE_DRAWS, ORACLE_ACCEPTED, ORACLE_MEAN_LENGTH, ORACLE_MEAN_LENGTH_ERROR = 2_284_572, 189_040, 1034.65, 0.90
# Class frequencies of another simulation, 93,707 trees, printed with three decimals.
CLASSES = np.array([0.170, 0.090, 0.077, 0.082, 0.090, 0.085, 0.078, 0.072, 0.087, 0.169])
CLASSES_TREES, CLASSES_ROUNDING = 93_707, 0.0005
SIGMAS = 4.5  # a two-sided chance of 7e-6 for each number that is compared


@pytest.fixture(scope="module")
def chunks():
    return [make_chunk(LISTOPS, 77, chunk) for chunk in range(CHUNKS)]


def sequences(trees):
    ends = np.cumsum(trees.lengths)
    return [trees.tokens[end - length : end] for end, length in zip(ends, trees.lengths, strict=True)]


def test_ids_are_the_vocabularys():
    assert [LISTOPS_VOCABULARY.tokens[listops_trees.FIRST_DIGIT + d] for d in range(10)] == list("0123456789")
    operators = [LISTOPS_VOCABULARY.tokens[listops_trees.FIRST_OPERATOR + i] for i in range(4)]
    assert operators == list(listops_trees.OPERATORS)
    assert LISTOPS_VOCABULARY.tokens[listops_trees.CLOSE] == "]"


def test_answers_and_shapes(chunks):
    for sequence, label in list(zip(sequences(chunks[0]), chunks[0].labels, strict=True))[:200]:
        assert answer(sequence) == label
        assert LISTOPS.min_length < len(sequence) < LISTOPS.max_length
        assert node_depth(sequence) == 10, "every tree of 500 tokens and more reaches the depth cap"


def node_depth(ids):
    """Depth of the deepest node, root = 1."""
    opened = np.cumsum((ids > 10) & (ids < 15)) - np.cumsum(ids == 15)
    return int(opened[ids <= 10].max()) + 1


@given(
    st.builds(
        Grammar, max_depth=st.integers(2, 6), max_arity=st.integers(2, 10), min_length=st.integers(0, 8),
        max_length=st.integers(20, 120),
    ),
    st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_any_grammar(grammar, seed):
    trees = make_chunk(grammar, seed, 0, num_roots=300)
    assert trees.tokens.dtype == trees.labels.dtype == np.uint8
    assert len(trees.tokens) == trees.lengths.sum()
    for sequence, label in zip(sequences(trees), trees.labels, strict=True):
        assert grammar.min_length < len(sequence) < grammar.max_length
        assert node_depth(sequence) <= grammar.max_depth
        assert max(arities(sequence), default=2) <= grammar.max_arity
        assert min(arities(sequence), default=2) >= 2
        assert answer(sequence) == label


def arities(ids):
    """Number of arguments of every operator."""
    stack, found = [0], []
    for token in ids.tolist():
        if token == 15:
            found.append(stack.pop())
        else:
            stack[-1] += 1
            if token > 10:
                stack.append(0)
    return found


@pytest.mark.parametrize("limits", [{"max_depth": 1}, {"max_arity": 1}, {"max_arity": 11}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(ValueError, match=r"max_depth must be at least 2, max_arity 2 .. 10"):
        dataclasses.replace(LISTOPS, **limits)


def test_node_choices_are_uniform():
    """Root operators 1/4; arity, operator and digit uniform: every count within binomial bounds."""
    grammar = Grammar(max_depth=2, max_arity=10, min_length=0, max_length=100)
    trees = make_chunk(grammar, 5, 0, num_roots=200_000)
    heads = np.array([s[0] for s in sequences(trees)])
    expect_share((heads > 10).sum(), len(heads), 0.25)
    operator_heads, arity = heads[heads > 10], trees.lengths[heads > 10] - 2
    for value in range(4):
        expect_share((operator_heads == 11 + value).sum(), len(operator_heads), 1 / 4)
        for count in range(2, 11):
            both = (operator_heads == 11 + value) & (arity == count)
            expect_share(both.sum(), len(arity), 1 / 36)
    digits = trees.tokens[trees.tokens <= 10]
    for value in range(10):
        expect_share((digits == 1 + value).sum(), len(digits), 1 / 10)


def expect_share(count, total, share):
    assert abs(count - total * share) < SIGMAS * np.sqrt(total * share * (1 - share))


def test_statistics_of_the_official_grammar(chunks):
    """Acceptance rate, mean length and class frequencies against independent simulations; bounds from both samples."""
    draws = CHUNKS * listops_trees.ROOTS_PER_CHUNK
    lengths, labels = (np.concatenate([getattr(c, name) for c in chunks]) for name in ("lengths", "labels"))
    rate, oracle_rate = len(labels) / draws, ORACLE_ACCEPTED / ORACLE_DRAWS
    error = np.sqrt(oracle_rate * (1 - oracle_rate) * (1 / draws + 1 / ORACLE_DRAWS))
    assert abs(rate - oracle_rate) < SIGMAS * error
    error = np.hypot(lengths.std() / np.sqrt(len(lengths)), ORACLE_MEAN_LENGTH_ERROR)
    assert abs(lengths.mean() - ORACLE_MEAN_LENGTH) < SIGMAS * error
    shares = np.bincount(labels, minlength=10) / len(labels)
    errors = np.sqrt(CLASSES * (1 - CLASSES) * (1 / len(labels) + 1 / CLASSES_TREES))
    assert (abs(shares - CLASSES) < SIGMAS * errors + CLASSES_ROUNDING).all()


def test_dropping_trees_early_changes_no_verdict():
    """The accepted trees of a chunk are those of an endless maximum whose length fits: pruning is only a saving."""
    wide = Grammar(max_depth=4, max_arity=4, min_length=0, max_length=10_000)
    counts = np.unique(make_chunk(wide, 9, 0, 100_000).lengths, return_counts=True)
    within = counts[1][(counts[0] > 10) & (counts[0] < 40)].sum() / 100_000
    narrow = make_chunk(dataclasses.replace(wide, min_length=10, max_length=40), 10, 0, 100_000)
    assert abs(len(narrow.labels) / 100_000 - within) < SIGMAS * np.sqrt(2 * within * (1 - within) / 100_000)


def test_median_by_counting_agrees_with_sorting():
    rng = np.random.Philox(key=np.array([1, 2], np.uint64))
    sizes = (2 + rng.random_raw(4000) % np.uint64(9)).astype(np.uint8)
    digits = (rng.random_raw(int(sizes.sum())) % np.uint64(10)).astype(np.uint8)
    begins = np.cumsum(sizes, dtype=np.int64) - sizes
    histograms = np.add.reduceat(listops_trees.HISTOGRAM[digits], begins)
    for operator in range(4):
        found = listops_trees.apply_operators(np.full(4000, operator, np.uint8), sizes, histograms)
        groups = [digits[b : b + n].tolist() for b, n in zip(begins, sizes, strict=True)]
        assert found.tolist() == [answer([11 + operator, *(d + 1 for d in group), 15]) for group in groups]


def test_chunks_and_seeds_differ():
    parts = [make_chunk(LISTOPS, seed, chunk, 500).tokens.tobytes() for seed, chunk in ((1, 0), (1, 1), (2, 0), (0, 1))]
    assert len(set(parts)) == 4


@pytest.mark.parametrize(("name", "expected"), [("listops", "81b1ab7eeed9812d"), ("listops_small", "793b218fd4080ea5")])
def test_stream_is_pinned(name, expected):
    trees = make_chunk(GRAMMARS[name], SEED, 0)
    digest = hashlib.sha256()
    for array, dtype in ((trees.tokens, "u1"), (trees.lengths, "<i4"), (trees.labels, "u1")):
        digest.update(array.astype(dtype).tobytes())
    assert digest.hexdigest()[:16] == expected, (
        f"the stream of {name} has changed: everybody's prepared data, and every result on it, would differ from ours. "
        "If that is meant, raise the version of the task and measure the recorded results again"
    )
