"""Temporary memory of the train step by length: compiled, weighed by the compiler's account, never run."""

from collections.abc import Sequence

from lra_tasks.benchmark_tasks import describe_machine
from lra_tasks.efficiency import TRAIN
from lra_tasks.efficiency_cells import Experiments, Job, Key, Traced, compile_cell, trace_cell
from lra_tasks.efficiency_numbers import UNFUSED, find_exponent
from lra_tasks.errors import UserError


def show_memory(
    experiments: Experiments,
    rows: Sequence[str],
    lengths: Sequence[int],
    dropouts: Sequence[float],
    batch_size: int,
    setting: str,
) -> None:
    """A table for each dropout."""
    for dropout in dropouts:
        found = {
            row: [weigh_step(experiments, Key(row, length, dropout, TRAIN), batch_size) / 2**20 for length in lengths]
            for row in rows
        }
        about = f"batch {batch_size}, dropout {dropout}, {setting}; {describe_machine()}"
        print_table(f"train step, temporary memory; {about}", "MiB", lengths, found, UNFUSED)


def weigh_step(experiments: Experiments, key: Key, batch_size: int) -> int:
    """Bytes of temporaries of a train step; compiles it, and runs nothing."""
    cell = trace_cell(experiments, key, batch_size)
    job = compile_cell(cell) if isinstance(cell, Traced) else cell
    if not isinstance(job, Job):
        raise UserError(f"{key.row} at {key.length}: {job.reason}")
    return job.temporary_bytes


def print_table(title: str, unit: str, lengths: Sequence[int], rows: dict[str, list[float]], baseline: str) -> None:
    """Values by row and length, the exponent, and the ratio to the baseline at each length."""
    print(f"{title} ({unit})")
    print(f"{'':18}" + "".join(f"{length:>12}" for length in lengths) + f"{'exponent':>10}")
    for row, values in rows.items():
        exponent = find_exponent(dict(zip(lengths, values, strict=True)))
        end = "" if exponent is None else f"{exponent:>10.2f}"
        print(f"{row:18}" + "".join(f"{value:>12.3f}" for value in values) + end)
    print(f"ratio to {baseline}")
    for row, values in rows.items():
        print(f"{row:18}" + "".join(f"{v / b:>12.3f}" for v, b in zip(values, rows[baseline], strict=True)))
