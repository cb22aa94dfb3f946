"""The results table: statistics, grouping, golden tables, refusals, and the published numbers themselves."""

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from records import make_record, make_scores

from lra_tasks import published, record, results, table_text, tables
from lra_tasks.errors import UserError

ROOT = Path(__file__).parent.parent
PUBLISHED = published.read_published(ROOT / "results" / "published.json")
# averages that the papers print and their own five tasks do not give
MISPRINTED_AVERAGES = {("lra", "sinkhorn")}
NOT_RUN_CELL = "not run"

SMALL = published.parse_published(
    {
        "unit": "percent",
        "tasks": [{"task": "listops", "title": "ListOps"}, {"task": "text", "title": "Text"}],
        "rows": [
            {"row": "transformer", "title": "Transformer", "reproduced": True},
            {"row": "local", "title": "Local", "reproduced": False},
            {"row": "luna16", "title": "Luna-16", "reproduced": True},
        ],
        "sources": {
            "luna": {
                **{"short": "Luna, Table 1", "paper": "Luna (Ma et al.)", "arxiv": "2106.01540", "table": "Table 1"},
                **{"protocol": "its recipes", "caveat": "quoted"},
            }
        },
        "confirmations": {"mega": "Mega, Table 2"},
        "values": [
            {"source": "luna", "row": row, "printed_row": row, "task": task, "percent": percent}
            | {"confirmed_by": ["mega"]}
            for row, task, percent in [
                ("transformer", "listops", 37.11),
                ("transformer", "average", 51.16),
                ("luna16", "listops", 60.0),
                ("local", "text", 52.98),
            ]
        ],
    }
)


def name_records(*records: record.Record) -> list[tuple[str, record.Record]]:
    return [(f"{index}.json", one) for index, one in enumerate(records)]


def group(*records: record.Record, checkpoint: str = "best") -> tuple[list[tables.Experiment], list[str]]:
    return tables.group_records(name_records(*records), checkpoint, SMALL)


def test_mean_and_sample_deviation_over_seeds():
    # 5, 6 and 2 of 8: 62.5, 75 and 25 percent; mean 162.5 / 3; squares of the deviations 69.44 + 434.03 + 850.69 over 2
    (one,), notes = group(make_record(seed=3, num_correct=2), make_record(seed=1), make_record(seed=2, num_correct=6))
    assert (one.seeds, one.values) == ((1, 2, 3), (62.5, 75.0, 25.0))
    assert one.mean == pytest.approx(54.1666667)
    assert one.sd == pytest.approx(26.0208165)
    assert notes == []


def test_one_seed_has_no_deviation():
    (one,), _ = group(make_record())
    assert (one.mean, one.sd) == (62.5, None)
    assert "| 62.50 (1) |" in results.render(name_records(make_record()), SMALL, "markdown", "best")


def test_the_last_checkpoint_has_its_own_numbers():
    (one,), _ = group(make_record(), checkpoint="last")
    assert (one.mean, one.checkpoint) == (50.0, "last")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 200, "last": make_scores(100, [1] * 8)},
        {"protocol": "cpu"},
        {"row": "luna128"},
        {"task": "text"},
        {"task_version": "2.0.0"},
    ],
)
def test_what_differs_is_never_averaged(change: dict):
    experiments, _ = group(make_record(seed=1), make_record(seed=2, **change))
    assert [len(one.values) for one in experiments] == [1, 1]


def test_two_settings_in_one_cell_are_two_lines_with_hashes():
    first, second = make_record(seed=1), make_record(seed=1, steps=200, num_correct=6)
    text = results.render(name_records(first, second), SMALL, "markdown", "best")
    hashes = sorted(one.experiment_hash[:8] for one in (first, second))
    cells = re.findall(r"(\d\d\.\d\d \(1\)) #(\w+)", text)
    assert {name: cell for cell, name in set(cells)} == {
        first.experiment_hash[:8]: "62.50 (1)",
        second.experiment_hash[:8]: "75.00 (1)",
    }
    assert f"2 experiments with different settings or data, never averaged: #{hashes[0]}, #{hashes[1]}" in text


def test_the_same_seed_twice_counts_once_with_a_note():
    first = make_record()
    again = make_record(num_correct=6, started_at="2026-02-01T00:00:00+00:00")
    (one,), notes = group(again, first)
    assert one.values == (62.5,)
    what = f"luna16 on listops (authors, #{first.experiment_hash[:8]}), seed 1"
    assert notes == [f"{what}: counted 1.json, not 0.json (another run with 75.00 against 62.50)"]
    assert group(first, first)[1] == [f"{what}: counted 0.json, not 1.json (a copy)"]


