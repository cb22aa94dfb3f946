"""The command line that all entries share: one line and exit code 2 for every mistake, short help, quiet endings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY = """
import sys
from absl import flags
from lra_tasks import cli
CONFIG = cli.config_flag()
flags.DEFINE_string("workdir", None, "folder of this run", required=True)
flags.DEFINE_enum("format", "csv", ["csv", "json"], "what to print")

def main(argv):
    config = CONFIG.value
    print(argv[1:], cli.overridden_keys(), config.train.seed, "jax" in sys.modules)
    if config.name == "interrupt":
        raise KeyboardInterrupt
    if config.name == "flood":
        print("line\\n" * 100_000)
    if config.name == "mistake":
        raise cli.UserError("first\\nsecond")
    if config.name == "bug":
        raise ValueError("a bug")
    return 75 if config.name == "code" else None

if __name__ == "__main__":
    cli.run(main, "What it is for.\\n\\n  an example", takes_arguments="takes" in sys.argv[0])
"""
CONFIG = """
from ml_collections import ConfigDict

def get_config(name="x"):
    if name == "wrong":
        raise ValueError("no such preset")
    return ConfigDict({"train": {"seed": 1, "rate": 0.5}, "name": name, "none": None, "list": [1]})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entry")
    (folder / "entry.py").write_text(ENTRY)
    (folder / "takes.py").write_text(ENTRY)
    (folder / "config.py").write_text(CONFIG)
    (folder / "broken.py").write_text("def get_config(:")
    return folder


def run(folder, *arguments, entry="entry.py"):
    command = [sys.executable, entry, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


GOOD = ["--config=config.py", "--workdir=w"]


def test_flags_and_config_reach_main(folder):
    done = run(folder, *GOOD, "--config.train.seed=7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] ['train.seed'] 7 False\n", "")
    done = run(folder, *GOOD, "one", "two", entry="takes.py")
    assert (done.returncode, done.stdout) == (0, "['one', 'two'] [] 1 False\n")
    assert run(folder, "--config=config.py:code", "--workdir=w").returncode == 75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=w"], "--config is missing: config file, as FILE.py"),
        (["--config=config.py"], "--workdir is missing: folder of this run"),
        (["--config=confg.py", "--workdir=w"], "--config confg.py: no such file; did you mean 'config.py'?"),
        (["--config=broken.py", "--workdir=w"], "--config broken.py cannot be loaded: SyntaxError: invalid syntax"),
        (["--config=config.py:wrong", "--workdir=w"], "--config config.py:wrong cannot be loaded: ValueError: no such"),
        ([*GOOD, "--config.train.sed=1"], "unknown config key 'train.sed'; did you mean 'seed'? choices: rate, seed"),
        ([*GOOD, "--config.trian.seed=1"], "unknown config key 'trian'; did you mean 'train'? choices: list, name"),
        ([*GOOD, "--config.train.seed.x=1"], "unknown config key 'train.seed.x': train.seed is a value, not a section"),
        ([*GOOD, "--config.train.seed=abc"], "flag --config.train.seed=abc: invalid literal for int()"),
        ([*GOOD, "--config.train.seed=1.5"], "flag --config.train.seed=1.5: invalid literal for int()"),
        ([*GOOD, "--config.none=1"], "--config.none cannot be set on the command line, since its value is None"),
        ([*GOOD, "--config.list=1"], "--config.list cannot be set on the command line, since its value is None"),
        (["--config.train.seed=1", *GOOD], "Found --config.train.seed=1 in argv before a value for --config"),
        (["--config.train.seed=1", "--workdir=w"], "--config.train.seed needs a config in front of it"),
        ([*GOOD, "--wrkdir=w"], "unknown flag --wrkdir; did you mean 'workdir'? choices: config, format"),
        ([*GOOD, "--format=xml"], "flag --format=xml: value should be one of <csv|json>"),
        ([*GOOD, "stray"], "unexpected argument 'stray'; everything is set by flags"),
        (["--workdir"], "Missing value for flag --workdir"),
        (["--config=config.py:mistake", "--workdir=w"], "first second"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(folder, arguments, message):
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_traceback_for_whoever_asks(folder):
    done = run(folder, *GOOD, "--config.name=mistake", "--traceback")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: first second\n")


def test_a_bug_is_not_hidden(folder):
    done = run(folder, *GOOD, "--config.name=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a bug" in done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_short(folder, flag):
    done = run(folder, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("What it is for.\n\n  an example\n\nflags:\n")
    lines = done.stdout.split("flags:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["--config", "--format", "--traceback", "--workdir"]
    assert "what to print [csv, json] (default: csv)" in lines[1]


def test_interrupt(folder):
    done = run(folder, *GOOD, "--config.name=interrupt")
    assert done.returncode == 130
    assert done.stderr == ""


def test_a_reader_that_leaves(folder):
    command = [sys.executable, "entry.py", *GOOD, "--config.name=flood"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def test_starting_is_light():
    """Neither an entry's help nor a worker of the generator waits for JAX, tfds, or a config."""
    code = "import sys; import lra_tasks.cli, lra_tasks.prepare, lra_tasks.listops; print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for heavy in ("jax", "flax", "tensorflow_datasets", "orbax", "matplotlib", "ml_collections", "rich", "scipy"):
        assert f"'{heavy}'" not in out
    code = "import sys; import lra_tasks.listops_trees; print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "'absl'" not in out
