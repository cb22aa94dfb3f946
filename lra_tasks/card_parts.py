"""The parts of a model card that every kind of run has. Pure."""

from typing import Any

from lra_tasks.groups import count
from lra_tasks.record_fields import RunRecord
from lra_tasks.report import Curve

CURVE_LINES = 12


def tell_curve(curve: Curve | None, score: str) -> list[str]:
    """Validation through training, thinned to a dozen lines; nothing without a log. `score`: its name."""
    if curve is None or not curve.validation_steps:
        return []
    every = -(-len(curve.validation_steps) // CURVE_LINES)
    points = list(zip(curve.validation_steps, curve.validation_accuracy, curve.validation_loss, strict=True))
    shown = [*points[:-1:every], points[-1]]
    lines = [f"| step | validation {score} | validation loss |", "| ---: | ---: | ---: |"]
    lines += [f"| {step:,} | {accuracy:.2f} | {loss:.3f} |" for step, accuracy, loss in shown]
    return ["## Training\n\n" + "\n".join(lines)]


def list_settings(values: dict[str, Any]) -> str:
    """`name = value`, with commas between them."""
    return ", ".join(f"`{name} = {value}`" for name, value in values.items())


def tell_model(record: RunRecord) -> str:
    """Every setting but those of the data, a line a section."""
    lines = [f"{record.num_parameters:,} parameters.", ""]
    for section, values in record.config.items():
        if isinstance(values, dict) and section != "data":
            settings: dict[str, Any] = values
            lines.append(f"- {section}: {list_settings(settings)}")
    return "\n".join(lines)


def tell_cost(record: RunRecord) -> str:
    """Device, time, memory, interruptions."""
    device = record.device
    speed = "not timed" if record.steps_per_second is None else f"{record.steps_per_second:.3g} steps a second"
    peak = record.peak_memory_bytes
    memory = f"{peak.process / 1e9:.2f} GB of the process"
    memory += "" if peak.device is None else f", {peak.device / 1e9:.2f} GB on the device"
    sentences = [
        f"{device.count} x {device.kind} ({device.platform}), {count(record.host_cores, 'core')} of the host.",
        f"{record.num_steps:,} updates in {record.train_wall_seconds / 60:.1f} minutes ({speed}),",
        f"{record.wall_seconds / 60:.1f} minutes with evaluation, {record.compile_seconds:.0f} s of them compiling;",
        f"at most {memory}. Taken up again {count(record.resumed, 'time')}. Begun {record.started_at}.",
    ]
    if record.seeds_at_once:
        seeds = ", ".join(map(str, record.seeds_at_once))
        sentences.append(f"Seeds {seeds} were trained at once: times and memory are those of all of them together.")
    return " ".join(sentences)


def tell_command(record: RunRecord) -> str:
    """Commit, libraries, command, hash."""
    state = {None: "outside a repository", False: "", True: ", **with changes that were not committed**"}[
        record.commit_dirty
    ]
    commit = f"Commit `{record.commit}`{state}" if record.commit else "The commit is not known"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if version is not None)
    return f"{commit}; {versions}.\n\n```\n{' '.join(record.command)}\n```\n\nConfig hash `{record.config_hash[:16]}`."
