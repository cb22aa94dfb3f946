"""What the records of all kinds of runs share: provenance, cost, the checks on them, and the way to and from JSON."""

import base64
import copy
import dataclasses
import hashlib
import json
import math
import re
import typing
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from lra_tasks.errors import UserError
from lra_tasks.typed_json import JsonError, build, canonical_json, write_text

ABSOLUTE_PATH = re.compile(r"(^|=)(/|~/|[A-Za-z]:\\)")
AnyRecord = typing.TypeVar("AnyRecord", bound="RunRecord")


class RecordError(UserError):
    """A record that cannot be trusted: one line with the file, the field, its value and what is expected."""


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
class RunRecord:
    """One finished run, of any kind. Field names are the keys of the JSON file; every key is required, none is added.

    `seeds_at_once` alone is left out where it is empty, so that a run by itself has the record that it always had.

    A kind of run gives `splits`, `best`, `last` and `schema_version` their types, and adds fields of its own.
    """

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
    splits: dict[str, typing.Any]  # how much of each split was scored
    selection: str  # what chose `best`
    best: typing.Any  # scores of the checkpoint that was chosen
    last: typing.Any  # scores of the checkpoint after the last update
    steps_per_second: float | None  # median over logging intervals, compilation excluded; null below one interval
    compile_seconds: float  # seconds spent compiling
    peak_memory_bytes: PeakMemory
    train_wall_seconds: float  # seconds in training steps, all attempts of a resumed run together
    wall_seconds: float  # seconds of the whole run with evaluation, all attempts together
    num_steps: int  # updates the run was to make, and made
    examples_seen: int  # training examples, repetitions counted
    started_at: str  # UTC, ISO 8601, such as "2026-01-31T09:30:00+00:00"
    resumed: int  # how many times the run was taken up again from a checkpoint
    schema_version: int
    seeds_at_once: tuple[int, ...] = ()  # trained at once, this one too, with times and memory of all; () if alone

    @property
    def num_sharers(self) -> int:
        """Among how many seeds the times of this record are to be shared."""
        return len(self.seeds_at_once) or 1

    @property
    def device_seconds(self) -> float:
        """What this run cost, summed over its devices: its share, so that the costs of seeds at once can be added."""
        return self.wall_seconds * self.device.count / self.num_sharers

    def list_faults(self) -> list[str]:
        """What does not agree, a text each. Every kind of run has more to check than this."""
        return [*_identity_faults(self), *_amount_faults(self)]


