"""How machines carry a run out: devices, their mesh, compiled programs kept. Never imports JAX.

`configs/base.py` declares the keys, section `machine`. They decide no result beyond rounding, so the section is in no
record's hash and in no work directory's config: a run may go on with other values.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lra_tasks.errors import UserError
from lra_tasks.mechanisms import check_range
from lra_tasks.typed_json import build

SECTION = "machine"
CACHE_BY_DEFAULT, NO_CACHE = "auto", "off"
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
SHORTEST_COMPILATION = 0.5
"""Seconds of compiling from which on a program is kept: reading one back takes a tenth of a second."""
MOST_PARTS = 8
"""Parts that a batch is split into by length, unless `microbatches` says how many: more gain little."""
SEES_PADDING = ("bigbird",)
"""Attention whose results depend on the padded length beyond rounding."""


@dataclass(frozen=True)
class MachineSettings:
    """The section `machine` of a config."""

    data: int
    model: int
    sequence: int
    shard_params: bool
    microbatches: int
    lengths: tuple[int, ...]
    compilation_cache: str
    heartbeat_seconds: int

    def __post_init__(self):
        check_range(SECTION, {"data": self.data, "microbatches": self.microbatches}, 0)
        counts = ("model", "sequence", "heartbeat_seconds")
        check_range(SECTION, {key: getattr(self, key) for key in counts}, 1)
        check_lengths(f"{SECTION}.lengths", self.lengths)
        if not self.compilation_cache:
            raise UserError(
                f"machine.compilation_cache='' is no folder; give one, {CACHE_BY_DEFAULT!r} for the user's cache "
                f"folder, or {NO_CACHE!r}"
            )


def check_lengths(name: str, lengths: tuple[int, ...]) -> None:
    """UserError unless the lengths that batches are padded to are positive and rise; none at all is fine."""
    if list(lengths) != sorted(set(lengths)) or any(length < 1 for length in lengths):
        raise UserError(f"{name}={lengths} must be at least 1 each and rise, as (500, 1000, 2000)")


def fit_lengths(name: str, lengths: tuple[int, ...], *, longest: int, attention: str) -> tuple[int, ...]:
    """Those of the lengths that examples of at most `longest` tokens are padded to; all beyond it stand for `longest`.

    UserError where even the last cannot hold the longest example, or the attention would come to other results.
    """
    if lengths and attention in SEES_PADDING:
        raise UserError(
            f"{name}={lengths}: the pattern of {attention} attention is another one for another padded length, so that "
            "results would change; leave it empty"
        )
    if lengths and lengths[-1] < longest:
        raise UserError(
            f"{name}={lengths} ends below the {longest} tokens of the longest example; add {longest}, or cut examples "
            f"with data.max_length={lengths[-1]}"
        )
    return tuple(dict.fromkeys(min(length, longest) for length in lengths))


@dataclass(frozen=True)
class Processes:
    """How the processes of a run find each other."""

    auto: bool
    """By what TPU slices, Slurm, GKE and Open MPI say."""
    coordinator: str | None
    """HOST:PORT of process 0, or None."""
    num_processes: int | None
    process_id: int | None

    def __post_init__(self):
        given = [self.coordinator, self.num_processes, self.process_id]
        if self.auto and any(value is not None for value in given):
            raise UserError(
                "--distributed=auto finds the processes by itself; leave out --coordinator, --num_processes and "
                "--process_id, or --distributed"
            )
        if not any(value is not None for value in given):
            return
        if any(value is None for value in given):
            raise UserError(
                "--coordinator HOST:PORT, --num_processes N and --process_id I belong together; give all three, or none"
            )
        host, _, port = str(self.coordinator).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"--coordinator {self.coordinator!r} must be HOST:PORT, such as 10.0.0.1:8476")
        if not 0 <= int(self.process_id or 0) < int(self.num_processes or 0):
            raise UserError(
                f"--process_id {self.process_id} must be 0 to {int(self.num_processes or 0) - 1}, as there are "
                f"--num_processes {self.num_processes}"
            )

    @property
    def is_alone(self) -> bool:
        """Whether the run has one process."""
        return not self.auto and self.coordinator is None


def take_machine(config: dict[str, Any]) -> tuple[dict[str, Any], MachineSettings]:
    """A config without its section `machine`, and that section."""
    rest = {key: value for key, value in config.items() if key != SECTION}
    return rest, build(MachineSettings, config.get(SECTION), SECTION)


def cache_folder(setting: str) -> Path | None:
    """The folder of compiled programs that `machine.compilation_cache` asks for; None: none is kept.

    "auto": JAX's own variable where it is set, else the user's cache folder. Programs read back are run unseen, so the
    folder must be writable by its owner alone.
    """
    if setting == NO_CACHE:
        return None
    if setting != CACHE_BY_DEFAULT:
        return Path(setting).expanduser().absolute()
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "luna-jax" / "xla"


def keep_compiled_programs(setting: str = CACHE_BY_DEFAULT) -> str | None:
    """Turns on JAX's persistent compilation cache; returns what is wrong with its folder, if it cannot be used."""
    import jax

    folder = cache_folder(setting)
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        jax.config.update("jax_enable_compilation_cache", False)
        return (
            f"compiled programs are not kept: {folder} cannot be used ({error.strerror}); give "
            f"--config.machine.compilation_cache a folder, or {NO_CACHE!r}"
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_COMPILATION)
    return None
