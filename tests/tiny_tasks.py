"""Tasks of a few examples, and an oracle for ListOps that reads token ids recursively."""

import dataclasses

from lra_tasks.listops import LISTOPS_SMALL

TINY = dataclasses.replace(LISTOPS_SMALL, splits={"train": 30, "validation": 7, "test": 11})
OPERATORS = {11: min, 12: max, 13: lambda a: int((sorted(a)[(len(a) - 1) // 2] + sorted(a)[len(a) // 2]) / 2), 14: None}


def answer(ids):
    """The value of one expression of token ids, by recursive descent."""
    value, rest = _read([int(i) for i in ids])
    assert not rest, "ids after the end of the expression"
    return value


def _read(ids):
    head, rest = ids[0], ids[1:]
    if head <= 10:
        return head - 1, rest
    values = []
    while rest[0] != 15:
        value, rest = _read(rest)
        values.append(value)
    return (sum(values) % 10 if head == 14 else OPERATORS[head](values)), rest[1:]
