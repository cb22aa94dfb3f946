"""The work directory of a run: its config, whether it is finished, what it refuses. Never imports JAX."""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lra_tasks.errors import UserError
from lra_tasks.settings import differences
from lra_tasks.typed_json import write_text

CONFIG, METRICS, RECORD = "config.json", "metrics.jsonl", "record.json"
SEEDS = "seeds.json"
"""In the work directory of a seed that is trained with others: which, and whether it failed."""


class ResolvedConfig(Protocol):
    """An experiment of any kind, as far as a work directory knows it."""

    def as_dict(self) -> dict[str, Any]: ...


class Place(Protocol):
    """Where a run, or several at once, lie."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train."""
        ...

    def open(self) -> None:
        """Makes the folders with their configs. UserError for those that hold something else."""
        ...

    def withdraw(self) -> None:
        """Takes back what `open` made: a run that never began claims no work directory."""
        ...

    def conclude(self) -> int:
        """Says what came out of a run that is done, and returns the exit code."""
        ...


@dataclass
class RunFolder:
    """The work directory of a run by itself."""

    workdir: Path
    experiment: ResolvedConfig
    made: list[Path] = field(default_factory=list)
    """Files that `open` made."""

    @property
    def is_done(self) -> bool:
        """Whether it has its record, which is written last."""
        return (self.workdir / RECORD).exists()

    def open(self) -> None:
        """Makes folder and config. UserError for a folder of another config, or of seeds that are trained at once."""
        if any(self.workdir.glob(f"seed*/{SEEDS}")):
            raise UserError(
                f"{self.workdir} holds seeds that are trained at once; give --seeds, or take another --workdir"
            )
        if (self.workdir / SEEDS).exists() and not self.is_done:
            raise UserError(
                f"{self.workdir} is trained at once with other seeds; give --workdir {self.workdir.parent} and --seeds "
                f"as its {SEEDS} says, or take another --workdir"
            )
        self.made += open_workdir(self.workdir, self.experiment)

    def withdraw(self) -> None:
        """Removes what `open` made."""
        for path in self.made:
            path.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def conclude(self) -> int:
        """Says where the record is."""
        print(f"{self.workdir} is finished; its record is {self.workdir / RECORD}")
        return 0


def open_workdir(workdir: Path, experiment: ResolvedConfig) -> list[Path]:
    """Makes the work directory and its config.json, or refuses one that holds another config; returns what it made."""
    path, config = workdir / CONFIG, experiment.as_dict()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if (workdir / "checkpoints").exists():
                raise UserError(f"{workdir} has checkpoints but no {CONFIG}; take another --workdir")
            write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
            return [path]
        before = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be used ({error.strerror or error}); take a folder you may write to"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); take another --workdir") from None
    if not isinstance(before, dict):
        raise UserError(f"{path} is not a config; take another --workdir")
    found = differences(config, before)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{workdir} holds another config ({'; '.join(found[:3])}{more}); take another --workdir or that config"
        )
    return []
