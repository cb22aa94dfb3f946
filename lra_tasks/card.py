"""The model card of one run: what was trained on what, what came out, what it cost, and how to have it again."""

from pathlib import Path

from lra_tasks.card_parts import list_settings, tell_command, tell_cost, tell_curve, tell_model
from lra_tasks.cells import show_interval
from lra_tasks.collection import collect
from lra_tasks.curves import RECORD
from lra_tasks.entries import FULL_PROTOCOLS
from lra_tasks.errors import UserError
from lra_tasks.findings import find
from lra_tasks.published import Published
from lra_tasks.record import Record
from lra_tasks.report import Curve
from lra_tasks.tables import Experiment
from lra_tasks.translation_card import make_translation_card
from lra_tasks.translation_record import TranslationRecord

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
    named = [*found.records, *found.translations]
    if not named:
        raise UserError(f"--card {'; '.join(found.faults)}")
    ((name, record),) = named
    return make_card(record, found.curves.get(name), published)


def make_card(record: Record | TranslationRecord, curve: Curve | None, published: Published) -> str:
    """The card of a record and what its run logged."""
    if isinstance(record, TranslationRecord):
        return make_translation_card(record, curve, published, PROTOCOLS)
    named = [(record.row, record)]
    best = find(named, published, against=record.row).experiments[0]
    last = find(named, published, checkpoint="last", against=record.row).experiments[0]
    parts = [
        f"# {published.title(record.row)} on {record.task_title}, seed {record.seed}",
        _introduce(record),
        "## Result\n\n" + _tell_result(record, best, last, published),
        *tell_curve(curve, "accuracy"),
        "## Data\n\n" + _tell_data(record),
        "## Model and training\n\n" + tell_model(record),
        "## Cost\n\n" + tell_cost(record),
        "## How to have it again\n\n" + tell_command(record),
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


def _tell_data(record: Record) -> str:
    data = record.config.get("data", {})
    lines = [
        f"| {name} | {split.evaluated:,} | {100 * split.majority_share:.2f} |" for name, split in record.splits.items()
    ]
    heading = ["| split | examples scored | most frequent label, % |", "| --- | ---: | ---: |"]
    return (
        "\n".join([*heading, *lines])
        + f"\n\nSettings: {list_settings(data)}. Training saw {record.examples_seen:,} examples, repetitions counted."
    )
