"""The machine under an efficiency benchmark: its name, its free and its peak memory, the rate of a matrix product."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from lra_tasks.record import Device

GEMM_SIZE = 2048


def describe_device() -> Device:
    """The one device that is measured. JAX calls every CPU "cpu"; here it has the name of its model, where known."""
    device = jax.devices()[0]
    kind = (_cpu_model() if device.platform == "cpu" else None) or device.device_kind
    return Device(platform=device.platform, kind=kind, count=1)


def read_peak() -> int | None:
    """The most bytes that the device has held since the process began; None where it does not say, as on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def free_bytes() -> int | None:
    """Bytes that the device has left, on a CPU those of the host or of its container; None where nobody says."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats and "bytes_in_use" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if device.platform != "cpu":
        return None
    known = [size for size in (_free_of_host(), _free_of_container()) if size is not None]
    return min(known, default=None)


def make_gemm(dtype: str) -> Callable[[], float]:
    """A function that times a product of two GEMM_SIZE x GEMM_SIZE matrices, in seconds.

    Off the CPU it is the mean of a chain of 256, for a single one would be over before the next call is sent.
    """
    count = 1 if jax.devices()[0].platform == "cpu" else 256
    left, right = jax.random.normal(jax.random.key(0), (2, GEMM_SIZE, GEMM_SIZE)).astype(dtype)
    left = left / GEMM_SIZE**0.5  # keeps the chain's numbers of one size

    @jax.jit
    def multiply(left, right):
        return jax.lax.fori_loop(0, count, lambda _, product: jnp.matmul(left, product), right)

    def measure() -> float:
        began = time.perf_counter()
        jax.block_until_ready(multiply(left, right))
        return (time.perf_counter() - began) / count

    measure()  # compiles
    return measure


def _cpu_model() -> str | None:
    return _read_field(Path("/proc/cpuinfo"), "model name")


def _free_of_host() -> int | None:
    found = _read_field(Path("/proc/meminfo"), "MemAvailable")
    return int(found.split()[0]) * 1024 if found else None


def _free_of_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves: files in its cache do not count, since they give way."""
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        used = int((group / "memory.current").read_text())
        cached = next(line for line in (group / "memory.stat").read_text().splitlines() if "inactive_file " in line)
        return limit - used + int(cached.split()[1])
    except (OSError, ValueError, StopIteration):
        return None


def _read_field(file: Path, name: str) -> str | None:
    """The value behind `name:` in a file of the kernel."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
