"""A whole split through the model: every example once, counted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.loader import choose_length, eval_batch, measure, order_by_length
from lra_tasks.metrics import Sums
from lra_tasks.task import AnyBatch, Split, Task

EvalStep = Callable[[Any, AnyBatch], tuple[Sums, jax.Array]]
Put = Callable[[int, Callable[[slice], AnyBatch]], AnyBatch]
"""(rows of a batch, function that gathers some of them) -> the batch, on the devices."""


def keep_on_host(num_rows: int, gather: Callable[[slice], AnyBatch]) -> AnyBatch:
    """A batch for one device."""
    return gather(slice(0, num_rows))


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint scored on a split."""

    loss: float
    """Mean cross-entropy, nats."""
    accuracy: float
    """Share of right answers, in [0, 1]."""
    correct: np.ndarray
    """bool [E], in the order of the split."""
    evaluated: int
    """Examples that were counted on the device."""


def evaluate_split(
    eval_step: EvalStep,
    params: Any,
    split: Split,
    *,
    batch_size: int,
    length: int,
    declared: int,
    put: Put = keep_on_host,
    lengths: Sequence[int] = (),
) -> Evaluation:
    """Runs `eval_step` over a split. Raises UserError unless exactly `declared` examples were counted.

    With `lengths`, which rise to `length`, the shortest examples come first, and a batch is padded to the first of
    these that holds it: `eval_step` meets as many shapes at most.
    """
    order = order_by_length(split, length) if lengths else None
    results, newest = [], None
    for gather in list_gathers(split, batch_size, lengths or (length,), order):
        launched = eval_step(params, put(batch_size, gather))
        if newest is not None:  # while the device works, the results before are fetched and the next rows gathered
            results.append(jax.device_get(newest))
        newest = launched
    results += [] if newest is None else [jax.device_get(newest)]
    found = count_up(results, split.num_examples, declared)
    if order is None:
        return found
    correct = np.empty_like(found.correct)
    correct[order] = found.correct
    return replace(found, correct=correct)


def list_gathers(
    split: Split, batch_size: int, lengths: Sequence[int], order: np.ndarray | None
) -> Iterator[Callable[[slice], AnyBatch]]:
    """For each batch of a split what gathers some of its rows."""
    for begin in range(0, split.num_examples, batch_size):
        length = lengths[-1]
        if order is not None:
            longest = order[begin : begin + batch_size][-1:]
            length = choose_length(lengths, int(measure(split, longest, length)[0]))
        yield partial(eval_batch, split, begin, length, order=order)


def count_up(results: Sequence[tuple[Sums, np.ndarray]], num_examples: int, declared: int) -> Evaluation:
    """What `eval_step` said of the batches of a split, on the host. UserError unless `declared` were counted."""
    count = sum(int(sums.count) for sums, _ in results)
    if count != declared:
        raise UserError(
            f"{count} examples were evaluated, {declared} are declared; prepare the task again with --rebuild"
        )
    correct = np.concatenate([right for _, right in results])[:num_examples]
    loss = sum(float(sums.loss) for sums, _ in results) / count
    return Evaluation(loss, int(correct.sum()) / count, correct, count)


def majority_share(task: Task, split: Split) -> float:
    """Accuracy of always answering the most frequent class of the split."""
    counts = np.bincount(split.labels, minlength=task.num_classes)
    return float(counts.max() / counts.sum())
