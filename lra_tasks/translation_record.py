"""The record of one run that translates: what was run, on what, and what came out.

One JSON file with the provenance and cost of every record (`record_fields`), of kind "translation". BLEU stands beside
the statistics of each sentence that it comes from, so that it is computed again on reading and rows are compared
sentence by sentence.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lra_tasks.bleu import bleu_from_statistics, decode_statistics
from lra_tasks.record_fields import (
    RecordError,
    RunRecord,
    count_faults,
    least_faults,
    parse_record,
    read_record_text,
    score_faults,
)

KIND = "translation"
SCHEMA_VERSION = 1
BLEU_TOLERANCE = 1e-6  # percent: room for another order of the same few products
SELECTIONS = ("validation_loss", "validation_bleu")
CHECKPOINTS = ("best", "last", "averaged")
# BLEU is computed again from one reference, without effective order and with exponential smoothing
NEEDED_IN_SIGNATURE = ("nrefs:1", "eff:no", "smooth:exp")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class SentenceCount:
    """How much of a split was scored, in pairs of sentences."""

    declared: int  # pairs that the prepared split has
    evaluated: int  # pairs that were scored; must equal `declared`


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the test sets were translated."""

    beam_size: int  # 1 is greedy
    length_penalty: float  # a hypothesis scores sum log p / length ** length_penalty
    length_factor: float  # a translation has at most length_factor * source + length_offset subwords,
    length_offset: int  # both with the end token: fairseq's max_len_a and max_len_b


@dataclass(frozen=True, kw_only=True)
class BleuScore:
    """One test set, translated with one checkpoint."""

    bleu: float  # of the corpus, percent
    signature: str  # sacrebleu's, which says how it was computed
    statistics: str  # of each sentence in the order of the split, see bleu.encode_statistics


@dataclass(frozen=True, kw_only=True)
class TranslationScores:
    """What one checkpoint scored, or the average of several."""

    steps: tuple[int, ...]  # updates that the checkpoint had seen: one number; of an average, those that it is of
    validation_loss: float  # mean cross-entropy of a target token in nats, labels not smoothed
    validation_bleu: float  # percent, of greedy search, as in training
    tests: dict[str, BleuScore]  # by test set, in the order of the task: the first is the one to report

    @property
    def percent(self) -> float:
        """BLEU on the test set to report, in percent."""
        return next(iter(self.tests.values())).bleu


@dataclass(frozen=True, kw_only=True)
class TranslationRecord(RunRecord):
    """One finished run of a translator. `selection`, out of SELECTIONS, says what chose `best`."""

    source_language: str  # such as "de"
    target_language: str  # such as "en"
    vocab_size: int  # subwords of both sides together, special ones included
    vocab_checksum: str  # SHA-256 (hex) of the subword model
    training_pairs: int  # pairs of sentences in the training split
    tokens_seen: int  # target tokens in training, ends of sentences counted, padding not, repetitions counted
    decoding: Decoding
    splits: dict[str, SentenceCount]  # "validation", then the test sets in the order of the task
    best: TranslationScores
    last: TranslationScores
    averaged: TranslationScores | None  # of the parameters of several checkpoints; null where none were averaged
    schema_version: int = SCHEMA_VERSION
    kind: str = KIND

    @property
    def tests(self) -> tuple[str, ...]:
        """The names of the test sets; the first is the one to report."""
        return tuple(name for name in self.splits if name != "validation")

    def list_faults(self) -> list[str]:
        """What does not agree, a text each."""
        faults = [*super().list_faults(), *_task_faults(self)]
        if not faults:  # scores can be judged only against counts that hold
            faults = [fault for name in list_checkpoints(self) for fault in _score_faults(self, name)]
        return faults or list(_reference_faults(self))


def list_checkpoints(record: TranslationRecord) -> list[str]:
    """The names of the checkpoints that were scored, in the order of CHECKPOINTS."""
    return [name for name in CHECKPOINTS if getattr(record, name) is not None]


