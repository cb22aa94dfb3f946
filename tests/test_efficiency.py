"""The efficiency benchmark: its numbers on known curves, its file, its tables and plot, and its order of work."""

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_runs import make_config

from lra_tasks import efficiency_machine, efficiency_run
from lra_tasks.efficiency import Benchmark, Cell, Gemm, Setting, check, read_benchmark, write_benchmark
from lra_tasks.efficiency_cells import Job, Key, NotCompiled, Traced, check_length, compile_cell, trace_cell
from lra_tasks.efficiency_numbers import (
    Crossover,
    divide,
    dropout_shares,
    find_crossover,
    find_exponent,
    find_fused,
    find_spread,
    list_groups,
    roofline_share,
    select,
)
from lra_tasks.efficiency_run import Plan, measure
from lra_tasks.efficiency_tables import write_tables
from lra_tasks.errors import UserError
from lra_tasks.record import Device
from lra_tasks.settings import resolve
from lra_tasks.speed_plot import draw, save
from lra_tasks.typed_json import JsonError

LENGTHS = (1024, 2048, 4096)
# seconds and bytes at 1,024, and the power of the length they grow with: Luna is slower there, and faster from 1,448 on
CURVES = {"luna16": (0.5, 2**28, 1), "softmax_unfused": (0.5 / 2**0.5, 2**29, 2), "softmax_chunked": (0.4, 2**28, 2)}


def make_cell(row="luna16", length=1024, **changes):
    """A cell on the row's curve; with dropout everything takes a quarter longer, inference takes a quarter."""
    seconds, size, power = CURVES[row]
    dropout, mode = changes.get("dropout", 0.0), changes.get("mode", "train")
    seconds *= (length / 1024) ** power * (1.25 if dropout else 1.0) * (0.25 if mode == "inference" else 1.0)
    values = {"dropout": dropout, "mode": mode, "compile_seconds": 2.0, "flops": 10**9 * length, "skipped": None}
    values |= {
        "seconds": (0.9 * seconds, seconds, 1.2 * seconds),
        "argument_bytes": 2**20,
        "allocator_peak_bytes": None,
    }
    return Cell(
        **{"row": row, "length": length, "temporary_bytes": int(size * (length / 1024) ** power), **values, **changes}
    )


def make_benchmark(cells=None, **changes):
    """Three rows at three lengths: training without dropout and with, and inference. Unfused softmax lacks one cell."""
    if cells is None:
        groups = [{"dropout": 0.0}, {"dropout": 0.3}, {"mode": "inference"}]
        cells = [make_cell(row, length, **group) for length in LENGTHS for group in groups for row in CURVES]
        lost = next(
            i for i, it in enumerate(cells) if (it.row, it.length, it.dropout) == ("softmax_unfused", 4096, 0.3)
        )
        cells[lost] = dataclasses.replace(cells[lost], seconds=(), skipped="needs 8.0 GiB, 4.0 GiB are free")
    values = {"started_at": "2026-01-31T09:30:00+00:00", "commit": "abc", "commit_dirty": False, "command": ("python",)}
    values |= {"versions": {"jax": "0.10.2", "jaxlib": None}, "host_cores": 2, "cells": tuple(cells)}
    values |= {"device": Device(platform="cpu", kind="A Processor", count=1)}
    values |= {"setting": Setting(size="text", batch_size=2, dtype="float32", remat=False, rounds=3)}
    values |= {"gemm": Gemm(size=2048, dtype="float32", seconds=(0.2, 0.1, 0.05))}
    return Benchmark(**values | changes)


def test_exponents_of_known_curves():
    for power in (0, 1, 2, -0.5):
        assert find_exponent({n: 3.0 * n**power for n in (2, 4, 8, 32)}) == pytest.approx(power, abs=1e-9)
    assert find_exponent({8: 1.0}) is None


