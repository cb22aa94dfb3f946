"""A trace of a few training steps, for TensorBoard's profiler and Perfetto."""

from pathlib import Path
from typing import Any

import jax

SKIPPED_STEPS, TRACED_STEPS = 10, 5
"""The first steps of a process compile and fill caches; a trace of more steps shows nothing else, and is large."""


class Profile:
    """The TRACED_STEPS steps behind the first SKIPPED_STEPS of this process, written below `folder`; None: nothing."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._is_tracing = self._is_done = False

    def look(self, done: int, newest: Any) -> str | None:
        """Told at every step how many this process has launched, and the results of the last; returns what to say."""
        if self.folder is None:
            return None
        if done == SKIPPED_STEPS:
            jax.block_until_ready(newest)
            jax.profiler.start_trace(str(self.folder))
            self._is_tracing = True
        elif done == SKIPPED_STEPS + TRACED_STEPS:
            jax.block_until_ready(newest)
            return self.close()
        return None

    def close(self) -> str | None:
        """Ends the trace, if there is one; returns what to say."""
        if self.folder is None or self._is_done:
            return None
        self._is_done = True
        if not self._is_tracing:
            return f"no profile: it begins behind {SKIPPED_STEPS} steps, and there were not so many"
        jax.profiler.stop_trace()
        return f"profile of {TRACED_STEPS} steps below {self.folder}: look at it with tensorboard or ui.perfetto.dev"
