"""The tables as text: golden Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from records import make_record
from small_tables import SMALL, name_records

from lra_tasks import record, results, table_text
from lra_tasks.findings import find

GOLDEN = Path(__file__).parent / "golden"


def render(records: list[tuple[str, record.Record]], form: str = "markdown", tables=(), **choices) -> str:
    return results.render(find(records, SMALL, **choices), form, tables)


def test_one_seed_has_no_deviation():
    assert "| 62.50 (1) |" in render(name_records(make_record()))


def test_two_settings_in_one_cell_are_two_lines():
    text = render(name_records(make_record(seed=1), make_record(seed=1, steps=200, num_correct=6)), tables=["accuracy"])
    lines = [line for line in text.splitlines() if "ours, authors" in line]
    assert [(("steps 100" in line), ("62.50 (1)" in line)) for line in lines] == [(True, True), (False, False)]
    assert "2 experiments with different settings or data, never averaged: " in text


def make_some() -> list[tuple[str, record.Record]]:
    cpu = record.Device(platform="cpu", kind="cpu", count=1)
    return name_records(
        make_record(row="transformer", num_correct=7),
        make_record(seed=1),
        make_record(seed=2, num_correct=6),
        make_record(task="text", task_title="Text", num_correct=3, steps_per_second=None),
        make_record(task="listops_small", task_title="ListOps (small)", num_correct=4, protocol="cpu", device=cpu),
    )


def test_markdown_without_records():
    assert render([]) == (GOLDEN / "results_nothing_run.md").read_text(encoding="utf-8")


def test_markdown_with_records():
    assert render(make_some()) == (GOLDEN / "results_some_run.md").read_text(encoding="utf-8")


def test_markdown_cells_cannot_break_the_table():
    text = render(name_records(make_record(row="a|b")))
    assert r"| a\|b " in text


def test_latex():
    text = render(make_some(), "latex")
    for environment in ("table", "tabular", "itemize"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") > 0
    columns = [len(spec) for spec in re.findall(r"\\begin{tabular}{([lr]+)}", text)]
    assert columns == [7, 11, 10, 9]
    bodies = re.findall(r"\\toprule\n(.*?)\n\\bottomrule", text, re.DOTALL)
    for count, body in zip(columns, bodies, strict=True):
        rows = [line for line in body.splitlines() if line != r"\midrule"]
        assert all(line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == count - 1 for line in rows)
    assert (
        r"Luna-16 & ours, authors & 6,060,000 & 68.75 $\pm$ 8.84 (2) & 37.50 (1, 1 at chance) & 53.12 & not run \\"
        in text
    )
    assert re.search(r"(?<!\\)[#_]", text) is None
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path):
    body = render(make_some(), "latex")
    opening = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    document = opening + body + r"\end{document}"
    (tmp_path / "results.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "results.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_latex_escapes_what_is_special():
    assert table_text.escape_latex(r"a_b & 5% #1 {x} $y ~ ^ \z") == (
        r"a\_b \& 5\% \#1 \{x\} \$y \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    assert table_text.escape_latex("1 ± 2 – <3>") == r"1 $\pm$ 2 -- \textless{}3\textgreater{}"


def test_csv_reads_back_with_every_seed():
    text = render(make_some(), "csv")
    entries = list(csv.DictReader(io.StringIO(text)))
    first = entries[1]
    assert (first["kind"], first["row"], first["task"], first["n"]) == ("ours", "luna16", "listops", "2")
    assert (first["low"], first["high"], first["collapsed"]) == ("37.5", "100.0", "0")
    assert (first["seeds"], first["values"]) == ("1;2", "62.5;75.0")
    assert float(first["sd"]) == pytest.approx(8.8388347648)
    assert (first["published"], first["published_source"], first["difference"]) == ("60.0", "luna", "8.75")
    kinds = [entry["kind"] for entry in entries]
    names = ("ours", "average", "paired test", "not run", "published")
    assert [kinds.count(kind) for kind in names] == [4, 1, 1, 1, 4]
    assert kinds == [kind for kind in names for _ in range(kinds.count(kind))]
    average, paired, empty = entries[4:7]
    assert (average["row"], average["task"], average["mean"]) == ("luna16", "average", "53.125")
    assert (paired["row"], paired["against"], paired["difference"]) == ("luna16", "transformer", "-18.75")
    assert (empty["row"], empty["task"]) == ("transformer", "text")
    printed = entries[-4]
    assert (printed["published"], printed["arxiv"], printed["paper_table"]) == ("37.11", "2106.01540", "Table 1")


def test_json_has_full_precision_and_every_seed():
    content = json.loads(render(make_some(), "json"))
    first = content["entries"][1]
    assert (first["seeds"], first["values"], first["n"], first["mean"]) == ([1, 2], [62.5, 75.0], 2, 68.75)
    assert first["sd"] == pytest.approx(8.838834764831844, abs=1e-12)
    assert content["entries"][0]["sd"] is None
    assert content["confirmations"] == {"mega": "Mega, Table 2"}
    assert content["sources"]["luna"]["caveat"] == "quoted"
    assert len(content["notes"]) == 4


def with_pooling(pooling: str, seed: int = 1, **changes) -> record.Record:
    config = {"train": {"seed": seed, "steps": 100}, "model": {"pooling": pooling}}
    hashes = {"config_hash": record.canonical_hash(config), "experiment_hash": record.experiment_hash(config)}
    return make_record(seed=seed, config=config, **hashes, **changes)


def test_poolings_stand_side_by_side_where_a_task_has_two():
    text = render(name_records(with_pooling("cls"), with_pooling("packed", num_correct=6)), tables=["pooling"])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["Model", "Protocol", "Pooling", "ListOps"]
    assert lines[2:] == [
        ["Luna-16", "authors", "[CLS]", "62.50 (1)"],
        ["Luna-16", "authors", "mean of P", "75.00 (1)"],
    ]
    assert "| Pooling |" not in render(name_records(with_pooling("cls")), tables=["pooling"])


def test_a_small_protocol_is_not_compared_with_what_is_printed():
    text = render(name_records(make_record(protocol="cpu")), tables=["intervals"])
    (line,) = (line for line in text.splitlines() if line.startswith("| Luna-16"))
    assert [cell.strip() for cell in line.split("|")[-3:-1]] == ["–", "–"]


def test_without_the_row_to_compare_with_there_is_a_note():
    records = name_records(make_record(), make_record(row="local"))
    findings = find(records, SMALL)
    assert findings.comparisons == ()
    assert [note for note in findings.notes if "no paired test" in note] == [
        "listops 1.0.0 (authors): no paired test, for 'transformer' has no record there"
    ]
    (one,) = find(records, SMALL, against="local").comparisons
    assert (one.first, one.second, one.num_examples) == ("luna16", "local", 8)
