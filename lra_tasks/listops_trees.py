"""The ListOps grammar as whole arrays, level by level. Imports NumPy and the token table only: workers start fast.

Grammar of the reference generator (lra_benchmarks/data/listops.py, numbers in `listops.py`): a node above the depth cap
is an operator with probability 1/4, else a digit 0..9; a node at the cap is a digit; an operator takes 2..max_arity
arguments; all choices are uniform. The root is drawn like any node. A tree is accepted when
min_length < tokens < max_length, where a digit is one token and an operator two (its name and the closing bracket).

A chunk of draws is a pure function of (grammar, seed, chunk number): raw words of the counter-based generator Philox,
whose stream is the same on every machine and with every NumPy version.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lra_tasks.vocab import LISTOPS_VOCABULARY

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
MIN, MAX, MED, SM = range(4)

ROOTS_PER_CHUNK = 1 << 14
FIRST_DIGIT = LISTOPS_VOCABULARY.ids["0"]
FIRST_OPERATOR = LISTOPS_VOCABULARY.ids[OPERATORS[0]]
CLOSE = LISTOPS_VOCABULARY.ids["]"]

# A node is one 32-bit word: an operator when its two highest bits are zero, which is 1/4 exactly.
OPERATOR_BELOW = 1 << 30
# Histogram of digits in one 64-bit word: 4 bits a digit (counts up to 10), their sum from bit 40.
HISTOGRAM = np.array([(1 << (4 * digit)) | (digit << 40) for digit in range(10)], np.uint64)
COUNTS = np.uint64((1 << 40) - 1)
ONES = np.uint64(0x1111111111)  # times a histogram of counts: digit v of the product counts the arguments <= v


@dataclass(frozen=True)
class Grammar:
    """Limits of the trees.

    Attributes:
        max_depth: depth of the deepest nodes, at least 2; the root has depth 1.
        max_arity: most arguments of an operator, 2 .. 10; the fewest are 2.
        min_length, max_length: a tree is accepted when min_length < tokens < max_length.
    """

    max_depth: int
    max_arity: int
    min_length: int
    max_length: int

    def __post_init__(self):
        if self.max_depth < 2 or not 2 <= self.max_arity <= 10:
            raise ValueError(f"{self}: max_depth must be at least 2, max_arity 2 .. 10")


class Trees(NamedTuple):
    """Accepted trees of a chunk in the order of their roots.

    Attributes:
        tokens: [sum of lengths] uint8, depth first.
        lengths: [E] int32, tokens of each tree.
        labels: [E] uint8, value of each tree.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class Level(NamedTuple):
    """The nodes of one depth, tree by tree, siblings together.

    Attributes:
        words: [nodes] uint32.
        trees: numbers of the trees that have nodes here.
        counts: nodes of each of these trees.
    """

    words: np.ndarray
    trees: np.ndarray
    counts: np.ndarray


