"""Checkpoints through orbax: `last`, to resume from, `best`, by validation score, and whatever else a run keeps."""

import functools
import logging
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from lra_tasks.errors import UserError
from lra_tasks.fingerprints import take_fingerprints
from lra_tasks.hosts import gather_texts, is_lead
from lra_tasks.settings import differences

KEPT = {"last": 2, "best": 1}
"""How many checkpoints of each kind stay on disk. The one before the newest survives a torn write."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or does not fit; what was saved before is untouched."""


class TornCheckpoint(CheckpointError):
    """A checkpoint that cannot be read, or holds other numbers than were written."""


TORN = "torn"
"""Where checkpoints that cannot be read are put aside, as KIND-STEP."""


def describe(tree: Any) -> dict[str, str]:
    """Path of each array to its shape and dtype, the fingerprint that a checkpoint carries."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


@functools.cache
def mute_what_cannot_be_caught() -> None:
    """Of a failed save or read we get one error; what its other parts say later would only be tracebacks on stderr.

    Orbax logs each save, and a failed one with its traceback, on absl's logger. The other writes end on a closed event
    loop, and asyncio logs the errors of those that nobody waits for any more.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def hook(unraisable, /):
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = hook


class Checkpoints:
    """The checkpoints of one work directory; a context manager that waits for writes on leaving.

    Each holds a tree of arrays and a small dict of notes. Orbax writes in the background under a temporary name and
    renames at the end, so a name without suffix is always whole.
    """

    def __init__(self, workdir: Path, *, clean: bool = False, kept: Mapping[str, int] | None = None):
        """`clean` removes what a killed run left half-written: for the run that owns the folder, not for readers.

        `kept` names further kinds of checkpoints, and how many of each stay.
        """
        mute_what_cannot_be_caught()
        self._root, self._clean = workdir.absolute() / "checkpoints", clean
        self._kept = {**KEPT, **(kept or {})}
        self._managers: dict[str, Any] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self.wait()
        except CheckpointError:
            # A second complaint must not hide the first.
            if error is None:
                raise
        finally:
            for manager in self._managers.values():
                manager.close()

    def latest_step(self, kind: str) -> int | None:
        """Step of the newest whole checkpoint of a kind, None where there is none."""
        if not (self._root / kind).is_dir():
            return None
        return self._manager(kind).latest_step()

    def list_steps(self, kind: str) -> list[int]:
        """Steps of all whole checkpoints of a kind, rising."""
        return sorted(self._manager(kind).all_steps()) if (self._root / kind).is_dir() else []

    def delete_after(self, kind: str, step: int) -> None:
        """Deletes what a killed attempt saved behind `step`, where the next one takes up: it will save it again.

        Of a kind of which the newest few stay, a later one that was there already would drive out an earlier one.
        """
        for later in self.list_steps(kind):
            if later > step:
                self._manager(kind).delete(later)

    def save(self, kind: str, step: int, tree: Any, notes: dict[str, Any]) -> None:
        """Starts to write a checkpoint and returns; a step that is there already is left as it is.

        What was started before is on disk then: a run killed now never resumes behind a `best` that it has lost.
        """
        import orbax.checkpoint as ocp

        self.wait()
        notes = {"notes": notes, "arrays": describe(tree), "fingerprints": take_fingerprints(tree)}
        try:
            manager = self._manager(kind)
            if step in manager.all_steps():
                return
            arguments = ocp.args.Composite(tree=ocp.args.StandardSave(tree), notes=ocp.args.JsonSave(notes))
            manager.save(step, args=arguments, force=True)
        except Exception as error:
            raise self._explain(error) from error

    def wait(self) -> None:
        """Returns when every started write is on disk."""
        try:
            for manager in self._managers.values():
                manager.wait_until_finished()
        except Exception as error:
            raise self._explain(error) from error

    def read_notes(self, kind: str) -> tuple[int, dict[str, Any]]:
        """Step and notes of the newest checkpoint of a kind. CheckpointError where there is none."""
        step, notes = self._read(kind)
        return step, notes["notes"]

    def restore(
        self, kind: str, abstract: Any, *, step: int | None = None, shardings: Any = None
    ) -> tuple[int, Any, dict[str, Any]]:
        """Step, tree and notes of the checkpoint of a kind at `step`, or of the newest.

        `abstract` has the shapes and dtypes that the caller expects, `shardings` says where the arrays are to lie, on
        any number of devices; default: the first. CheckpointError names the arrays that differ, TornCheckpoint is for
        one that cannot be read.
        """
        step, notes = self._read(kind, step)
        differing = differences(describe(abstract), notes["arrays"])
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise CheckpointError(
                f"{self._root / kind / str(step)} belongs to another model: {'; '.join(differing[:3])}{more} "
                "(here = this config, there = the checkpoint); take the work directory that it came from"
            )
        if shardings is None:
            shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), abstract)
        tree = self._read_arrays(kind, step, abstract, shardings)
        if (written := notes.get("fingerprints")) is not None:
            found = take_fingerprints(tree)
            if changed := [name for name, value in written.items() if found[name] != value]:
                raise TornCheckpoint(
                    f"{self._root / kind / str(step)} holds other numbers than were written: {changed[0]}"
                )
        return step, tree, notes["notes"]

    def restore_newest(
        self, kind: str, abstract: Any, report: Callable[[str], None], *, shardings: Any = None
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint of a kind that is whole; None where there is none at all.

        One that is torn is reported, put aside, and the one before it taken. TornCheckpoint where all are torn.
        """
        torn = []
        for step in reversed(self.list_steps(kind)):
            found, fault = None, ""
            try:
                found = self.restore(kind, abstract, step=step, shardings=shardings)
            except TornCheckpoint as error:
                fault = str(error)
            faults = [text for text in gather_texts(fault) if text]
            if not faults:
                return found
            self._put_aside(kind, step)
            torn.append(step)
            report(f"{faults[0]}; it is now {TORN}/{kind}-{step}, and the checkpoint before it is looked at")
        if torn:
            raise TornCheckpoint(
                f"no whole checkpoint is left under {self._root / kind} (torn: steps {', '.join(map(str, torn))}); "
                "start again in a new work directory"
            )
        return None

    def _put_aside(self, kind: str, step: int) -> None:
        aside = self._root / TORN / f"{kind}-{step}"
        if is_lead():
            aside.parent.mkdir(exist_ok=True)
            (self._root / kind / str(step)).rename(aside)
        gather_texts("moved")
        self._manager(kind).reload()

    def _read(self, kind: str, step: int | None = None) -> tuple[int, dict[str, Any]]:
        import orbax.checkpoint as ocp

        step = self.latest_step(kind) if step is None else step
        if step is None:
            raise CheckpointError(f"no checkpoint under {self._root / kind}; train first")
        try:
            restored = self._manager(kind).restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))
        except Exception as error:
            raise TornCheckpoint(f"{self._root / kind / str(step)} cannot be read: {_first_line(error)}") from error
        return step, restored.notes

    def _read_arrays(self, kind: str, step: int, abstract: Any, shardings: Any) -> Any:
        import orbax.checkpoint as ocp

        def target(leaf, sharding):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        arguments = ocp.args.Composite(tree=ocp.args.StandardRestore(jax.tree.map(target, abstract, shardings)))
        try:
            return self._manager(kind).restore(step, args=arguments).tree
        except Exception as error:
            raise TornCheckpoint(f"{self._root / kind / str(step)} cannot be read: {_first_line(error)}") from error

    def _manager(self, kind: str):
        import orbax.checkpoint as ocp

        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._kept.get(kind), create=True, cleanup_tmp_directories=self._clean
            )
            self._managers[kind] = ocp.CheckpointManager(self._root / kind, options=options)
        return self._managers[kind]

    def _explain(self, error: Exception) -> CheckpointError:
        steps = {kind: self._newest_on_disk(kind) for kind in KEPT}
        kept = ", ".join(f"{kind} at step {step}" for kind, step in steps.items() if step is not None) or "none"
        return CheckpointError(
            f"a checkpoint under {self._root} could not be written ({_first_line(error)}); make room or rights and "
            f"run the same command again; whole checkpoints: {kept}"
        )

    def _newest_on_disk(self, kind: str) -> int | None:
        steps = [int(folder.name) for folder in (self._root / kind).glob("*") if folder.name.isdigit()]
        return max(steps, default=None)


def _first_line(error: Exception) -> str:
    refusal = re.search(r": ([^:]+) \[os_error_code=", str(error))
    if refusal:  # tensorstore repeats the path three times in front of the system's words
        return refusal.group(1)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
