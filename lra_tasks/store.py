"""The store: flat arrays of a prepared task beside a manifest. Written whole or not at all; read with NumPy alone.

<data_dir>/store/<task>/{train,validation,test}_{tokens,offsets,labels}.npy and manifest.json
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.folders import new_folder
from lra_tasks.task import Split, Task

__all__ = [
    "ARRAYS", "Split", "StoreDamaged", "StoreMissing", "check_split", "damaged", "data_checksum", "describe_files",
    "fill_store", "read_manifest", "read_store", "store_path", "verify_file", "write_store",
]  # fmt: skip

FORMAT = 1
MANIFEST = "manifest.json"
ARRAYS = ("tokens", "offsets", "labels")


class StoreMissing(UserError):
    """The task has not been prepared in this data folder."""


class StoreDamaged(UserError):
    """The store is there and must not be read; the message names the file and what is wrong."""


def store_path(data_dir: str | Path, task: Task) -> Path:
    """The folder of a task's store."""
    return Path(data_dir) / "store" / task.name


def write_store(
    data_dir: str | Path, task: Task, splits: dict[str, Split], source: dict, *, records: dict | None = None
) -> Path:
    """Writes the store of a task, replacing an earlier one, and returns its folder.

    Args:
        data_dir: the data folder.
        task: the declared facts; raises UserError for splits that do not agree with them.
        splits: the examples of every split.
        source: what the data was made from, any JSON.
        records: the record files it was read from, by path below data_dir, each {"bytes": ..., "sha256": ...}.
    """
    final = store_path(data_dir, task)
    with new_folder(final) as folder:
        fill_store(folder, task, splits, source, records or {})
    return final


def fill_store(folder: Path, task: Task, splits: dict[str, Split], source: dict, records: dict) -> None:
    """Writes the arrays and the manifest into a new folder; arguments as of `write_store`."""
    for name in task.splits:
        check_split(task, name, splits[name])
        for array in ARRAYS:
            np.save(folder / f"{name}_{array}.npy", getattr(splits[name], array), allow_pickle=False)
    manifest = {
        "format": FORMAT,
        **declared_facts(task),
        "files": describe_files(folder),
        "source": source,
        "records": records,
        "libraries": library_versions(),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def declared_facts(task: Task) -> dict[str, Any]:
    """What a manifest must repeat of its task."""
    return {
        "task": task.name,
        "version": task.version,
        "splits": task.splits,
        "vocabulary_sha256": task.vocabulary.digest,
    }


def library_versions() -> dict[str, str]:
    """Versions of what writes the records and the store."""
    versions = {"python": platform.python_version()}
    for package in ("numpy", "tensorflow-datasets", "array-record"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def data_checksum(manifest: dict[str, Any]) -> str:
    """One sha256 (hex) for all bytes of a store's arrays: equal checksums, equal data."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def read_store(data_dir: str | Path, task: Task) -> dict[str, Split]:
    """The splits of a prepared task, after every check.

    Raises StoreMissing, or StoreDamaged for anything that does not agree with the manifest or with the task.
    """
    folder = store_path(data_dir, task)
    manifest = read_manifest(data_dir, task)
    splits = {}
    for name in task.splits:
        arrays = {}
        for array in ARRAYS:
            file = f"{name}_{array}.npy"
            content = verify_file(folder / file, manifest["files"].get(file), task)
            arrays[array] = np.load(io.BytesIO(content), allow_pickle=False)
        splits[name] = Split(**arrays)
        try:
            check_split(task, name, splits[name])
        except UserError as error:
            raise damaged(folder, str(error), task) from None
    return splits


def read_manifest(data_dir: str | Path, task: Task) -> dict[str, Any]:
    """The manifest of a prepared task, checked against the task. Raises StoreMissing or StoreDamaged."""
    folder = store_path(data_dir, task)
    if not folder.exists():
        command = f"python -m lra_tasks.prepare {task.name} --data_dir {data_dir}"
        raise StoreMissing(f"{task.name} is not prepared in {data_dir}; run: {command}")
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise damaged(path, "is missing", task) from None
    except (OSError, ValueError) as error:
        raise damaged(path, f"cannot be read ({error})", task) from None
    for key, value in {"format": FORMAT, **declared_facts(task)}.items():
        found = manifest.get(key) if isinstance(manifest, dict) else None
        if found != value:
            raise damaged(path, f"says {key} {found!r}, the task declares {value!r}", task)
    for key in ("files", "source", "records"):
        if not isinstance(manifest.get(key), dict):
            raise damaged(path, f"has no table {key!r}", task)
    return manifest


def verify_file(path: Path, entry: dict | None, task: Task) -> bytes:
    """The content of a file whose size and sha256 are as its manifest entry says; raises StoreDamaged otherwise."""
    if not isinstance(entry, dict):
        raise damaged(path, "is not in the manifest", task)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise damaged(path, "is missing", task) from None
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})", task) from None
    if len(content) != entry.get("bytes"):
        raise damaged(path, f"has {len(content)} bytes, the manifest says {entry.get('bytes')}", task)
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise damaged(path, "does not have the checksum of the manifest", task)
    return content


def damaged(path: Path, fault: str, task: Task) -> StoreDamaged:
    """The error for a file that is not as it was written."""
    return StoreDamaged(f"{path} {fault}; the prepared {task.name} is not used, prepare it again with --rebuild")


def describe_files(folder: Path, root: Path | None = None) -> dict[str, dict[str, object]]:
    """Size and sha256 of every file in `folder`, by its path below `root` (default the folder)."""
    entries: dict[str, dict[str, object]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            entries[str(path.relative_to(root or folder))] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    return entries


def check_split(task: Task, name: str, split: Split) -> None:
    """Raises UserError when the arrays of a split do not agree with each other or with the task's declared facts."""
    lengths, expected = split.lengths, (task.vocabulary.dtype, np.int64, np.uint8)
    dtypes = (split.tokens.dtype, split.offsets.dtype, split.labels.dtype)
    offsets_fit = (
        len(split.offsets) == split.num_examples + 1 >= 2
        and split.offsets[0] == 0
        and split.offsets[-1] == len(split.tokens)
        and bool((lengths > 0).all())
    )
    if dtypes != expected:
        fault = f"dtypes {', '.join(map(str, dtypes))} instead of {', '.join(str(np.dtype(d)) for d in expected)}"
    elif split.num_examples != task.splits[name]:
        fault = f"{split.num_examples} examples, the task declares {task.splits[name]}"
    elif not offsets_fit:
        fault = "offsets that do not fit its tokens and labels"
    elif lengths.max() > task.max_length:
        fault = f"an example of {lengths.max()} tokens, the task allows {task.max_length}"
    elif split.labels.max() >= task.num_classes:
        fault = f"label {split.labels.max()}, the task has {task.num_classes} classes"
    elif split.tokens.min() < 1 or split.tokens.max() >= task.vocabulary.size:
        fault = f"token ids outside 1..{task.vocabulary.size - 1}"
    else:
        return
    raise UserError(f"split {name} of {task.name} has {fault}")
