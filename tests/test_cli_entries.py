"""The entries from outside: help that imports nothing heavy, and a mistake in the command line in one line."""

import subprocess
import sys

import pytest
from tiny_runs import ROOT, assert_one_line_error, run

ENTRIES = ("train", "evaluate", "translate", "prepare", "results", "benchmark")
HEAVY = {"jax", "flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "tensorflow", "luna_jax", "numba", "PIL"}
CONFIG = ["--config", "configs/listops_luna16.py:cpu"]
TEXT = ["--config", "configs/text_luna16.py:cpu"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_imports_nothing_heavy(entry):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{entry}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('lra_tasks.{entry}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('\\nexit', end.code, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *text, last = found.stdout.splitlines()
    _, code, *modules = last.split()
    assert code == "0"
    assert HEAVY.isdisjoint(modules)
    assert f"python -m lra_tasks.{entry}" in found.stdout
    assert "flags:" in text
    assert found.stderr == ""


@pytest.mark.parametrize("entry", ENTRIES)
def test_unknown_flag(entry):
    assert_one_line_error(run(entry, "--wrkdir", "x"), "unknown flag --wrkdir", "choices: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [*CONFIG, "--workdir", "w", "--config.model.emb_dm=3"],
            ["'model.emb_dm'", "did you mean 'emb_dim'", "mlp_dim"],
        ),
        ([*CONFIG, "--workdir", "w", "--config.modl.emb_dim=3"], ["'modl'", "did you mean 'model'"]),
        ([*CONFIG, "--workdir", "w", "--config.row.x=3"], ["'row.x'", "is a value, not a section"]),
        ([*CONFIG, "--workdir", "w", "--config.model.emb_dim=wide"], ["model.emb_dim", "wide"]),
        ([*CONFIG, "--workdir", "w", "--config.model.emb_dim=1.5"], ["model.emb_dim", "1.5"]),
        ([*CONFIG, "--workdir", "w", "--config.model.remat=perhaps"], ["model.remat", "perhaps"]),
        (
            [*CONFIG, "--workdir", "w", "--config.model.attention=lunar"],
            ["model.attention='lunar'", "did you mean 'luna'"],
        ),
        ([*CONFIG, "--workdir", "w", "--config.data.task=listop"], ["unknown task 'listop'", "did you mean 'listops'"]),
        ([*CONFIG, "--workdir", "w", "--config.model.dropout_rate=1"], ["model.dropout_rate=1.0", "below 1"]),
        ([*CONFIG, "--workdir", "w", "--config.softmax.implementation=xla"], ["softmax.implementation has no effect"]),
        (
            ["--config", "configs/listops_luna16.py:cpus", "--workdir", "w"],
            ["unknown preset 'cpus'", "did you mean 'cpu'"],
        ),
        (
            ["--config", "configs/listops_luna61.py", "--workdir", "w"],
            ["no such file", "did you mean", "listops_luna16.py"],
        ),
        (
            [*TEXT, "--workdir", "w", "--data_dir", "w/none"],
            ["text is not prepared in", "python -m lra_tasks.prepare text --data_dir"],
        ),
        (
            [*TEXT, "--workdir", "w", "--config.model.pair_features=concat"],
            ["model.pair_features has no effect on text"],
        ),
        ([*TEXT, "--workdir", "w", "--config.data.max_length=4001"], ["data.max_length=4001", "give 1 to 4000"]),
        ([*TEXT, "--workdir", "w", "--config.data.validation=tset"], ["data.validation='tset'", "did you mean 'test'"]),
        ([*TEXT, "--workdir", "w", "--config.model.embedding=linear"], ["those of text are bytes", "take 'table'"]),
        (["--config", "configs/listops.py:performr", "--workdir", "w"], ["unknown row 'performr'", "'performer'"]),
        (
            ["--config", "configs/listops.py:local:cpu", "--workdir", "w", "--config.local.block_size=500"],
            ["local: block_size=500 is larger than the sequence of 65 positions"],
        ),
        (
            [
                "--config",
                "configs/listops.py:linear:cpu",
                "--workdir",
                "w",
                "--config.model.attention_dropout_rate=0.1",
            ],
            ["linear attention forms no probabilities", "model.attention_dropout_rate"],
        ),
        (
            ["--config", "configs/image.py:linformer:cpu", "--workdir", "w", "--config.model.causal=True"],
            ["linformer attention has no causal form", "or another mechanism: linear, local"],
        ),
        (
            ["--config", "configs/listops.py:transformer:cpu", "--workdir", "w", "--config.model.causal=True"],
            ["model.causal=True leaves [CLS]", "take pooling='mean'"],
        ),
        (
            ["--config", "configs/listops.py:transformer:cpu", "--workdir", "w", "--config.softmax.chunk_size=8"],
            ["softmax.chunk_size is read with softmax.implementation='chunked' alone"],
        ),
        (
            [
                "--config",
                "configs/listops.py:transformer:cpu",
                "--workdir",
                "w",
                "--config.softmax.implementation=cudnn",
            ],
            ["softmax.implementation='cudnn' needs an NVIDIA GPU", "take 'xla'"],
        ),
        (
            ["--config", "configs/listops.py:performer:cpu", "--workdir", "w", "--config.performer.seed=4294967296"],
            ["performer: seed=4294967296", "0 to 4294967295"],
        ),
        ([*CONFIG], ["--workdir is missing"]),
        (["--workdir", "w"], ["--config is missing"]),
        ([*CONFIG, "--workdir", "w", "--wrkdir=3"], ["unknown flag --wrkdir", "did you mean 'workdir'"]),
    ],
)
def test_a_mistake_on_trains_command_line(arguments, words, tmp_path):
    arguments = [str(tmp_path / "w") if argument == "w" else argument for argument in arguments]
    assert_one_line_error(run("train", *arguments), *words)
    assert not (tmp_path / "w").exists() or not any((tmp_path / "w").iterdir())


def test_benchmark_mistakes():
    assert_one_line_error(run("benchmark", "memroy"), "unknown benchmark 'memroy'", "did you mean 'memory'", "loader")
    for lengths in ("1024,2k", "1", "-5", "0"):
        assert_one_line_error(
            run("benchmark", "memory", f"--lengths={lengths}"), f"--lengths {lengths}", "whole numbers"
        )
    assert_one_line_error(run("benchmark", "memory", "--batch_size=0"), "batch_size")
