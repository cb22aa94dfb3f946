"""One cell of an efficiency benchmark: the Text model of a row at a length, compiled, ready to be called."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from lra_tasks.costs import count_flops
from lra_tasks.efficiency import INFERENCE, TRAIN
from lra_tasks.efficiency_numbers import CUDNN, UNFUSED
from lra_tasks.errors import UserError
from lra_tasks.model import Model, abstract_batch, attention_config, classifier_config, model_from_config
from lra_tasks.registry import get_task
from lra_tasks.settings import Experiment
from lra_tasks.steps import make_init, make_predict_step, make_train_step
from lra_tasks.task import Batch

VOCABULARY = 257
"""Bytes and padding."""
FAILURES = (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError, UserError)
"""What JAX and the models raise for a setting that a kernel or a device does not have."""
Experiments = Callable[[str, float], Experiment]
"""(row, dropout) -> the experiment of the row whose dropouts all have that rate."""


@dataclass(frozen=True)
class Key:
    """Which cell."""

    row: str
    length: int
    dropout: float
    mode: str


@dataclass(frozen=True)
class Traced:
    """A cell before it is compiled."""

    key: Key
    traced: Any
    seconds: float
    flops: int
    written_bytes: int
    """See count_bytes."""


@dataclass(frozen=True)
class Job:
    """A compiled cell. `call` takes the state and the batch and returns (state to go on with, what came out).

    It is None where the executable was let go.
    """

    key: Key
    call: Callable[[Any, Any], tuple[Any, Any]] | None
    compile_seconds: float
    flops: int
    temporary_bytes: int
    argument_bytes: int
    new_bytes: int
    """What a call takes beside its arguments: temporaries, and results that reuse no argument."""


@dataclass(frozen=True)
class NotCompiled:
    """A cell that this machine cannot compile, and why."""

    key: Key
    reason: str


def text_model(experiment: Experiment, length: int) -> Model:
    """The experiment's classifier for `length` positions of bytes, [CLS] among them, and two classes.

    Raises UserError where its attention has no such length.
    """
    classifier = classifier_config(experiment, get_task(experiment.data.task))
    try:
        layer = replace(classifier.encoder.layer, attention=attention_config(experiment, length))
        encoder = replace(classifier.encoder, layer=layer, vocab_size=VOCABULARY, max_length=length)
        return model_from_config(replace(classifier, encoder=encoder, num_classes=2))
    except ValueError as mistake:
        raise UserError(f"{experiment.row} has no length {length}: {mistake}") from None


def check_length(experiment: Experiment, length: int) -> None:
    """Raises UserError where a row's attention has no such length; traces, and compiles nothing."""
    model = text_model(experiment, length)
    try:
        jax.eval_shape(model.apply, model.abstract, abstract_batch(model.config, 1, length - 1))
    except ValueError as mistake:
        raise UserError(f"{experiment.row} has no length {length}: {mistake}") from None


def random_batch(batch_size: int, length: int) -> Batch:
    """Random bytes without padding on the device; `length` counts [CLS], which the model adds."""
    shape = (batch_size, length - 1)
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, shape, dtype=np.int32)
    labels, real = np.zeros(batch_size, np.int32), np.ones(batch_size, bool)
    return jax.device_put(Batch(tokens, np.ones(shape, bool), labels, real))


def make_state(experiment: Experiment, length: int) -> Callable[[], Any]:
    """A function that makes the state of step 0; the same for every dropout and mode of a row at a length.

    It runs once and is not measured, so on a CPU it is compiled in a hurry.
    """
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(make_init(experiment, text_model(experiment, length)), compiler_options=options)


def trace_cell(experiments: Experiments, key: Key, batch_size: int) -> Traced | NotCompiled:
    """The cell's function on abstract arguments. FLOPs of cuDNN's kernel, which no jaxpr shows: the unfused form's."""
    began = time.perf_counter()
    try:
        traced = _trace(experiments, key, batch_size)
    except FAILURES as error:
        return _excuse(key, error)
    seconds = time.perf_counter() - began
    shown = _trace(experiments, replace(key, row=UNFUSED), batch_size) if key.row == CUDNN else traced
    return Traced(key, traced, seconds, count_flops(shown.jaxpr.jaxpr), count_bytes(traced.jaxpr.jaxpr))


def compile_cell(cell: Traced) -> Job | NotCompiled:
    """The executable of a cell, with what its compiler says about it."""
    began = time.perf_counter()
    try:
        compiled = cell.traced.lower().compile()
    except FAILURES as error:
        return _excuse(cell.key, error)
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()

    def infer(state, batch):
        return state, compiled(state["params"], batch)

    return Job(
        key=cell.key,
        call=infer if cell.key.mode == INFERENCE else compiled,
        compile_seconds=cell.seconds + seconds,
        flops=cell.flops,
        temporary_bytes=memory.temp_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        new_bytes=memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
    )


def _trace(experiments: Experiments, key: Key, batch_size: int) -> Any:
    experiment = experiments(key.row, key.dropout)
    model = text_model(experiment, key.length)
    batch = abstract_batch(model.config, batch_size, key.length - 1)
    if key.mode == TRAIN:
        train_step: Any = make_train_step(experiment, model)
        return train_step.trace(jax.eval_shape(make_init(experiment, model)), batch)
    predict_step: Any = make_predict_step(model)
    return predict_step.trace(model.abstract, batch)


def _excuse(key: Key, error: Exception) -> NotCompiled:
    """Why a cell cannot be: cuDNN refuses the setting, or the device has no memory for the compiler's trials.

    Any other error is raised again.
    """
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if key.row == CUDNN or "RESOURCE_EXHAUSTED" in first:
        return NotCompiled(key, first)
    raise error


def count_bytes(jaxpr: Any) -> int:
    """Bytes of all arrays that a jaxpr writes, those inside loops once: it ranks cells by the memory they will need."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(math.prod(out.aval.shape) * out.aval.dtype.itemsize for out in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += count_bytes(inner) if hasattr(inner, "eqns") else 0
    return total