def read_statistics(record: TranslationRecord, checkpoint: str, test: str) -> np.ndarray:
    """The BLEU statistics of a test set: int64 [E, 10]."""
    scores: TranslationScores = getattr(record, checkpoint)
    return decode_statistics(scores.tests[test].statistics, record.splits[test].evaluated)


def from_json(text: str, where: str = "record") -> TranslationRecord:
    """The checked record from the text of its file. RecordError names `where`, the field and the value."""
    return parse_record(TranslationRecord, text, where)


def read_record(path: Path) -> TranslationRecord:
    """Read and check. RecordError names the file, the field and the value."""
    return from_json(read_record_text(path), str(path))


def _task_faults(record: TranslationRecord) -> Iterator[str]:
    if record.kind != KIND:
        yield f"kind = {record.kind!r}: must be {KIND!r}"
    for name in ("source_language", "target_language"):
        if not getattr(record, name).strip():
            yield f"{name} = {getattr(record, name)!r}: must not be empty"
    if not SHA256.fullmatch(record.vocab_checksum):
        yield f"vocab_checksum = {record.vocab_checksum!r}: must be a SHA-256, 64 digits of hex"
    if record.selection not in SELECTIONS:
        yield f"selection = {record.selection!r}: must be one of {', '.join(SELECTIONS)}"
    yield from least_faults(record, {"vocab_size": 1, "training_pairs": 1, "tokens_seen": 1})
    least = {"beam_size": 1, "length_penalty": 0, "length_factor": 0, "length_offset": 0}
    yield from least_faults(record.decoding, least, "decoding.")
    yield from count_faults(record, ("validation",))
    if not record.tests:
        yield f"splits has {sorted(record.splits)}: a test set is missing"


def _score_faults(record: TranslationRecord, name: str) -> Iterator[str]:
    scores: TranslationScores = getattr(record, name)
    losses = {f"{name}.validation_loss": scores.validation_loss}
    yield from score_faults(f"{name}.steps", scores.steps, record.num_steps, losses)
    if len(scores.steps) != 1 and (name != "averaged" or not scores.steps):
        wanted = "at least one step" if name == "averaged" else "one step"
        yield f"{name}.steps = {list(scores.steps)}: must be {wanted}"
    if not 0 <= scores.validation_bleu <= 100 + BLEU_TOLERANCE:
        yield f"{name}.validation_bleu = {scores.validation_bleu}: must be percent, between 0 and 100"
    if tuple(scores.tests) != record.tests:
        yield f"{name}.tests has {list(scores.tests)}: must be the test sets of splits, {list(record.tests)}, in order"
        return
    for test, score in scores.tests.items():
        yield from _bleu_faults(f"{name}.tests.{test}", score, record.splits[test].evaluated)


def _bleu_faults(where: str, score: BleuScore, num_sentences: int) -> Iterator[str]:
    if missing := [part for part in NEEDED_IN_SIGNATURE if part not in score.signature.split("|")]:
        yield f"{where}.signature = {score.signature!r}: must hold {', '.join(missing)}"
    try:
        statistics = decode_statistics(score.statistics, num_sentences)
    except RecordError as error:
        yield f"{where}.statistics: {error}"
        return
    bleu = float(bleu_from_statistics(statistics.sum(axis=0)))
    if not abs(score.bleu - bleu) <= BLEU_TOLERANCE:  # NaN is refused too
        yield f"{where}.bleu = {score.bleu}: its statistics give {bleu:.6f}"


def _reference_faults(record: TranslationRecord) -> Iterator[str]:
    """All checkpoints translate the same sentences: their references have the same lengths."""
    for test in record.tests:
        lengths = {name: read_statistics(record, name, test)[:, 1] for name in list_checkpoints(record)}
        signatures = {getattr(record, name).tests[test].signature for name in lengths}
        if len(signatures) > 1:
            yield f"tests.{test}: checkpoints have different signatures, {' and '.join(sorted(signatures))}"
        for name, found in lengths.items():
            if not np.array_equal(found, lengths["best"]):
                yield f"{name}.tests.{test}.statistics: other references, or another order of them, than those of best"
