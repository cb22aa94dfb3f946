"""The results tables: which lines and cells they have. Pure: no files, no printing."""

from collections import defaultdict
from collections.abc import Sequence

from lra_tasks.averages import average_experiments, average_published
from lra_tasks.cells import (
    COMPARISON_HEADER,
    COMPARISON_NUMERIC,
    NOT_RUN,
    NOTHING,
    lay_out_alternatives,
    show_comparison,
    show_interval,
    show_model,
    show_parameters,
    show_score,
    show_source,
)
from lra_tasks.entries import FULL_PROTOCOLS
from lra_tasks.findings import Findings
from lra_tasks.groups import AT_ONCE
from lra_tasks.published import Published
from lra_tasks.report import Comparison
from lra_tasks.tables import Experiment, Table
from lra_tasks.translation_layout import (
    lay_out_bleu,
    lay_out_bleu_comparisons,
    lay_out_bleu_intervals,
    lay_out_contextual,
    list_printed_sources,
)

LEGEND = (
    "Test accuracy in percent: mean ± sample standard deviation (number of seeds); one seed has no deviation. Seeds at "
    "chance are counted in the mean and named."
)
POOLINGS = {"cls": "[CLS]", "mean": "mean of X", "packed": "mean of P", "packed_all": "mean of all of P"}


def lay_out(findings: Findings, names: Sequence[str] = ()) -> list[Table]:
    """The tables of these names, by default all, that have a line."""
    found = [LAYOUTS[name](findings) for name in names or LAYOUTS]
    return [table for table in found if table.lines]


def lay_out_accuracies(findings: Findings) -> Table:
    """Table 1: the papers' rows and ours, a column a task, and the averages."""
    published, experiments = findings.published, findings.experiments
    columns = _list_columns(findings)
    lines: list[tuple[str, ...]] = []
    printed = (*published.values, *published.failures)
    known_rows = [known.row for known in published.rows if printed]  # without a printed number nothing is missed
    for row in dict.fromkeys([*known_rows, *(one.row for one in experiments)]):
        lines += _published_lines(row, published, list(columns))
        lines += _our_lines(row, findings, list(columns))
    if experiments:
        chances = {
            task: dict.fromkeys(f"{one.chance:.2f}" for one in experiments if one.task == task) for task in columns
        }
        cells = (" / ".join(chances[task]) or NOTHING for task in columns)
        lines.append(("Chance", "most frequent label", NOTHING, *cells))
    header = ("Model", "Source", "Parameters", *columns.values())
    return Table(LEGEND, header, (False, False, *(True for _ in header[2:])), tuple(lines))


def _list_columns(findings: Findings) -> dict[str, str]:
    """Titles of the columns: the five tasks, others that papers print, averages over these, then our other tasks."""
    published = findings.published
    printed = {cell.task for cell in (*published.values, *published.failures)}
    tasks = {task.task: task.title for task in published.tasks}
    tasks |= {task.task: task.title for task in published.more_tasks if task.task in printed}
    averages = {
        name: average.title
        for name, average in published.averages.items()
        if len(average.tasks) > 1 and set(average.tasks) <= tasks.keys() and (name in printed or not average.later)
    }
    ours = {one.task: one.task_title for one in findings.experiments if one.task not in tasks}
    return {**tasks, **averages, **ours}