@pytest.mark.parametrize(
    ("speedups", "found", "text"),
    [
        ({1024: 0.5, 2048: 2.0}, Crossover("at", 1024 * 2**0.5), "1,448"),
        ({4096: 4.0, 1024: 0.25, 2048: 0.5}, Crossover("at", 2048 * 2 ** (1 / 3)), "2,580"),
        ({1024: 1.1, 2048: 1.5}, Crossover("below", 1024), "below 1,024"),
        ({1024: 0.5, 2048: 1.0}, Crossover("above", 2048), "above 2,048"),
        # faster at first, then slower: what counts is from where on it stays faster
        ({1024: 1.5, 2048: 0.5, 4096: 2.0}, Crossover("at", 2048 * 2**0.5), "2,896"),
        ({1024: 1.5, 2048: 0.5}, Crossover("above", 2048), "above 2,048"),
    ],
)
def test_crossover(speedups, found, text):
    crossover = find_crossover(speedups)
    assert (crossover.relation, str(crossover)) == (found.relation, text)
    assert crossover.length == pytest.approx(found.length)


def test_small_numbers():
    assert find_crossover({}) is None
    assert divide({1: 6.0, 2: 5.0}, {1: 3.0, 4: 1.0}) == {1: 2.0}
    assert find_spread([1.0, 2.0, 4.0]) == 1.5
    gemm = Gemm(size=1000, dtype="float32", seconds=(0.5, 1.0, 9.0))
    assert gemm.rate == 2e9
    assert roofline_share(make_cell(flops=10**9, seconds=(1.0, 2.0, 3.0)), gemm) == 0.25
    assert roofline_share(make_cell(seconds=(), skipped="no"), gemm) is None


def test_groups_and_shares():
    benchmark = make_benchmark()
    assert list_groups(benchmark) == [("train", 0.0), ("train", 0.3), ("inference", 0.0)]
    rows = select(benchmark, "train", 0.3)
    assert list(rows) == list(CURVES)
    assert list(rows["luna16"]) == list(LENGTHS)
    shares = dropout_shares(benchmark)
    assert shares[0.3]["luna16"] == pytest.approx(dict.fromkeys(LENGTHS, 0.2))
    assert list(shares[0.3]["softmax_unfused"]) == [1024, 2048], "a cell that was not run has no share"
    assert dropout_shares(make_benchmark([make_cell(dropout=0.3)])) == {}


def test_the_fused_baseline_is_cudnn_where_it_ran():
    ran, refused = {4: make_cell()}, {4: make_cell(seconds=(), skipped="no dropout")}
    assert find_fused({"softmax_chunked": ran, "softmax_cudnn": ran}) == "softmax_cudnn"
    assert find_fused({"softmax_chunked": ran, "softmax_cudnn": refused}) == "softmax_chunked"
    assert find_fused({"softmax_chunked": ran}) == "softmax_chunked"


def test_the_file_is_read_as_it_was_written(tmp_path):
    benchmark = make_benchmark()
    write_benchmark(tmp_path / "new" / "file.json", benchmark)
    assert read_benchmark(tmp_path / "new" / "file.json") == benchmark
    value = json.loads((tmp_path / "new" / "file.json").read_text())
    assert set(value) == {
        *("schema_version", "kind", "started_at", "commit", "commit_dirty", "command", "versions", "device"),
        *("host_cores", "setting", "gemm", "cells"),
    }
    with pytest.raises(JsonError, match="host_cores = 0"):
        write_benchmark(tmp_path / "other.json", dataclasses.replace(benchmark, host_cores=0))
    assert [path.name for path in tmp_path.iterdir()] == ["new"], "a file that would be refused is not begun"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda v: v.update(kind="accuracy"), "kind = 'accuracy': must be 'efficiency'"),
        (lambda v: v.update(schema_version=2), "schema_version = 2: must be 1"),
        (lambda v: v.pop("kind"), "kind is missing"),
        (lambda v: v.pop("gemm"), "fields: missing gemm"),
        (lambda v: v["cells"][3].pop("flops"), r"cells\[3\]: missing flops"),
        (lambda v: v["cells"][3].update(colour=1), r"cells\[3\]: unknown colour"),
        (lambda v: v["cells"][3].update(length="1K"), r"cells\[3\].length = '1K': must be int"),
        (lambda v: v["cells"][3].update(mode="eval"), r"cells\[3\].mode = 'eval': must be one of train, inference"),
        (lambda v: v["cells"][3].update(dropout=1.0), r"cells\[3\].dropout = 1.0"),
        (lambda v: v["cells"][6].update(dropout=0.3), r"cells\[6\].dropout = 0.3: must be .* 0 in inference"),
        (lambda v: v["cells"][3].update(seconds=[1.0, -1.0]), r"cells\[3\].seconds"),
        (lambda v: v["cells"][3].update(seconds=[1.0] * 4), r"cells\[3\].seconds .* no more than the 3"),
        (lambda v: v["cells"][3].update(seconds=[]), r"cells\[3\].skipped = None: must be the reason"),
        (lambda v: v["cells"][3].update(skipped="no"), r"cells\[3\].skipped = 'no'"),
        (lambda v: v["cells"][3].update(flops=None), r"cells\[3\].flops = None: must be a number"),
        (lambda v: v["cells"][3].update(flops=-1), r"cells\[3\].flops = -1"),
        (lambda v: v["cells"][3].update(compile_seconds=0), r"cells\[3\].compile_seconds = 0.0"),
        (lambda v: v["cells"][3].update(row=""), r"cells\[3\].row = ''"),
        (lambda v: v["cells"][3].update(length=0), r"cells\[3\].length = 0"),
        (lambda v: v["cells"].append(v["cells"][0]), r"cells\[27\] = .* that no cell before it has"),
        (lambda v: v.update(cells=[]), "cells = .*one or more"),
        (lambda v: v["gemm"].update(seconds=[]), "gemm.seconds"),
        (lambda v: v["gemm"].update(size=0), "gemm.size = 0"),
        (lambda v: v["setting"].update(rounds=0), "setting.rounds = 0"),
        (lambda v: v.update(commit=None), "commit_dirty = False: must be null"),
        (lambda v: v.update(started_at="2026-01-31T09:30:00"), "started_at = .* UTC"),
    ],
)
def test_what_reading_refuses(change, fault, tmp_path):
    value = json.loads(json.dumps(dataclasses.asdict(make_benchmark())))
    change(value)
    file = tmp_path / "faulty.json"
    file.write_text(json.dumps(value))
    with pytest.raises(UserError, match=f"faulty.json: {fault}"):
        read_benchmark(file)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kind": NaN}', b"\xff"])
