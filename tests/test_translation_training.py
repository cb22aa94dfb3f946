"""Translation runs, as the README starts them: they learn, stop, go on bit for bit, average, and translate."""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from tiny_runs import assert_one_line_error, read_metrics
from tiny_translation import make_pairs as make_other_pairs
from tiny_translation_runs import (
    NUM_STEPS,
    SIZES,
    WORDS,
    make_pairs,
    prepare_words,
    read_experiment,
    run,
    start,
    train_command,
)

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.subwords import Subwords
from lra_tasks.train import EXIT_STOPPED
from lra_tasks.translation_data import MODEL, read_translation
from lra_tasks.translation_model import build_translation_model
from lra_tasks.translation_record import read_record
from lra_tasks.translation_steps import make_translation_init
from lra_tasks.translation_training import SNAPSHOTS, VOCABULARY, average_snapshots

SOURCES, TARGETS = make_pairs(5, seed=99)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    prepare_words(folder)
    return folder / "data"


@pytest.fixture(scope="module")
def straight(data_dir, tmp_path_factory):
    """A run straight through: (work directory, process)."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    return workdir, run(train_command(workdir, data_dir), environment={"JAX_LOG_COMPILES": "1"})


@pytest.fixture(scope="module")
def interrupted(straight, data_dir, tmp_path_factory):
    """The same run, terminated between two checkpoints and finished: (work directory, the two ends)."""
    workdir = tmp_path_factory.mktemp("interrupted") / "run"
    process = start(train_command(workdir, data_dir))
    deadline = time.monotonic() + 240
    log = workdir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and '"step": 60' in log.read_text():
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.005)
    _, err = process.communicate(timeout=300)
    return workdir, (process.returncode, err), run(train_command(workdir, data_dir))


def restore(workdir, kind, step=None):
    """(step, tree, notes) of a checkpoint."""
    experiment = read_experiment(workdir)
    model = build_translation_model(experiment, WORDS.vocab_size, WORDS.max_length)
    wanted = jax.eval_shape(make_translation_init(experiment, model)) if kind == "last" else model.abstract
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(kind, wanted, step=step)


def list_snapshots(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.list_steps(SNAPSHOTS)


def test_it_learns(straight):
    """Ten digits in six places; the untrained model's BLEU is 0."""
    workdir, process = straight
    assert process.returncode == 0, process.stderr
    lines = read_metrics(workdir)
    losses = [line["nll"] for line in lines if line["split"] == "train"]
    assert losses[-1] < losses[0] - 1.0
    validations = [line for line in lines if line["split"] == "validation"]
    assert [line["step"] for line in validations] == [70, NUM_STEPS]
    assert validations[-1]["loss"] < validations[0]["loss"]
    assert validations[-1]["bleu"] > 5


def test_steps_are_compiled_once(straight):
    """For all checkpoints and splits, whose sentences are of one length: a search by beam and a greedy one."""
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", straight[1].stderr)
    counts = {name: compiled.count(name) for name in ("train_step", "scoring_step", "_run")}
    assert counts == {"train_step": 1, "scoring_step": 1, "_run": 2}
    assert len(compiled) < 20, compiled
    assert read_record(straight[0] / "record.json").compile_seconds > 0


def test_record(straight, data_dir):
    workdir, process = straight
    record, config = read_record(workdir / "record.json"), json.loads((workdir / "config.json").read_text())
    subwords = read_translation(data_dir, WORDS).subwords
    assert (record.task, record.row, record.protocol, record.seed) == (WORDS.name, "luna16", "cpu", 0)
    assert record.config == config
    assert (record.vocab_size, record.vocab_checksum) == (subwords.size, subwords.checksum)
    assert {name: count.evaluated for name, count in record.splits.items()} == {
        name: size for name, size in SIZES.items() if name != "train"
    }
    assert (record.best.steps, record.last.steps) == ((record.best.steps[0],), (NUM_STEPS,))
    assert record.averaged.steps == (90, 120, NUM_STEPS)
    validations = {line["step"]: line for line in read_metrics(workdir) if line["split"] == "validation"}
    best = validations[record.best.steps[0]]
    assert record.best.validation_bleu == max(line["bleu"] for line in validations.values()) == best["bleu"]
    assert record.last.validation_loss == validations[NUM_STEPS]["loss"]
    assert (record.examples_seen, record.tokens_seen) == (NUM_STEPS * 40, NUM_STEPS * 40 * 7)  # 40 sentences a batch
    assert [line for line in process.stdout.splitlines() if "averaged" in line] == [
        f"luna16 on {WORDS.name}, seed 0, averaged (step 90, 120, {NUM_STEPS}): "
        f"BLEU test_a {record.averaged.tests['test_a'].bleu:.2f}, test_b {record.averaged.tests['test_b'].bleu:.2f}"
    ]


