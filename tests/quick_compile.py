"""How tests compile: quickly, since what they compile runs for milliseconds. Imports nothing, for tests/conftest.py."""

from importlib import metadata

QUICK_COMPILE: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if metadata.version("jax") < "0.11":  # later ones do not know it
    QUICK_COMPILE["xla_cpu_use_fusion_emitters"] = False
"""Compiler options for a fraction of the compile time."""
QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK_COMPILE.items())
"""The same as XLA_FLAGS."""
