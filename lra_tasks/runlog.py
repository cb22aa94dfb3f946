"""What a run says while it runs: metrics.jsonl always, a progress bar on a terminal, plain lines elsewhere."""

import json
import sys
from pathlib import Path
from typing import Any

from lra_tasks.typed_json import write_text


def say_on_stderr(text: str) -> None:
    """A line for people, before there is a log."""
    print(text, file=sys.stderr, flush=True)


class RunLog:
    """Numbers of a run. `metrics.jsonl` is the source of truth; the console is for people.

    Of many hosts one has `writes`; on the others nothing is written or said. Without a work directory nothing is
    written, with `shows=False` nothing said: of seeds that are trained at once each writes, and one speaks. Lines of
    steps after `start_step` (of an attempt that was killed before its checkpoint) are dropped on opening, so a step is
    never logged twice.
    """

    def __init__(
        self,
        workdir: Path | None,
        *,
        start_step: int,
        num_steps: int,
        title: str,
        writes: bool = True,
        shows: bool = True,
    ):
        self._shows = writes and shows
        self._num_steps, self._title = num_steps, title
        self._bar: Any = None
        self._task: Any = None
        self._file: Any = None
        if writes and workdir is not None:
            path = workdir / "metrics.jsonl"
            drop_lines_after(path, start_step)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        if self._shows and sys.stderr.isatty():
            self._open_bar(start_step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, split: str, numbers: dict[str, float]) -> None:
        """One line of metrics.jsonl: step, split and numbers."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, "split": split, **numbers}) + "\n")
        self._file.flush()

    def advance(self, step: int, numbers: dict[str, float] | None = None) -> None:
        """Moves the bar to `step`; with `numbers`, shows them too (elsewhere than on a terminal: prints a line)."""
        shown = {} if numbers is None else {"numbers": _format(numbers)}
        if self._bar is not None:
            self._bar.update(self._task, completed=step, **shown)
        elif numbers is not None and self._shows:
            say_on_stderr(f"{self._title} step {step}/{self._num_steps}  {_format(numbers)}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._shows:
            say_on_stderr(text)

    def close(self) -> None:
        """Ends the bar and the file."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._file is not None:
            self._file.close()

    def _open_bar(self, start_step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task(self._title, total=self._num_steps, completed=start_step, numbers="compiling")
        self._bar.start()


def drop_lines_after(path: Path, step: int) -> None:
    """Leaves those lines of a log that are of steps up to `step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the torn last line of a killed run
        if entry["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def _format(numbers: dict[str, float]) -> str:
    """`loss 1.234  accuracy 45.6%  learning rate 1.0e-04`."""
    parts = []
    for name, value in numbers.items():
        label = name.replace("_", " ")
        if "accuracy" in name:
            parts.append(f"{label} {100 * value:.1f}%")
        elif "rate" in name:
            parts.append(f"{label} {value:.1e}")
        else:
            parts.append(f"{label} {value:.3f}" if value < 100 else f"{label} {value:.1f}")
    return "  ".join(parts)
