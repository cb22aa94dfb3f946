"""The training loop by itself, around a run that counts: what happens when, what is logged, what is compiled."""

import json
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_machine

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.clock import Clock
from lra_tasks.errors import UserError
from lra_tasks.loop import Run, Stopped, read_best_score, restore_or_init, run_to_the_end
from lra_tasks.runlog import RunLog

CADENCES = {"log_every_steps": 2, "eval_every_steps": 3, "checkpoint_every_steps": 4}


def init():
    return {"params": {"sum": jnp.zeros(())}, "step": jnp.zeros((), jnp.int32)}


@jax.jit
def count(state, batch):
    """Adds the batch up; its length is one of two."""
    total = state["params"]["sum"] + batch.sum()
    numbers = {"loss": batch.sum(), "accuracy": jnp.float32(0.5), "tokens": jnp.float32(batch.size), "aside": total}
    norms = {"gradient_norm": jnp.float32(1.0), "parameter_norm": total, "learning_rate": jnp.float32(0.1)}
    return {"params": {"sum": total}, "step": state["step"] + 1}, numbers | norms


class CountingRun(Run):
    """Batches of step + 1 ones or twos; remembers what it was asked."""

    def next_batch(self, step):
        self.asked.append(("batch", step))
        if step == self.signal_at:
            signal.raise_signal(signal.SIGTERM)
        return np.full(1 + step % 2, np.nan if step == self.ruined_at else 1.0, np.float32)

    def settle(self):
        self.asked.append(("settle", int(self.state["step"])))

    def validate(self, step):
        self.asked.append(("validate", step))
        self.keep_best(step, {3: 0.2, 6: 0.7, 9: 0.7, 10: 0.3}[step], {"score": 0.0})

    def save(self, step):
        self.asked.append(("save", step))
        super().save(step)


def count_to(workdir, num_steps, *, ruined_at=None, signal_at=None):
    """Runs the loop; returns the run, whatever ended it, and what was called with the finished one."""
    finished, machine = [], make_machine()
    with Checkpoints(workdir, clean=True) as checkpoints:
        state, clock, shardings = restore_or_init(init, checkpoints, machine.layout)
        params = jax.eval_shape(init)["params"]
        with RunLog(workdir, start_step=int(state["step"]), num_steps=num_steps, title="t") as log:
            run = CountingRun(
                name="counter",
                settings=SimpleNamespace(num_steps=num_steps, **CADENCES),
                layout=machine.layout,
                shardings=shardings,
                checkpoints=checkpoints,
                log=log,
                state=state,
                train_step=count,
                clock=clock,
                best_score=read_best_score(checkpoints, "score", params, shardings),
                profile=machine.profile,
            )
            run.asked, run.ruined_at, run.signal_at = [], ruined_at, signal_at
            error = None
            try:
                run_to_the_end(run, finished.append)
            except UserError as caught:
                error = caught
        best = checkpoints.latest_step("best")
    return run, error, finished, best


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("counted")
    return workdir, *count_to(workdir, 10)


def test_what_is_due_is_done_after_its_step_and_after_the_last(counted):
    run = counted[1]
    actions = [(name, step) for name, step in run.asked if name != "batch"]
    assert actions == [
        *(("settle", 3), ("validate", 3), ("settle", 4), ("save", 4), ("settle", 6), ("validate", 6)),
        *(("settle", 8), ("save", 8), ("settle", 9), ("validate", 9), ("settle", 10), ("validate", 10), ("save", 10)),
    ]
    assert [step for name, step in run.asked if name == "batch"] == list(range(10))
    assert counted[3] == [run]  # finish was called once, with the run


def test_the_first_of_equal_scores_is_the_best(counted):
    run, best = counted[1], counted[4]
    assert (run.best_score, best) == (0.7, 6)


def test_each_shape_of_a_batch_is_compiled_once(counted):
    """Batches of one and of two numbers take turns; the time is in the notes and in no speed."""
    run = counted[1]
    assert len(run.compiled) == 2
    assert run.clock.compile_seconds > 0
    assert len(run.clock.speeds) == 5
    assert run.clock.train_seconds < run.clock.wall_seconds


def test_lines_are_means_but_for_the_newest_numbers(counted):
    """In the same order always, whatever order a compiled step returns them in."""
    lines = [json.loads(line) for line in (counted[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    keys = ["step", "split", "loss", "accuracy", "gradient_norm", "aside", "tokens", "parameter_norm", "learning_rate"]
    assert list(lines[0]) == [*keys, "steps_per_second"]
    # of the sums 1, 3, 4, 6, ... after each step
    assert (lines[1]["loss"], lines[1]["aside"], lines[1]["parameter_norm"], lines[1]["tokens"]) == (1.5, 5.0, 6.0, 1.5)


def test_a_number_that_is_none_stops_before_anything_is_saved(tmp_path):
    run, error, finished, _ = count_to(tmp_path, 10, ruined_at=7)
    assert "loss is nan at step 8; lower optim.learning_rate" in str(error)
    assert [step for name, step in run.asked if name == "save"] == [4]
    assert not finished


def test_a_signal_saves_and_the_next_attempt_goes_on(tmp_path, counted):
    run, error, finished, _ = count_to(tmp_path, 10, signal_at=4)
    assert isinstance(error, Stopped)
    assert str(error) == "SIGTERM at step 5: saved; the same command goes on from there"
    assert not finished
    run, error, finished, best = count_to(tmp_path, 10)
    assert error is None
    assert run.asked[0] == ("batch", 5)
    assert (run.clock.resumed, best, finished) == (1, 6, [run])
    assert float(run.state["params"]["sum"]) == float(counted[1].state["params"]["sum"]) == 15.0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_takes_no_step(counted):
    run, error, finished, _ = count_to(counted[0], 10)
    assert error is None
    assert not run.asked
    assert finished == [run]


def test_what_completes_the_first_state_is_not_asked_again(tmp_path):
    """A calibration on data belongs to step 0 alone."""
    asked = []

    def complete(state):
        asked.append(int(state["step"]))
        return state | {"params": {"sum": jnp.float32(7.0)}}

    layout, params = make_machine().layout, jax.eval_shape(init)["params"]
    with Checkpoints(tmp_path) as checkpoints:
        state, clock, shardings = restore_or_init(init, checkpoints, layout, complete)
        assert (float(state["params"]["sum"]), asked, clock.resumed) == (7.0, [0], 0)
        checkpoints.save("last", 3, state | {"step": jnp.int32(3)}, Clock().as_notes())
        checkpoints.wait()
        state, clock, _ = restore_or_init(init, checkpoints, layout, complete)
        assert (int(state["step"]), asked, clock.resumed) == (3, [0], 1)
        assert read_best_score(checkpoints, "score", params, shardings) == -1.0
