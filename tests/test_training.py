"""Whole runs, as the README starts them: they learn, stop, go on bit for bit, refuse what would mix two runs."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tiny_runs import ROOT, assert_one_line_error, finish, read_metrics, run, start, train_command, uninterrupted_run

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.errors import UserError
from lra_tasks.loop import require_finite
from lra_tasks.model import build_model
from lra_tasks.record import decode_correctness, read_record
from lra_tasks.registry import get_task
from lra_tasks.runlog import RunLog
from lra_tasks.settings import resolve
from lra_tasks.steps import make_init
from lra_tasks.stopping import StopFlag
from lra_tasks.train import EXIT_STOPPED

NUM_STEPS = 240


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run straight through: (work directory, data folder, process)."""
    return uninterrupted_run(tmp_path_factory.getbasetemp())


def read_experiment(workdir):
    return resolve(json.loads((workdir / "config.json").read_text()))


def restore(workdir, kind="last"):
    """Step, state and notes of the newest checkpoint."""
    experiment = read_experiment(workdir)
    model = build_model(experiment, get_task("listops_small"))
    wanted = jax.eval_shape(make_init(experiment, model)) if kind == "last" else model.abstract
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(kind, wanted)


def stop_at(command, workdir, step, number):
    """Starts a run, sends it a signal once its log has come to `step`, and waits for its end."""
    process = start(command)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        log = workdir / "metrics.jsonl"
        if log.exists() and any(int(found) >= step for found in re.findall(r'"step": (\d+)', log.read_text())):
            process.send_signal(number)
            break
        time.sleep(0.005)
    return finish(process)


@pytest.fixture(scope="module")
def interrupted(straight, tmp_path_factory):
    """The same run killed, terminated, interrupted, out of disk space, its newest checkpoint torn, and finished."""
    workdir = tmp_path_factory.mktemp("interrupted") / "run"
    command = train_command(workdir, straight[1])
    ends = {
        "SIGKILL": stop_at(command, workdir, 60, signal.SIGKILL),
        "SIGTERM": stop_at(command, workdir, 100, signal.SIGTERM),
        "SIGINT": stop_at(command, workdir, 140, signal.SIGINT),
    }
    before = restore(workdir)
    # no file above 20 kB: the log fits, a checkpoint does not
    ends["full"] = run(*command, before=["bash", "-c", 'ulimit -f 20; exec "$@"', "bash"])
    after = restore(workdir)
    (manifest,) = (workdir / "checkpoints" / "last" / str(after[0]) / "tree").glob("manifest.ocdbt")
    manifest.write_bytes(manifest.read_bytes()[:-7])
    ends["finished"] = run(*command)
    return workdir, ends, (before, after)


def test_it_learns(straight):
    """Above the most frequent answer by more than four standard errors of 2,000 examples, after 240 tiny steps."""
    record = read_record(straight[0] / "record.json")
    majority = record.splits["test"].majority_share
    assert record.best.test_accuracy > majority + 4 * (majority * (1 - majority) / 2000) ** 0.5
    losses = [line["loss"] for line in read_metrics(straight[0]) if line["split"] == "train"]
    assert np.mean(losses[-4:]) < np.mean(losses[:2]) - 0.1


def test_steps_are_compiled_once(straight):
    """One train step and one eval step in a whole run, also for restored parameters and the batch that is filled up."""
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", straight[2].stderr)
    assert compiled.count("train_step") == 1
    assert compiled.count("eval_step") == 1
    assert len(compiled) < 20, compiled  # and nothing else step by step


def test_record(straight):
    workdir, _, process = straight
    assert process.returncode == 0, process.stderr
    record, config = read_record(workdir / "record.json"), json.loads((workdir / "config.json").read_text())
    assert (record.task, record.row, record.protocol, record.seed) == ("listops_small", "luna16", "cpu", 0)
    assert record.config == config
    assert {name: split.evaluated for name, split in record.splits.items()} == {"validation": 1000, "test": 2000}
    correct = decode_correctness(record.last.test_correctness, 2000)
    assert correct.sum() == round(record.last.test_accuracy * 2000)
    assert (record.num_steps, record.examples_seen) == (NUM_STEPS, NUM_STEPS * 16)
    assert (record.last.step, record.resumed) == (NUM_STEPS, 0)
    assert record.num_parameters == build_model(read_experiment(workdir), get_task("listops_small")).num_parameters
    assert record.command[:4] == ("python", "-m", "lra_tasks.train", "--config")
    assert not any(str(workdir.parent) in argument for argument in record.command)
    validations = {line["step"]: line["accuracy"] for line in read_metrics(workdir) if line["split"] == "validation"}
    assert record.best.validation_accuracy == max(validations.values()) == validations[record.best.step]
    assert record.best.step == min(
        step for step, value in validations.items() if value == record.best.validation_accuracy
    )
    assert record.last.validation_accuracy == validations[NUM_STEPS]
    assert record.wall_seconds >= record.train_wall_seconds > 0
    assert record.compile_seconds > 0


