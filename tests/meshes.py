"""Machines for tests: a mesh of some of the eight virtual devices."""

from lra_tasks.distributed import make_layout
from lra_tasks.loop import Machine
from lra_tasks.machine import MachineSettings
from lra_tasks.profiling import Profile

ONE_DEVICE = {"data": 1, "model": 1, "sequence": 1, "shard_params": False, "microbatches": 1, "lengths": ()}
SETTINGS = ONE_DEVICE | {"compilation_cache": "off", "heartbeat_seconds": 60}


def make_machine(*, profile=None, **changes) -> Machine:
    """One device, or the axes in `changes`."""
    settings = MachineSettings(**SETTINGS | changes)
    return Machine(settings, make_layout(settings), Profile(profile))
