"""Small findings for tests of figures and of the page, made without records."""

from collections.abc import Sequence
from typing import Any

from lra_tasks.intervals import Interval, PairedTest
from lra_tasks.report import Comparison, Curve, SeedRun, TradeOff
from lra_tasks.tables import Experiment


def make_curve(steps: Sequence[int], accuracies: Sequence[float]) -> Curve:
    """A run that logged these validation accuracies (percent) and nothing else."""
    return Curve((), (), tuple(steps), tuple(accuracies), tuple(0.0 for _ in steps))


def make_experiment(
    row: str = "luna16",
    accuracies: Sequence[float] = (40.0, 50.0),
    curves: Sequence[Curve | None] | None = None,
    collapsed: Sequence[bool] | None = None,
    **changes: Any,
) -> Experiment:
    """An experiment with a seed for each accuracy; by default each has a curve of three points."""
    curves = curves or [make_curve((100, 200, 300), (20.0, 30.0, value)) for value in accuracies]
    runs = tuple(
        SeedRun(seed, accuracy, collapsed[seed] if collapsed else False, curve, f"{row}-{seed}.json")
        for seed, (accuracy, curve) in enumerate(zip(accuracies, curves, strict=True))
    )
    values: dict[str, Any] = {
        "row": row,
        "task": "listops",
        "task_title": "ListOps",
        "task_version": "1.0.0",
        "protocol": "cpu",
        "experiment_hash": "0123456789abcdef",
        "variant": "",
        "checkpoint": "best",
        "runs": runs,
        "interval": Interval(min(accuracies) - 1, max(accuracies) + 1),
        "seed_interval": None,
        "chance": 17.0,
        "num_examples": 2000,
        "num_parameters": 1000,
        "pooling": "cls",
        "steps_per_second": 5.0,
        "wall_seconds": 60.0,
        "peak_memory_bytes": 10**9,
        "device": "cpu, 2 cores",
    }
    return Experiment(**(values | changes))


def make_point(row: str = "luna16", speed: float = 5.0, accuracy: float = 45.0, **changes: Any) -> TradeOff:
    """A point of the trade-off figure, one point of accuracy either way."""
    values: dict[str, Any] = {
        "row": row,
        "title": row,
        "task_title": "ListOps",
        "protocol": "cpu",
        "accuracy": accuracy,
        "interval": Interval(accuracy - 1, accuracy + 1),
        "speed": speed,
        "memory": 1e9,
    }
    return TradeOff(**(values | changes))


def make_comparison(first: str, difference: float, **changes: Any) -> Comparison:
    """A row against the Transformer, one and a half points either way."""
    values: dict[str, Any] = {
        "task": "listops",
        "task_title": "ListOps",
        "protocol": "cpu",
        "first": first,
        "second": "transformer",
        "first_title": first,
        "second_title": "Transformer",
        "first_variant": "",
        "second_variant": "",
        "first_seeds": 3,
        "second_seeds": 3,
        "num_examples": 2000,
        "test": PairedTest(difference, Interval(difference - 1.5, difference + 1.5), 0.04, "exact McNemar test"),
        "p_value_holm": 0.08,
    }
    return Comparison(**(values | changes))
