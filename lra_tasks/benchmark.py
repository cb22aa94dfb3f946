"""What attention costs: the efficiency benchmark, and the other measurements that the README quotes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from lra_tasks import cli
from lra_tasks.allocator import keep_freed_memory
from lra_tasks.efficiency_numbers import CHUNKED, CUDNN, UNFUSED
from lra_tasks.errors import UserError, nearest

USAGE = """Measurements of speed and memory. Run them on a quiet machine.

  python -m lra_tasks.benchmark efficiency  the default: speed of train step and inference, memory, FLOPs, compile time
                                            by length, Text size, against softmax attention unfused and fused
  python -m lra_tasks.benchmark --from FILE tables and plot of such a benchmark's JSON again, without measuring
  python -m lra_tasks.benchmark memory      peak temporary memory of the compiled train step by length, Text size
  python -m lra_tasks.benchmark causal      causal Luna: chunks against every position's state, memory, decoding time
  python -m lra_tasks.benchmark generate    seconds to generate the full ListOps
  python -m lra_tasks.benchmark images      Pathfinder images a second on one core, with their statistics
  python -m lra_tasks.benchmark loader      examples a second of the loader and of the train step, of each prepared task
  python -m lra_tasks.benchmark pathx       memory and time of one Luna-256 train step of Path-X, batch 8
  python -m lra_tasks.benchmark program     warm start, time outside the compiled step, evaluation against forward only
  python -m lra_tasks.benchmark seeds       several seeds trained at once against one after the other
  python -m lra_tasks.benchmark speed       Luna-16's step in matrix products; batches split by length against padded
  python -m lra_tasks.benchmark sequence    bytes that Luna moves between 8 devices that share a sequence, 4K to 1M

