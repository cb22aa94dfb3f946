"""Measurements of the tasks: loading against training, the Pathfinder generator, the memory of a Path-X step."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lra_tasks.loader import batch_at
from lra_tasks.pathfinder_settings import SETTINGS
from lra_tasks.settings import Experiment, sequence_length
from lra_tasks.task import Split, Task

REFERENCE_SPEEDS = {32: 5.5, 64: 0.22, 128: 0.45}
"""Images of the hard level that the reference generator makes in a CPU-second."""
REFERENCE_MEANS = {32: 20.11, 64: 13.37, 128: 7.90}
"""Mean grey level of its images."""


def describe_machine() -> str:
    """Device, cores and versions in a line."""
    import jax

    from lra_tasks.provenance import host_cores

    device = jax.devices()[0]
    return f"{device.platform} {device.device_kind}, {host_cores()} cores, jax {jax.__version__}"


def show_generation(rounds: int) -> None:
    """Prints the seconds to generate the full ListOps in memory, without records and store."""
    from lra_tasks.listops import LISTOPS as task
    from lra_tasks.listops import generate
    from lra_tasks.preparation import count_cores

    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        generate(task.grammar, task.seed, task.splits, num_workers=count_cores())
        seconds.append(time.perf_counter() - begin)
    shown = ", ".join(f"{value:.1f}" for value in sorted(seconds))
    print(f"ListOps, {sum(task.splits.values()):,} examples, {count_cores()} workers: {shown} s")


def show_loading(data_dir: str, read_experiment: Callable[[str], Experiment], rounds: int) -> None:
    """Prints examples a second of the loader and of each task's train step, and of the loader at a batch of 512."""
    from lra_tasks.registry import get_task
    from lra_tasks.store import StoreMissing, read_store

    print(f"loader and Luna-16 train step, preset cpu; {describe_machine()}")
    print(f"{'task':22}{'batch':13}{'loader/s':>12}{'step/s':>12}{'ratio':>10}")
    splits = {}
    for config in ("listops", "text", "retrieval", "image", "pathfinder"):
        experiment = read_experiment(config)
        task = get_task(experiment.data.task)
        try:
            splits[config] = read_store(data_dir, task)["train"]
        except StoreMissing as missing:
            print(missing)
            continue
        print(measure_loading(experiment, task, splits[config], rounds), flush=True)
    if "pathfinder" in splits:
        print(measure_large_batches(task, splits["pathfinder"]))


def show_images() -> None:
    """Prints Pathfinder images a second on one core for each size of the hard level."""
    print(f"Pathfinder generator, one core; {describe_machine()}")
    for side in (32, 64, 128, 256):
        print(measure_images(side, 20.0), flush=True)


def show_pathx(experiment: Experiment) -> None:
    """Prints memory and time of one train step on 16,384 pixels, batch 8."""
    import jax

    from lra_tasks.provenance import peak_process_bytes
    from lra_tasks.registry import get_task

    size, (step, init, batch) = measure_step_memory(experiment, get_task(experiment.data.task), 8)
    print(f"Path-X, Luna-256, 8 x 16,384, remat {experiment.model.remat}; {describe_machine()}")
    print(f"step: {size:.2f} GiB by XLA's account")
    began = time.perf_counter()
    jax.block_until_ready(step(init(), batch))
    peak = peak_process_bytes() / 2**30
    print(f"ran in {time.perf_counter() - began:.1f} s; peak of the whole process {peak:.2f} GiB")


def time_loader(split: Split, *, batch_size: int, length: int, seconds: float) -> list[float]:
    """Examples a second of the loader alone, one value a batch; batches of shuffled examples for about `seconds`."""
    speeds: list[float] = []
    end, step = time.perf_counter() + seconds, 0
    batch_at(split, seed=0, step=0, batch_size=batch_size, length=length)  # the order of the epoch
    while time.perf_counter() < end or len(speeds) < 10:
        began = time.perf_counter()
        batch_at(split, seed=0, step=step, batch_size=batch_size, length=length)
        speeds.append(batch_size / (time.perf_counter() - began))
        step += 1
    return speeds