def test_stdout_is_the_result(straight):
    record = read_record(straight[0] / "record.json")
    best, last, facts = straight[2].stdout.splitlines()
    assert f"best checkpoint (step {record.best.step}): test accuracy {100 * record.best.test_accuracy:.2f}%" in best
    assert f"last checkpoint (step 240): test accuracy {100 * record.last.test_accuracy:.2f}% of 2000" in last
    assert f"{record.num_parameters:,} parameters" in facts


def test_metrics_are_well_formed(straight):
    lines = read_metrics(straight[0])
    train = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(10, NUM_STEPS + 1, 10))
    assert [line["step"] for line in lines if line["split"] == "validation"] == list(range(40, NUM_STEPS + 1, 40))
    keys = {"step", "split", "loss", "accuracy", "gradient_norm", "parameter_norm", "learning_rate", "steps_per_second"}
    assert all(line.keys() == keys for line in train)
    assert train[1]["learning_rate"] == pytest.approx(0.01 * 19 / 20, rel=1e-4)  # of the 20th update


def test_config_resolves_to_the_same(straight):
    experiment = read_experiment(straight[0])
    assert (experiment.model.emb_dim, experiment.train.num_steps, experiment.luna.pack_length) == (16, NUM_STEPS, 4)
    assert experiment.as_dict() == json.loads((straight[0] / "config.json").read_text())


def test_checkpoints_that_stay(straight):
    folder = straight[0] / "checkpoints"
    assert sorted(int(path.name) for path in (folder / "last").iterdir()) == [210, 240]
    assert [int(path.name) for path in (folder / "best").iterdir()] == [
        read_record(straight[0] / "record.json").best.step
    ]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_and_says_so(interrupted, name):
    end = interrupted[1][name]
    assert end.returncode == EXIT_STOPPED == 75, end.stderr
    assert re.search(rf"{name} at step \d+: saved; the same command goes on from there", end.stderr.splitlines()[-1])
    assert "Traceback" not in end.stderr
    assert end.stdout == ""


def test_each_attempt_goes_on_where_the_last_one_saved(interrupted):
    ends = interrupted[1]
    assert ends["SIGKILL"].returncode == -signal.SIGKILL
    resumed = int(re.search(r"resumed at step (\d+)", ends["SIGTERM"].stderr)[1])
    assert resumed in (30, 60, 90), "SIGKILL loses what came after a checkpoint, no more"
    for stopped, follower in (("SIGTERM", "SIGINT"), ("SIGINT", "full")):
        step = re.search(rf"{stopped} at step (\d+)", ends[stopped].stderr)[1]
        assert f"resumed at step {step}\n" in ends[follower].stderr


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint(interrupted):
    _, ends, (before, after) = interrupted
    assert ends["full"].returncode == 2
    assert "Traceback" not in ends["full"].stderr
    message = ends["full"].stderr.splitlines()[-1]
    assert message.startswith("error: ")
    assert "could not be written (File too large); make room" in message
    assert f"last at step {before[0]}" in message
    assert before[0] == after[0]
    jax.tree.map(np.testing.assert_array_equal, before[1], after[1])


def test_resumed_equals_straight_through(straight, interrupted):
    """Killed, terminated, interrupted, out of space, torn: parameters, optimizer and scores are the same to the bit."""
    workdir, ends, _ = interrupted
    assert ends["finished"].returncode == 0, ends["finished"].stderr
    for kind in ("last", "best"):
        (step, state, _), (other_step, other, _) = restore(straight[0], kind), restore(workdir, kind)
        assert step == other_step
        jax.tree.map(np.testing.assert_array_equal, state, other)
    one, other = read_record(straight[0] / "record.json"), read_record(workdir / "record.json")
    assert one.best == other.best
    assert one.last == other.last
    assert one.experiment_hash == other.experiment_hash
    # the attempt without disk space saved nothing, and the one before it may have saved nothing but what is torn
    assert other.resumed in (2, 3)


