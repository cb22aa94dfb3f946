"""What a run logged while it trained, from the file beside its record."""

import json
import math
from pathlib import Path
from typing import Any

from lra_tasks.errors import UserError
from lra_tasks.report import Curve

METRICS = "metrics.jsonl"
RECORD = "record.json"
TO_PERCENT = {"accuracy": 100, "bleu": 1}  # accuracies are logged as shares


def metrics_file(record: Path) -> Path:
    """metrics.jsonl beside record.json of a working folder; NAME.metrics.jsonl beside NAME.json of a collection."""
    return record.with_name(METRICS) if record.name == RECORD else record.with_name(f"{record.stem}.{METRICS}")


def read_curve(record: Path, score: str = "accuracy") -> Curve | None:
    """The curve of a record's run, None where no log lies beside it. UserError names the file and line of a fault.

    `score`: what validation was judged by, a key of TO_PERCENT.
    """
    path = metrics_file(record)
    if not path.exists():
        return None
    needed = {"train": ("loss",), "validation": ("loss", score)}
    lines: dict[str, dict[int, dict[str, float]]] = {split: {} for split in needed}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry: dict[str, Any] = json.loads(line)
            if entry["split"] in lines:
                lines[entry["split"]][int(entry["step"])] = {
                    name: float(entry[name]) for name in needed[entry["split"]]
                }
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: not a line of metrics ({error!r}); was the file cut short?"
            ) from None
    train, validation = (dict(sorted(lines[split].items())) for split in ("train", "validation"))
    return Curve(
        train_steps=tuple(train),
        train_loss=tuple(_finite(entry["loss"]) for entry in train.values()),
        validation_steps=tuple(validation),
        validation_accuracy=tuple(TO_PERCENT[score] * _finite(entry[score]) for entry in validation.values()),
        validation_loss=tuple(_finite(entry["loss"]) for entry in validation.values()),
    )


def _finite(value: float) -> float:
    """A diverged loss is logged as NaN or infinity: both are drawn as a gap."""
    return value if math.isfinite(value) else math.nan
