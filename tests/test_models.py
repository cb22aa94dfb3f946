"""What models cost: products counted as often as loops run them, and the listing of every row."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from quick_compile import QUICK_FLAGS
from tiny_runs import ROOT, make_experiment

from lra_tasks.costs import count_flops, measure_cost
from lra_tasks.model import abstract_batch, build_model
from lra_tasks.registry import get_task
from lra_tasks.steps import make_init, make_train_step

A, B = jnp.ones((3, 4)), jnp.ones((4, 5))


def count(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def scan(carry):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ jnp.ones((4, 4))), None), carry, length=7)[0]


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (lambda a, b: a @ b, (A, B), 2 * 3 * 4 * 5),
        (lambda a, b: jnp.einsum("xij,xjk->xik", a, b), (jnp.ones((6, 3, 4)), jnp.ones((6, 4, 5))), 6 * 2 * 3 * 4 * 5),
        (jax.jit(lambda a, b: jax.checkpoint(jnp.matmul)(a, b)), (A, B), 2 * 3 * 4 * 5),
        (scan, (A,), 7 * 2 * 3 * 4 * 4),
        (jax.grad(lambda a: scan(a).sum()), (A,), 7 * 2 * (2 * 3 * 4 * 4)),  # with the product for c's gradient
        (lambda a: jax.lax.cond(a.sum() > 0, lambda: a @ B, lambda: jnp.zeros((3, 5))), (A,), 2 * 3 * 4 * 5),
        (lambda a: a + a, (A,), 0),
    ],
)
def test_products_are_counted(function, arguments, expected):
    assert count(function, *arguments) == expected


def test_the_cost_of_a_step():
    """Twice the batch costs twice the products, and the parameters are counted once."""
    experiment = make_experiment()
    task = get_task(experiment.data.task)
    cost = measure_cost(experiment, task, 1)
    model = build_model(experiment, task)
    assert cost.parameters == model.num_parameters
    assert cost.argument_bytes > 3 * 4 * cost.parameters  # with the two moments of Adam
    assert cost.temporary_bytes > 0
    batch = abstract_batch(model.config, 2, task.max_length)
    step = make_train_step(experiment, model).trace(jax.eval_shape(make_init(experiment, model)), batch)
    assert 1.9 < count_flops(step.jaxpr.jaxpr) / cost.flops <= 2.0


def run_command(*arguments):
    command = [sys.executable, "-m", "lra_tasks.models", *arguments]
    environment = os.environ | {"XLA_FLAGS": QUICK_FLAGS, "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_listing_marks_what_is_not_comparable():
    done = run_command("--task", "listops", "--preset", "cpu", "--rows", "transformer,longformer", "--batch_size", "1")
    assert done.returncode == 0, done.stderr
    header, *rows, setting, note = done.stdout.splitlines()
    assert header.split()[:3] == ["row", "parameters", "ratio"]
    found = {line.split()[0]: line.split()[1:] for line in rows}
    assert found["transformer"][:2] == ["81,920", "1.00"]
    assert found["longformer"][1] == "1.30*"  # three more, 2 layers of 64
    assert found["longformer"][0] == f"{81_920 + 2 * 3 * (64 * 64 + 64):,}"
    assert all(float(number.replace(",", "")) > 0 for numbers in found.values() for number in numbers[2:])
    assert setting == "ListOps (small), protocol cpu, 65 positions, batch 1, compiled for cpu"
    assert note == "* outside ±10% of the Transformer's 81,920 parameters"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "listop"], "--task 'listop' is unknown; did you mean 'listops'?"),
        (["--rows", "perfomer"], "--rows 'perfomer' is unknown; did you mean 'performer'?"),
        (["--preset", "cpus"], "--preset: unknown preset 'cpus'; did you mean 'cpu'?"),
        (["performer"], "unexpected argument 'performer'"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = run_command(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {message}")
