"""Seeds at once against runs by themselves: every loss, the parameters, the answers; stops, failures, records."""

import dataclasses
import functools
import json
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from meshes import make_machine
from tiny_runs import make_experiment, read_metrics, run, train_command, write_small_store
from tolerances import assert_close

from lra_tasks import seeds_loop, seeds_training
from lra_tasks.calibration import make_calibrate
from lra_tasks.checkpoint import CheckpointError, Checkpoints
from lra_tasks.clock import Clock
from lra_tasks.collection import collect
from lra_tasks.errors import UserError
from lra_tasks.finishing import write_run_record
from lra_tasks.listops import LISTOPS_SMALL, generate
from lra_tasks.loader import batch_at
from lra_tasks.loop import Stopped
from lra_tasks.model import Model, build_model
from lra_tasks.record import read_record
from lra_tasks.seeds import SeedFolders
from lra_tasks.seeds_checkpoints import SeedCheckpoints
from lra_tasks.seeds_loop import NoSeedLeft, SeedsInterval
from lra_tasks.seeds_steps import batches_at, make_seeds_init, make_seeds_train_step, unstack_state
from lra_tasks.seeds_training import SeedsJob, choose_machine, train_seeds
from lra_tasks.settings import sequence_length
from lra_tasks.steps import make_init, make_train_step
from lra_tasks.training import train

SEEDS = (1, 11, 2**32 - 1)
TASK = dataclasses.replace(LISTOPS_SMALL, splits={"train": 100, "validation": 40, "test": 60})
CHANGES = {
    "model__dropout_rate": 0.1,
    "model__attention_dropout_rate": 0.1,
    "optim__learning_rate": 0.01,
    "optim__warmup_steps": 4,
    "train__num_steps": 12,
    "train__batch_size": 8,
    "train__eval_batch_size": 32,  # divides neither split
    "train__log_every_steps": 1,
    "train__eval_every_steps": 4,
    "train__checkpoint_every_steps": 3,
}


def make_seed(seed, name="listops_luna16", **changes):
    return make_experiment(name, **CHANGES | changes, train__seed=seed)


@functools.cache
def splits():
    return generate(TASK.grammar, TASK.seed, TASK.splits)