def _published_lines(row: str, published: Published, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """A line for each source that prints this model."""
    lines: list[tuple[str, ...]] = []
    for source, details in published.sources.items():
        found = {value.task: value.percent for value in published.values if (value.row, value.source) == (row, source)}
        failed = [task for task in columns if published.has_failed(source, row, task)]
        if not found and not failed:
            continue
        averages = {name: average_published(name, source, row, published) for name in published.averages}
        shown = {**averages, **found}
        cells = [NOTHING if shown.get(column) is None else f"{shown[column]:.2f}" for column in columns]
        cells = ["FAIL" if column in failed else cell for column, cell in zip(columns, cells, strict=True)]
        lines.append((published.title(row), details.short, NOTHING, *cells))
    return lines


def _our_lines(row: str, findings: Findings, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Our lines of one model: one a protocol and variant, or one that says not run."""
    published, title = findings.published, findings.published.title(row)
    ours = [one for one in findings.experiments if one.row == row]
    averages = published.averages
    if not ours:
        wanted = any(known.row == row and known.reproduced for known in published.rows)
        cells = (NOTHING if column in averages else NOT_RUN for column in columns)
        return [(title, "ours", NOTHING, *cells)] if wanted else []
    lines: list[tuple[str, ...]] = []
    for protocol, variant in dict.fromkeys((one.protocol, one.variant) for one in ours):
        found = [one for one in ours if (one.protocol, one.variant) == (protocol, variant)]
        texts = {one.task: show_accuracy(one) for one in found}
        for name, average in averages.items():
            mean = average_experiments(average, found)
            texts[name] = NOTHING if mean is None else f"{mean:.2f}"
        cells = (texts.get(column, NOT_RUN) for column in columns)
        lines.append((title, show_source(protocol, variant), show_parameters(found), *cells))
    return lines


def show_accuracy(one: Experiment) -> str:
    """`45.65 ± 0.30 (3)`, with the number of collapsed seeds where there are any."""
    return show_score(one, f", {one.num_collapsed} at chance" if one.num_collapsed else "")


def lay_out_intervals(findings: Findings) -> Table:
    """A line an experiment: interval, collapsed seeds, the printed number and the difference to it."""
    published = findings.published
    header = ("Model", "Task", "Protocol", "Seeds", "Accuracy", "95 % interval", "over seeds", "at chance")
    header += ("without those", "Published", "Difference")
    lines = []
    for one in findings.experiments:
        where = (show_model(one.row, one.variant, published), one.task_title, one.protocol)
        learned = NOTHING if one.mean_of_learned is None else f"{one.mean_of_learned:.2f}"
        ours = (", ".join(map(str, one.seeds)), show_accuracy(one), show_interval(one.interval))
        ours += (show_interval(one.seed_interval), str(one.num_collapsed), learned if one.num_collapsed else NOTHING)
        compared = (NOTHING, NOTHING)
        if one.protocol in FULL_PROTOCOLS and (printed := published.find(one.row, one.task)):
            compared = (f"{printed[0].percent:.2f} ({printed[0].source})", f"{one.mean - printed[0].percent:+.2f}")
        lines.append((*where, *ours, *compared))
    caption = (
        f"Ours, {findings.checkpoint} checkpoint: bootstrap interval of the mean over seeds and test examples (too "
        "narrow where few seeds differ much), Student interval over seeds alone (blind to the sampling of examples), "
        "and for full recipes the difference to the published number in points."
    )
    return Table(caption, header, (*(False,) * 4, *(True,) * 7), tuple(lines))


def lay_out_comparisons(findings: Findings) -> Table:
    """A line a paired test."""
    chosen = [one for one in findings.comparisons if not one.test_set]
    lines = tuple(show_comparison(one, findings.published) for one in chosen)
    return Table(_describe_tests(chosen), COMPARISON_HEADER, COMPARISON_NUMERIC, lines)


def _describe_tests(comparisons: Sequence[Comparison]) -> str:
    methods = "; ".join(dict.fromkeys(one.test.method for one in comparisons))
    return (
        f"Paired on the same test examples ({methods}): p is about these trained models; the interval, in points, "
        "also holds the seeds' variation, so go by it for a claim about mechanisms. Holm's p is adjusted for all rows "
        "of one task and protocol."
    )


def lay_out_poolings(findings: Findings) -> Table:
    """Table 3: the same row and protocol under several poolings, a column a task; empty where there is one only."""
    entries = [
        ((findings.published.title(one.row), one.protocol), (one.task, one.task_title), one.pooling, show_accuracy(one))
        for one in findings.experiments
    ]
    header = ("Model", "Protocol", "Pooling")
    return lay_out_alternatives("What the classifier reads.", header, entries, lambda way: POOLINGS.get(way, way))


def lay_out_cost(findings: Findings) -> Table:
    """A line an experiment: size, speed, memory, time; below them the time of all runs, a line a device."""
    header = ("Model", "Task", "Protocol", "Parameters", "Steps/s", "Peak memory, GB", "Minutes", "Seeds", "Device")
    totals: defaultdict[str, list[float]] = defaultdict(list)
    lines = []
    for one in (*findings.experiments, *(one for one in findings.translations if one.is_first)):
        where = (show_model(one.row, one.variant, findings.published), one.task_title, one.protocol)
        speed = NOTHING if one.steps_per_second is None else f"{one.steps_per_second:.3g}"
        cost = (f"{one.num_parameters:,}", speed, f"{one.peak_memory_bytes / 1e9:.2f}", f"{one.wall_seconds / 60:.1f}")
        lines.append((*where, *cost, str(len(one.runs)), one.device))
        totals[one.device] += [one.wall_seconds / 60] * len(one.runs)
    for device, minutes in sorted(totals.items()):
        blank = (NOTHING,) * 5
        lines.append(("All runs together", *blank, f"{sum(minutes):,.0f}", str(len(minutes)), device))
    caption = (
        "Size and speed, means over seeds: training steps a second without compilation, minutes of a whole run with "
        "evaluation, and the most memory held (of the process where the device does not say). The last lines add up."
    )
    if any(AT_ONCE in line[-1] for line in lines):
        caption += f" Of {AT_ONCE} they are the steps of all, each one's share of the minutes, and the memory of all."
    return Table(caption, header, (*(False,) * 3, *(True,) * 5, False), tuple(lines))


LAYOUTS = {
    "accuracy": lay_out_accuracies,
    "intervals": lay_out_intervals,
    "paired": lay_out_comparisons,
    "pooling": lay_out_poolings,
    "cost": lay_out_cost,
    "translation": lay_out_bleu,
    "contextual": lay_out_contextual,
    "translation_intervals": lay_out_bleu_intervals,
    "translation_paired": lay_out_bleu_comparisons,
}


def list_sources(published: Published) -> list[str]:
    """What stands below the tables: the papers, their protocols, the caveats of single numbers and the averages."""
    notes = [
        f"{source.short} ({key}): {source.paper}, arXiv {source.arxiv}. Protocol: {source.protocol}. "
        f"Caveat: {source.caveat}."
        for key, source in published.sources.items()
    ]
    for value in published.values:
        if value.caveat:
            where = f"{published.sources[value.source].short}, {value.printed_row}, {value.task}"
            notes.append(f"{where}: {value.caveat}.")
    if len(published.tasks) > 1 and published.averages:
        rules = "; ".join(f"{one.title}: {one.rule}" for one in published.averages.values())
        notes.append(f"Averages. {rules}. A paper's is as printed where it prints one, else from its cells.")
    return [*notes, *list_printed_sources(published)]
