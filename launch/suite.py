"""Tasks x rows x seeds, a few runs at a time and within a time budget, then the results table.

  python launch/suite.py --tasks listops,text --rows luna16,transformer --seeds 0,1,2 --preset cpu \\
      --workers 2 --hours 2 --workdir runs/suite [-- FLAGS OF lra_tasks.train]

Started in the project's folder, it prepares each task's data once, then trains seed 0 of everything, seed 1 of
everything, and so on. The same command again goes on where it stopped: a run with a record.json is finished, any other
goes on from its checkpoint. When the budget is used up, or on SIGTERM and Ctrl-C, the runs save and end; a second
signal ends them at once. A run that fails does not stop the others and is named at the end. On Linux each run has cores
of its own. What a run prints is in WORKDIR/logs. TRAIN_FLAGS in the environment holds more flags of lra_tasks.train,
separated by blanks.

  python launch/suite.py --preset reproduction --slice_minutes 5 --hours 0.5 --workdir runs/reproduction

The plan `reproduction` is that of the paper's rows with five seeds, `small` the same for two cores: the preset cpu with
three. --tasks, --rows and --seeds take a part of a plan. With
--slice_minutes a run saves when its turn is over and others of the same seed wait, and goes on when all of them had
theirs, also in the next call: for a machine that is at hand for short times only. Many runs on one GPU: --gpus 0
--workers 4, each with a part of its memory. Or --seeds_at_once: a run is a cell, and trains all its seeds as one
program, as --seeds of lra_tasks.train; their folders and records are the same.

Exit codes: 0 all finished, 1 some failed, 2 a mistake to mend, 75 some not finished, with everything saved.
"""

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO

from suite_options import parse_options
from suite_plan import (
    RECORD,
    Mistake,
    Run,
    Slot,
    log_path,
    make_slots,
    plan_runs,
    prepare_command,
    print_plan,
    results_command,
    train_command,
)

EXIT_FAILED, EXIT_MISTAKE, EXIT_STOPPED = 1, 2, 75
ANYWHERE = Slot()
POLL_SECONDS = 0.1
JAX_FOOTER = "For simplicity, JAX has removed its internal frames"  # below a dashed line, behind the error itself
GRACE_SECONDS = 600.0  # from SIGTERM to SIGKILL: a run looks at signals between steps, and may be at a long evaluation


