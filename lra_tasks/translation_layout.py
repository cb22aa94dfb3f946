"""The results tables of translation, the Luna paper's Tables 4 and 5 among them. Pure: no files, no printing."""

from lra_tasks.bleu_intervals import RANDOMISATION, BleuTest
from lra_tasks.cells import (
    COMPARISON_HEADER,
    COMPARISON_NUMERIC,
    NOT_RUN,
    NOTHING,
    lay_out_alternatives,
    show_chance,
    show_comparison,
    show_interval,
    show_model,
    show_parameters,
    show_score,
    show_source,
)
from lra_tasks.findings import Findings
from lra_tasks.published import Published
from lra_tasks.published_tables import PublishedTable, PublishedTableRow
from lra_tasks.tables import Table
from lra_tasks.translation_groups import Translated

PRINTED = "luna_table4"  # in results/published.json
PRINTED_TASK, PRINTED_TITLE = "wmt14_ende", "WMT'14 en-de"
NOT_AT_HAND = ("Table 4", "Table 5")
WAYS = {"True": "contextual", "False": "non-contextual"}
TIES = {True: "tied", False: "untied", None: NOTHING}
Column = tuple[str, str]  # task, test set


def find_printed(published: Published) -> PublishedTable | None:
    """The paper's Table 4, where it is among the published numbers that are shown."""
    return next((table for table in published.tables if table.key == PRINTED), None)


def lay_out_bleu(findings: Findings) -> Table:
    """Table 4: the paper's rows and ours, a column a test set."""
    columns = {(one.task, one.test_set): one.title for one in findings.translations}
    printed = find_printed(findings.published)
    if printed and not any(task == PRINTED_TASK for task, _ in columns):
        columns[PRINTED_TASK, ""] = PRINTED_TITLE
    printed_lines = () if printed is None else printed.rows
    lines: list[tuple[str, ...]] = []
    for row in dict.fromkeys(one.row for one in (*printed_lines, *findings.translations)):
        lines += [_show_printed(printed, line, columns) for line in printed_lines if printed and line.row == row]
        lines += _our_lines(row, findings, columns) if row else []
    caption = (
        f"BLEU in percent, {findings.checkpoint} checkpoint: mean ± sample standard deviation (number of seeds); one "
        "seed has no deviation. Luna's keys and values are tied or not; the weight is that of its causal attention."
    )
    header = ("Model", "Source", "Keys, values", "Weight", "Checkpoint", "Parameters", *columns.values())
    return Table(caption, header, (*(False,) * 5, *(True for _ in header[5:])), tuple(lines))


def _show_printed(table: PublishedTable, line: PublishedTableRow, columns: dict[Column, str]) -> tuple[str, ...]:
    """A printed line. Its BLEU, where a text at hand shows one, stands in the first column of its task."""
    numbers = {column.column: number for column, number in zip(table.columns, line.values, strict=True)}
    bleu, parameters = numbers.get("bleu"), numbers.get("parameters")
    place = next(column for column in columns if column[0] == PRINTED_TASK)
    cells = (NOTHING if bleu is None or column != place else f"{bleu:.2f}" for column in columns)
    size = NOTHING if parameters is None else f"{parameters:g} million"
    return (line.printed_row, f"Luna, {table.table}", NOTHING, NOTHING, NOTHING, size, *cells)


def _our_lines(row: str, findings: Findings, columns: dict[Column, str]) -> list[tuple[str, ...]]:
    """Our lines of one model: one a protocol and variant, or one that says not run."""
    ours = [one for one in findings.translations if one.row == row]
    title = findings.published.title(row)
    if not ours:
        return [(title, "ours", *(NOTHING,) * 4, *(NOT_RUN for _ in columns))]
    lines: list[tuple[str, ...]] = []
    for protocol, variant in dict.fromkeys((one.protocol, one.variant) for one in ours):
        found = [one for one in ours if (one.protocol, one.variant) == (protocol, variant)]
        texts: dict[Column, str] = {}
        for one in found:
            column = (one.task, one.test_set)
            texts[column] = " / ".join(filter(None, (texts.get(column, ""), show_score(one))))
        about = (title, show_source(protocol, variant), *_show_settings(found), findings.checkpoint)
        lines.append((*about, show_parameters(found), *(texts.get(column, NOT_RUN) for column in columns)))
    return lines