class Words:
    """A stream of uniform 32-bit words for (seed, chunk)."""

    def __init__(self, seed: int, chunk: int):
        self._philox = np.random.Philox(key=np.array([seed, chunk], np.uint64))

    def take(self, count: int) -> np.ndarray:
        """The next `count` words, low half of each raw word first; an odd last half is thrown away."""
        raw = self._philox.random_raw((count + 1) // 2)
        return np.ascontiguousarray(raw, dtype="<u8").view("<u4")[:count]


def make_chunk(grammar: Grammar, seed: int, chunk: int, num_roots: int = ROOTS_PER_CHUNK) -> Trees:
    """The accepted ones of `num_roots` draws. The same arguments give the same bytes everywhere."""
    stream = Words(seed, chunk)
    levels, accepted = draw_shapes(grammar, stream, num_roots)
    words = [level.words[np.repeat(accepted[level.trees], level.counts)] for level in levels]
    arities = [node_arities(grammar, level) for level in words]
    if len(words) == grammar.max_depth - 1:
        # Digits at the cap never decide on acceptance: they are drawn for accepted trees only.
        words.append(stream.take(int(arities[-1].sum(dtype=np.int64))) | np.uint32(OPERATOR_BELOW))
        arities.append(np.zeros(len(words[-1]), np.uint8))
    return lay_out(words, arities)


def draw_shapes(grammar: Grammar, stream: Words, num_roots: int) -> tuple[list[Level], np.ndarray]:
    """Words of all nodes above the depth cap, and which trees are accepted ([num_roots] bool).

    A tree is dropped as soon as it must end too long, or ends too short; its later nodes are never drawn.
    """
    levels, accepted = [], np.zeros(num_roots, bool)
    trees = np.arange(num_roots)
    counts, lengths = np.ones(num_roots, np.int64), np.zeros(num_roots, np.int64)
    for _ in range(1, grammar.max_depth):
        if not len(trees):
            break
        level = Level(stream.take(int(counts.sum())), trees, counts)
        levels.append(level)
        begins = np.cumsum(counts) - counts
        arities = node_arities(grammar, level.words)
        children = np.add.reduceat(arities, begins, dtype=np.int64)
        lengths = lengths + counts + np.add.reduceat(arities > 0, begins, dtype=np.int64)
        ended = (children == 0) & (lengths > grammar.min_length) & (lengths < grammar.max_length)
        accepted[trees[ended]] = True
        open_ = (children > 0) & (lengths + children < grammar.max_length)
        trees, counts, lengths = trees[open_], children[open_], lengths[open_]
    accepted[trees[lengths + counts > grammar.min_length]] = True  # what is still open gets digits at the cap
    return levels, accepted


def node_arities(grammar: Grammar, words: np.ndarray) -> np.ndarray:
    """Number of arguments [nodes] uint8 of each node; 0 for a digit."""
    arities = np.zeros(len(words), np.uint8)
    places = np.flatnonzero(words < OPERATOR_BELOW)
    # Bits 4..29, scaled to 2 .. max_arity; the bias is below 1e-6.
    arities[places] = 2 + ((words[places] >> 4) * np.uint32(grammar.max_arity - 1) >> 26)
    return arities


def operators_of(words: np.ndarray) -> np.ndarray:
    """Uniform 0 .. 3 from the two lowest bits, which the arity does not use."""
    return (words & 3).astype(np.uint8)


def digits_of(words: np.ndarray) -> np.ndarray:
    """Uniform 0 .. 9 from the low 30 bits; the bias is below 1e-7."""
    return (((words & np.uint32(OPERATOR_BELOW - 1)) >> 2) * np.uint32(10) >> 28).astype(np.uint8)


class Nodes(NamedTuple):
    """Evaluated nodes of one depth.

    Attributes:
        heads: [nodes] uint8, the first token of each.
        values: [nodes] uint8, 0..9.
        sizes: [nodes] int32, tokens of each subtree.
        places: [operators], numbers of the operators among the nodes.
        arities: [operators] uint8.
        begins: [operators], number of each one's first argument among the nodes of the next depth.
    """

    heads: np.ndarray
    values: np.ndarray
    sizes: np.ndarray
    places: np.ndarray
    arities: np.ndarray
    begins: np.ndarray


def lay_out(words: list[np.ndarray], arities: list[np.ndarray]) -> Trees:
    """Values bottom-up, then positions top-down through subtree sizes, then one scatter a depth."""
    levels: list[Nodes] = []
    for word, arity in zip(reversed(words), reversed(arities), strict=True):
        levels.append(evaluate(word, arity, levels[-1] if levels else None))
    roots = levels[-1]
    # Every place that no head takes is a closing bracket.
    tokens = np.full(int(roots.sizes.sum(dtype=np.int64)), CLOSE, np.uint8)
    positions = np.cumsum(roots.sizes, dtype=np.int32) - roots.sizes
    while levels:
        nodes = levels.pop()
        tokens[positions] = nodes.heads
        if levels:
            sizes = levels[-1].sizes
            before = np.cumsum(sizes, dtype=np.int32) - sizes
            positions = before + np.repeat(positions[nodes.places] + 1 - before[nodes.begins], nodes.arities)
    return Trees(tokens, roots.sizes, roots.values)


def evaluate(words: np.ndarray, arities: np.ndarray, children: Nodes | None) -> Nodes:
    """Heads, values and subtree sizes of one depth from those of the next."""
    places = np.flatnonzero(arities)
    groups = arities[places]
    begins = np.cumsum(groups, dtype=np.int64) - groups
    values, sizes = digits_of(words), np.ones(len(words), np.int32)
    heads = values + np.uint8(FIRST_DIGIT)
    if children is not None and len(places):
        operators = operators_of(words[places])
        heads[places] = operators + np.uint8(FIRST_OPERATOR)
        sizes[places] = 2 + np.add.reduceat(children.sizes, begins)
        values[places] = apply_operators(operators, groups, np.add.reduceat(HISTOGRAM[children.values], begins))
    return Nodes(heads, values, sizes, places, groups, begins)


def apply_operators(operators: np.ndarray, arities: np.ndarray, histograms: np.ndarray) -> np.ndarray:
    """Values [nodes] uint8 of operators from the histograms of their arguments.

    MIN, MAX and MED are (a + b) // 2 of the arguments of two ranks a <= b: both first, both last, or the middle two;
    the argument of rank r is the number of digits v whose count of arguments <= v is at most r.
    """
    last = arities - np.uint8(1)
    low = np.where(operators == MIN, np.uint8(0), np.where(operators == MAX, last, last >> 1))
    high = np.where(operators == MED, arities >> 1, low)
    cumulative = (histograms & COUNTS) * ONES
    twice = np.zeros(len(operators), np.uint8)
    for digit in range(9):  # the count of arguments <= 9 is the arity, above every rank
        count = (cumulative >> np.uint64(4 * digit)).astype(np.uint8) & 15
        twice += (count <= low).view(np.uint8)
        twice += (count <= high).view(np.uint8)
    sums = (histograms >> np.uint64(40)).astype(np.uint8) % 10
    return np.where(operators == SM, sums, twice >> 1)