@dataclass
class Child:
    """A process in a session of its own, so that Ctrl-C reaches the suite alone, which hands it on once."""

    process: subprocess.Popen
    log: Path
    log_start: int  # bytes that earlier attempts have written
    began: float = field(default_factory=time.monotonic)
    asked: float | None = None  # when it was told to save and end

    def ask(self) -> None:
        """Tells it, once, to save and end."""
        if self.asked is None:
            self.asked = time.monotonic()
            self.send(signal.SIGTERM)

    def send(self, number: int) -> None:
        """Signals it, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def last_line(self) -> str:
        """The last thing that this attempt said."""
        with open(self.log, "rb") as file:
            file.seek(self.log_start)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip(" -")]
        if lines and lines[-1].startswith(JAX_FOOTER):
            lines.pop()
        return lines[-1].strip()[:300] if lines else "it said nothing"


class Suite:
    """What is waiting, at work and done; `work` goes on until nothing is left or it has to stop."""

    def __init__(self, options: argparse.Namespace, runs: list[Run], lock: IO[str]):
        self.options, self.lock, self.num_runs = options, lock, len(runs)
        self.finished = [run for run in runs if run.is_finished]
        self.waiting = deque(run for run in runs if not run.is_finished)
        self.running: dict[Run, tuple[Child, Slot]] = {}
        self.failed: dict[str, str] = {}
        self.slots = make_slots(options)
        self.began = time.monotonic()
        self.why_stopped = ""
        self.in_haste = False
        self.signals: list[str] = []  # received and not yet looked at

    def work(self) -> int:
        """Prepares, trains, prints the table; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self.signals.append(signal.Signals(number).name))
        for run in self.finished:
            self.say(f"finished before: {run.name}")
        self.prepare()
        try:
            while self.running or (self.waiting and not self.why_stopped):
                self.take_a_step()
        finally:  # where the suite itself fails, for want of room for its logs for example, nothing goes on unwatched
            for child, _ in self.running.values():
                child.ask()
        return self.conclude()

    def take_a_step(self) -> None:
        """Fills the slots, waits a moment, and looks at the time and at who has ended."""
        while self.waiting and self.slots and not self.why_stopped:
            self.start(self.waiting.popleft(), self.slots.pop(0))
        time.sleep(POLL_SECONDS)
        self.look_at_turns()
        self.look_at_time([child for child, _ in self.running.values()])
        for run, (child, slot) in list(self.running.items()):
            if child.process.poll() is not None:
                del self.running[run]
                self.slots.append(slot)
                self.end(run, child)

    def prepare(self) -> None:
        """Each task's data, once. The runs of a task whose data cannot be had have failed."""
        for task in dict.fromkeys(run.task for run in self.waiting):
            if self.why_stopped:
                return
            self.say(f"prepare {task}")
            child = self.spawn(prepare_command(self.options, task), f"prepare.{task}")
            while child.process.poll() is None:
                time.sleep(POLL_SECONDS)
                self.look_at_time([child])
            if child.process.returncode and not self.why_stopped:
                for run in [run for run in self.waiting if run.task == task]:
                    self.waiting.remove(run)
                    self.fail(run, f"{task} is not prepared: {child.last_line()}")

    def spawn(self, command: list[str], name: str, slot: Slot = ANYWHERE) -> Child:
        """Starts a process whose output goes to a log; it holds the suite's lock, too, for it may outlive the suite."""
        log = log_path(self.options, name)
        log.parent.mkdir(parents=True, exist_ok=True)
        tie = (lambda: os.sched_setaffinity(0, slot.cores)) if slot.cores else None
        with open(log, "ab") as output:
            start = output.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=tie,
                env=os.environ | slot.environment(), start_new_session=True, pass_fds=(self.lock.fileno(),),
            )  # fmt: skip
        return Child(process, log, start)

    def start(self, run: Run, slot: Slot) -> None:
        """One run begins, or goes on."""
        how = "go on with" if run.last_turn else "start"
        child = self.spawn(train_command(self.options, run), run.name, slot)
        self.running[run] = (child, slot)
        self.say(f"{how} {run.name}" + (f" ({slot})" if str(slot) else ""))

    def end(self, run: Run, child: Child) -> None:
        """Sorts a run that has ended by how it did."""
        code, seconds = child.process.returncode, time.monotonic() - child.began
        if code == 0 and run.is_finished:
            self.finished.append(run)
            self.say(f"finished {run.name} in {show_time(seconds)}; {self.count()}")
        elif code == EXIT_STOPPED and child.asked is not None and not self.why_stopped:
            self.waiting.insert(sum(other.lap <= run.lap for other in self.waiting), run)
            self.say(f"turn over: {run.name} after {show_time(seconds)}: {child.last_line()}")
        elif code == EXIT_STOPPED or (self.why_stopped and code in (-signal.SIGTERM, -signal.SIGKILL)):
            self.say(f"stopped {run.name}: {child.last_line()}")
        elif child.asked is not None and code in (-signal.SIGTERM, -signal.SIGKILL):
            self.fail(run, f"it had not saved when its turn was over; give more --slice_minutes: {child.last_line()}")
        elif code < 0:
            self.fail(run, f"ended by {name_signal(-code)}: {child.last_line()}")
        else:
            self.fail(run, f"exit code {code}: {child.last_line()}" if code else f"it ended without a {RECORD}")

    def fail(self, run: Run, reason: str) -> None:
        """Notes a failure; the others go on."""
        self.failed[run.name] = reason
        self.say(f"failed {run.name}: {reason}")

    def look_at_turns(self) -> None:
        """Ends the turns that are over, as many as there are others waiting for them, the oldest first."""
        if self.options.slice_minutes is None or self.why_stopped:
            return
        places = sum(child.asked is not None for child, _ in self.running.values())
        for run, (child, _) in self.running.items():
            is_over = time.monotonic() - child.began > 60 * self.options.slice_minutes
            if child.asked is None and is_over and sum(other.lap <= run.lap for other in self.waiting) > places:
                places += 1
                child.ask()

    def look_at_time(self, children: list[Child]) -> None:
        """Stops the children when the budget is used up or a signal has come, and ends those that do not stop."""
        now, hours = time.monotonic(), self.options.hours
        if self.signals and self.why_stopped:
            self.say(f"{self.signals[-1]} again: ending the runs at once")
            self.in_haste = True
        elif self.signals:
            self.stop(self.signals[-1], children)
        elif hours is not None and now - self.began > 3600 * hours and not self.why_stopped:
            self.stop(f"the budget of {hours:g} hours is used up", children)
        self.signals.clear()
        for child in children:
            if self.in_haste or (child.asked is not None and now - child.asked >= GRACE_SECONDS):
                child.send(signal.SIGKILL)

    def stop(self, why: str, children: list[Child]) -> None:
        """Asks the children to save and end; nothing new begins."""
        self.why_stopped = why
        self.say(f"{why}: {len(self.running)} running, which save and end")
        for child in children:
            child.ask()

    def conclude(self) -> int:
        """Says how it went, prints the table of what there is, and returns the exit code."""
        left = self.num_runs - len(self.finished) - len(self.failed)
        self.say(f"{len(self.finished)} of {self.num_runs} finished, {len(self.failed)} failed, {left} to go on with")
        for name, reason in self.failed.items():
            print(f"failed: {name}: {reason}", file=sys.stderr)
        if left:
            print("not all is finished: the same command goes on from here", file=sys.stderr, flush=True)
        code = EXIT_STOPPED if left else EXIT_FAILED if self.failed else 0
        if self.finished:
            table = subprocess.run(results_command(self.options), check=False)
            code = code or (EXIT_FAILED if table.returncode else 0)
        return code

    def count(self) -> str:
        """How far it is."""
        to_go = len(self.waiting)
        return f"{len(self.finished)} of {self.num_runs} finished, {len(self.running)} running, {to_go} waiting"

    def say(self, text: str) -> None:
        """A line for an event, with the time since the start."""
        print(f"[{show_time(time.monotonic() - self.began)}] {text}", file=sys.stderr, flush=True)


def show_time(seconds: float) -> str:
    """`1:02:03`."""
    return str(timedelta(seconds=round(seconds)))


def name_signal(number: int) -> str:
    """`SIGSEGV`; real-time signals have numbers alone."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    options = parse_options(arguments, __doc__ or "")
    if not Path("lra_tasks/train.py").is_file():
        raise Mistake("start it in the project's folder: python launch/suite.py")
    runs = plan_runs(options)
    if options.dry_run:
        print_plan(options, runs)
        return 0
    try:
        options.workdir.mkdir(parents=True, exist_ok=True)
        with open(options.workdir / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Suite(options, runs, lock).work()
    except BlockingIOError:
        raise Mistake(f"another suite, or a run that one left behind, is at work in {options.workdir}") from None
    except OSError as error:
        raise Mistake(f"{error.filename or options.workdir}: {error.strerror}; take another --workdir") from None


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
