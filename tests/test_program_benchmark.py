"""The measurement of a whole program: what counts as its compiled steps, and when a step is done."""

import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from tiny_runs import make_config, write_small_store

from lra_tasks import program_benchmark
from lra_tasks.errors import UserError
from lra_tasks.measurements import Measurement
from lra_tasks.program_benchmark import (
    EvaluationSpeed,
    Start,
    TimedPrograms,
    Training,
    show_program,
    start_once,
    wait_for_lines,
)

STARTED = """
import pathlib, sys
(pathlib.Path(__file__).parent / "command").write_text(" ".join(sys.argv[1:]))
"""


def test_shares_of_a_small_run(monkeypatch, tmp_path, capsys):
    started = Start("listops_luna16:cpu", 4.0, 1.0)
    monkeypatch.setattr(program_benchmark, "measure_starts", lambda *place: [started, Start(started.config, 6.0, 1.5)])
    monkeypatch.setattr(program_benchmark, "PRESETS", ("cpu",))
    monkeypatch.setattr(program_benchmark, "NUM_SMALL_STEPS", 6)

    def read_config(name, preset):
        return make_config(name, preset, machine__lengths=(40, 65), train__log_every_steps=2)

    data_dir, measurement = write_small_store(tmp_path / "data"), Measurement("program", tmp_path, [])
    show_program(read_config, data_dir, num_steps=9, rounds=2, measurement=measurement)
    value = json.loads(measurement.file.read_text())
    (training,), evaluations = value["trainings"], value["evaluations"]
    assert training["num_steps"] == 6
    assert 0.0 < training["step_seconds"] < training["whole_seconds"]
    assert training["share_outside"] == 1 - training["step_seconds"] / training["whole_seconds"]
    assert [one["num_examples"] for one in evaluations] == [2000, 2000]
    for one in evaluations:
        assert one["share_of_limit"] == one["forward_seconds"] / one["seconds"]
        assert one["share_of_limit"] > 0.0
    shown = capsys.readouterr().out.splitlines()
    line = next(line for line in shown if line.split()[:2] == [started.config, "5.00"])
    assert line.split()[1:] == ["5.00", "4.00", "6.00", "1.25", "3.75"]


def test_a_program_counts_from_its_call_to_its_result(monkeypatch):
    moments = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr(program_benchmark, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    monkeypatch.setattr(jax, "block_until_ready", lambda result: (waited.append(result), result)[1])
    programs, waited = TimedPrograms(), []
    programs["double"] = lambda number: 2 * number
    assert [programs["double"](3), programs["double"](4)] == [6, 8] == waited
    assert programs.seconds == 2.5 + 1.0


def test_shares():
    assert Training("", 10, 4.0, 3.0).share_outside == 0.25
    assert EvaluationSpeed("", 10, 4.0, 3.0).share_of_limit == 0.75


def test_a_start_is_over_with_the_first_steps_numbers(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{STARTED}")
    program.chmod(0o755)

    def wait(child, file, count):
        assert child.wait(60) == 0
        assert file.name == "metrics.jsonl"
        return {1: 103.0, 2: 104.5}[count]

    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(program_benchmark, "wait_for_lines", wait)
    monkeypatch.setattr(program_benchmark, "time", SimpleNamespace(monotonic=lambda: 100.0))
    assert start_once("listops_luna16:cpu", tmp_path / "data", "cache") == Start("listops_luna16:cpu", 3.0, 1.5)
    command = (tmp_path / "command").read_text()
    assert command.startswith("-m lra_tasks.train --config configs/listops_luna16.py:cpu --workdir ")
    assert "--config.machine.compilation_cache=cache" in command


def test_a_step_is_done_when_its_line_is_whole(monkeypatch, tmp_path):
    log, written, clock = tmp_path / "metrics.jsonl", iter(["{", "}", "\n", "{}\n"]), itertools.count()

    def write_on(seconds):
        with log.open("a") as file:
            file.write(next(written))

    monkeypatch.setattr(program_benchmark, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=write_on))
    alive = SimpleNamespace(poll=lambda: None)
    first = wait_for_lines(alive, log, 1)
    assert log.read_text() == "{}\n"
    assert first < wait_for_lines(alive, log, 2) < 20
    monkeypatch.setattr(program_benchmark, "START_SECONDS", 0.0)
    with pytest.raises(UserError, match="made no 3 steps in 0 s"):
        wait_for_lines(alive, log, 3)


def test_a_program_that_ends_is_quoted(tmp_path):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit('no data')"], **options)
    with pytest.raises(UserError, match=r"ended with 1: no data"):
        wait_for_lines(child, tmp_path / "absent", 1)
