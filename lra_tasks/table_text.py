"""Results tables as text: their layout, and Markdown, LaTeX, CSV and JSON. Pure: no files, no printing."""

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Sequence

from lra_tasks.published import Published
from lra_tasks.tables import AVERAGE, ENTRY_FIELDS, NOT_RUN, NOTHING, Experiment, Table, build_entries

LEGEND = "Test accuracy in percent: mean ± sample standard deviation (number of seeds); one seed has no deviation."
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "–": "--",
    }
)


def lay_out(experiments: Sequence[Experiment], published: Published) -> list[Table]:
    """Accuracies by task with the papers' rows beside ours; and of the runs, the comparison and the cost."""
    titles = {task.task: task.title for task in published.tasks}
    more = {one.task: one.task_title for one in experiments if one.task not in titles}
    average = {AVERAGE: "Average"} if len(titles) > 1 else {}
    accuracies = _lay_out_accuracies(experiments, published, {**titles, **average, **more})
    if not experiments:
        return [accuracies]
    return [accuracies, _lay_out_comparison(experiments, published), _lay_out_cost(experiments, published)]


def _lay_out_accuracies(experiments: Sequence[Experiment], published: Published, titles: dict[str, str]) -> Table:
    rows = [known.row for known in published.rows]
    lines: list[tuple[str, ...]] = []
    for row in dict.fromkeys([*rows, *(one.row for one in experiments)]):
        for source, details in published.sources.items():
            printed = {
                value.task: value.percent for value in published.values if (value.row, value.source) == (row, source)
            }
            if printed:
                cells = (f"{printed[task]:.2f}" if task in printed else NOTHING for task in titles)
                lines.append((published.title(row), details.short, *cells))
        lines += _our_lines(row, experiments, published, list(titles))
    if experiments:
        cells = []
        for task in titles:
            shares = dict.fromkeys(f"{one.chance:.2f}" for one in experiments if one.task == task)
            cells.append(" / ".join(shares) or NOTHING)
        lines.append(("Chance", "most frequent label", *cells))
    header = ("Model", "Source", *titles.values())
    return Table(LEGEND, header, (False, False, *(True for _ in titles)), tuple(lines))


def _our_lines(
    row: str, experiments: Sequence[Experiment], published: Published, tasks: Sequence[str]
) -> list[tuple[str, ...]]:
    """Our lines of one model: one a protocol, more where a cell has several experiments, or one that says not run."""
    title = published.title(row)
    ours = [one for one in experiments if one.row == row]
    if not ours and any(known.row == row and known.reproduced for known in published.rows):
        return [(title, "ours", *(NOTHING if task == AVERAGE else NOT_RUN for task in tasks))]
    lines: list[tuple[str, ...]] = []
    for protocol in dict.fromkeys(one.protocol for one in ours):
        cells = {task: [one for one in ours if (one.task, one.protocol) == (task, protocol)] for task in tasks}
        for index in range(max(len(found) for found in cells.values())):
            texts = [_cell(cells[task], index) for task in tasks]
            if AVERAGE in tasks:
                texts[tasks.index(AVERAGE)] = _average(cells, published) if index == 0 else ""
            lines.append((title, f"ours, {protocol}", *texts))
    return lines


def _cell(found: Sequence[Experiment], index: int) -> str:
    if index >= len(found):
        return NOT_RUN if index == 0 else ""
    return _accuracy(found[index]) + (f" #{found[index].experiment_hash[:8]}" if len(found) > 1 else "")


def _average(cells: dict[str, list[Experiment]], published: Published) -> str:
    """The mean over the papers' tasks, where each of them has one experiment and nothing else could be meant."""
    wanted = [cells[task.task] for task in published.tasks]
    return (
        f"{statistics.fmean(found[0].mean for found in wanted):.2f}"
        if all(len(one) == 1 for one in wanted)
        else NOTHING
    )


def _accuracy(one: Experiment) -> str:
    spread = "" if one.sd is None else f" ± {one.sd:.2f}"
    return f"{one.mean:.2f}{spread} ({len(one.values)})"


