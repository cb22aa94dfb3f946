"""Where a run came from, for its record: commit, library versions, command, memory, cores. Never imports JAX."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

# the key in the record and the name of the distribution
LIBRARIES = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "numpy": "numpy",
    "sentencepiece": "sentencepiece",
    "sacrebleu": "sacrebleu",
}


def git_commit(source: Path = Path(__file__)) -> tuple[str | None, bool | None]:
    """The commit of the repository that tracks `source`, and whether the files there differ from it.

    (None, None) where git does not know the file: an installed copy, or a virtual environment inside someone's own
    repository. Files under results/ do not count as a difference, since a suite of runs adds records there.
    """
    source = source.resolve()
    try:
        _git(source, "ls-files", "--error-unmatch", source.name)
        commit = _git(source, "rev-parse", "HEAD")
        status = _git(source, "status", "--porcelain", "--", ":/", ":(top,exclude)results")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status)


def _git(source: Path, *arguments: str) -> str:
    command = ["git", "-C", str(source.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def library_versions() -> dict[str, str | None]:
    """Versions of Python and of the libraries that decide a result; None for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for key, distribution in LIBRARIES.items():
        try:
            versions[key] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[key] = None
    return versions


def portable_command(module: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """The command line of a run as another machine can read it.

    `module` is what follows `python -m`, `arguments` is sys.argv[1:]. An absolute path becomes relative where it lies
    in the working folder, else its last part only.
    """
    return ("python", "-m", module, *(_portable(argument) for argument in arguments))


def _portable(argument: str) -> str:
    name, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    path = Path(value).expanduser()
    if not path.is_absolute():
        return argument
    inside = path.is_relative_to(Path.cwd())
    return name + equals + (str(path.relative_to(Path.cwd())) if inside else path.name or ".")


def host_cores() -> int:
    """CPU cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_process_bytes() -> int:
    """The most resident memory this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would start from the peak of the parent process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