def test_metrics_are_well_formed(straight):
    train = [line for line in read_metrics(straight[0]) if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(20, NUM_STEPS + 1, 20))
    keys = ["step", "split", "loss", "accuracy", "gradient_norm", "nll", "target_tokens", "parameter_norm"]
    assert list(train[0]) == [*keys, "learning_rate", "steps_per_second"]


def test_averaged_is_the_mean_of_the_newest_snapshots(straight):
    workdir, _ = straight
    assert list_snapshots(workdir) == [90, 120, NUM_STEPS]
    trees = [restore(workdir, SNAPSHOTS, step)[1] for step in (90, 120, NUM_STEPS)]
    expected = jax.tree.map(lambda *leaves: np.mean(np.array(leaves, np.float64), axis=0), *trees)
    model = build_translation_model(read_experiment(workdir), WORDS.vocab_size, WORDS.max_length)
    with Checkpoints(workdir) as checkpoints:
        steps, found = average_snapshots(model, checkpoints)
    assert steps == (90, 120, NUM_STEPS)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)), found, expected)
    jax.tree.map(np.testing.assert_array_equal, trees[-1], restore(workdir, "last")[1]["params"])
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), found, trees[-1])))


def test_resumed_equals_straight_through(straight, interrupted):
    """Parameters, optimizer, snapshots and scores are the same to the bit."""
    workdir, (code, err), finished = interrupted
    stopped = re.search(r"SIGTERM at step (\d+): saved; the same command goes on from there", err.splitlines()[-1])
    assert code == EXIT_STOPPED, err
    assert finished.returncode == 0, finished.stderr
    assert f"resumed at step {stopped[1]}\n" in finished.stderr
    for kind in ("last", "best"):
        (step, tree, _), (other_step, other, _) = restore(straight[0], kind), restore(workdir, kind)
        assert step == other_step
        jax.tree.map(np.testing.assert_array_equal, tree, other)
    one, other = read_record(straight[0] / "record.json"), read_record(workdir / "record.json")
    assert (one.best, one.last, one.averaged) == (other.best, other.last, other.averaged)
    assert (one.experiment_hash, one.tokens_seen, one.examples_seen) == (
        *(other.experiment_hash, other.tokens_seen, other.examples_seen),
    )
    assert other.resumed == 1


def test_snapshots_behind_the_step_that_is_taken_up_are_deleted(tmp_path):
    """With them there, one that is saved again would find its place taken, and an old one would stay in its stead."""
    with Checkpoints(tmp_path, kept={SNAPSHOTS: 3}) as checkpoints:
        for step in (10, 20, 30, 40):
            checkpoints.save(SNAPSHOTS, step, {"a": np.full(2, step, np.float32)}, {})
        checkpoints.wait()
        assert checkpoints.list_steps(SNAPSHOTS) == [20, 30, 40]
        checkpoints.delete_after(SNAPSHOTS, 20)
        checkpoints.delete_after("best", 0)
        assert checkpoints.list_steps(SNAPSHOTS) == [20]
    with Checkpoints(tmp_path, kept={SNAPSHOTS: 3}) as checkpoints:
        assert checkpoints.list_steps(SNAPSHOTS) == [20]


def test_a_snapshot_is_on_disk_before_the_checkpoint_of_its_step(straight):
    """A run killed between the two goes on from an older step and makes both again."""
    folder = straight[0] / "checkpoints"
    assert (folder / SNAPSHOTS / str(NUM_STEPS)).stat().st_mtime_ns <= (
        folder / "last" / str(NUM_STEPS)
    ).stat().st_mtime_ns


