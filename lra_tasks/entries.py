"""Everything the tables show in full precision, one flat dict a line, for CSV and JSON. Pure."""

import typing
from collections.abc import Iterator, Sequence

from lra_tasks.averages import average_experiments
from lra_tasks.bleu_intervals import BleuTest
from lra_tasks.cells import NOT_RUN
from lra_tasks.groups import Measured
from lra_tasks.published import Published
from lra_tasks.report import Comparison
from lra_tasks.tables import Experiment
from lra_tasks.translation_groups import Translated

FULL_PROTOCOLS = ("authors", "paper", "lra")  # others are small or changed: nothing printed is set beside them
ENTRY_FIELDS = (
    *("kind", "row", "title", "task", "task_title", "task_version", "protocol", "variant", "experiment_hash"),
    *("checkpoint", "n", "mean", "sd", "low", "high", "seed_low", "seed_high", "collapsed", "mean_of_learned"),
    *("seeds", "values", "chance", "num_examples", "published", "published_source", "difference", "against"),
    *("p_value", "p_value_holm", "method", "num_parameters", "pooling", "steps_per_second", "wall_seconds"),
    *("peak_memory_bytes", "device", "paper", "arxiv", "paper_table", "paper_row", "confirmed_by", "caveat"),
    *("measure", "test_set", "signature", "p_value_randomised", "tie_kv", "causal_weight", "contextual_pack"),
)


def build_entries(
    experiments: Sequence[Experiment],
    translations: Sequence[Translated],
    comparisons: Sequence[Comparison],
    published: Published,
) -> list[dict[str, typing.Any]]:
    """One dict with all of ENTRY_FIELDS for each experiment, average, paired test, empty cell and printed number.

    `kind` says which: "ours", "average", "paired test", "not run" or "published". `measure` says what ours are:
    "accuracy" or "BLEU", of which there is an entry for each test set. Both, and differences, are percent; `low` and
    `high` bound the 95 % interval of the mean or difference.
    """
    found = [
        *(_describe_experiment(one, published) for one in experiments),
        *(_describe_measured(one, published, "BLEU") for one in translations),
        *_describe_averages(experiments, published),
        *(_describe_comparison(one) for one in comparisons),
        *_list_empty_cells(experiments, published),
        *_list_published(published),
    ]
    blank = dict.fromkeys(ENTRY_FIELDS)
    return [{**blank, **entry} for entry in found]


def _describe_measured(one: Measured, published: Published, measure: str) -> dict[str, typing.Any]:
    plain = {name: getattr(one, name) for name in ENTRY_FIELDS if name not in ("kind", "title") and hasattr(one, name)}
    entry = {"kind": "ours", "title": published.title(one.row), **plain, "measure": measure, "n": len(one.runs)}
    entry |= {"low": one.interval.low, "high": one.interval.high}
    if one.seed_interval is not None:
        entry |= {"seed_low": one.seed_interval.low, "seed_high": one.seed_interval.high}
    return entry


def _describe_experiment(one: Experiment, published: Published) -> dict[str, typing.Any]:
    entry = _describe_measured(one, published, "accuracy") | {"collapsed": one.num_collapsed}
    if one.protocol in FULL_PROTOCOLS and (printed := published.find(one.row, one.task)[:1]):
        entry |= {"published": printed[0].percent, "published_source": printed[0].source}
        entry |= {"difference": one.mean - printed[0].percent}
    return entry


def _describe_averages(experiments: Sequence[Experiment], published: Published) -> Iterator[dict[str, typing.Any]]:
    for row, protocol in dict.fromkeys((one.row, one.protocol) for one in experiments):
        cells = [one for one in experiments if (one.row, one.protocol) == (row, protocol)]
        for name, average in published.averages.items():
            mean = average_experiments(average, cells)
            if mean is not None:
                where = {"task": name, "task_title": average.title, "protocol": protocol, "mean": mean}
                yield {"kind": "average", "row": row, "title": published.title(row), **where, "caveat": average.rule}


def _describe_comparison(one: Comparison) -> dict[str, typing.Any]:
    test = one.test
    entry = {"kind": "paired test", "row": one.first, "title": one.first_title, "against": one.second}
    entry |= {"task": one.task, "task_title": one.task_title, "protocol": one.protocol, "n": one.first_seeds}
    entry |= {"num_examples": one.num_examples, "difference": test.difference, "method": test.method}
    entry |= {"low": test.interval.low, "high": test.interval.high}
    if isinstance(test, BleuTest):
        entry |= {"test_set": one.test_set, "p_value_randomised": test.p_value_randomised}
    entry |= {"measure": "BLEU" if isinstance(test, BleuTest) else "accuracy"}
    return entry | {"p_value": test.p_value, "p_value_holm": one.p_value_holm, "variant": one.first_variant}


def _list_empty_cells(experiments: Sequence[Experiment], published: Published) -> Iterator[dict[str, typing.Any]]:
    ran = {(one.row, one.task) for one in experiments}
    for row in published.rows:
        for task in published.tasks:
            if row.reproduced and (row.row, task.task) not in ran:
                where = {"row": row.row, "title": row.title, "task": task.task, "task_title": task.title}
                yield {**where, "kind": NOT_RUN, "n": 0}


def _list_published(published: Published) -> Iterator[dict[str, typing.Any]]:
    titles = {task.task: task.title for task in (*published.tasks, *published.more_tasks)}
    titles |= {name: average.title for name, average in published.averages.items()}
    for value in published.values:
        source = published.sources[value.source]
        entry = {"kind": "published", "row": value.row, "title": published.title(value.row), "task": value.task}
        entry |= {"task_title": titles.get(value.task, value.task), "protocol": source.protocol}
        entry |= {"published": value.percent, "published_source": value.source, "paper": source.paper}
        entry |= {"arxiv": source.arxiv, "paper_table": source.table, "paper_row": value.printed_row}
        yield entry | {"confirmed_by": value.confirmed_by, "caveat": value.caveat}