def test_a_torn_checkpoint_is_reported_and_the_one_before_it_taken(interrupted):
    _, ends, (_, (torn, _, _)) = interrupted
    said = ends["finished"].stderr
    assert f"it is now torn/last-{torn}, and the checkpoint before it is looked at" in said
    assert int(re.search(r"resumed at step (\d+)", said)[1]) < torn


def test_resumed_metrics_have_each_step_once(straight, interrupted):
    lines = read_metrics(interrupted[0])
    assert len({(line["step"], line["split"]) for line in lines}) == len(lines)
    validations = [
        [line for line in found if line["split"] == "validation"] for found in (lines, read_metrics(straight[0]))
    ]
    assert validations[0] == validations[1]
    assert {line["step"] for line in lines} == {line["step"] for line in read_metrics(straight[0])}


def test_a_finished_run_says_so(straight):
    workdir, data_dir, _ = straight
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = run(*train_command(workdir, data_dir))
    assert again.returncode == 0
    assert f"{workdir} is finished" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_another_config_is_refused(straight):
    workdir, data_dir, _ = straight
    changed = run(*train_command(workdir, data_dir, train__seed=1, model__emb_dim=8))
    assert_one_line_error(
        changed, "holds another config", "train.seed: 1 here, 0 there", "model.emb_dim: 8 here, 16 there"
    )


def test_not_a_number_stops_the_run(straight, tmp_path):
    """The step is named, no record is written, and what is saved is from before."""
    workdir = tmp_path / "run"
    end = run(*train_command(workdir, straight[1], optim__learning_rate=1e30, train__checkpoint_every_steps=1))
    assert end.returncode == 2
    assert "Traceback" not in end.stderr
    message = re.fullmatch(
        r"error: (\w+ )?\w+ is (nan|inf) at step (\d+); lower optim\.learning_rate.*", end.stderr.splitlines()[-1]
    )
    assert message, end.stderr
    assert not (workdir / "record.json").exists()
    step, state, _ = restore(workdir)
    assert step == int(message[3]) - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    norm = (
        sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in jax.tree.leaves(jax.device_get(state["params"])))
        ** 0.5
    )
    assert norm < 1e3, "the parameters were saved after the step that ruined them"


def test_work_directories_that_cannot_be_used(straight, tmp_path):
    """A file, checkpoints without a config, a config that is none."""
    _, data_dir, _ = straight
    file = tmp_path / "file"
    file.write_text("x")
    assert_one_line_error(run(*train_command(file, data_dir)), str(file), "cannot be used")
    (tmp_path / "orphan" / "checkpoints").mkdir(parents=True)
    assert_one_line_error(run(*train_command(tmp_path / "orphan", data_dir)), "checkpoints but no config.json")
    for place, text in enumerate(("{", "[1]")):
        workdir = tmp_path / f"broken{place}"
        workdir.mkdir()
        (workdir / "config.json").write_text(text)
        assert_one_line_error(run(*train_command(workdir, data_dir)), "config.json is not")


def test_the_table_regenerates(straight, tmp_path):
    shutil.copytree(straight[0], tmp_path / "runs" / "one")
    command = [sys.executable, "-m", "lra_tasks.results", str(tmp_path / "runs")]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    record = read_record(straight[0] / "record.json")
    assert f"{100 * record.best.test_accuracy:.2f}" in table.stdout
    assert "| Luna-16 " in table.stdout
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == table.stdout


def test_torn_log_lines_are_dropped(tmp_path):
    """Lines behind the checkpoint and the torn end of a killed run go; the rest stays as it is."""
    kept = '{"step": 10, "split": "train", "loss": 2.5}\n{"step": 20, "split": "validation", "loss": 2.0}\n'
    (tmp_path / "metrics.jsonl").write_text(kept + '{"step": 30, "split": "train", "loss": 1.5}\n{"step": 4')
    with RunLog(tmp_path, start_step=20, num_steps=50, title="t") as log:
        log.write(30, "train", {"loss": 1.25})
    assert (tmp_path / "metrics.jsonl").read_text() == kept + '{"step": 30, "split": "train", "loss": 1.25}\n'


def test_the_second_signal_is_not_held_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        assert stop.name is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.name == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_require_finite():
    require_finite("loss", 1.0, 3)
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(UserError, match=r"loss is -?(nan|inf) at step 3; lower optim.learning_rate"):
            require_finite("loss", value, 3)
