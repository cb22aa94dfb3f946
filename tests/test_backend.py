"""What is said of an experiment that asks for what the backend has not."""

import pytest
from tiny_runs import make_experiment

from lra_tasks.backend import Backend, check_backend, describe_backend, fit_backend
from lra_tasks.errors import UserError

CPU, TPU = Backend("cpu", False, False), Backend("tpu", False, True)
OLD_GPU, NEW_GPU = Backend("gpu", True, False), Backend("gpu", True, True)


def make_cudnn(dtype):
    return make_experiment(
        "listops_transformer", softmax__implementation="cudnn", softmax__chunk_size=32, model__dtype=dtype
    )


def test_a_cpu_is_described():
    assert describe_backend() == CPU


@pytest.mark.parametrize("backend", [CPU, OLD_GPU])
def test_bfloat16_without_a_unit_for_it_is_said(backend):
    said = check_backend(make_experiment(model__dtype="bfloat16"), backend)
    assert f"gains no speed here: XLA multiplies it no faster than float32 on this {backend.platform}" in said
    assert check_backend(make_experiment(), backend) is None


@pytest.mark.parametrize("backend", [TPU, NEW_GPU])
def test_bfloat16_is_fine_elsewhere(backend):
    assert check_backend(make_experiment(model__dtype="bfloat16"), backend) is None


@pytest.mark.parametrize("backend", [CPU, TPU])
def test_cudnn_is_refused_in_training_and_replaced_in_evaluation(backend):
    with pytest.raises(UserError, match=rf"needs an NVIDIA GPU, and JAX runs on '{backend.platform}'; take 'xla'"):
        check_backend(make_cudnn("bfloat16"), backend)
    said = []
    fitted = fit_backend(make_cudnn("bfloat16"), backend, said.append)
    assert fitted.softmax.implementation == "xla"
    assert "attention by 'xla' where training had 'cudnn'" in said[0]
    assert len(said) == 1 + (not backend.has_bfloat16)


def test_cudnn_needs_bfloat16():
    with pytest.raises(UserError, match=r"multiplies bfloat16, not float32; set model.dtype='bfloat16'"):
        check_backend(make_cudnn("float32"), NEW_GPU)
    said = []
    assert fit_backend(make_cudnn("bfloat16"), NEW_GPU, said.append) == make_cudnn("bfloat16")
    assert said == []


def test_other_experiments_are_evaluated_as_they_are():
    experiment, said = make_experiment(), []
    assert fit_backend(experiment, CPU, said.append) is experiment
    assert said == []
