"""What a backend does not have, said before anything is compiled: cuDNN's attention, a unit for bfloat16."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lra_tasks.errors import UserError

Experiment = TypeVar("Experiment", bound=Any)
FIRST_WITH_BFLOAT16 = 8.0
"""Compute capability of the A100, the first NVIDIA GPU whose matrix unit multiplies bfloat16."""


@dataclass(frozen=True)
class Backend:
    """The devices that JAX has."""

    platform: str
    """"cpu", "gpu" or "tpu"."""
    is_cuda: bool
    has_bfloat16: bool
    """Whether XLA multiplies bfloat16 faster than float32 there. On a CPU it does not, whatever units that has."""


def describe_backend() -> Backend:
    """The backend of this process; JAX is imported here."""
    import jax

    device = jax.devices()[0]
    is_cuda = "cuda" in str(getattr(device.client, "platform_version", "")).lower()
    capability = float(getattr(device, "compute_capability", None) or FIRST_WITH_BFLOAT16) if is_cuda else None
    has_bfloat16 = device.platform != "cpu" and (capability is None or capability >= FIRST_WITH_BFLOAT16)
    return Backend(device.platform, is_cuda, has_bfloat16)


def check_backend(experiment: Any, backend: Backend) -> str | None:
    """What to say of an experiment on a backend, a classifier's or a translation's; None for nothing.

    UserError for what the backend does not have.
    """
    if _asks_for_cudnn(experiment):
        if not backend.is_cuda:
            raise UserError(
                f"softmax.implementation='cudnn' needs an NVIDIA GPU, and JAX runs on {backend.platform!r}; take 'xla' "
                "or 'chunked'"
            )
        if experiment.model.dtype != "bfloat16":
            raise UserError(
                f"softmax.implementation='cudnn' multiplies bfloat16, not {experiment.model.dtype}; set "
                "model.dtype='bfloat16', or take 'xla' or 'chunked'"
            )
    if experiment.model.dtype == "bfloat16" and not backend.has_bfloat16:
        return (
            "model.dtype='bfloat16' gains no speed here: XLA multiplies it no faster than float32 on this "
            f"{backend.platform}; for speed take float32"
        )
    return None


def fit_backend(experiment: Experiment, backend: Backend, say: Callable[[str], None]) -> Experiment:
    """What a trained experiment is evaluated as: without cuDNN with XLA's attention, which is said."""
    if _asks_for_cudnn(experiment) and not backend.is_cuda:
        say(f"no NVIDIA GPU here, JAX runs on {backend.platform!r}: attention by 'xla' where training had 'cudnn'")
        experiment = replace(experiment, softmax=replace(experiment.softmax, implementation="xla"))
    if warning := check_backend(experiment, backend):
        say(warning)
    return experiment


def _asks_for_cudnn(experiment: Any) -> bool:
    return experiment.softmax is not None and experiment.softmax.implementation == "cudnn"
