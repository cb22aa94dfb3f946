"""The results tables: which lines and cells they have. Pure: no files, no printing."""

from collections.abc import Mapping, Sequence

from lra_tasks.averages import average_experiments, average_published
from lra_tasks.entries import FULL_PROTOCOLS, NOT_RUN
from lra_tasks.findings import Findings
from lra_tasks.intervals import Interval
from lra_tasks.published import Published
from lra_tasks.report import Comparison
from lra_tasks.tables import Experiment, Table

NOTHING = "–"
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
    for row in dict.fromkeys([*(known.row for known in published.rows), *(one.row for one in experiments)]):
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
        source = f"ours, {protocol}" + (f", {variant}" if variant else "")
        cells = (texts.get(column, NOT_RUN) for column in columns)
        lines.append((title, source, show_parameters(found), *cells))
    return lines


def show_parameters(experiments: Sequence[Experiment]) -> str:
    """`105,280`, or `48,064 to 105,280` over several tasks."""
    counts = sorted({one.num_parameters for one in experiments})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def show_accuracy(one: Experiment) -> str:
    """`45.65 ± 0.30 (3)`, with the number of collapsed seeds where there are any."""
    spread = "" if one.sd is None else f" ± {one.sd:.2f}"
    collapsed = f", {one.num_collapsed} at chance" if one.num_collapsed else ""
    return f"{one.mean:.2f}{spread} ({len(one.runs)}{collapsed})"


def show_interval(interval: Interval | None, sign: str = "") -> str:
    """`44.12 to 47.03`; nothing where there is none."""
    return NOTHING if interval is None else f"{interval.low:{sign}.2f} to {interval.high:{sign}.2f}"


def show_model(row: str, variant: str, published: Published) -> str:
    """The title of a row, and what its variant is."""
    return published.title(row) + (f", {variant}" if variant else "")


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
    header = (
        "Model",
        "Against",
        "Task",
        "Protocol",
        "Seeds",
        "Examples",
        "Difference",
        "95 % interval",
        "p",
        "p (Holm)",
    )
    lines = []
    for one in findings.comparisons:
        models = (
            show_model(one.first, one.first_variant, findings.published),
            show_model(one.second, one.second_variant, findings.published),
        )
        counts = (f"{one.first_seeds} / {one.second_seeds}", f"{one.num_examples:,}")
        chances = (show_chance(one.test.p_value), show_chance(one.p_value_holm))
        difference = (f"{one.test.difference:+.2f}", show_interval(one.test.interval, "+"))
        lines.append((*models, one.task_title, one.protocol, *counts, *difference, *chances))
    return Table(_describe_tests(findings.comparisons), header, (*(False,) * 4, *(True,) * 6), tuple(lines))


def _describe_tests(comparisons: Sequence[Comparison]) -> str:
    methods = "; ".join(dict.fromkeys(one.test.method for one in comparisons))
    return (
        f"Paired on the same test examples ({methods}): p is about these trained models; the interval, in points, "
        "also holds the seeds' variation, so go by it for a claim about mechanisms. Holm's p is adjusted for all rows "
        "of one task and protocol."
    )


def show_chance(p_value: float) -> str:
    """A p-value to three digits; small ones as a bound."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def lay_out_poolings(findings: Findings) -> Table:
    """Table 3: the same row and protocol under several poolings, a column a task; empty where there is one only."""
    cells: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    titles: dict[str, str] = {}
    for one in findings.experiments:
        by_pooling = cells.setdefault((one.row, one.protocol), {})
        tasks = by_pooling.setdefault(one.pooling, {})
        tasks[one.task] = " / ".join(filter(None, (tasks.get(one.task, ""), show_accuracy(one))))
        titles[one.task] = one.task_title
    cells = {key: found for key, found in cells.items() if _vary(found)}
    shown = [task for task in titles if any(task in tasks for found in cells.values() for tasks in found.values())]
    lines = [
        (
            findings.published.title(row),
            protocol,
            POOLINGS.get(pooling, pooling),
            *(tasks.get(t, NOT_RUN) for t in shown),
        )
        for (row, protocol), found in cells.items()
        for pooling, tasks in sorted(found.items())
    ]
    header = ("Model", "Protocol", "Pooling", *(titles[task] for task in shown))
    return Table("What the classifier reads.", header, (*(False,) * 3, *(True for _ in shown)), tuple(lines))


def _vary(found: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether some task was run with more than one pooling."""
    tasks = [task for by_task in found.values() for task in by_task]
    return len(tasks) > len(set(tasks))


def lay_out_cost(findings: Findings) -> Table:
    """A line an experiment: size, speed, memory, time."""
    header = ("Model", "Task", "Protocol", "Parameters", "Steps/s", "Peak memory, GB", "Minutes", "Device")
    lines = []
    for one in findings.experiments:
        where = (show_model(one.row, one.variant, findings.published), one.task_title, one.protocol)
        speed = NOTHING if one.steps_per_second is None else f"{one.steps_per_second:.3g}"
        cost = (f"{one.num_parameters:,}", speed, f"{one.peak_memory_bytes / 1e9:.2f}", f"{one.wall_seconds / 60:.1f}")
        lines.append((*where, *cost, one.device))
    caption = (
        "Size and speed, means over seeds: training steps a second without compilation, minutes of a whole run with "
        "evaluation, and the most memory held (of the process where the device does not say)."
    )
    return Table(caption, header, (*(False,) * 3, *(True,) * 4, False), tuple(lines))


LAYOUTS = {
    "accuracy": lay_out_accuracies,
    "intervals": lay_out_intervals,
    "paired": lay_out_comparisons,
    "pooling": lay_out_poolings,
    "cost": lay_out_cost,
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
    return notes
