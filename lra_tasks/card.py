"""The model card of one run: what was trained on what, what came out, what it cost, and how to have it again."""

from pathlib import Path
from typing import Any

from lra_tasks.collection import collect
from lra_tasks.curves import RECORD
from lra_tasks.entries import FULL_PROTOCOLS
from lra_tasks.errors import UserError
from lra_tasks.findings import find
from lra_tasks.layout import show_interval
from lra_tasks.published import Published
from lra_tasks.record import Record
from lra_tasks.report import Curve
from lra_tasks.tables import Experiment, count

CURVE_LINES = 12
PROTOCOLS = {
    "authors": "the recipe that the authors of Luna ran",
    "paper": "the recipe of the Luna paper's Table 7",
    "lra": "the released configuration of Long Range Arena",
    "cpu": "a small model for two cores: it shows that the pipeline learns, and is not to be compared with the papers",
}


def write_card(path: Path, published: Published) -> str:
    """The card as Markdown, of a folder of a run or of its record. UserError where there is no record to be trusted."""
    file = path / RECORD if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise UserError(f"--card {path}: no {RECORD} there; training writes it at the end of a run")
    found = collect([file])
    if not found.records:
        raise UserError(f"--card {'; '.join(found.faults)}")
    ((name, record),) = found.records
    return make_card(record, found.curves.get(name), published)


def make_card(record: Record, curve: Curve | None, published: Published) -> str:
    """The card of a record and what its run logged."""
    named = [(record.row, record)]
    best = find(named, published, against=record.row).experiments[0]
    last = find(named, published, checkpoint="last", against=record.row).experiments[0]
    parts = [
        f"# {published.title(record.row)} on {record.task_title}, seed {record.seed}",
        _introduce(record),
        "## Result\n\n" + _tell_result(record, best, last, published),
        *_tell_curve(curve),
        "## Data\n\n" + _tell_data(record),
        "## Model and training\n\n" + _tell_model(record),
        "## Cost\n\n" + _tell_cost(record),
        "## How to have it again\n\n" + _tell_command(record),
    ]
    return "\n\n".join(parts) + "\n"


def _introduce(record: Record) -> str:
    protocol = PROTOCOLS.get(record.protocol, "a recipe of its own, see the settings below")
    attention = record.config.get("model", {}).get("attention", record.row)
    return (
        f"A classifier with `{attention}` attention (row `{record.row}`), trained from scratch on `{record.task}` "
        f"{record.task_version}. Protocol `{record.protocol}`: {protocol}."
    )


def _tell_result(record: Record, best: Experiment, last: Experiment, published: Published) -> str:
    lines = ["| checkpoint | step | validation | test | 95 % interval of test |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, experiment in (("best", best), ("last", last)):
        scores = getattr(record, name)
        shares = (f"{100 * share:.2f}" for share in (scores.validation_accuracy, scores.test_accuracy))
        lines.append(f"| {name} | {scores.step:,} | {' | '.join(shares)} | {show_interval(experiment.interval)} |")
    remarks = [
        f"Accuracy in percent; the most frequent label alone gives {best.chance:.2f} on test. The interval is about "
        "new test examples and this one trained model: another seed may differ by more.",
        f"The best checkpoint was chosen on {record.selection}.",
    ]
    if record.selection == "test":
        remarks.append("**It was chosen on the test split, so its accuracy is too high.**")
    if best.num_collapsed:
        remarks.append("**This run is no better than one constant answer.**")
    if record.protocol in FULL_PROTOCOLS and (printed := published.find(record.row, record.task)):
        source = published.sources[printed[0].source]
        remarks.append(
            f"Published: {printed[0].percent:.2f} ({source.short}; {source.protocol}), "
            f"a difference of {best.mean - printed[0].percent:+.2f} points."
        )
    return "\n".join(lines) + "\n\n" + "\n".join(remarks)


def _tell_curve(curve: Curve | None) -> list[str]:
    """Validation through training, thinned to a dozen lines; nothing without a log."""
    if curve is None or not curve.validation_steps:
        return []
    every = -(-len(curve.validation_steps) // CURVE_LINES)
    points = list(zip(curve.validation_steps, curve.validation_accuracy, curve.validation_loss, strict=True))
    shown = [*points[:-1:every], points[-1]]
    lines = ["| step | validation accuracy | validation loss |", "| ---: | ---: | ---: |"]
    lines += [f"| {step:,} | {accuracy:.2f} | {loss:.3f} |" for step, accuracy, loss in shown]
    return ["## Training\n\n" + "\n".join(lines)]


def _tell_data(record: Record) -> str:
    data = record.config.get("data", {})
    lines = [
        f"| {name} | {split.evaluated:,} | {100 * split.majority_share:.2f} |" for name, split in record.splits.items()
    ]
    settings = ", ".join(f"`{name} = {value}`" for name, value in data.items())
    heading = ["| split | examples scored | most frequent label, % |", "| --- | ---: | ---: |"]
    return (
        "\n".join([*heading, *lines])
        + f"\n\nSettings: {settings}. Training saw {record.examples_seen:,} examples, repetitions counted."
    )


def _tell_model(record: Record) -> str:
    """Every setting but those of the data, a line a section."""
    lines = [f"{record.num_parameters:,} parameters."]
    for section, values in record.config.items():
        if isinstance(values, dict) and section != "data":
            settings: dict[str, Any] = values
            lines.append(f"- {section}: " + ", ".join(f"`{name} = {value}`" for name, value in settings.items()))
    return "\n".join([lines[0], "", *lines[1:]])


def _tell_cost(record: Record) -> str:
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
    return " ".join(sentences)


def _tell_command(record: Record) -> str:
    state = {None: "outside a repository", False: "", True: ", **with changes that were not committed**"}[
        record.commit_dirty
    ]
    commit = f"Commit `{record.commit}`{state}" if record.commit else "The commit is not known"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if version is not None)
    return f"{commit}; {versions}.\n\n```\n{' '.join(record.command)}\n```\n\nConfig hash `{record.config_hash[:16]}`."
