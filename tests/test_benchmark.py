"""The benchmark as it is started: memory that Luna keeps linear, a small efficiency benchmark, and mistakes."""

import json
import os
import subprocess
import sys

import pytest
from quick_compile import QUICK_FLAGS
from tiny_runs import ROOT

from lra_tasks.efficiency import check, read_benchmark
from lra_tasks.efficiency_numbers import select

# A process of its own, for the entries define flags of the same names; one for several command lines.
CODE = """
import contextlib, io, json, sys
from absl import flags
from lra_tasks import benchmark, cli
from configs.efficiency import TEXT_SIZE
TEXT_SIZE.update(emb_dim=16, mlp_dim=16, num_heads=2, num_layers=1, classifier_dim=8)
found = []
for line in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    for name in cli.own_flags():
        flags.FLAGS[name].unparse()
    sys.argv = ["benchmark", *line]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.call(benchmark.main, flags.FLAGS(sys.argv))
    found.append((code, out.getvalue(), err.getvalue(), "jax" in sys.modules))
print(json.dumps(found))
"""


def start(*lines):
    """(exit code, stdout, stderr, whether JAX was imported by then) of each command line, a list of words."""
    environment = os.environ | {"XLA_FLAGS": QUICK_FLAGS, "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", CODE, json.dumps([[str(word) for word in line] for line in lines])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def read_rows(lines, row):
    """The two lines of numbers of a row: values with their exponent, ratios to the baseline."""
    return [[float(number) for number in line.removeprefix(row).split()] for line in lines if line.startswith(row)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def outcomes(folder):
    """Of a small model: its memory at 1,024 and 4,096 tokens, an efficiency benchmark, and that read again."""
    small = ["--rows=luna16", "--batch_size=1"]
    return start(
        ["memory", "--lengths=1024,4096", *small],
        ["--lengths=64", "--dropouts=0.1", "--rounds=2", f"--output={folder / 'first'}", *small],
        [f"--from={folder / 'first' / 'efficiency-cpu.json'}", f"--output={folder / 'again'}"],
    )


def test_memory_table(outcomes):
    code, out, _, _ = outcomes[0]
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("train step, temporary memory; batch 1, dropout 0.3, remat False, float32; cpu")
    values, ratios = read_rows(lines, "softmax_unfused")
    assert ratios == [1.0, 1.0]
    assert values[1] > 4096**2 * 4 / 2**20, "less than one matrix of probabilities of one head"
    luna, ratios = read_rows(lines, "luna16")
    assert ratios[1] == pytest.approx(luna[1] / values[1], abs=1e-3)


def test_lunas_memory_is_linear(outcomes):
    """From 1,024 to 4,096 tokens a train step's temporary memory grows with the length, softmax's with its square."""
    lines = outcomes[0][1].splitlines()
    assert 0.8 < read_rows(lines, "luna16")[0][2] < 1.1
    assert read_rows(lines, "softmax_unfused")[0][2] > 1.5


def test_a_small_efficiency_benchmark(outcomes, folder):
    code, out, err, _ = outcomes[1]
    assert code == 0, err
    assert sorted(path.suffix for path in (folder / "first").iterdir()) == [".json", ".png", ".svg"]
    benchmark = read_benchmark(folder / "first" / "efficiency-cpu.json")
    check(benchmark)
    training, inference = select(benchmark, "train", 0.1), select(benchmark, "inference", 0.0)
    for rows in (training, inference):
        assert list(rows) == ["luna16", "softmax_unfused", "softmax_chunked"], "the baselines are always there"
        assert all(len(cells[64].seconds) == 2 for cells in rows.values())
    luna = training["luna16"][64]
    assert luna.argument_bytes > 2.9 * inference["luna16"][64].argument_bytes, "Adam keeps two numbers a parameter"
    assert luna.flops == pytest.approx(3 * inference["luna16"][64].flops, rel=0.1), "backward costs forward twice"
    assert luna.allocator_peak_bytes is None
    assert len(benchmark.gemm.seconds) == 2
    assert benchmark.setting.batch_size == 1
    assert benchmark.command[-3] == "--output=first", "no path of the machine"
    assert "train step, dropout 0.1: speed-up over softmax_chunked" in out


def test_a_file_is_shown_again(outcomes, folder):
    code, out, err, _ = outcomes[2]
    assert code == 0, err
    assert out == outcomes[1][1]
    assert sorted(path.suffix for path in (folder / "again").iterdir()) == [".png", ".svg"]
    drawn = [(folder / name / "efficiency-cpu.svg").read_bytes() for name in ("first", "again")]
    assert drawn[0] == drawn[1]


def test_mistakes_are_said_before_anything_is_measured(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "faulty.json").write_text("{}")
    (tmp_path / "taken" / "efficiency-cpu.png").mkdir(parents=True)
    cases = [
        (["efficiency", "--rounds=2", "--data_dir=x"], "--data_dir has no effect on efficiency"),
        (["memory", "--rounds=2"], "--rounds has no effect on memory"),
        (["memory", "--rows=luna61"], "--rows 'luna61' is unknown; did you mean 'luna16'?"),
        (["memory", "--lengths="], "--lengths must be whole numbers"),
        (["memory", "--dropouts=0,1"], "--dropouts 0,1 must be numbers from 0 to below 1"),
        (["memory", "--dropouts=a"], "--dropouts a must be numbers"),
        ([f"--from={tmp_path / 'faulty.json'}"], "faulty.json: kind is missing"),
        ([f"--from={tmp_path / 'absent.json'}"], "absent.json: cannot be read"),
        (["memory", "--from=x"], "--from shows what efficiency wrote, and measures nothing; leave memory out"),
        (["--from=x", "--rows=luna16"], "--rows has no effect on --from"),
        (["--rows=softmax_cudnn"], "needs an NVIDIA GPU; here the fused softmax is 'softmax_chunked'"),
        (["--rows=local", "--lengths=8"], "local has no length 8"),
        (["--rows=luna16", "--lengths=8", "--dtype=float12"], "model.dtype='float12' is unknown"),
        (["--rows=luna16", "--lengths=8", f"--output={tmp_path / 'file'}"], "cannot be written to: File exists"),
        (["--rows=luna16", "--lengths=8", f"--output={tmp_path / 'taken'}"], "efficiency-cpu.png is a folder there"),
    ]
    found = start(*[line for line, _ in cases])
    for (line, words), (code, out, err, has_jax) in zip(cases, found, strict=True):
        assert (code, out) == (2, ""), line
        assert words in err, line
        assert err.count("\n") == 1, "one line"
        assert not has_jax or cases.index((line, words)) >= 10, "mistakes of the flags alone need no JAX"