def test_files_that_are_no_json(text, tmp_path):
    file = tmp_path / "faulty.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"faulty\.json: (cannot be read|the whole is a list)"):
        read_benchmark(file)
    with pytest.raises(UserError, match=r"absent\.json: cannot be read"):
        read_benchmark(tmp_path / "absent.json")


def read_table(text, title):
    """{row: its columns} of the table with this title."""
    lines = text.split(title)[1].split("\n\n")[0].splitlines()[2:]
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_tables():
    text = write_tables(make_benchmark())
    assert "cpu A Processor, 2 cores, jax 0.10.2" in text
    assert "2048^3 product at 172 GFLOP/s" in text
    assert read_table(text, "train step, dropout 0: seconds, median")["luna16"] == ["0.500", "1.000", "2.000", "N^1.00"]
    speedups = read_table(text, "train step, dropout 0: speed-up over softmax_unfused")
    assert speedups == {
        "luna16": ["0.71", "1.41", "2.83", "1,448"],
        "softmax_chunked": ["0.88", "0.88", "0.88", "above", "4,096"],
    }
    fused = read_table(text, "train step, dropout 0: speed-up over softmax_chunked")
    assert fused["luna16"] == ["0.80", "1.60", "3.20", "1,280"]
    dropped = read_table(text, "train step, dropout 0.3: seconds, median")["softmax_unfused"]
    assert dropped == ["0.442", "1.768", "–", "N^2.00"]
    weighed = read_table(text, "train step, dropout 0.3: temporary memory by")
    assert weighed["softmax_unfused"] == ["512", "2,048", "8,192", "N^2.00"], "memory is known of what was not run"
    assert read_table(text, "train step, dropout 0.3: temporary memory / softmax_unfused")["luna16"][:2] == [
        "0.50",
        "0.25",
    ]
    assert read_table(text, "train step, dropout 0: range")["luna16"] == ["30", "30", "30"]
    assert read_table(text, "train step, dropout 0: FLOP/s in %")["luna16"] == ["1192", "1192", "1192"]
    assert read_table(text, "share of a train step that dropout 0.3")["luna16"] == ["20", "%"] * 3
    assert text.endswith("not run\nsoftmax_unfused at 4,096, train, dropout 0.3: needs 8.0 GiB, 4.0 GiB are free\n")
    assert "most memory held by the device" not in text


