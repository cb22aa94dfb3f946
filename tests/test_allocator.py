"""Freed memory stays with the process."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from lra_tasks.allocator import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**27  # an array of NumPy would take huge pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(told, faults())
"""


def run(mode, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PROGRAM, mode]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    told, faults = done.stdout.split()
    return told, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no such setting")
def test_what_is_freed_is_used_again_without_the_kernel():
    told, faults = run("keep")
    assert told == "True"
    assert faults < 1000
    assert run("leave")[1] > 10 * faults + 1000, "without it every page of the second array is new"


def test_settings_of_the_environment_are_left_alone():
    assert run("keep", MALLOC_ARENA_MAX="2")[0] == "False"
    assert run("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] == "False"
