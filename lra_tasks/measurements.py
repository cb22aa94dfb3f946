"""The file of a measurement: what was found, on what machine, with what code and command. One JSON a kind."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.folders import require_output
from lra_tasks.provenance import git_commit, host_cores, library_versions, portable_command
from lra_tasks.typed_json import write_text

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measurement:
    """KIND-PLATFORM.json in a folder; UserError, before anything is measured, where it could not be written."""

    kind: str
    folder: Path
    arguments: Sequence[str]
    """Of `python -m lra_tasks.benchmark`."""
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self):
        require_output(self.folder)

    @property
    def file(self) -> Path:
        """Where it goes."""
        return self.folder / f"{self.kind}-{jax.devices()[0].platform}.json"

    def write(self, **found: Any) -> None:
        """Writes what was found, over an older file, and says where."""
        commit, dirty = git_commit()
        value = {"kind": self.kind, "started_at": self.started_at, "commit": commit, "commit_dirty": dirty}
        value |= {"command": portable_command("lra_tasks.benchmark", self.arguments), "versions": library_versions()}
        value |= {"device": describe_machine(), "host_cores": host_cores()}
        value |= found | {"schema_version": SCHEMA_VERSION}
        write_text(self.file, json.dumps(value, indent=1, allow_nan=False) + "\n")
        print(f"written: {self.file}")
