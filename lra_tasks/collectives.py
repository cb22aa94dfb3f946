"""What a compiled program moves between devices, read from its HLO text."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^(?:ROOT )?%?[\w.\-]+ = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_TRIPS = re.compile(r'"?known_trip_count"?:\{"?n"?:"?(\d+)"?\}')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Collective:
    """One instruction that moves data between devices."""

    kind: str
    """One of KINDS."""
    bytes: int
    """Of its result on one device, all arrays of a tuple together."""
    times: int
    """How often a run of the program comes to it, at least: a loop whose length XLA does not state counts once."""


def list_collectives(hlo_text: str) -> list[Collective]:
    """The collectives of `jax.jit(...).lower(...).compile().as_text()`, in the order of the text from the entry on.

    Asynchronous ones are counted where they start. What stands in the body of a loop is done as often as the loop
    goes round, where XLA states `known_trip_count`; of a branch, all sides count. Raises ValueError for a text that
    has no entry computation.
    """
    computations, entry = _split_computations(hlo_text)
    if entry is None:
        raise ValueError("the text has no ENTRY computation; give that of a compiled program, compiled.as_text()")
    return list(_walk(computations, entry, 1))


def total_bytes(collectives: Sequence[Collective]) -> int:
    """Bytes of all results in one run."""
    return sum(one.bytes * one.times for one in collectives)


def _split_computations(text: str) -> tuple[dict[str, list[str]], str | None]:
    """({name: what stands right of the equals signs}, the name of the entry)."""
    computations: dict[str, list[str]] = {}
    entry, lines = None, []
    for line in map(str.strip, text.splitlines()):
        if header := _COMPUTATION.match(line):
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            lines.append(instruction[1])
    return computations, entry


def _walk(computations: dict[str, list[str]], name: str, times: int) -> Iterator[Collective]:
    for instruction in computations.get(name, ()):
        shape, operation, rest = _take_apart(instruction)
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            yield Collective(kind, _count_bytes(_find_result(shape, operation)), times)
            continue  # what it applies to numbers is no program of its own
        trips = int(found[1]) if operation == "while" and (found := _TRIPS.search(rest)) else 1
        called = _CALLED.findall(rest)
        for branches in _BRANCHES.findall(rest):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        for other in called:
            yield from _walk(computations, other, times * trips)


def _take_apart(instruction: str) -> tuple[str, str, str]:
    """(the result's shape, the operation, the rest) of `shape operation(operands), attributes`."""
    end = _find_end(instruction) if instruction.startswith("(") else instruction.find(" ")
    shape, rest = instruction[:end], instruction[end:].lstrip()
    operation, _, rest = rest.partition("(")
    return shape, operation, rest


def _find_end(text: str) -> int:
    """Behind the bracket that closes the one with which the text begins."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return at + 1
    return len(text)


def _find_result(shape: str, operation: str) -> str:
    """The result's share of the shape: most operations that start others carry their operands before it."""
    if not operation.endswith("-start") or operation == "all-reduce-start" or not shape.startswith("("):
        return shape
    return _split_tuple(shape)[1]


def _split_tuple(shape: str) -> list[str]:
    """The elements of a tuple's shape: commas stand in brackets, too, and in remarks on every fifth element."""
    inner = re.sub(r"/\*.*?\*/", "", shape[1:-1])
    elements, depth, begin = [], 0, 0
    for at, letter in enumerate(inner):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            elements.append(inner[begin:at].strip())
            begin = at + 1
    return [*elements, inner[begin:].strip()]


def _count_bytes(shape: str) -> int:
    return sum(_count_array(kind, sizes) for kind, sizes in _ARRAY.findall(re.sub(r"\{[^}]*\}", "", shape)))


def _count_array(kind: str, sizes: str) -> int:
    """Bytes of one array; a number of a few bits is taken to be packed."""
    bits = _BITS.get(kind)
    if bits is None:
        found = re.search(r"\d+", kind)
        if found is None:
            raise ValueError(f"unknown element type {kind!r} in the HLO text")
        bits = int(found[0])
    count = math.prod(int(size.removeprefix("<=")) for size in sizes.split(",") if size)
    return -(-bits * count // 8)
