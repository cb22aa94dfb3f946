"""A whole split through the model: every example once, counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.loader import eval_batch
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
) -> Evaluation:
    """Runs `eval_step` over a split. Raises UserError unless exactly `declared` examples were counted."""
    results = [
        eval_step(params, put(batch_size, partial(eval_batch, split, begin, length)))
        for begin in range(0, split.num_examples, batch_size)
    ]
    return count_up(jax.device_get(results), split.num_examples, declared)


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