def test_what_a_reader_must_know_is_noted():
    dirty = make_record(seed=1, commit="other", commit_dirty=True, selection="test")
    _, notes = group(dirty, make_record(seed=2))
    what = f"luna16 on listops (authors, #{dirty.experiment_hash[:8]}): "
    assert notes == [
        what + "its seeds ran on 2 different commits",
        what + "seed 1 ran with changes that were not committed",
        what + "the best checkpoint was chosen on the test split",
    ]


NOTHING_RUN = """\
Test accuracy in percent: mean ± sample standard deviation (number of seeds); one seed has no deviation.

| Model       | Source        | ListOps |    Text | Average |
| ----------- | ------------- | ------: | ------: | ------: |
| Transformer | Luna, Table 1 |   37.11 |       – |   51.16 |
| Transformer | ours          | not run | not run |       – |
| Local       | Luna, Table 1 |       – |   52.98 |       – |
| Luna-16     | Luna, Table 1 |   60.00 |       – |       – |
| Luna-16     | ours          | not run | not run |       – |

- Luna, Table 1 (luna): Luna (Ma et al.), arXiv 2106.01540. Protocol: its recipes. Caveat: quoted.
"""

SOME_RUN = """\
Test accuracy in percent: mean ± sample standard deviation (number of seeds); one seed has no deviation.

| Model       | Source              |          ListOps |      Text | Average | ListOps (small) |
| ----------- | ------------------- | ---------------: | --------: | ------: | --------------: |
| Transformer | Luna, Table 1       |            37.11 |         – |   51.16 |               – |
| Transformer | ours                |          not run |   not run |       – |         not run |
| Local       | Luna, Table 1       |                – |     52.98 |       – |               – |
| Luna-16     | Luna, Table 1       |            60.00 |         – |       – |               – |
| Luna-16     | ours, authors       | 68.75 ± 8.84 (2) | 37.50 (1) |   53.12 |         not run |
| Luna-16     | ours, cpu           |          not run |   not run |       – |       50.00 (1) |
| Chance      | most frequent label |            25.00 |     25.00 |       – |           25.00 |

Ours, best checkpoint, against the published numbers (difference in points).

| Model   | Task            | Protocol | Experiment | Seeds |         Accuracy |    Published | Difference |
| ------- | --------------- | -------- | ---------- | ----- | ---------------: | -----------: | ---------: |
| Luna-16 | ListOps         | authors  | #01234567  | 1, 2  | 68.75 ± 8.84 (2) | 60.00 (luna) |      +8.75 |
| Luna-16 | Text            | authors  | #01234567  | 1     |        37.50 (1) |            – |          – |
| Luna-16 | ListOps (small) | cpu      | #01234567  | 1     |        50.00 (1) |            – |          – |

Size and speed: training steps per second without compilation, mean over seeds.

| Model   | Task            | Protocol | Experiment | Parameters | Steps/s | Device          |
| ------- | --------------- | -------- | ---------- | ---------: | ------: | --------------- |
| Luna-16 | ListOps         | authors  | #01234567  |  6,060,000 |    12.5 | 1 x NVIDIA H200 |
| Luna-16 | Text            | authors  | #01234567  |  6,060,000 |       – | 1 x NVIDIA H200 |
| Luna-16 | ListOps (small) | cpu      | #01234567  |  6,060,000 |    12.5 | cpu, 2 cores    |

- Luna, Table 1 (luna): Luna (Ma et al.), arXiv 2106.01540. Protocol: its recipes. Caveat: quoted.
""".replace("#01234567", "#" + make_record().experiment_hash[:8])


def make_some() -> list[tuple[str, record.Record]]:
    cpu = record.Device(platform="cpu", kind="cpu", count=1)
    return name_records(
        make_record(seed=1),
        make_record(seed=2, num_correct=6),
        make_record(task="text", task_title="Text", num_correct=3, steps_per_second=None),
        make_record(task="listops_small", task_title="ListOps (small)", num_correct=4, protocol="cpu", device=cpu),
    )


def test_markdown_without_records():
    assert results.render([], SMALL, "markdown", "best") == NOTHING_RUN


def test_markdown_with_records():
    assert results.render(make_some(), SMALL, "markdown", "best") == SOME_RUN


