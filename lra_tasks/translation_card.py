"""The model card of a run that translates. Pure."""

from collections.abc import Mapping

from lra_tasks.card_parts import list_settings, tell_command, tell_cost, tell_curve, tell_model
from lra_tasks.cells import show_interval
from lra_tasks.findings import find
from lra_tasks.published import Published
from lra_tasks.report import Curve
from lra_tasks.translation_record import TranslationRecord, list_checkpoints

PRESETS = {
    "ours": "a recipe of ours",
    "untied": "a projection each for keys and values",
    "elu": "elu + 1 as the weight of causal attention",
    "noncontextual": "every layer learns its own packed sequence",
}


def make_translation_card(
    record: TranslationRecord, curve: Curve | None, published: Published, protocols: Mapping[str, str]
) -> str:
    """The card of a record and what its run logged. `protocols`: what a protocol is, in words."""
    parts = [
        f"# {published.title(record.row)} on {record.task_title}, seed {record.seed}",
        _introduce(record, {**protocols, **PRESETS}),
        "## Result\n\n" + _tell_result(record, published),
        *tell_curve(curve, "BLEU (greedy)"),
        "## Data\n\n" + _tell_data(record),
        "## Model and training\n\n" + tell_model(record),
        "## Cost\n\n" + tell_cost(record),
        "## How to have it again\n\n" + tell_command(record),
    ]
    return "\n\n".join(parts) + "\n"


def _introduce(record: TranslationRecord, protocols: Mapping[str, str]) -> str:
    protocol = "; ".join(protocols.get(part, f"{part}, see the settings below") for part in record.protocol.split("+"))
    attention = record.config.get("model", {}).get("attention", record.row)
    return (
        f"An encoder-decoder with `{attention}` attention (row `{record.row}`) from {record.source_language} to "
        f"{record.target_language}, trained from scratch on `{record.task}` {record.task_version}. Protocol "
        f"`{record.protocol}`: {protocol}."
    )


def _tell_result(record: TranslationRecord, published: Published) -> str:
    lines = [
        "| checkpoint | step | validation loss | validation BLEU (greedy) | test set | BLEU | 95 % interval |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    signatures = {}
    for name in list_checkpoints(record):
        scores = getattr(record, name)
        steps = ", ".join(f"{step:,}" for step in scores.steps)
        validation = f"{scores.validation_loss:.3f} | {scores.validation_bleu:.2f}"
        translated = find((), published, checkpoint=name, translations=[(record.row, record)]).translations
        for one in translated:
            score = f"{one.mean:.2f} | {show_interval(one.interval)}"
            lines.append(f"| {name} | {steps} | {validation} | {one.test_set} | {score} |")
            signatures[one.signature] = None
    decoding = record.decoding
    remarks = [
        f"sacrebleu {' / '.join(f'`{signature}`' for signature in signatures)}. The interval is about new test "
        "sentences and this one trained model: another seed may differ by more.",
        f"Test sets were translated with {_tell_search(decoding.beam_size)}, length penalty "
        f"{decoding.length_penalty:g}, at most {decoding.length_factor:g} times the source and "
        f"{decoding.length_offset} subwords.",
        f"The best checkpoint was chosen by {record.selection.replace('_', ' ').replace('bleu', 'BLEU')}.",
    ]
    return "\n".join(lines) + "\n\n" + "\n".join(remarks)


def _tell_search(beam_size: int) -> str:
    return "greedy search" if beam_size == 1 else f"beam search of width {beam_size}"


def _tell_data(record: TranslationRecord) -> str:
    lines = ["| split | pairs of sentences |", "| --- | ---: |", f"| train | {record.training_pairs:,} |"]
    lines += [f"| {name} | {split.evaluated:,} |" for name, split in record.splits.items()]
    seen = (
        f"Settings: {list_settings(record.config.get('data', {}))}. Training saw {record.examples_seen:,} pairs with "
        f"{record.tokens_seen:,} target tokens, repetitions counted. One vocabulary of {record.vocab_size:,} subwords "
        f"for both languages, SHA-256 of its model `{record.vocab_checksum[:16]}`."
    )
    return "\n".join(lines) + f"\n\n{seen}"
