"""The processes of a run, one a host: they find each other, agree before they begin, and stop at the same step.

A run of one process needs nothing of this, and everything here is free for it.
"""

import json
import os
import secrets
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.fingerprints import list_copies
from lra_tasks.machine import Processes

EXIT_LOST = 75
"""EX_TEMPFAIL, as of a run that was stopped: a scheduler may start it again."""
LEAD = 0
"""The process that writes: log, config, record. Checkpoints are written by all, each its part."""


def meet(call: Processes, *, heartbeat_seconds: int, patience_seconds: int = 300) -> None:
    """Joins the other processes, before anything else asks JAX for devices.

    UserError where they cannot be found, or the port is in use. From here on a process that is silent for
    `heartbeat_seconds` ends all others.
    """
    if call.is_alone:
        return
    times = {"heartbeat_timeout_seconds": heartbeat_seconds, "initialization_timeout": patience_seconds}
    times["shutdown_timeout_seconds"] = heartbeat_seconds
    if not call.auto and call.process_id == LEAD:
        require_free_port(str(call.coordinator))
    try:
        if call.auto:
            jax.distributed.initialize(**times)
        else:
            jax.distributed.initialize(call.coordinator, call.num_processes, call.process_id, **times)
    except (RuntimeError, ValueError) as error:
        remedy = (
            "start it by srun, mpirun or on all workers of a TPU slice, or name the processes by --coordinator, "
            "--num_processes and --process_id"
            if call.auto
            else f"start all {call.num_processes} processes, and check that {call.coordinator} can be reached from each"
        )
        fault = str(error).splitlines()[0][:200]
        raise UserError(f"the processes of the run did not meet ({fault}); {remedy}") from None


def require_free_port(coordinator: str) -> None:
    """UserError where the port of the coordinator, which is this host, is in use."""
    port = int(coordinator.rpartition(":")[2])
    with socket.socket(socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"port {port} of --coordinator {coordinator} cannot be used ({error.strerror}); take another port, the "
                "same on every host"
            ) from None


def is_lead() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == LEAD


def gather_texts(text: str) -> list[str]:
    """The text of every process, in their order."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental.multihost_utils import process_allgather

    content = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(process_allgather(np.array(len(content), np.int32))).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(content)] = content
    rows = np.asarray(process_allgather(padded)).reshape(len(sizes), -1)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def take_from_lead(value: float) -> float:
    """The lead's value, everywhere: what decides must not differ by a host's last bit."""
    return float(gather_texts(repr(float(value)))[LEAD])


def require_same(what: str, mine: dict[str, Any], explain: Callable[[Any, Any], list[str]]) -> None:
    """UserError, on every host, unless all have the same; `explain(theirs, lead's)` lists what differs."""
    lead, *others = map(json.loads, gather_texts(json.dumps(mine, sort_keys=True)))
    for number, other in enumerate(others, 1):
        if other != lead:
            found = explain(other, lead)
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"host {number} has another {what} than host {LEAD}: {'; '.join(found[:3])}{more} (here = host "
                f"{number}, there = host {LEAD}); start the same command from the same code on every host"
            )


def require_equal_copies(tree: Any) -> None:
    """UserError, on every host, unless all devices that hold the same part of an array hold the same numbers."""
    merged: dict[str, set[int]] = {}
    for text in gather_texts(json.dumps(list_copies(tree))):
        for key, checksums in json.loads(text).items():
            merged.setdefault(key, set()).update(checksums)
    if unequal := [key for key, checksums in merged.items() if len(checksums) > 1]:
        raise UserError(
            f"copies of {unequal[0]} differ between devices ({len(unequal)} arrays in all), so a device or a link is "
            "at fault; go on from the last checkpoint on other devices"
        )


def in_turn(action: Callable[[], Any]) -> Any:
    """`action` on the lead, and when it is through on the others; a UserError of one of them is everybody's."""
    result = None
    for is_first in (True, False):
        fault = ""
        if is_lead() == is_first:
            try:
                result = action()
            except UserError as error:
                fault = str(error) if is_first else f"host {jax.process_index()}: {error}"
        if faults := [text for text in gather_texts(fault) if text]:
            raise UserError(faults[0])
        if jax.process_count() == 1:
            break
    return result


def on_the_lead(action: Callable[[], Any]) -> None:
    """`action` on the lead alone; its UserError is everybody's."""
    in_turn(lambda: action() if is_lead() else None)


def require_shared(folder: Path) -> None:
    """UserError unless every host sees the folder of the lead under the same name."""
    if jax.process_count() == 1:
        return
    token = gather_texts(secrets.token_hex(8))[LEAD]
    mark = folder / f".shared-{token}"
    if is_lead():
        mark.write_text(token)
    gather_texts("written")
    seen = gather_texts("yes" if mark.exists() else "")
    if is_lead():
        mark.unlink()
    blind = [str(number) for number, answer in enumerate(seen) if not answer]
    if blind:
        raise UserError(
            f"--workdir {folder} is not on a file system that all hosts share: what host {LEAD} writes there is not "
            f"seen by host {', '.join(blind)}; take a folder on one that they share"
        )


def part() -> None:
    """Leaves the others in good order, where all of them are at their end."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def leave_at_once(error: Exception) -> None:
    """Ends this process, one of several, on an error that the others do not know of.

    Most are that another host is gone. The usual way out would wait for it: the process ends without Python's clean-up,
    and the others, whose connections close, end in turn.
    """
    cause = error.__cause__ if isinstance(error.__cause__, jax.errors.JaxRuntimeError) else error
    fault = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
    if isinstance(cause, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in fault:
        text, code = "another host is gone or cannot be reached", EXIT_LOST
        remedy = "the same command on all hosts goes on from the last checkpoint"
    else:
        text, code, remedy = "this host cannot go on, which ends the others", 2, "mend it, then start all hosts again"
    print(f"error: host {jax.process_index()}: {text} ({fault}); {remedy}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
