"""The checkpoints of several seeds: each in its own work directory, as of a run by itself."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from lra_tasks.checkpoint import CheckpointError, Checkpoints
from lra_tasks.seeds_steps import STATE_AXES, stack_states, unstack_state


def abstract_state(stacked: Any) -> Any:
    """Shapes and dtypes of one seed's state, of those of all."""

    def take_one(name: str, part: Any) -> Any:
        if STATE_AXES[name] is None:
            return part
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), part)

    return {name: take_one(name, part) for name, part in stacked.items()}


class SeedCheckpoints(Checkpoints):
    """The states of all seeds as one tree: split where it is saved, stacked where it is restored.

    Of a seed in `given_up` nothing is saved any more. What is not here, the best parameters for example, is each seed's
    own affair, with its Checkpoints in `of`.
    """

    def __init__(self, workdirs: Mapping[int, Path]):
        self.of = {seed: Checkpoints(workdir, clean=True) for seed, workdir in workdirs.items()}
        self.given_up: set[int] = set()

    def __enter__(self) -> "SeedCheckpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        with contextlib.ExitStack() as stack:
            for checkpoints in self.of.values():
                stack.push(checkpoints.__exit__)
            stack.pop_all().__exit__(kind, error, trace)

    def save(self, kind: str, step: int, tree: Any, notes: dict[str, Any]) -> None:
        """Starts to write a checkpoint of every seed."""
        for (seed, checkpoints), part in zip(self.of.items(), unstack_state(tree, len(self.of)), strict=True):
            if seed not in self.given_up:
                checkpoints.save(kind, step, part, notes)

    def wait(self) -> None:
        """Returns when every started write is on disk."""
        for checkpoints in self.of.values():
            checkpoints.wait()

    def restore_newest(
        self, kind: str, abstract: Any, report: Callable[[str], None], *, shardings: Any = None
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest step of which every seed has a whole checkpoint; None where they have not begun.

        A run that was killed may have saved some of the seeds at its last step: what they have behind the common one is
        deleted, and made again. Of the notes, which are the same, those of the first seed.
        """
        while (step := self._newest_common(kind)) is not None:
            found = []
            for checkpoints in self.of.values():
                checkpoints.delete_after(kind, step)
                newest = checkpoints.restore_newest(kind, abstract_state(abstract), report)
                if newest is not None and newest[0] == step:
                    found.append(newest)
            if len(found) == len(self.of):
                return step, stack_states([state for _, state, _ in found], shardings), found[0][2]
        for checkpoints in self.of.values():
            checkpoints.delete_after(kind, -1)
        return None

    def _newest_common(self, kind: str) -> int | None:
        steps = {seed: checkpoints.list_steps(kind) for seed, checkpoints in self.of.items()}
        common = set.intersection(*map(set, steps.values()))
        if not common and all(steps.values()):
            found = "; ".join(f"seed {seed}: {', '.join(map(str, of))}" for seed, of in steps.items())
            raise CheckpointError(
                f"the seeds have no checkpoint of one step ({found}), so they cannot go on at once; start again in a "
                "new work directory"
            )
        return max(common, default=None)
