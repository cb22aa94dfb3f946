"""Folders that appear whole or not at all, and one writer at a time in a data folder."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lra_tasks.errors import UserError

TEMPORARY = ".tmp-"


def require_output(folder: Path) -> None:
    """Makes the folder of --output. UserError, before anything is measured, where it could not be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written to: {error.strerror}; choose another folder") from None


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary sibling of `final` to write into; it takes that name when the block ends, or is removed if it fails.

    Everything in it reaches the disk before the rename. A folder that had the name before stays until then.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = final.parent / f"{TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
        sync(folder)
        replace_folder(folder, final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            final.parent.rmdir()  # goes only if it is empty
        raise


def replace_folder(folder: Path, final: Path) -> None:
    """Gives `folder` the name `final`; what had it before is put back if that fails, removed otherwise."""
    previous = None
    if final.exists():
        previous = final.with_name(f"{TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}")
        final.rename(previous)
    try:
        folder.rename(final)
    except BaseException:
        if previous is not None:
            previous.rename(final)
        raise
    sync_one(final.parent)
    if previous is not None:
        shutil.rmtree(previous, ignore_errors=True)


def sync(folder: Path) -> None:
    """Every file and folder below `folder` to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_one(Path(parent, name))
        sync_one(Path(parent))


def sync_one(path: Path) -> None:
    """One file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(folder: Path, needed: int) -> None:
    """Raises UserError when the disk of `folder` has less than `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        room = f"{free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed"
        raise UserError(f"{folder} has {room}; choose another --data_dir")


def remove_leftovers(folder: Path) -> list[str]:
    """Removes the temporary folders that killed runs left in `folder`; call it under the lock. Returns their names."""
    leftovers = sorted(folder.glob(f"{TEMPORARY}*"))
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    return [leftover.name for leftover in leftovers]


@contextlib.contextmanager
def only_writer(data_dir: Path) -> Iterator[None]:
    """Holds the data folder's lock; the system frees it when the process ends, however it ends.

    Raises UserError when another process prepares data there. File systems without locks are used without one.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / ".prepare.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(f"another process is preparing data in {data_dir}; wait until it is done") from None
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
                raise
        yield


@contextlib.contextmanager
def preparing(name: str, data_dir: Path, finals: Iterable[Path], report: Callable[[str], None]) -> Iterator[None]:
    """Holds the data folder's lock to prepare `name` in the folders `finals`; what killed runs left beside them goes.

    Raises UserError for what the system refuses.
    """
    try:
        with only_writer(data_dir):
            for final in finals:
                for left in remove_leftovers(final.parent):
                    report(f"removed {final.parent / left}, left by a run that was killed")
            yield
    except BrokenPipeError:  # nobody reads our report any more: not the data folder's fault
        raise
    except OSError as error:
        where = error.filename or data_dir
        fault = error.strerror or f"{error}; is the disk full?"  # NumPy's short write has no error code
        raise UserError(f"cannot prepare {name} in {data_dir}: {fault} ({where})") from error
