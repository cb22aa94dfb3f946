"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere, always on stderr."""

import sys
import time
from types import TracebackType
from typing import Any


class Console:
    """A report and a progress callback in one; use it as a context manager.

    On a terminal each stage is a bar (rich); elsewhere a stage is one line when it begins and one when the next begins.
    """

    def __init__(self):
        self._is_terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._stage: str | None = None
        self._bar_task: Any = None
        self._began = time.perf_counter()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_stage(completed=kind is None)
        if self._bar is not None:
            self._bar.stop()

    def report(self, text: str) -> None:
        """One line of text."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` in `stage`; a new stage ends the one before."""
        if stage != self._stage:
            self._end_stage(completed=True)
            self._begin_stage(stage, total)
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=done, total=total)

    def _begin_stage(self, stage: str, total: int) -> None:
        self._stage, self._began = stage, time.perf_counter()
        if not self._is_terminal:
            print(f"{stage}: {total:,}", file=sys.stderr, flush=True)
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bar is None:
            columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=RichConsole(stderr=True))
            self._bar.start()
        self._bar_task = self._bar.add_task(stage, total=total)

    def _end_stage(self, completed: bool) -> None:
        if self._stage is None:
            return
        if self._bar is not None and completed:
            self._bar.update(self._bar_task, completed=self._bar.tasks[-1].total)
        if self._bar is None and completed:
            print(f"{self._stage}: done in {time.perf_counter() - self._began:.1f} s", file=sys.stderr, flush=True)
        self._stage = None
