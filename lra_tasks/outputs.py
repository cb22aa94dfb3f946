"""The folder of results: tables in every format, figures, and one page that holds everything."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from lra_tasks.errors import UserError
from lra_tasks.figures import draw_accuracies, draw_curves, draw_trade_off
from lra_tasks.findings import Findings, trade_offs
from lra_tasks.layout import lay_out, list_sources
from lra_tasks.page import render_page

NAMES = {"markdown": "results.md", "latex": "results.tex", "csv": "results.csv", "json": "results.json"}
PAGE, FIGURES = "index.html", "figures"


def write_outputs(
    findings: Findings, folder: Path, render: Callable[[Findings, str], str], cards: Mapping[str, str]
) -> list[Path]:
    """Write all outputs and return the files. They are made beside the folder first, so that a failure leaves no part.

    Args:
        findings: what to show.
        folder: made if it is missing; files of other names in it stay.
        render: (findings, format) -> text.
        cards: model cards for the page, Markdown by name.

    UserError for a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror}); give a folder of your own") from None
    try:
        points = trade_offs(findings)
        for form, name in NAMES.items():
            (partial / name).write_text(render(findings, form), encoding="utf-8")
        notes = [*findings.notes, *list_sources(findings.published)]
        titles = {row.row: row.title for row in findings.published.rows}
        parts = (lay_out(findings), findings.experiments, findings.comparisons, points, notes, cards, titles)
        page = render_page(*parts, [one for one in findings.translations if one.is_first])
        (partial / PAGE).write_text(page, encoding="utf-8")
        (partial / FIGURES).mkdir()
        draw_trade_off(points, partial / FIGURES)
        draw_curves(findings.experiments, partial / FIGURES, titles)
        draw_accuracies(findings.experiments, partial / FIGURES, titles)
        return _move(partial, folder)
    except OSError as error:
        raise UserError(f"--output {folder}: writing failed ({error}); nothing was changed unless named") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, folder: Path) -> list[Path]:
    written = []
    for file in sorted(path for path in partial.rglob("*") if path.is_file()):
        target = folder / file.relative_to(partial)
        target.parent.mkdir(exist_ok=True)
        os.replace(file, target)
        written.append(target)
    return written