def test_markdown_cells_cannot_break_the_table():
    text = results.render(name_records(make_record(row="a|b")), SMALL, "markdown", "best")
    assert r"| a\|b " in text


def test_latex():
    text = results.render(make_some(), SMALL, "latex", "best")
    for environment in ("table", "tabular", "itemize"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") > 0
    columns = [len(spec) for spec in re.findall(r"\\begin{tabular}{([lr]+)}", text)]
    assert columns == [6, 8, 7]
    bodies = re.findall(r"\\toprule\n(.*?)\n\\bottomrule", text, re.DOTALL)
    for count, body in zip(columns, bodies, strict=True):
        rows = [line for line in body.splitlines() if line != r"\midrule"]
        assert all(line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == count - 1 for line in rows)
    assert r"Luna-16 & ours, authors & 68.75 $\pm$ 8.84 (2) & 37.50 (1) & 53.12 & not run \\" in text
    assert re.search(r"(?<!\\)[#_]", text) is None
    assert text.isascii()


def test_latex_escapes_what_is_special():
    assert table_text.escape_latex(r"a_b & 5% #1 {x} $y ~ ^ \z") == (
        r"a\_b \& 5\% \#1 \{x\} \$y \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    assert table_text.escape_latex("1 ± 2 – <3>") == r"1 $\pm$ 2 -- \textless{}3\textgreater{}"


def test_csv_reads_back_with_every_seed():
    text = results.render(make_some(), SMALL, "csv", "best")
    entries = list(csv.DictReader(io.StringIO(text)))
    first = entries[0]
    assert (first["kind"], first["row"], first["task"], first["n"]) == ("ours", "luna16", "listops", "2")
    assert (first["seeds"], first["values"]) == ("1;2", "62.5;75.0")
    assert float(first["sd"]) == pytest.approx(8.8388347648)
    assert (first["published"], first["published_source"], first["difference"]) == ("60.0", "luna", "8.75")
    kinds = [entry["kind"] for entry in entries]
    assert [kinds.count(kind) for kind in ("ours", "not run", "published")] == [3, 2, 4]
    assert [(entry["row"], entry["task"]) for entry in entries if entry["kind"] == "not run"] == [
        ("transformer", "listops"),
        ("transformer", "text"),
    ]
    printed = entries[-4]
    assert (printed["published"], printed["arxiv"], printed["paper_table"]) == ("37.11", "2106.01540", "Table 1")


def test_json_has_full_precision_and_every_seed():
    content = json.loads(results.render(make_some(), SMALL, "json", "best"))
    first = content["entries"][0]
    assert (first["seeds"], first["values"], first["n"], first["mean"]) == ([1, 2], [62.5, 75.0], 2, 68.75)
    assert first["sd"] == pytest.approx(8.838834764831844, abs=1e-12)
    assert content["entries"][1]["sd"] is None
    assert content["confirmations"] == {"mega": "Mega, Table 2"}
    assert content["sources"]["luna"]["caveat"] == "quoted"
    assert content["notes"] == []


def write(path: Path, *records: record.Record) -> None:
    for one in records:
        record.write_record(one, path / f"seed{one.seed}" / "record.json")


def test_folders_are_searched_and_other_json_is_passed_over(tmp_path: Path):
    write(tmp_path / "runs" / "deep", make_record(seed=1), make_record(seed=2))
    record.write_record(make_record(seed=3), tmp_path / "records" / "a_name.json")
    (tmp_path / "runs" / "config.json").write_text('{"seed": 1, "task": "listops"}')
    (tmp_path / "runs" / "list.json").write_text("[1]")
    folders = ["runs", "records", "runs/deep", "records/a_name.json"]
    files = results.find_records([tmp_path / folder for folder in folders])
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "runs/deep/seed1/record.json",
        "runs/deep/seed2/record.json",
        "records/a_name.json",
    ]


def run_results(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lra_tasks.results", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_command_without_records_prints_the_published_rows(tmp_path: Path):
    done = run_results(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\| Luna-256 +\| Luna, Table 1 +\| +37\.98 \|", done.stdout)
    assert re.search(r"\| Luna-16 +\| ours +\| +not run \|", done.stdout)


def test_a_broken_record_is_named_and_left_out(tmp_path: Path):
    write(tmp_path, make_record(seed=1), make_record(seed=2, num_correct=6))
    broken = tmp_path / "seed2" / "record.json"
    broken.write_text(broken.read_text().replace('"test_accuracy": 0.75', '"test_accuracy": 0.875'))
    (tmp_path / "short.json").write_text('{"schema_version": 1, "ta')
    done = run_results(tmp_path, "--format=csv")
    assert done.returncode == 1
    assert next(csv.DictReader(io.StringIO(done.stdout)))["values"] == "62.5"
    wrong, short = done.stderr.splitlines()
    assert wrong == f"left out: {broken}: best.test_accuracy = 0.875: test_correctness has 6 of 8 right"
    assert short.startswith(f"left out: {tmp_path}/short.json: not JSON")


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path):
    done = run_results(tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/nowhere: no such file or folder; give folders of runs")
    assert done.stderr.count("\n") == 1


def test_checkpoint_and_format_are_chosen_by_flags(tmp_path: Path):
    write(tmp_path, make_record())
    entries = json.loads(run_results(tmp_path, "--format=json", "--checkpoint=last").stdout)["entries"]
    assert (entries[0]["checkpoint"], entries[0]["mean"]) == ("last", 50.0)
    done = run_results(tmp_path, "--format=html")
    assert done.returncode == 2
    assert "html" in done.stderr


def test_published_file_that_cannot_be_used_is_an_error(tmp_path: Path):
    path = tmp_path / "published.json"
    path.write_text('{"unit": "percent"}')
    with pytest.raises(UserError, match=r"published\.json: cannot be used .*missing tasks, rows"):
        published.read_published(path)


def test_every_published_number_has_paper_table_row_and_confirmation():
    assert len(PUBLISHED.values) == 13 * 6
    rows = {known.row for known in PUBLISHED.rows}
    tasks = {task.task for task in PUBLISHED.tasks} | {tables.AVERAGE}
    for value in PUBLISHED.values:
        source = PUBLISHED.sources[value.source]
        assert source.paper
        assert re.fullmatch(r"\d{4}\.\d{5}", source.arxiv)
        assert source.table.startswith("Table ")
        assert value.printed_row
        assert value.row in rows
        assert value.task in tasks
        assert value.confirmed_by
        assert set(value.confirmed_by) <= PUBLISHED.confirmations.keys()
        assert 10 < value.percent < 90
    assert len({(value.source, value.row, value.task) for value in PUBLISHED.values}) == len(PUBLISHED.values)


def test_printed_averages_are_the_averages_of_the_printed_tasks():
    misprinted = set()
    for source, row in {(value.source, value.row) for value in PUBLISHED.values}:
        cells = {value.task: value.percent for value in PUBLISHED.values if (value.source, value.row) == (source, row)}
        average = cells.pop(tables.AVERAGE)
        assert len(cells) == 5
        # both sides are rounded to two decimals: half a hundredth from the five cells, half from the average
        if abs(sum(cells.values()) / 5 - average) > 0.01 + 1e-9:
            misprinted.add((source, row))
    assert misprinted == MISPRINTED_AVERAGES
    noted = {(value.source, value.row) for value in PUBLISHED.values if value.caveat}
    assert noted == MISPRINTED_AVERAGES


def test_records_in_the_repository_can_be_trusted():
    files = results.find_records([ROOT / "results" / "records"])
    _, faults = results.read_records(files)
    assert faults == []


def test_help_is_quick_and_does_not_import_jax():
    code = "import sys, lra_tasks.results; sys.exit(bool({'jax', 'orbax', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_experiments_are_immutable():
    (one,), _ = group(make_record())
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.row = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_task_can_be_chosen_and_takes_its_models_and_sources_with_it():
    records = name_records(make_record(seed=1), make_record(seed=2, task="small", task_title="Small"))
    chosen, published = results.select_tasks(records, SMALL, ["small"])
    assert [record.task for _, record in chosen] == ["small"]
    assert (published.tasks, published.values, published.sources) == ((), (), {})
    text = results.render(chosen, published, "markdown", "best")
    assert "| Model   | Source              |     Small |" in text
    assert "Local" not in text
    assert "Average" not in text
    assert NOT_RUN_CELL not in text


def test_a_published_task_keeps_its_published_rows_and_what_is_not_run():
    _, published = results.select_tasks([], SMALL, ["text"])
    assert [row.row for row in published.rows] == ["transformer", "local", "luna16"]
    text = results.render([], published, "markdown", "best")
    assert "ListOps" not in text
    assert text.count(NOT_RUN_CELL) == 2


def test_a_task_that_nobody_has_is_an_error():
    with pytest.raises(UserError, match=r"--task 'listop' .*did you mean 'listops'"):
        results.select_tasks([], SMALL, ["listop"])