def test_tables_of_one_cell_and_of_a_device_that_tells_its_peak():
    text = write_tables(make_benchmark([make_cell(allocator_peak_bytes=3 * 2**20)]))
    assert read_table(text, "seconds, median")["luna16"] == ["0.500", "–"]
    assert read_table(text, "most memory held by the device")["luna16"] == ["3.000"]
    assert "speed-up" not in text, "there is no baseline"


def test_plot(tmp_path):
    benchmark = make_benchmark()
    figure = draw(benchmark)
    assert len(figure.axes) == 6
    for panel in figure.axes:
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["luna16  $N^{1.00}$", "softmax_unfused  $N^{2.00}$", "softmax_chunked  $N^{2.00}$"]
    hollow = [line.get_xdata() for line in figure.axes[3].get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(lengths) for lengths in hollow if len(lengths)] == [[4096]], "what was weighed and not run is hollow"
    draw(make_benchmark([make_cell(seconds=(), temporary_bytes=None, skipped="no")]))  # nothing to see is no error


def test_files_of_the_plot(tmp_path):
    benchmark = make_benchmark([make_cell(length=length) for length in LENGTHS])
    files = save(benchmark, tmp_path, "speed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.png", "speed.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    drawn = files[1].read_bytes()
    save(benchmark, tmp_path, "speed")
    assert files[1].read_bytes() == drawn, "the same numbers draw the same file"


class Machine:
    """In place of JAX: cells that take as long and as much memory as they are told, and a log of what was called."""

    def __init__(self, monkeypatch, seconds=None, size=None, free=10**9):
        self.seconds, self.size, self.free, self.log, self.peak = seconds or {}, size or {}, free, [], None
        self.clock = 0.0
        for name in (
            "trace_cell",
            "compile_cell",
            "make_state",
            "random_batch",
            "make_gemm",
            "read_peak",
            "free_bytes",
        ):
            monkeypatch.setattr(efficiency_run, name, getattr(self, name))
        monkeypatch.setattr(efficiency_run.time, "perf_counter", lambda: self.clock)

    def trace_cell(self, experiments, key, batch_size):
        if key.row == "refused":
            return NotCompiled(key, "refused by the kernel")
        return Traced(key, None, 0.0, flops=key.length, written_bytes=self.size.get(key.row, 1) * key.length)

    def compile_cell(self, cell):
        def call(state, batch):
            assert state == (cell.key.row, cell.key.length)
            self.log.append((cell.key.row, cell.key.length))
            size = self.size.get(cell.key.row, 1) * cell.key.length
            self.clock += self.seconds.get(cell.key.row, 1.0) * cell.key.length
            if self.peak is not None:
                self.peak = max(self.peak, size)
            return state, None

        return Job(cell.key, call, 1.0, cell.flops, cell.written_bytes, 0, cell.written_bytes)

    def make_state(self, experiment, length):
        return lambda: (experiment.row, length)

    def random_batch(self, batch_size, length):
        return None

    def make_gemm(self, dtype):
        def multiply():
            self.log.append("gemm")
            return 1e9

        return multiply

    def read_peak(self):
        return self.peak

    def free_bytes(self):
        return self.free


def tiny_experiment(row, dropout):
    """A tiny model of a row."""
    rates = {"model__dropout_rate": dropout, "model__attention_dropout_rate": dropout}
    return resolve(make_config("listops", f"{row}:cpu", **rates))


def make_plan(rows=("luna16", "transformer"), experiments=None, **changes):
    values = {"lengths": [1, 2], "dropouts": [], "batch_size": 1, "rounds": 2, "seconds_per_cell": 1e9, "size": "text"}
    experiments = experiments or (lambda row, dropout: dataclasses.replace(tiny_experiment("linear", 0.0), row=row))
    return Plan(experiments=experiments, rows=rows, **values | changes)


def run_plan(plan):
    benchmark = measure(plan, ["python"], lambda text: None)
    check(benchmark)
    return {(cell.row, cell.length): cell for cell in benchmark.cells}, benchmark


def test_rounds_interleave_the_rows(monkeypatch):
    machine = Machine(monkeypatch)
    cells, benchmark = run_plan(make_plan())
    short, long = [("luna16", 1), ("transformer", 1)], [("luna16", 2), ("transformer", 2)]
    first = ["gemm", *short] * 2
    assert [entry for entry in machine.log if entry != "gemm"] == short * 3 + long * 3, "a warm-up, then the rounds"
    assert machine.log[-len(first) :] == ["gemm", *long] * 2
    assert [cell.seconds for cell in cells.values()] == [(1.0, 1.0)] * 2 + [(2.0, 2.0)] * 2
    assert benchmark.gemm.seconds == (1e9,) * 4


def test_cells_that_do_not_fit_are_not_run(monkeypatch):
    machine = Machine(monkeypatch, size={"transformer": 2**30}, free=2 * 2**30)
    cells, _ = run_plan(make_plan(["luna16", "transformer", "refused"]))
    assert ("transformer", 2) not in machine.log
    assert cells["transformer", 1].seconds
    assert cells["transformer", 2].skipped == "needs 2.0 GiB by the compiler's account, 2.0 GiB are free"
    assert cells["transformer", 2].temporary_bytes == 2**31
    assert cells["refused", 1].skipped == "refused by the kernel"
    assert cells["refused", 1].flops is None


def test_the_budget_of_a_cell(monkeypatch):
    """Two rounds and a warm-up is the least; a length that would take longer, going by the last one, is not begun."""
    machine = Machine(monkeypatch, seconds={"luna16": 2.0})
    cells, _ = run_plan(make_plan(["luna16", "linear"], rounds=5, seconds_per_cell=8.0, lengths=[1, 2]))
    assert len(cells["luna16", 1].seconds) == 3, "8 s hold a warm-up of 2 s and three rounds"
    assert len(cells["linear", 1].seconds) == 5
    assert cells["luna16", 2].skipped.startswith("a call would take about 4 s; --seconds_per_cell=8 does not hold")
    assert ("luna16", 2) not in machine.log
    machine.log.clear()
    cells, _ = run_plan(make_plan(["luna16"], seconds_per_cell=4.0))
    assert cells["luna16", 1].skipped.startswith("its first call took 2 s")
    assert machine.log.count(("luna16", 1)) == 1


def test_a_peak_is_that_of_the_cell_under_which_it_rose(monkeypatch):
    machine = Machine(monkeypatch, size={"luna16": 1000, "transformer": 500})
    machine.peak = 600
    cells, _ = run_plan(make_plan())
    peaks = {key: cell.allocator_peak_bytes for key, cell in cells.items()}
    assert peaks == {
        ("transformer", 1): None,
        ("luna16", 1): 1000,
        ("transformer", 2): None,
        ("luna16", 2): 2000,
    }, "smallest first; what an earlier peak hides is null"


def test_memory_that_runs_out_skips_the_cell(monkeypatch):
    import jax

    machine = Machine(monkeypatch)
    compile_cell = machine.compile_cell

    def compile_greedy(cell):
        def call(state, batch):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

        job = compile_cell(cell)
        return dataclasses.replace(job, call=call) if cell.key == Key("luna16", 2, 0.0, "inference") else job

    monkeypatch.setattr(efficiency_run, "compile_cell", compile_greedy)
    cells, _ = run_plan(make_plan())
    assert cells["luna16", 2].skipped == "RESOURCE_EXHAUSTED: out of memory"
    assert len(cells["transformer", 2].seconds) == 2


def test_a_row_without_such_a_length():
    with pytest.raises(UserError, match="local has no length 8"):
        check_length(tiny_experiment("local", 0.0), 8)
    check_length(tiny_experiment("local", 0.0), 64)


def test_room_in_a_container(tmp_path: Path):
    assert efficiency_machine._free_of_container(tmp_path) is None
    for name, text in {
        "memory.max": "1000",
        "memory.current": "700",
        "memory.stat": "anon 1\ninactive_file 50",
    }.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert efficiency_machine._free_of_container(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert efficiency_machine._free_of_container(tmp_path) is None


def test_cudnn_without_a_gpu_is_a_cell_that_was_not_run():
    def experiments(row, dropout):
        changes = {"softmax__implementation": "cudnn"} if row == "softmax_cudnn" else {}
        return resolve(make_config("listops", "transformer:cpu", model__attention_dropout_rate=dropout, **changes))

    for dropout, reason in ((0.0, "cuDNN"), (0.1, "dropout")):
        cell = trace_cell(experiments, Key("softmax_cudnn", 16, dropout, "train"), 1)
        made = compile_cell(cell) if isinstance(cell, Traced) else cell
        assert isinstance(made, NotCompiled)
        assert reason in made.reason
