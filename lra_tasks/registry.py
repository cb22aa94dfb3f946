"""The tasks by name."""

from lra_tasks.errors import UserError, nearest
from lra_tasks.listops import LISTOPS, LISTOPS_SMALL
from lra_tasks.task import Task

TASKS: dict[str, Task] = {
    "listops": LISTOPS,
    "listops_small": LISTOPS_SMALL,
}


def get_task(name: str) -> Task:
    """The task of this name. Raises UserError with the nearest match and the whole list."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; {nearest(name, TASKS)}")
    return TASKS[name]
