"""The store: flat arrays of a prepared task beside a manifest. Written whole or not at all; read with NumPy alone.

<data_dir>/store/<task>/manifest.json and {train,validation,test}_{tokens,offsets,labels}.npy; of a paired task
documents_{tokens,offsets}.npy, each document once, and {train,validation,test}_{pairs,labels}.npy
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.folders import new_folder
from lra_tasks.task import Named, Split, Task

__all__ = [
    "Split", "StoreDamaged", "StoreMissing", "check_split", "damaged", "data_checksum", "describe_files",
    "fill_store", "load_array", "missing", "name_arrays", "open_manifest", "read_manifest", "read_store",
    "store_path", "verify_file", "write_store",
]  # fmt: skip

FORMAT = 1
MANIFEST = "manifest.json"


class StoreMissing(UserError):
    """The task has not been prepared in this data folder."""


class StoreDamaged(UserError):
    """The store is there and must not be read; the message names the file and what is wrong."""


def store_path(data_dir: str | Path, task: Named) -> Path:
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
    check_splits(task, splits, source)
    for name, array in name_arrays(task, splits):
        save_array(folder / f"{name}.npy", array)
    manifest = {
        "format": FORMAT,
        **declared_facts(task),
        "splits": {name: split.num_examples for name, split in splits.items()},
        "files": describe_files(folder),
        "source": source,
        "records": records,
        "libraries": library_versions(),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    for name, content in task.illustrate(splits).items():
        (folder / name).write_bytes(content)


def name_arrays(task: Task, splits: dict[str, Split]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of everything that the splits of a task hold, each array once."""
    if task.paired:
        documents = next(iter(splits.values()))
        yield from (("documents_tokens", documents.tokens), ("documents_offsets", documents.offsets))
    for name, split in splits.items():
        arrays = ("pairs", "labels") if task.paired else ("tokens", "offsets", "labels")
        yield from ((f"{name}_{array}", getattr(split, array)) for array in arrays)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file; an array that is the whole of one already is linked to it instead of copied."""
    source = getattr(array, "filename", None)
    if source is not None and Path(source).suffix == ".npy":
        mapped = np.load(source, mmap_mode="r", allow_pickle=False)
        if (mapped.shape, mapped.dtype) == (array.shape, array.dtype) and array.flags.c_contiguous:
            with contextlib.suppress(OSError):  # another disk, or a file system without links
                os.link(source, path)
                return
    np.save(path, array, allow_pickle=False)


def declared_facts(task: Task) -> dict[str, Any]:
    """What a manifest must repeat of its task."""
    return {"task": task.name, "version": task.version, "vocabulary_sha256": task.vocabulary.digest}


def declared_count(task: Task, name: str, source: dict[str, Any]) -> int | None:
    """Examples that a split must have: what the task declares, less what the source names but lacks."""
    declared = {**task.splits, **task.optional_splits}.get(name)
    return None if declared is None else declared - len(source.get("left_out", {}).get(name, ()))


def library_versions(packages: Iterable[str] = ("numpy", "tensorflow-datasets", "array-record")) -> dict[str, str]:
    """Versions of what writes the records and the store."""
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def data_checksum(manifest: dict[str, Any]) -> str:
    """One sha256 (hex) for all bytes of a store's arrays: equal checksums, equal data."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def read_store(data_dir: str | Path, task: Task) -> dict[str, Split]:
    """The splits of a prepared task, after every check; tokens are memory maps.

    Raises StoreMissing, or StoreDamaged for anything that does not agree with the manifest or with the task.
    """
    folder = store_path(data_dir, task)
    manifest = read_manifest(data_dir, task)

    def read(name: str) -> np.ndarray:
        return load_array(folder / f"{name}.npy", manifest, task)

    if task.paired:
        tokens, offsets = read("documents_tokens"), read("documents_offsets")
        splits = {
            name: Split(tokens, offsets, read(f"{name}_labels"), read(f"{name}_pairs")) for name in manifest["splits"]
        }
    else:
        splits = {
            name: Split(read(f"{name}_tokens"), read(f"{name}_offsets"), read(f"{name}_labels"))
            for name in manifest["splits"]
        }
    try:
        check_splits(task, splits, manifest["source"])
    except UserError as error:
        raise damaged(folder, str(error), task) from None
    return splits


def load_array(path: Path, manifest: dict[str, Any], task: Named) -> np.ndarray:
    """An array of a store as a memory map, verified against the manifest. Raises StoreDamaged."""
    verify_file(path, manifest["files"].get(path.name), task)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise damaged(path, f"is not an array ({error})", task) from None
    # A plain array over the map: slices of np.memmap itself cost ten times as much.
    return mapped.view(np.ndarray)


def read_manifest(data_dir: str | Path, task: Task) -> dict[str, Any]:
    """The manifest of a prepared task, checked against the task. Raises StoreMissing or StoreDamaged."""
    folder = store_path(data_dir, task)
    if not folder.exists():
        raise missing(data_dir, task, needs_files=task.source_kind == "raw")
    tables = ("splits", "files", "source", "records")
    manifest = open_manifest(folder / MANIFEST, {"format": FORMAT, **declared_facts(task)}, tables, task)
    wanted = {name: declared_count(task, name, manifest["source"]) for name in {**task.splits, **manifest["splits"]}}
    if manifest["splits"] != wanted:
        raise damaged(folder / MANIFEST, f"says splits {manifest['splits']!r}, the task declares {wanted!r}", task)
    return manifest


