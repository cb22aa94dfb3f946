"""Before JAX is imported: the settings of the test session, also of the processes that tests start."""

import os
import sys
from pathlib import Path

from quick_compile import QUICK_FLAGS

assert "jax" not in sys.modules, "JAX was imported before tests/conftest.py, whose settings it would miss"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# half of a run would be optimising what runs for milliseconds; the user's own flags stand behind these, and win
os.environ["XLA_FLAGS"] = f"{QUICK_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
# most of a run is compiling small functions, so a second run is several times faster
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from jaxtyping import config, install_import_hook  # noqa: E402

# the shapes in the signatures are checked here and nowhere else: users do not pay for them
install_import_hook("luna_jax", "beartype.beartype")
# the first example of a test compiles, so a time limit would judge the compiler; the same examples on every run
settings.register_profile("tests", deadline=None, derandomize=True, max_examples=20, database=None)
settings.load_profile("tests")


@pytest.fixture
def unchecked_shapes():
    """Switches the shape checks off, as for a user, so that our own error messages are what a mistake meets."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
