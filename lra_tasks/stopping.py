"""A signal that ends a run behind a step, on one host or on all of them at the same step."""

import os
import signal
from typing import Any

import jax


class Stop:
    """Whether the run is to stop: `name` of the signal, once there is one. A context manager that watches for it."""

    name: str | None = None

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *_) -> None:
        return None

    def look(self, step: int) -> None:
        """Asked behind every step, by every host."""


def watch_signals() -> Stop:
    """What stops this run."""
    return StopFlag() if jax.process_count() == 1 else SharedStop()


class StopFlag(Stop):
    """Set by SIGTERM and SIGINT, looked at after every step. A second signal ends the process at once."""

    def __init__(self):
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopFlag":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number, _frame) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)


class SharedStop(Stop):
    """Whether all hosts are to stop behind a step: SIGTERM or SIGINT of any of them, agreed upon in the background."""

    def __enter__(self) -> "SharedStop":
        self._before = signal.signal(signal.SIGINT, self._pass_on)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _pass_on(self, number, frame) -> None:
        # the service that agrees on a step listens to SIGTERM alone
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def look(self, step: int) -> None:
        """Asked at every step of every host; `name` is set on all at the same one."""
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        if reached_preemption_sync_point(step):
            self.name = "SIGTERM"