def train_group(workdir, seeds=SEEDS):
    """Trains, or goes on, as `train --seeds` does; returns the folders."""
    experiments = {seed: make_seed(seed) for seed in seeds}
    folders = SeedFolders(workdir, experiments)
    folders.open()

    def finish(seed, one):
        write_run_record(one, folders.folder(seed), seeds_at_once=folders.list_sharers(seed))

    for group in folders.list_groups():
        job = SeedsJob({seed: experiments[seed] for seed in group}, TASK, splits(), folders, make_machine())
        train_seeds(job, finish)
    return folders


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A group straight through: its folder."""
    workdir = tmp_path_factory.mktemp("group")
    train_group(workdir)
    return workdir


def signal_at(monkeypatch, at):
    """SIGTERM while the batch of this step is gathered."""

    def gather(*arguments, step, **sizes):
        if step == at:
            signal.raise_signal(signal.SIGTERM)
        return batches_at(*arguments, step=step, **sizes)

    monkeypatch.setattr(seeds_loop, "batches_at", gather)


def ruin(monkeypatch, place_of):
    """From step `place_of[place]` on the losses of the seeds at these places are none."""

    def make_step(*arguments, **options):
        step = make_seeds_train_step(*arguments, **options)

        def ruined(state, batch):
            after, numbers = step(state, batch)
            for place, begin in place_of.items():
                factor = jnp.where(after["step"] >= begin, jnp.nan, 1.0)
                numbers["loss"] = numbers["loss"].at[place].multiply(factor)
            return after, numbers

        return jax.jit(ruined, donate_argnums=0)

    monkeypatch.setattr(seeds_training, "make_seeds_train_step", make_step)


def restore(folder, kind="last"):
    """Step and state, or parameters, of the newest checkpoint of a seed."""
    experiment = make_seed(0)
    model = build_model(experiment, TASK)
    wanted = jax.eval_shape(make_init(experiment, model)) if kind == "last" else model.abstract
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(kind, wanted)[:2]


def scores_without_losses(record):
    """What whole examples decide, of the best and of the last checkpoint."""
    fields = ("step", "validation_accuracy", "test_accuracy", "test_correctness")
    return [[getattr(scores, field) for field in fields] for scores in (record.best, record.last)]


def assert_same_parameters(params, expected):
    """To float32's tolerance, but for the biases of softmax attention's keys.

    Their gradient is zero in exact arithmetic, for they add the same to all scores of a query: what Adam makes of its
    rounding is noise, and changes no result.
    """
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith(("attention/key/bias", "attention/pack_key/bias")):
            assert_close(one, other, "float32", what=name)


def test_a_seed_among_others_comes_to_what_it_comes_to_by_itself(straight, tmp_path):
    """With dropout: loss of every step, validation, parameters; each single answer, the hashes, the kinds of files."""
    seed = SEEDS[-1]
    alone, folder, machine = tmp_path, straight / f"seed{seed}", make_machine()
    train(make_seed(seed), TASK, splits(), alone, lambda one: write_run_record(one, alone), machine)
    assert len(read_metrics(folder)) == 12 + 3
    for one, other in zip(read_metrics(folder), read_metrics(alone), strict=True):
        assert list(one) == list(other)
        for name in one.keys() - {"split", "steps_per_second"}:
            assert_close(one[name], other[name], "float32", what=f"{name} at step {one['step']}")
    for kind in ("last", "best"):
        (step, state), (other_step, other) = restore(folder, kind), restore(alone, kind)
        assert step == other_step
        assert_same_parameters(*(one["params"] if kind == "last" else one for one in (state, other)))
    record, other = read_record(folder / "record.json"), read_record(alone / "record.json")
    assert scores_without_losses(record) == scores_without_losses(other)
    assert (record.experiment_hash, record.config_hash) == (other.experiment_hash, other.config_hash)
    assert (record.seeds_at_once, other.seeds_at_once) == (SEEDS, ())
    assert "seeds_at_once" not in json.loads((alone / "record.json").read_text())
    made = {path.relative_to(alone) for path in alone.rglob("*") if len(path.relative_to(alone).parts) < 4}
    assert made <= {path.relative_to(folder) for path in folder.rglob("*")}


def tear(checkpoint):
    (manifest,) = (checkpoint / "tree").glob("manifest.ocdbt")
    manifest.write_bytes(manifest.read_bytes()[:-7])


def test_stopped_and_taken_up_again_equals_straight_through(straight, tmp_path, monkeypatch):
    """To the bit, from the newest step of which all have a whole checkpoint."""
    signal_at(monkeypatch, 8)
    with pytest.raises(Stopped, match="SIGTERM at step 9: saved"):
        train_group(tmp_path)
    tear(tmp_path / "seed11" / "checkpoints" / "last" / "9")  # of two that are kept, 6 and 9
    signal_at(monkeypatch, None)
    train_group(tmp_path)
    for folder, other in ((straight / f"seed{seed}", tmp_path / f"seed{seed}") for seed in SEEDS):
        for kind in ("last", "best"):
            jax.tree.map(np.testing.assert_array_equal, restore(folder, kind), restore(other, kind))
        records = [read_record(one / "record.json") for one in (folder, other)]
        assert records[0].best == records[1].best
        assert records[0].last == records[1].last
        assert (records[1].resumed, records[1].seeds_at_once) == (1, SEEDS)
        lines = [[(line["step"], line["split"]) for line in read_metrics(one)] for one in (folder, other)]
        assert lines[0] == lines[1]


def save(workdir, seeds, step):
    """States of these seeds at a step, as a run that was killed may leave them."""
    with SeedCheckpoints({seed: workdir / str(seed) for seed in seeds}) as checkpoints:
        state = {"params": {"a": jnp.asarray(seeds, jnp.float32)}, "opt_state": {}, "step": jnp.int32(step)}
        checkpoints.save("last", step, state, {"at": step})
        return jax.eval_shape(lambda: state)


def restore_states(workdir, seeds, abstract):
    """What is gone on from, and the steps that the first seed still has."""
    shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), abstract)
    with SeedCheckpoints({seed: workdir / str(seed) for seed in seeds}) as checkpoints:
        found = checkpoints.restore_newest("last", abstract, print, shardings=shardings)
        return found, checkpoints.of[seeds[0]].list_steps("last")


def test_seeds_go_on_from_the_newest_step_that_all_have(tmp_path):
    """A kill may come between the checkpoints of two seeds, also between the first ones."""
    abstract = save(tmp_path, (1, 2), 3)
    save(tmp_path, (1,), 6)
    (step, state, notes), left = restore_states(tmp_path, (1, 2), abstract)
    assert (step, int(state["step"]), notes, left) == (3, 3, {"at": 3}, [3])
    assert np.array_equal(state["params"]["a"], [1.0, 2.0])
    assert restore_states(tmp_path, (1, 5), abstract) == (None, [])
    save(tmp_path, (4,), 6)
    with pytest.raises(CheckpointError, match=r"no checkpoint of one step \(seed 2: 3; seed 4: 6\)"):
        restore_states(tmp_path, (2, 4), abstract)


def test_a_seed_that_is_ruined_is_given_up_and_the_others_go_on(straight, tmp_path, monkeypatch):
    """Nothing of it is saved from there, its folder says why, the same command names it and trains nothing."""
    ruin(monkeypatch, {1: 5})
    signal_at(monkeypatch, 7)
    with pytest.raises(Stopped):
        train_group(tmp_path)
    ruin(monkeypatch, {})
    signal_at(monkeypatch, None)
    folders = train_group(tmp_path)
    assert folders.failure(11).startswith("loss is nan at step 5; lower optim.learning_rate")
    assert restore(tmp_path / "seed11")[0] == 3
    assert [line["step"] for line in read_metrics(tmp_path / "seed11")] == [1, 2, 3, 4, 4]
    assert not (tmp_path / "seed11" / "record.json").exists()
    for seed in (1, 2**32 - 1):
        record, other = (read_record(folder / f"seed{seed}" / "record.json") for folder in (tmp_path, straight))
        assert scores_without_losses(record) == scores_without_losses(other)
        assert record.seeds_at_once == (1, 2**32 - 1)
    assert (folders.is_done, folders.list_groups(), folders.conclude()) == (True, [], 1)


def test_when_all_are_ruined_training_ends(tmp_path, monkeypatch):
    ruin(monkeypatch, {0: 2, 1: 4})
    with pytest.raises(NoSeedLeft, match="loss is nan at step 4"):
        train_group(tmp_path, (1, 11))
    assert SeedFolders(tmp_path, {1: make_seed(1), 11: make_seed(11)}).tell_failures() == 1


PERFORMER = {
    "preset": "performer:cpu",
    "performer__num_features": 8,
    "performer__redraw_every_steps": 2,
    "model__attention_dropout_rate": 0.0,
}


def test_steps_of_a_mechanism_that_draws_equal_those_of_seeds_by_themselves():
    """Performer's features come from each seed's own key, every second step; with dropout, of a batch in two parts."""
    seeds = (3, 2**31 + 5)
    experiments = [make_seed(seed, "listops", **PERFORMER) for seed in seeds]
    first, sizes = experiments[0], {"batch_size": 8, "length": sequence_length(experiments[0], TASK)}
    model = build_model(first, TASK)
    states = make_seeds_init(first, model, seeds)()
    step = make_seeds_train_step(first, model, seeds, microbatches=2)
    alone = [make_init(one, model)() for one in experiments]
    steps = [make_train_step(one, model, microbatches=2) for one in experiments]
    for number in range(4):
        states, numbers = step(states, batches_at(splits()["train"], seeds, step=number, **sizes))
        for place, seed in enumerate(seeds):
            batch = batch_at(splits()["train"], seed=seed, step=number, **sizes)
            alone[place], expected = steps[place](alone[place], batch)
            for name, value in expected.items():
                assert_close(numbers[name][place], value, "float32", what=f"{name} of seed {seed} at step {number}")
    for state, of_all in zip(alone, unstack_state(states, 2), strict=True):
        assert_same_parameters(of_all["params"], state["params"])


def test_a_line_of_a_seed_is_of_its_own_numbers_since_the_last_line():
    written = []

    def make_log(seed):
        return SimpleNamespace(write=lambda step, split, numbers: written.append((seed, step, numbers)))

    log = SimpleNamespace(advance=lambda step, shown=None: written.append((step, shown)))
    runs = {seed: SimpleNamespace(log=make_log(seed)) for seed in (1, 11)}
    run = SimpleNamespace(runs=runs, log=log, clock=Clock(), settings=SimpleNamespace(log_every_steps=2))
    run.list_living = lambda: [(1, 11, runs[11])]  # the other one was given up
    interval = SeedsInterval(run)
    for step in range(1, 5):
        names = ("loss", "accuracy", "gradient_norm", "parameter_norm", "learning_rate")
        interval.handle(step, {name: np.array([np.nan, step]) for name in names})
    lines = [line for line in written if line[0] == 11]
    assert [(step, numbers["loss"], numbers["parameter_norm"]) for _, step, numbers in lines] == [
        (2, 1.5, 2),
        (4, 3.5, 4),
    ]
    assert [shown and shown["loss"] for step, shown in (line for line in written if len(line) == 2)] == [
        None,
        1.5,
        None,
        3.5,
    ]
    assert run.clock.speeds == [numbers["steps_per_second"] for _, _, numbers in lines]


def encode(params, batch):
    """One feature: the first token, scaled."""
    return params["scale"] * batch.tokens[:, :1]


def test_each_seed_is_calibrated_on_its_own_examples(tmp_path):
    def store(params, vectors):
        return params | {"stored": vectors}

    model = Model(None, None, None, encode, store, None, None)
    experiments = {seed: make_seed(seed, model__feature_norm="calibrated") for seed in (1, 11)}
    job = SeedsJob(experiments, TASK, splits(), SeedFolders(tmp_path, experiments), make_machine())
    stored = job.complete(model, make_calibrate)({"scale": jnp.float32([2, 3])})["stored"]
    for place, (seed, scale) in enumerate({1: 2, 11: 3}.items()):
        batch = batch_at(
            splits()["train"], seed=seed, step=0, batch_size=64, length=sequence_length(make_seed(0), TASK)
        )
        assert np.array_equal(stored[place], scale * batch.tokens[:, :1])


def test_a_machine_is_used_as_far_as_it_can_be():
    with pytest.raises(UserError, match="trains on one device, and the mesh has 2; set"):
        choose_machine(make_machine(data=2), print)
    said = []
    machine = choose_machine(make_machine(lengths=(8, 64), microbatches=0), said.append)
    assert (machine.settings.lengths, machine.settings.microbatches, len(said)) == ((), 1, 1)
    assert choose_machine(make_machine(microbatches=2), said.append).settings.microbatches == 2
    assert len(said) == 1


def test_the_command(tmp_path):
    """Whole, as a process: the records of both seeds; a rate that ruins all is exit code 1, also the second time."""
    sizes = {"train__num_steps": 2, "train__eval_every_steps": 2, "train__log_every_steps": 1}
    command = train_command(tmp_path / "fine", write_small_store(tmp_path / "data"), **sizes)
    done = run(*command, "--seeds", "0,5")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 6), done.stderr
    record = read_record(tmp_path / "fine" / "seed5" / "record.json")
    assert (record.seed, record.seeds_at_once, record.command[-2:]) == (5, (0, 5), ("--seeds", "0,5"))
    assert record.device_seconds == record.wall_seconds / 2
    found = collect([tmp_path / "fine"])
    assert ([one.seed for _, one in found.records], found.faults) == ([0, 5], [])
    ruined = [*train_command(tmp_path / "ruined", tmp_path / "data", optim__learning_rate=1e30), "--seeds", "0,5"]
    for attempt in (run(*ruined), run(*ruined)):
        assert (attempt.returncode, attempt.stdout) == (1, ""), attempt.stderr
        assert [line[:15] for line in attempt.stderr.splitlines()[-2:]] == ["failed: seed 0:", "failed: seed 5:"]