def _lay_out_comparison(experiments: Sequence[Experiment], published: Published) -> Table:
    header = ("Model", "Task", "Protocol", "Experiment", "Seeds", "Accuracy", "Published", "Difference")
    lines = []
    for one in experiments:
        where = (published.title(one.row), one.task_title, one.protocol, f"#{one.experiment_hash[:8]}")
        ours = (", ".join(map(str, one.seeds)), _accuracy(one))
        printed = published.find(one.row, one.task)
        compared = (NOTHING, NOTHING)
        if printed:
            compared = (f"{printed[0].percent:.2f} ({printed[0].source})", f"{one.mean - printed[0].percent:+.2f}")
        lines.append((*where, *ours, *compared))
    caption = f"Ours, {experiments[0].checkpoint} checkpoint, against the published numbers (difference in points)."
    return Table(caption, header, (False, False, False, False, False, True, True, True), tuple(lines))


def _lay_out_cost(experiments: Sequence[Experiment], published: Published) -> Table:
    header = ("Model", "Task", "Protocol", "Experiment", "Parameters", "Steps/s", "Device")
    lines = []
    for one in experiments:
        where = (published.title(one.row), one.task_title, one.protocol, f"#{one.experiment_hash[:8]}")
        speed = NOTHING if one.steps_per_second is None else f"{one.steps_per_second:.3g}"
        lines.append((*where, f"{one.num_parameters:,}", speed, one.device))
    caption = "Size and speed: training steps per second without compilation, mean over seeds."
    return Table(caption, header, (False, False, False, False, True, True, False), tuple(lines))


def list_sources(published: Published) -> list[str]:
    """What stands below the tables: the papers, their protocols and the caveats of single numbers."""
    notes = [
        f"{source.short} ({key}): {source.paper}, arXiv {source.arxiv}. Protocol: {source.protocol}. "
        f"Caveat: {source.caveat}."
        for key, source in published.sources.items()
    ]
    for value in published.values:
        if value.caveat:
            where = f"{published.sources[value.source].short}, {value.printed_row}, {value.task}"
            notes.append(f"{where}: {value.caveat}.")
    return notes


def to_markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Pipe tables with aligned columns, so that they read well in a terminal too."""
    blocks = []
    for table in tables:
        lines = [[cell.replace("|", r"\|") for cell in line] for line in (table.header, *table.lines)]
        widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, table.numeric, strict=True)]
        lines.insert(1, rule)
        rows = (zip(line, widths, table.numeric, strict=True) for line in lines)
        padded = ((cell.rjust(width) if right else cell.ljust(width) for cell, width, right in row) for row in rows)
        blocks.append("\n".join([table.caption, "", *(f"| {' | '.join(row)} |" for row in padded)]))
    blocks += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(blocks) + "\n"


def to_latex(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Table environments for a document that loads booktabs; the notes stand below as a list."""
    blocks = [r"% needs \usepackage{booktabs}"]
    for table in tables:
        columns = "".join("r" if right else "l" for right in table.numeric)
        body = [" & ".join(map(escape_latex, line)) + r" \\" for line in table.lines]
        heading = " & ".join(map(escape_latex, table.header)) + r" \\"
        opening = [r"\begin{table}", r"\centering\scriptsize", rf"\caption{{{escape_latex(table.caption)}}}"]
        opening += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heading, r"\midrule"]
        blocks.append("\n".join([*opening, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    if notes:
        items = [rf"\item {escape_latex(note)}" for note in notes]
        blocks.append("\n".join([r"\begin{itemize}", *items, r"\end{itemize}"]))
    return "\n\n".join(blocks) + "\n"


def escape_latex(text: str) -> str:
    """Plain text for LaTeX: its special characters, and the few signs that the tables use."""
    return text.translate(LATEX_ESCAPES)


def to_csv(experiments: Sequence[Experiment], published: Published) -> str:
    """One line an experiment or printed number, full precision, percent; lists are joined with semicolons."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ENTRY_FIELDS, lineterminator="\n")
    writer.writeheader()
    for entry in build_entries(experiments, published):
        writer.writerow({k: ";".join(map(str, v)) if isinstance(v, tuple) else v for k, v in entry.items()})
    return file.getvalue()


def to_json(experiments: Sequence[Experiment], published: Published, notes: Sequence[str]) -> str:
    """The same entries as objects, with the notes, the papers and the texts in which printed numbers were read."""
    content = {
        "unit": published.unit,
        "entries": build_entries(experiments, published),
        "sources": {key: dataclasses.asdict(source) for key, source in published.sources.items()},
        "confirmations": published.confirmations,
        "notes": list(notes),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
