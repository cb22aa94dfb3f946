"""Results tables as text: Markdown, LaTeX, CSV and JSON. Pure: no files, no printing."""

import csv
import dataclasses
import io
import json
import typing
from collections.abc import Sequence

from lra_tasks.entries import ENTRY_FIELDS
from lra_tasks.published import Published
from lra_tasks.tables import Table

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
        "|": r"\textbar{}",
    }
)


def to_markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Captions, pipe tables and a list of notes."""
    blocks = [f"{table.caption}\n\n{to_pipes(table).rstrip()}" for table in tables]
    blocks += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(blocks) + "\n"


def to_pipes(table: Table) -> str:
    """A pipe table with aligned columns, so that it reads well in a terminal too."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (table.header, *table.lines)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, table.numeric, strict=True)]
    lines.insert(1, rule)
    rows = (zip(line, widths, table.numeric, strict=True) for line in lines)
    padded = ((cell.rjust(width) if right else cell.ljust(width) for cell, width, right in row) for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in padded)


def to_latex(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Table environments for a document that loads booktabs and graphicx; the notes stand below as a list."""
    blocks = [r"% needs \usepackage{booktabs,graphicx}"]
    for table in tables:
        columns = "".join("r" if right else "l" for right in table.numeric)
        body = [" & ".join(map(escape_latex, line)) + r" \\" for line in table.lines]
        heading = " & ".join(map(escape_latex, table.header)) + r" \\"
        opening = [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(table.caption)}}}"]
        # a table that is wider than the page is scaled to it
        opening += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        opening += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heading, r"\midrule"]
        blocks.append("\n".join([*opening, *body, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]))
    if notes:
        items = [rf"\item {escape_latex(note)}" for note in notes]
        blocks.append("\n".join([r"\begin{itemize}", *items, r"\end{itemize}"]))
    return "\n\n".join(blocks) + "\n"


def escape_latex(text: str) -> str:
    """Plain text for LaTeX: its special characters, and the few signs that the tables use."""
    return text.translate(LATEX_ESCAPES)


def to_csv(entries: Sequence[dict[str, typing.Any]]) -> str:
    """One line an entry, full precision, percent; lists are joined with semicolons."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ENTRY_FIELDS, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow({k: ";".join(map(str, v)) if isinstance(v, tuple) else v for k, v in entry.items()})
    return file.getvalue()


def to_json(entries: Sequence[dict[str, typing.Any]], published: Published, notes: Sequence[str]) -> str:
    """The same entries as objects, with the notes, the papers and the texts in which printed numbers were read."""
    content = {
        "unit": published.unit,
        "entries": entries,
        "sources": {key: dataclasses.asdict(source) for key, source in published.sources.items()},
        "confirmations": published.confirmations,
        "notes": list(notes),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