efficiency prints tables and writes efficiency-cpu.json (-gpu, -tpu), .png and .svg into --output, over older ones. The
softmax rows that others are compared with are always among its rows. A cell that does not fit into the free memory by
the compiler's account, or into --seconds_per_cell, is not run, and the file says why. memory compiles and runs nothing,
so it measures lengths that would not fit. --rows all takes every mechanism."""

_LENGTHS = flags.DEFINE_list(
    "lengths",
    None,
    "sequence lengths, [CLS] included; none: 1K to 4K of the paper's Table 2 (memory: without 3K), 8K, 16K",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "examples a batch; none: 1 (memory: 2)", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "timings of each thing that is timed; the median counts", lower_bound=1)
_DROPOUTS = flags.DEFINE_list(
    "dropouts", None, "rates of dropout and attention dropout; none: 0 and the Text recipe's 0.3 (memory: 0.3)"
)
_REMAT = flags.DEFINE_bool("remat", False, "recompute layers in the backward pass")
_DTYPE = flags.DEFINE_string(
    "dtype", None, "of the computation; none: float32, for efficiency on an NVIDIA GPU bfloat16, which cuDNN needs"
)
_ROWS = flags.DEFINE_list(
    "rows", None, "rows of configs/rows.py, or all; none: Luna-16/128/256 and softmax (efficiency: and linear)"
)
_SECONDS = flags.DEFINE_float(
    "seconds_per_cell",
    240.0,
    "what warm-up and rounds of a cell may take; slow ones have fewer rounds",
    lower_bound=0.0,
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "folder of the files of efficiency, program, seeds, sequence or speed; none: runs/benchmark, --from: that of FILE",
)
_FROM = flags.DEFINE_string("from", None, "a JSON that efficiency wrote, to be shown again")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "folder of prepared data, for loader, program and speed")
_STEPS = flags.DEFINE_integer("num_steps", 200, "of program's full recipe", lower_bound=2)

ROWS = ("luna16", "luna128", "luna256", UNFUSED)
LENGTHS = ("1024", "2048", "4096", "8192", "16384")
PAPER_LENGTHS = ("1024", "2048", "3072", "4096", "8192", "16384")
SPEED_LENGTHS = ("1024", "2048", "4096")
SEQUENCE_LENGTHS = ("4096", "65536", "1048576")


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    keep_freed_memory()
    names = argv[1:] or ["efficiency"]
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"unknown benchmark {name!r}; {nearest(name, BENCHMARKS)}")
    refuse_unread(names)
    for name in names:
        BENCHMARKS[name]()
    return 0


def refuse_unread(names: Sequence[str]) -> None:
    """Raises UserError for a flag that was given and that none of the benchmarks reads."""
    read = {"from", "output"} if _FROM.value is not None else set().union(*(READS[name] for name in names))
    if _FROM.value is not None and names != ["efficiency"]:
        raise UserError(f"--from shows what efficiency wrote, and measures nothing; leave {' '.join(names)} out")
    for flag in sorted(set().union(*READS.values()) - read):
        if flags.FLAGS[flag].present:
            reader = "--from" if _FROM.value is not None else " ".join(names)
            raise UserError(f"--{flag} has no effect on {reader}; leave it out")


def read_rows(default: Sequence[str], baselines: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """--rows by name, the baselines always among them; `others` are no rows of configs/rows.py, but may be named."""
    from configs import rows

    given = _ROWS.value if _ROWS.value is not None else default
    if list(given) == ["all"]:
        given = list(rows.ROWS)
    for row in given:
        if row == CUDNN and CUDNN not in others:
            raise UserError(f"--rows {row!r} needs an NVIDIA GPU; here the fused softmax is {CHUNKED!r}")
        if row not in rows.ROWS and row not in others:
            raise UserError(f"--rows {row!r} is unknown; {nearest(row, [*rows.ROWS, *others])}; or all")
    return list(dict.fromkeys([*given, *baselines]))


def read_lengths(default: Sequence[str]) -> list[int]:
    """--lengths as numbers, rising."""
    lengths = _LENGTHS.value if _LENGTHS.value is not None else default
    if not lengths or not all(length.isdecimal() and len(length) < 10 and int(length) >= 2 for length in lengths):
        raise UserError(f"--lengths {','.join(lengths)} must be whole numbers of at least 2, such as 1024,2048")
    return sorted({int(length) for length in lengths})


def read_dropouts(default: Sequence[str]) -> list[float]:
    """--dropouts as numbers, rising."""
    dropouts = _DROPOUTS.value if _DROPOUTS.value is not None else default
    try:
        rates = sorted({float(rate) for rate in dropouts})
    except ValueError:
        rates = []
    if not rates or not all(0.0 <= rate < 1.0 for rate in rates):
        raise UserError(f"--dropouts {','.join(dropouts)} must be numbers from 0 to below 1, such as 0,0.3")
    return rates


def measure_efficiency() -> None:
    """Measures, or reads again, prints the tables and writes the files."""
    from lra_tasks.efficiency import read_benchmark
    from lra_tasks.efficiency_files import require_writable, write_files
    from lra_tasks.efficiency_tables import write_tables

    source = Path(_FROM.value) if _FROM.value is not None else None
    if source is not None:
        benchmark = read_benchmark(source)
        folder, name = Path(_OUTPUT.value or source.parent), source.stem
        require_writable(folder, name)
    else:
        plan = plan_efficiency()
        from lra_tasks.efficiency_machine import describe_device

        folder, name = Path(_OUTPUT.value or "runs/benchmark"), f"efficiency-{describe_device().platform}"
        require_writable(folder, name)
        benchmark = run_plan(plan)
    print(write_tables(benchmark), end="", flush=True)
    written = write_files(benchmark, folder, name, with_json=source is None)
    cli.say(f"written: {', '.join(map(str, written))}")


def plan_efficiency() -> Any:
    """The plan of the flags. UserError for what cannot be, also for a row that has no such length."""
    lengths, dropouts = read_lengths(PAPER_LENGTHS), read_dropouts(("0", "0.3"))
    from lra_tasks.backend import describe_backend
    from lra_tasks.efficiency_run import Plan, check_plan

    fused = [CUDNN] if describe_backend().is_cuda else []
    rows = read_rows((*ROWS, CHUNKED, "linear", *fused), (UNFUSED, CHUNKED, *fused), fused)
    plan = Plan(
        experiments=make_text_experiments(_DTYPE.value or ("bfloat16" if fused else "float32")),
        size="text",
        rows=rows,
        lengths=lengths,
        dropouts=dropouts,
        batch_size=_BATCH_SIZE.value or 1,
        rounds=_ROUNDS.value,
        seconds_per_cell=_SECONDS.value,
    )
    check_plan(plan)
    return plan


def run_plan(plan: Any) -> Any:
    """The measurement, without the compilation cache, from which compile times would be those of reading a file."""
    import jax

    from lra_tasks.efficiency_run import measure
    from lra_tasks.provenance import portable_command

    jax.config.update("jax_enable_compilation_cache", False)
    return measure(plan, portable_command("lra_tasks.benchmark", sys.argv[1:]), cli.say)


def measure_memory() -> None:
    """Peak temporary memory of the compiled train step, by XLA's own account."""
    lengths, rows, dropouts = read_lengths(LENGTHS), read_rows(ROWS, [UNFUSED]), read_dropouts(("0.3",))
    dtype = _DTYPE.value or "float32"
    setting = f"remat {_REMAT.value}, {dtype}"
    show = load_module("memory_benchmark").show_memory
    show(make_text_experiments(dtype), rows, lengths, dropouts, _BATCH_SIZE.value or 2, setting)