def _show_settings(found: list[Translated]) -> tuple[str, str]:
    """Whether keys and values are tied, and the weight of the causal attention."""
    ties = dict.fromkeys(TIES[one.tie_kv] for one in found)
    weights = dict.fromkeys(one.causal_weight or NOTHING for one in found)
    return " / ".join(ties), " / ".join(weights)


def lay_out_contextual(findings: Findings) -> Table:
    """Table 5: the same model with and without a packed sequence that runs through the layers, a column a test set."""
    names = {  # of both, by what they share
        one.twin: (show_model(one.row, one.variant, findings.published), one.protocol, *_show_settings([one]))
        for one in findings.translations
        if one.contextual_pack
    }
    entries = [
        (names[one.twin], (f"{one.task} {one.test_set}", one.title), str(one.contextual_pack), show_score(one))
        for one in findings.translations
        if one.twin in names
    ]
    caption = (
        f"BLEU in percent, {findings.checkpoint} checkpoint. Contextual: what a layer packs queries the next layer; "
        "non-contextual: every layer learns its own query."
    )
    header = ("Model", "Protocol", "Keys, values", "Weight", "Packed sequence")
    return lay_out_alternatives(caption, header, entries, lambda way: WAYS[way])


def lay_out_bleu_intervals(findings: Findings) -> Table:
    """A line an experiment and test set: intervals, the steps of the checkpoint, how BLEU was computed."""
    header = ("Model", "Task", "Protocol", "Checkpoint", "Steps", "Seeds", "BLEU", "95 % interval", "over seeds")
    header += ("Sentences", "Signature")
    lines = []
    for one in findings.translations:
        where = (show_model(one.row, one.variant, findings.published), one.title, one.protocol)
        ours = (one.checkpoint, _show_steps(one), ", ".join(map(str, one.seeds)), show_score(one))
        intervals = (show_interval(one.interval), show_interval(one.seed_interval))
        lines.append((*where, *ours, *intervals, f"{one.num_examples:,}", one.signature))
    caption = (
        "Ours: bootstrap interval of the mean BLEU over seeds and test sentences (too narrow where few seeds differ "
        "much), Student interval over seeds alone (blind to the sampling of sentences), sacrebleu's signature."
    )
    return Table(caption, header, (*(False,) * 6, *(True,) * 4, False), tuple(lines))


def _show_steps(one: Translated) -> str:
    """The step of the checkpoint, or the range of those of an average; several where seeds differ."""
    ranges = (dict.fromkeys((min(run.steps), max(run.steps))) for run in one.runs)
    return " / ".join(dict.fromkeys(" to ".join(f"{step:,}" for step in ends) for ends in ranges))


def lay_out_bleu_comparisons(findings: Findings) -> Table:
    """A line a paired test on a test set."""
    lines = []
    for one in findings.comparisons:
        if isinstance(one.test, BleuTest):
            chance = one.test.p_value_randomised
            cells = show_comparison(one, findings.published)
            lines.append((*cells, NOTHING if chance is None else show_chance(chance)))
    methods = dict.fromkeys(one.test.method for one in findings.comparisons if isinstance(one.test, BleuTest))
    caption = (
        f"Paired on the same test sentences ({'; '.join(methods)}): p is about these trained models; the interval of "
        "the difference in BLEU also holds the seeds' variation, so go by it for a claim about mechanisms. Holm's p is "
        f"adjusted for all that is compared on one test set with one recipe; the last one is that of {RANDOMISATION}."
    )
    header = (*COMPARISON_HEADER, "p (randomisation)")
    return Table(caption, header, (*COMPARISON_NUMERIC, True), tuple(lines))


def list_printed_sources(published: Published) -> list[str]:
    """What stands below the tables where the paper's rows are shown, and which of its numbers are not at hand."""
    table = find_printed(published)
    if table is None:
        return []
    source = f"{table.paper}, arXiv {table.arxiv}. Protocol: {table.protocol}. Caveat: {table.caveat}."
    gaps = [gap for gap in published.missing if (gap.arxiv, gap.table in NOT_AT_HAND) == (table.arxiv, True)]
    return [
        f"Luna, {table.table}: {source}",
        *(f"Luna, {gap.table}, not shown: {gap.rows}; {gap.why}." for gap in gaps),
    ]