def canonical_hash(config: dict[str, typing.Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of a resolved config."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def experiment_hash(config: dict[str, typing.Any]) -> str:
    """The hash of a config without `train.seed`: runs that differ in the seed only share it."""
    without_seed = copy.deepcopy(config)
    if isinstance(without_seed.get("train"), dict):
        without_seed["train"].pop("seed", None)
    return canonical_hash(without_seed)


def deflate_text(content: bytes) -> str:
    """Bytes, deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def inflate_text(text: str, what: str) -> bytes:
    """The bytes of `deflate_text` again. RecordError names `what` the text should hold."""
    try:
        return zlib.decompress(base64.b64decode(text, validate=True))
    except (ValueError, zlib.error) as error:
        raise RecordError(f"{what} {text[:20]!r}... is not deflated base64 ({error})") from None


def to_json(record: RunRecord, where: str = "record") -> str:
    """The checked record as the text of its file. `where` names the file in errors."""
    validate(record, where)
    value = dataclasses.asdict(record)
    if not value["seeds_at_once"]:
        del value["seeds_at_once"]
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def parse_record(kind: type[AnyRecord], text: str, where: str) -> AnyRecord:
    """The checked record from the text of its file. RecordError names `where`, the field and the value."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RecordError(f"{where}: not JSON ({error}): was the file cut short or edited?") from None
    known = kind.schema_version
    version = value.get("schema_version", known) if isinstance(value, dict) else known
    if version != known:
        raise RecordError(
            f"{where}: schema_version = {version!r}: this code reads {known}; read the record with the code "
            "that wrote it, or run the experiment again"
        )
    return _build_checked(kind, {"seeds_at_once": [], **value} if isinstance(value, dict) else value, where)


def validate(record: RunRecord, where: str = "record") -> None:
    """RecordError unless every field has its type and all numbers agree with each other."""
    _build_checked(type(record), dataclasses.asdict(record), where)


def write_record(record: RunRecord, path: Path) -> None:
    """Check and write. The file appears whole or not at all, also when the machine stops."""
    write_text(path, to_json(record, str(path)))


def read_record_text(path: Path) -> str:
    """The text of a record's file. RecordError names the file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None


def _build_checked(kind: type[AnyRecord], value: object, where: str) -> AnyRecord:
    try:
        record = build(kind, value)
    except JsonError as error:
        raise RecordError(f"{where}: {error}") from None
    if faults := record.list_faults():
        raise RecordError(f"{where}: {'; '.join(faults)}")
    return record


def _identity_faults(record: RunRecord) -> Iterator[str]:
    """What is wrong with the names, hashes, command and time of a record."""
    if record.schema_version != type(record).schema_version:
        yield f"schema_version = {record.schema_version}: must be {type(record).schema_version}"
    for name in ("task", "task_title", "task_version", "row", "protocol"):
        if not getattr(record, name).strip():
            yield f"{name} = {getattr(record, name)!r}: must not be empty"
    for name, expected in (("config_hash", canonical_hash), ("experiment_hash", experiment_hash)):
        if getattr(record, name) != (computed := expected(record.config)):
            yield f"{name} = {getattr(record, name)!r}: the config gives {computed!r}"
    train = record.config.get("train")
    if not isinstance(train, dict) or train.get("seed") != record.seed:
        yield f"seed = {record.seed}: config.train is {train!r} and must hold the same seed"
    shared = record.seeds_at_once
    if shared and (len(shared) < 2 or len(set(shared)) < len(shared) or record.seed not in shared):
        yield f"seeds_at_once = {list(shared)}: must name several seeds once each, {record.seed} among them"
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


def _amount_faults(record: RunRecord) -> Iterator[str]:
    whole = {"num_parameters": 1, "num_steps": 1, "examples_seen": 1, "host_cores": 1, "resumed": 0}
    yield from least_faults(record, whole | dict.fromkeys(("compile_seconds", "train_wall_seconds", "wall_seconds"), 0))
    yield from least_faults(record.device, {"count": 1}, "device.")
    peak = {"process": 1} if record.peak_memory_bytes.device is None else {"process": 1, "device": 0}
    yield from least_faults(record.peak_memory_bytes, peak, "peak_memory_bytes.")
    speed = record.steps_per_second
    if speed is not None and not (math.isfinite(speed) and speed > 0):
        yield f"steps_per_second = {speed}: must be above 0, or null where nothing was timed"


def least_faults(part: object, least: Mapping[str, float], prefix: str = "") -> Iterator[str]:
    """Which of these fields of a record, or of a part of it, are not finite or smaller than the least they may be."""
    for name, low in least.items():
        value = getattr(part, name)
        if not (math.isfinite(value) and value >= low):
            yield f"{prefix}{name} = {value}: must be at least {low}"


def count_faults(record: RunRecord, needed: Collection[str]) -> Iterator[str]:
    """Which splits are missing, or were not scored as a whole. Each split has `declared` and `evaluated`."""
    for name in needed:
        if name not in record.splits:
            yield f"splits has {sorted(record.splits)}: {name} is missing"
    for name, split in record.splits.items():
        if split.declared < 1 or split.evaluated != split.declared:
            yield f"splits.{name}.evaluated = {split.evaluated}: must equal the declared {split.declared} examples"


def score_faults(where: str, steps: Collection[int], num_steps: int, losses: Mapping[str, float]) -> Iterator[str]:
    """Which steps of a checkpoint do not lie within the run, and which of its losses are none."""
    for step in steps:
        if not 0 <= step <= num_steps:
            yield f"{where} = {step}: must lie between 0 and num_steps = {num_steps}"
    for name, loss in losses.items():
        if not (math.isfinite(loss) and loss >= 0):
            yield f"{name} = {loss}: must be finite and not negative"
