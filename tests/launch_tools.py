"""A PATH of stubs for tests of launch/: tools that only write down what they were asked for."""

import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# what the scripts may use without asking; gcloud, xpk, sbatch and nvidia-smi are there only when a test puts them there
USUAL = (
    "bash", "sh", "cat", "cut", "env", "grep", "head", "id", "mkdir", "paste", "printf", "rm", "sed", "seq", "sleep",
    "sort", "tail", "touch", "tr", "uniq",
)  # fmt: skip
STUB = """#!/bin/sh
name=${0##*/}
{ printf '%s' "$name"; for word; do printf '\\037%s' "$word"; done; echo; } >> "$STUBS/log"
# next FILE DEFAULT: the first line of a file, which is taken away; DEFAULT where there is none left
next() {
  line=''
  [ ! -e "$STUBS/$1" ] || { line=$(head -n 1 "$STUBS/$1"); sed -i 1d "$STUBS/$1"; }
  echo "${line:-$2}"
}
[ ! -e "$STUBS/$name.sh" ] || . "$STUBS/$name.sh"
"""


def wait_for(condition, seconds=20):
    """Until it holds; fails after a while."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Tools:
    """A PATH of the usual commands and of stubs, and what the stubs were called with."""

    def __init__(self, folder):
        self.folder, self.path, self.started = folder, folder / "bin", []
        self.path.mkdir()
        for name in USUAL:
            (self.path / name).symlink_to(shutil.which(name))
        self.environment = {"PATH": str(self.path), "STUBS": str(folder), "HOME": str(folder), "POLL_SECONDS": "0"}
        self.environment |= {"TMPDIR": "/tmp", "PYTHON": "python3"}

    def add(self, name, behaviour=""):
        stub = self.path / name
        stub.write_text(STUB)
        stub.chmod(0o755)
        (self.folder / f"{name}.sh").write_text(behaviour)

    def queue(self, name, *lines):
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def start(self, *command, **environment):
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *command, **environment):
        process = self.start(*command, **environment)
        process.out, process.err = process.communicate(timeout=60)
        return process

    @property
    def calls(self):
        log = self.folder / "log"
        return [line.split("\x1f") for line in log.read_text().splitlines()] if log.exists() else []

    def called(self, words):
        return [call for call in self.calls if words in " ".join(call)]


def make_tools(folder):
    """For a fixture: they, and at the end what a failed test has left running is ended."""
    tools = Tools(folder)
    yield tools
    for process in tools.started:
        process.kill()
        process.communicate()