def time_train_step(experiment: Experiment, task: Task, split: Split, num_steps: int) -> list[float]:
    """Examples a second of the compiled train step on real batches that lie ready, one value a step."""
    import jax

    from lra_tasks.model import build_model
    from lra_tasks.steps import make_init, make_train_step

    model = build_model(experiment, task)
    state = jax.jit(make_init(experiment, model))()
    train, length = experiment.train, sequence_length(experiment, task)
    batch = batch_at(split, seed=0, step=0, batch_size=train.batch_size, length=length)
    train_step: Any = make_train_step(experiment, model)
    step = train_step.lower(state, batch).compile()
    speeds = []
    for _ in range(num_steps + 1):
        began = time.perf_counter()
        state, numbers = step(state, batch)
        jax.block_until_ready((state, numbers))
        speeds.append(train.batch_size / (time.perf_counter() - began))
    return speeds[1:]  # the first one warms up


def measure_loading(experiment: Experiment, task: Task, split: Split, num_steps: int) -> str:
    """A line of the loader benchmark: both speeds and their ratio."""
    length = sequence_length(experiment, task)
    loader = np.median(time_loader(split, batch_size=experiment.train.batch_size, length=length, seconds=2.0))
    step = np.median(time_train_step(experiment, task, split, num_steps))
    return (
        f"{task.name:22}{experiment.train.batch_size:>4} x {length:<6}{loader:>12,.0f}{step:>12,.1f}"
        f"{loader / step:>10,.0f}"
    )


def measure_large_batches(task: Task, split: Split) -> str:
    """The loader at a batch of 512."""
    speeds = time_loader(split, batch_size=512, length=task.max_length, seconds=4.0)
    low, middle, high = np.percentile(speeds, [5, 50, 95])
    return f"{task.name:22} 512 x {task.max_length:<6}{middle:>12,.0f} (5 to 95 %: {low:,.0f} to {high:,.0f})"


def measure_images(side: int, seconds: float) -> str:
    """A line of the generator benchmark: hard images a second on one core, and their statistics."""
    from lra_tasks.pathfinder_images import make_images

    setting = SETTINGS[side, "hard"]
    make_images(setting, 0, 0, 1)  # compiles
    count, chunk, spent = 0, 4, 0.0
    means: list[np.ndarray] = []
    attempts: list[np.ndarray] = []
    zeros = 0.0
    while spent < seconds:
        began = time.perf_counter()
        images, _, tries = make_images(setting, 0, count, chunk, num_workers=1)
        spent += time.perf_counter() - began
        means.append(images.mean((1, 2)))
        attempts.append(tries)
        zeros += float((images == 0).mean((1, 2)).sum())
        count, chunk = count + chunk, min(2 * chunk, 1024)
    mean, error = describe(np.concatenate(means))
    tries_mean, tries_error = describe(np.concatenate(attempts))
    speed, reference = count / spent, REFERENCE_SPEEDS.get(side)
    against = f"{speed / reference:.0f} x the reference's {reference}" if reference else "no reference"
    return (
        f"{side:>4} hard{speed:>9.1f} images/s ({against}), {count:,} images: mean {mean:.2f} ± {error:.2f} "
        f"(reference {REFERENCE_MEANS.get(side, '–')}), zeros {zeros / count:.4f}, attempts {tries_mean:.0f} ± "
        f"{tries_error:.0f}"
    )


def describe(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def measure_step_memory(experiment: Experiment, task: Task, batch_size: int) -> tuple[float, Any]:
    """(GiB of a compiled train step: parameters and state, batch, temporaries; the compiled step and its arguments)."""
    import jax

    from lra_tasks.model import build_model
    from lra_tasks.steps import make_init, make_train_step
    from lra_tasks.task import Batch

    model, length = build_model(experiment, task), sequence_length(experiment, task)
    random = np.random.default_rng(0)
    batch = Batch(
        tokens=random.integers(0, 256, (batch_size, length)).astype(np.int32),
        token_mask=np.ones((batch_size, length), bool),
        labels=random.integers(0, task.num_classes, batch_size).astype(np.int32),
        example_mask=np.ones(batch_size, bool),
    )
    init = make_init(experiment, model)
    train_step: Any = make_train_step(experiment, model)
    step = train_step.lower(jax.eval_shape(init), batch).compile()
    analysis = step.memory_analysis()
    size = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return size / 2**30, (step, jax.jit(init), batch)
