"""The time of a run, over all its attempts."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Clock:
    """Seconds of the run, over all its attempts. Evaluation and saving do not count as training."""

    train_seconds: float = 0.0
    earlier_seconds: float = 0.0
    """Wall time of earlier attempts."""
    compile_seconds: float = 0.0
    resumed: int = 0
    speeds: list[float] = field(default_factory=list)
    """Steps per second of each logging interval."""
    started: float = field(default_factory=time.monotonic)

    def as_notes(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "train_seconds": self.train_seconds,
            "wall_seconds": self.wall_seconds,
            "compile_seconds": self.compile_seconds,
            "resumed": self.resumed,
            "speeds": self.speeds,
        }

    @classmethod
    def from_notes(cls, notes: dict[str, Any]) -> "Clock":
        """The clock of a run that is taken up again."""
        times = {"train_seconds": notes["train_seconds"], "earlier_seconds": notes["wall_seconds"]}
        return cls(
            **times, compile_seconds=notes["compile_seconds"], resumed=notes["resumed"] + 1, speeds=notes["speeds"]
        )

    @property
    def wall_seconds(self) -> float:
        """Seconds of all attempts until now."""
        return self.earlier_seconds + time.monotonic() - self.started
