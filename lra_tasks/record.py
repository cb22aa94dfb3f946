"""The record of one run: what was run, on what, and what came out. Training writes it, the results table reads it.

A record is one JSON file. It is checked on writing and on reading by the same rules, so that a number in the table can
be traced to the examples that were scored: counts, accuracies and the right answers themselves must agree. The typed
schema with versions, hashes and declared against evaluated counts follows lm-evaluation-harness; scoring records in a
separate program follows AlgoPerf.
"""

import base64
import copy
import dataclasses
import hashlib
import json
import math
import re
import typing
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.typed_json import JsonError, build, canonical_json, write_text

SCHEMA_VERSION = 1
ACCURACY_TOLERANCE = 1e-6  # room for an accuracy that was divided in float32; far less than one example
ABSOLUTE_PATH = re.compile(r"(^|=)(/|~/|[A-Za-z]:\\)")


class RecordError(UserError):
    """A record that cannot be trusted: one line with the file, the field, its value and what is expected."""


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


@dataclass(frozen=True, kw_only=True)
class Device:
    """The accelerators of the run, over all processes."""

    platform: str  # "cpu", "gpu" or "tpu"
    kind: str  # as JAX names it, such as "NVIDIA H200"
    count: int  # devices


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """The most memory that was held at once."""

    process: int  # bytes, resident, of the process that wrote the record
    device: int | None  # bytes, on the fullest device; null where the platform does not say


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run. Field names are the keys of the JSON file; every key is required, none may be added."""

    task: str  # name in the task registry, such as "listops"
    task_title: str  # heading in tables, such as "ListOps"
    task_version: str  # version of the task's data
    row: str  # label of the model in tables, such as "luna16"
    protocol: str  # which training recipe: "authors", "cpu", ...
    config: dict[str, typing.Any]  # every resolved setting, nested; holds train.seed
    config_hash: str  # canonical_hash(config)
    experiment_hash: str  # experiment_hash(config): the same for all seeds of one experiment
    seed: int  # equals config["train"]["seed"]
    commit: str | None  # git commit of the code; null outside a repository
    commit_dirty: bool | None  # whether the code differed from the commit; null with commit
    command: tuple[str, ...]  # the command line without paths of the machine, see provenance.portable_command
    versions: dict[str, str | None]  # Python and libraries, null where not installed
    device: Device
    host_cores: int  # CPU cores the process could use
    num_parameters: int  # trained numbers in the model
    splits: dict[str, SplitCount]  # at least "validation" and "test"
    selection: str  # split whose accuracy chose `best`
    best: Scores
    last: Scores
    steps_per_second: float | None  # median over logging intervals, compilation excluded; null below one interval
    compile_seconds: float  # seconds spent compiling
    peak_memory_bytes: PeakMemory
    train_wall_seconds: float  # seconds in training steps, all attempts of a resumed run together
    wall_seconds: float  # seconds of the whole run with evaluation, all attempts together
    num_steps: int  # updates the run was to make, and made
    examples_seen: int  # training examples, repetitions counted
    started_at: str  # UTC, ISO 8601, such as "2026-01-31T09:30:00+00:00"
    resumed: int  # how many times the run was taken up again from a checkpoint
    schema_version: int = SCHEMA_VERSION


def canonical_hash(config: dict[str, typing.Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of a resolved config."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def experiment_hash(config: dict[str, typing.Any]) -> str:
    """The hash of a config without `train.seed`: runs that differ in the seed only share it."""
    without_seed = copy.deepcopy(config)
    if isinstance(without_seed.get("train"), dict):
        without_seed["train"].pop("seed", None)
    return canonical_hash(without_seed)


def encode_correctness(correct: np.ndarray) -> str:
    """Right or wrong, one flag an example: bool [E] -> bits, deflated, in base64. See decode_correctness."""
    correct = np.asarray(correct)
    if correct.dtype != np.bool_ or correct.ndim != 1:
        raise RecordError(f"correctness is {correct.dtype} of shape {correct.shape}: give bool [examples]")
    return base64.b64encode(zlib.compress(np.packbits(correct).tobytes(), 9)).decode("ascii")


def decode_correctness(text: str, num_examples: int) -> np.ndarray:
    """The flags again: text -> bool [num_examples]. RecordError where the text holds another number of examples."""
    try:
        packed = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=np.uint8)
    except (ValueError, zlib.error) as error:
        raise RecordError(f"correctness {text[:20]!r}... is not deflated base64 ({error})") from None
    bits = np.unpackbits(packed).astype(bool)
    if bits.size != -(-num_examples // 8) * 8 or bits[num_examples:].any():
        raise RecordError(
            f"correctness holds {bits.size} bits (a multiple of 8): {num_examples} examples were expected"
        )
    return bits[:num_examples]


def to_json(record: Record, where: str = "record") -> str:
    """The checked record as the text of its file. `where` names the file in errors."""
    validate(record, where)
    return json.dumps(dataclasses.asdict(record), indent=1, allow_nan=False) + "\n"


def from_json(text: str, where: str = "record") -> Record:
    """The checked record from the text of its file. RecordError names `where`, the field and the value."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RecordError(f"{where}: not JSON ({error}): was the file cut short or edited?") from None
    version = value.get("schema_version", SCHEMA_VERSION) if isinstance(value, dict) else SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{where}: schema_version = {version!r}: this code reads {SCHEMA_VERSION}; read the record with the code "
            "that wrote it, or run the experiment again"
        )
    return _checked(value, where)


