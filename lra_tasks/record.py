"""The record of one run: what was run, on what, and what came out. Training writes it, the results table reads it.

A record is one JSON file. It is checked on writing and on reading by the same rules, so that a number in the table can
be traced to the examples that were scored: counts, accuracies and the right answers themselves must agree. The typed
schema with versions, hashes and declared against evaluated counts follows lm-evaluation-harness; scoring records in a
separate program follows AlgoPerf. This one is of a classifier; what it shares with other kinds is in `record_fields`,
and can be had from here too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lra_tasks.record_fields import (
    Device,
    PeakMemory,
    RecordError,
    RunRecord,
    canonical_hash,
    count_faults,
    deflate_text,
    experiment_hash,
    inflate_text,
    parse_record,
    read_record_text,
    score_faults,
    to_json,
    validate,
    write_record,
)

SCHEMA_VERSION = 1
ACCURACY_TOLERANCE = 1e-6  # room for an accuracy that was divided in float32; far less than one example
__all__ = [
    "ACCURACY_TOLERANCE",
    "SCHEMA_VERSION",
    "Device",
    "PeakMemory",
    "Record",
    "RecordError",
    "Scores",
    "SplitCount",
    "canonical_hash",
    "decode_correctness",
    "encode_correctness",
    "experiment_hash",
    "from_json",
    "read_record",
    "to_json",
    "validate",
    "write_record",
]


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """How much of a split was scored."""

    declared: int  # examples, as the task declares them
    evaluated: int  # examples that were scored; must equal `declared`
    majority_share: float  # share of the most frequent label, in [0, 1]: the accuracy of one constant answer


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one checkpoint scored. Accuracies are shares in [0, 1], losses mean cross-entropies in nats."""

    step: int  # updates the checkpoint has seen
    validation_accuracy: float
    validation_loss: float
    test_accuracy: float
    test_loss: float
    test_correctness: str  # one bit an example in the order of the split, see encode_correctness

    @property
    def percent(self) -> float:
        """The test accuracy in percent."""
        return self.test_accuracy * 100


@dataclass(frozen=True, kw_only=True)
class Record(RunRecord):
    """One finished run of a classifier. `selection` is the split whose accuracy chose `best`."""

    splits: dict[str, SplitCount]  # at least "validation" and "test"
    best: Scores
    last: Scores
    schema_version: int = SCHEMA_VERSION

    def list_faults(self) -> list[str]:
        """What does not agree, a text each."""
        faults = [*super().list_faults(), *_split_faults(self)]
        if not faults:  # scores can be judged only against counts that hold
            faults = [*_score_faults(self, "best"), *_score_faults(self, "last")]
        return faults


def encode_correctness(correct: np.ndarray) -> str:
    """Right or wrong, one flag an example: bool [E] -> bits, deflated, in base64. See decode_correctness."""
    correct = np.asarray(correct)
    if correct.dtype != np.bool_ or correct.ndim != 1:
        raise RecordError(f"correctness is {correct.dtype} of shape {correct.shape}: give bool [examples]")
    return deflate_text(np.packbits(correct).tobytes())


def decode_correctness(text: str, num_examples: int) -> np.ndarray:
    """The flags again: text -> bool [num_examples]. RecordError where the text holds another number of examples."""
    bits = np.unpackbits(np.frombuffer(inflate_text(text, "correctness"), dtype=np.uint8)).astype(bool)
    if bits.size != -(-num_examples // 8) * 8 or bits[num_examples:].any():
        raise RecordError(
            f"correctness holds {bits.size} bits (a multiple of 8): {num_examples} examples were expected"
        )
    return bits[:num_examples]


def from_json(text: str, where: str = "record") -> Record:
    """The checked record from the text of its file. RecordError names `where`, the field and the value."""
    return parse_record(Record, text, where)


def read_record(path: Path) -> Record:
    """Read and check. RecordError names the file, the field and the value."""
    return from_json(read_record_text(path), str(path))


def _split_faults(record: Record) -> Iterator[str]:
    yield from count_faults(record, ("validation", "test"))
    if record.selection not in record.splits:
        yield f"selection = {record.selection!r}: must be one of the splits {sorted(record.splits)}"
    for name, split in record.splits.items():
        if not 0 < split.majority_share <= 1:
            yield f"splits.{name}.majority_share = {split.majority_share}: must be above 0 and at most 1"


def _score_faults(record: Record, name: str) -> Iterator[str]:
    scores: Scores = getattr(record, name)
    losses = {f"{name}.{split}_loss": getattr(scores, f"{split}_loss") for split in ("validation", "test")}
    yield from score_faults(f"{name}.step", [scores.step], record.num_steps, losses)
    for split in ("validation", "test"):
        accuracy, count = getattr(scores, f"{split}_accuracy"), record.splits[split].evaluated
        if not 0 <= accuracy <= 1:
            yield f"{name}.{split}_accuracy = {accuracy}: must be a share between 0 and 1"
        elif abs(accuracy - round(accuracy * count) / count) > ACCURACY_TOLERANCE:
            yield f"{name}.{split}_accuracy = {accuracy}: no number of right answers out of {count} gives it"
    try:
        num_correct = int(decode_correctness(scores.test_correctness, record.splits["test"].evaluated).sum())
    except RecordError as error:
        yield f"{name}.test_correctness: {error}"
        return
    if abs(scores.test_accuracy - num_correct / record.splits["test"].evaluated) > ACCURACY_TOLERANCE:
        count = f"{num_correct} of {record.splits['test'].evaluated}"
        yield f"{name}.test_accuracy = {scores.test_accuracy}: test_correctness has {count} right"