@pytest.fixture(scope="module")
def translated(straight):
    """The README's command: five sentences and two empty lines, one of them of spaces alone."""
    text = "\n".join([*SOURCES[:2], "", *SOURCES[2:4], "  ", SOURCES[4]]) + "\n"
    return run(["translate", "--workdir", straight[0]], text)


def test_translate(translated):
    assert translated.returncode == 0, translated.stderr
    lines = translated.stdout.split("\n")
    assert len(lines) == 8
    assert (lines[2], lines[5], lines[7]) == ("", "", "")
    found = [line for line in lines if line]
    assert len(found) == 5
    right = [word == wanted for line, target in zip(found, TARGETS, strict=True)
             for word, wanted in zip(line.split(), target.split(), strict=False)]  # fmt: skip
    assert sum(right) > 0.4 * len(right)  # a tenth by chance
    assert "Traceback" not in translated.stderr


def test_translate_from_file_to_file(straight, translated, tmp_path):
    """Another checkpoint and a single hypothesis; umlauts arrive whatever the locale says."""
    (tmp_path / "in.txt").write_bytes("fünf fünf fünf\r\n\r\nEs gibt ☃!".encode())
    files = ["--input", tmp_path / "in.txt", "--output", tmp_path / "out.txt"]
    options = ["--checkpoint", "last", "--beam_size", "1"]
    end = run(["translate", "--workdir", straight[0], *files, *options], environment={"PYTHONIOENCODING": "ascii"})
    assert end.returncode == 0, end.stderr
    assert end.stdout == ""
    lines = (tmp_path / "out.txt").read_text().split("\n")
    assert lines[0].split()
    assert (lines[1], len(lines)) == ("", 4)


def test_translate_needs_a_run_and_lines_that_fit(straight, data_dir, tmp_path):
    workdir = straight[0]
    long = " ".join(["eins"] * WORDS.max_length)
    end = run(["translate", "--workdir", workdir], f"eins\n\n{long}\n")
    assert_one_line_error(end, f"line 3 has {WORDS.max_length + 1} subwords", "at most 24", "split the sentence")
    end = run(["translate", "--workdir", tmp_path], "eins\n")
    assert_one_line_error(end, "config.json is missing", "lra_tasks.train")
    end = run(["translate", "--workdir", workdir, "--beam_size", "1", "--length_penalty", "0.5"], "eins\n")
    assert_one_line_error(end, "--length_penalty has no effect on a single hypothesis")
    end = run(["evaluate", "--workdir", workdir, "--data_dir", data_dir])
    assert_one_line_error(end, "is of a translation run", "record.json", "python -m lra_tasks.translate --workdir")


def test_the_vocabulary_of_another_model_is_refused(straight, data_dir, tmp_path):
    """In a work directory, and where a run is taken up with data that were prepared anew."""
    workdir = tmp_path / "run"
    shutil.copytree(straight[0], workdir)
    other = Subwords.train([line for side in make_other_pairs(300, 7) for line in side], WORDS.vocab_size)
    trained = read_translation(data_dir, WORDS).subwords
    assert restore(workdir, "best")[2][VOCABULARY] == trained.checksum != other.checksum
    other.save(workdir / MODEL)
    end = run(["translate", "--workdir", workdir], "eins\n")
    assert_one_line_error(end, "the vocabulary is of another model", trained.checksum[:12], other.checksum[:12], MODEL)

    (workdir / "record.json").unlink()
    prepare_words(tmp_path, seed=1)
    assert read_translation(tmp_path / "data", WORDS).subwords.checksum != trained.checksum
    end = run(train_command(workdir, tmp_path / "data"))
    assert_one_line_error(end, "the vocabulary is of another model", "or take another --workdir")
    assert Subwords.load(workdir / MODEL).checksum == other.checksum  # nothing was touched


def test_training_needs_prepared_data(tmp_path):
    """The command that prepares is named, and the work directory is left as it was: absent."""
    end = run(train_command(tmp_path / "run", tmp_path / "nothing"))
    assert_one_line_error(end, f"python -m lra_tasks.prepare {WORDS.name} --data_dir")
    assert not (tmp_path / "run").exists()