def validate(record: Record, where: str = "record") -> None:
    """RecordError unless every field has its type and all numbers agree with each other."""
    _checked(dataclasses.asdict(record), where)


def write_record(record: Record, path: Path) -> None:
    """Check and write. The file appears whole or not at all, also when the machine stops."""
    write_text(path, to_json(record, str(path)))


def read_record(path: Path) -> Record:
    """Read and check. RecordError names the file, the field and the value."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
    return from_json(text, str(path))


def _checked(value: object, where: str) -> Record:
    try:
        record = build(Record, value)
    except JsonError as error:
        raise RecordError(f"{where}: {error}") from None
    faults = list(_identity_faults(record)) + list(_amount_faults(record)) + list(_split_faults(record))
    if not faults:  # scores can be judged only against counts that hold
        faults = list(_score_faults(record, "best")) + list(_score_faults(record, "last"))
    if faults:
        raise RecordError(f"{where}: {'; '.join(faults)}")
    return record


def _identity_faults(record: Record) -> Iterator[str]:
    if record.schema_version != SCHEMA_VERSION:
        yield f"schema_version = {record.schema_version}: must be {SCHEMA_VERSION}"
    for name in ("task", "task_title", "task_version", "row", "protocol"):
        if not getattr(record, name).strip():
            yield f"{name} = {getattr(record, name)!r}: must not be empty"
    for name, expected in (("config_hash", canonical_hash), ("experiment_hash", experiment_hash)):
        if getattr(record, name) != (computed := expected(record.config)):
            yield f"{name} = {getattr(record, name)!r}: the config gives {computed!r}"
    train = record.config.get("train")
    if not isinstance(train, dict) or train.get("seed") != record.seed:
        yield f"seed = {record.seed}: config.train is {train!r} and must hold the same seed"
    if (record.commit is None) != (record.commit_dirty is None):
        yield f"commit_dirty = {record.commit_dirty!r}: with commit = {record.commit!r} both or neither must be null"
    for argument in record.command:
        if ABSOLUTE_PATH.search(argument):
            yield f"command holds {argument!r}: a path of one machine; see provenance.portable_command"
    try:
        offset = datetime.fromisoformat(record.started_at).utcoffset()
    except ValueError:
        offset = None
    if offset != timedelta(0):
        yield f"started_at = {record.started_at!r}: must be ISO 8601 in UTC, such as 2026-01-31T09:30:00+00:00"


def _amount_faults(record: Record) -> Iterator[str]:
    whole = {"num_parameters": 1, "num_steps": 1, "examples_seen": 1, "host_cores": 1, "resumed": 0}
    amounts = [(name, getattr(record, name), low) for name, low in whole.items()]
    amounts += [(name, getattr(record, name), 0) for name in ("compile_seconds", "train_wall_seconds", "wall_seconds")]
    amounts += [
        ("device.count", record.device.count, 1),
        ("peak_memory_bytes.process", record.peak_memory_bytes.process, 1),
    ]
    if record.peak_memory_bytes.device is not None:
        amounts.append(("peak_memory_bytes.device", record.peak_memory_bytes.device, 0))
    for name, value, low in amounts:
        if not (math.isfinite(value) and value >= low):
            yield f"{name} = {value}: must be at least {low}"
    speed = record.steps_per_second
    if speed is not None and not (math.isfinite(speed) and speed > 0):
        yield f"steps_per_second = {speed}: must be above 0, or null where nothing was timed"


def _split_faults(record: Record) -> Iterator[str]:
    for name in ("validation", "test"):
        if name not in record.splits:
            yield f"splits has {sorted(record.splits)}: {name} is missing"
    if record.selection not in record.splits:
        yield f"selection = {record.selection!r}: must be one of the splits {sorted(record.splits)}"
    for name, split in record.splits.items():
        if split.declared < 1 or split.evaluated != split.declared:
            yield f"splits.{name}.evaluated = {split.evaluated}: must equal the declared {split.declared} examples"
        if not 0 < split.majority_share <= 1:
            yield f"splits.{name}.majority_share = {split.majority_share}: must be above 0 and at most 1"


def _score_faults(record: Record, name: str) -> Iterator[str]:
    scores: Scores = getattr(record, name)
    if not 0 <= scores.step <= record.num_steps:
        yield f"{name}.step = {scores.step}: must lie between 0 and num_steps = {record.num_steps}"
    for split in ("validation", "test"):
        loss, accuracy = getattr(scores, f"{split}_loss"), getattr(scores, f"{split}_accuracy")
        count = record.splits[split].evaluated
        if not (math.isfinite(loss) and loss >= 0):
            yield f"{name}.{split}_loss = {loss}: must be finite and not negative"
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