def open_manifest(path: Path, facts: dict[str, Any], tables: Iterable[str], task: Named) -> dict[str, Any]:
    """A manifest that repeats the `facts` and has the `tables`. Raises StoreDamaged."""
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise damaged(path, "is missing", task) from None
    except (OSError, ValueError) as error:
        raise damaged(path, f"cannot be read ({error})", task) from None
    for key, value in facts.items():
        found = manifest.get(key) if isinstance(manifest, dict) else None
        if found != value:
            raise damaged(path, f"says {key} {found!r}, the task declares {value!r}", task)
    for key in tables:
        if not isinstance(manifest.get(key), dict):
            raise damaged(path, f"has no table {key!r}", task)
    return manifest


def verify_file(path: Path, entry: dict | None, task: Named) -> None:
    """Raises StoreDamaged unless the size and sha256 of a file are as its manifest entry says."""
    if not isinstance(entry, dict):
        raise damaged(path, "is not in the manifest", task)
    try:
        size = path.stat().st_size
        if size != entry.get("bytes"):
            raise damaged(path, f"has {size} bytes, the manifest says {entry.get('bytes')}", task)
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise damaged(path, "is missing", task) from None
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})", task) from None
    if found != entry.get("sha256"):
        raise damaged(path, "does not have the checksum of the manifest", task)


def missing(data_dir: str | Path, task: Named, *, needs_files: bool) -> StoreMissing:
    """The error for a task without a store, with the command that makes it."""
    raw = " --raw_dir DIR" if needs_files else ""
    command = f"python -m lra_tasks.prepare {task.name} --data_dir {data_dir}{raw}"
    return StoreMissing(f"{task.name} is not prepared in {data_dir}; run: {command}")


def damaged(path: Path, fault: str, task: Named) -> StoreDamaged:
    """The error for a file that is not as it was written."""
    return StoreDamaged(f"{path} {fault}; the prepared {task.name} is not used, prepare it again with --rebuild")


def describe_files(folder: Path, root: Path | None = None) -> dict[str, dict[str, object]]:
    """Size and sha256 of every file in `folder`, by its path below `root` (default the folder)."""
    entries: dict[str, dict[str, object]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            entries[str(path.relative_to(root or folder))] = {"bytes": path.stat().st_size, "sha256": checksum}
    return entries


def check_splits(task: Task, splits: dict[str, Split], source: dict[str, Any]) -> None:
    """Raises UserError unless every declared split is there and agrees with the task."""
    for name in {**task.splits, **splits}:
        if name not in splits:
            raise UserError(f"split {name} of {task.name} is missing")
        declared = declared_count(task, name, source)
        if declared is None:
            raise UserError(f"{task.name} has no split {name}")
        check_split(task, name, splits[name], declared)


def check_split(task: Task, name: str, split: Split, declared: int) -> None:
    """Raises UserError when the arrays of a split do not agree with each other or with the task's declared facts."""
    fault = _find_fault_in_examples(task, split, declared) or _find_fault_in_documents(task, split)
    if fault is not None:
        raise UserError(f"split {name} of {task.name} has {fault}")


def _find_fault_in_documents(task: Task, split: Split) -> str | None:
    expected, found = (task.vocabulary.dtype, np.dtype(np.int64)), (split.tokens.dtype, split.offsets.dtype)
    if found != expected:
        return f"dtypes {', '.join(map(str, found))} of tokens and offsets instead of {', '.join(map(str, expected))}"
    lengths = split.lengths
    offsets_fit = len(split.offsets) >= 2 and split.offsets[0] == 0 and split.offsets[-1] == len(split.tokens)
    if not offsets_fit or lengths.min() < (0 if task.may_be_empty else 1):
        return "offsets that do not fit its tokens and labels"
    if lengths.max() > task.max_length:
        return f"an example of {lengths.max()} tokens, the task allows {task.max_length}"
    first, last = task.vocabulary.first_id, task.vocabulary.size - 1
    every_value_is_an_id = first == 0 and last == np.iinfo(split.tokens.dtype).max  # of gigabytes, not looked through
    if len(split.tokens) and not every_value_is_an_id and (split.tokens.min() < first or split.tokens.max() > last):
        return f"token ids outside {first}..{last}"
    return None


def _find_fault_in_examples(task: Task, split: Split, declared: int) -> str | None:
    num_documents = len(split.offsets) - 1
    if split.labels.dtype != np.uint8:
        return f"labels of dtype {split.labels.dtype} instead of uint8"
    if (split.pairs is not None) != task.paired:
        return "no pairs of documents" if task.paired else "pairs of documents, which the task has not"
    if split.num_examples != declared:
        return f"{split.num_examples} examples, the task declares {declared}"
    if split.pairs is None and num_documents != split.num_examples:
        return "offsets that do not fit its tokens and labels"
    if split.pairs is not None:
        if split.pairs.dtype != np.int32 or split.pairs.shape != (split.num_examples, 2):
            return f"pairs {split.pairs.dtype} {split.pairs.shape} instead of int32 ({split.num_examples}, 2)"
        if split.pairs.min() < 0 or split.pairs.max() >= num_documents:
            return f"pairs of documents outside 0..{num_documents - 1}"
    if split.labels.max() >= task.num_classes:
        return f"label {split.labels.max()}, the task has {task.num_classes} classes"
    return None