def measure_speed() -> None:
    """Luna-16's step in matrix products, and batches split by length."""
    lengths, dtype = read_lengths(SPEED_LENGTHS), _DTYPE.value or "float32"
    load_module("speed_benchmark").show_speed(
        make_text_experiments(dtype),
        ROWS[0],
        lengths,
        lambda task: read_config(f"{task}_luna16", ""),
        dtype=dtype,
        data_dir=_DATA_DIR.value,
        rounds=_ROUNDS.value,
        measurement=open_measurement("speed"),
    )


def measure_program() -> None:
    """What a whole training run takes beside its compiled steps."""
    measurement = open_measurement("program")
    show, rounds = load_module("program_benchmark").show_program, _ROUNDS.value
    show(read_config, Path(_DATA_DIR.value), num_steps=_STEPS.value, rounds=rounds, measurement=measurement)


def measure_loader() -> None:
    """Examples a second of the loader and of the train step."""
    from lra_tasks import benchmark_tasks

    benchmark_tasks.show_loading(_DATA_DIR.value, lambda name: read_experiment(f"{name}_luna16", "cpu"), _ROUNDS.value)


def open_measurement(kind: str) -> Any:
    """The file that a benchmark writes."""
    return load_module("measurements").Measurement(kind, Path(_OUTPUT.value or "runs/benchmark"), sys.argv[1:])


def make_text_experiments(dtype: str) -> Callable[[str, float], Any]:
    """(row, dropout) -> its experiment in the Text size."""
    from configs.efficiency import get_config
    from lra_tasks.settings import resolve

    return lambda row, dropout: resolve(get_config(row, dropout, dtype=dtype, remat=_REMAT.value).to_dict())


def load_module(name: str) -> Any:
    """A module of this package, when it is asked for: it imports JAX."""
    import importlib

    return importlib.import_module(f"lra_tasks.{name}")


def read_config(name: str, preset: str) -> dict[str, Any]:
    """A config file as a nested dict."""
    import importlib

    return importlib.import_module(f"configs.{name}").get_config(preset).to_dict()


def read_experiment(name: str, preset: str) -> Any:
    """The experiment of a config file."""
    from lra_tasks.machine import take_machine
    from lra_tasks.settings import resolve

    return resolve(take_machine(read_config(name, preset))[0])


BENCHMARKS = {
    "efficiency": measure_efficiency,
    "memory": measure_memory,
    "causal": lambda: load_module("causal_benchmark").show_causal(_ROUNDS.value),
    "generate": lambda: load_module("benchmark_tasks").show_generation(_ROUNDS.value),
    "images": lambda: load_module("benchmark_tasks").show_images(),
    "loader": measure_loader,
    "pathx": lambda: load_module("benchmark_tasks").show_pathx(read_experiment("pathx_luna256", "")),
    "program": measure_program,
    "seeds": lambda: load_module("seeds_benchmark").show_seeds(
        lambda task: read_experiment(f"{task}_luna16", "cpu"), open_measurement("seeds"), rounds=_ROUNDS.value
    ),
    "speed": measure_speed,
    "sequence": lambda: load_module("sequence_benchmark").show_sequence(
        read_lengths(SEQUENCE_LENGTHS), open_measurement("sequence")
    ),
}
WEIGHED = {"rows", "lengths", "batch_size", "dropouts", "remat", "dtype"}
READS: Mapping[str, set[str]] = {
    "efficiency": WEIGHED | {"rounds", "seconds_per_cell", "output", "from"},
    "memory": WEIGHED,
    "causal": {"rounds"},
    "generate": {"rounds"},
    "images": set(),
    "loader": {"rounds", "data_dir"},
    "pathx": set(),
    "program": {"rounds", "data_dir", "output", "num_steps"},
    "seeds": {"rounds", "output"},
    "speed": {"lengths", "dtype", "remat", "rounds", "data_dir", "output"},
    "sequence": {"lengths", "output"},
}
"""The flags that each of them reads."""


if __name__ == "__main__":
    cli.run(main, USAGE)
