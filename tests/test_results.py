"""The results command: what it reads, chooses, prints and refuses."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from records import make_record, make_scores
from small_tables import SMALL, name_records

from lra_tasks import published, record, results
from lra_tasks.card import write_card
from lra_tasks.collection import Collection, collect, find_records
from lra_tasks.errors import UserError
from lra_tasks.listops import LISTOPS_SMALL
from lra_tasks.selection import Selection, select

ROOT = Path(__file__).parent.parent
PUBLISHED = published.read_published(ROOT / "results" / "published.json")
NOT_RUN_CELL = "not run"


def full_record(seed: int = 1, num_correct: int = 5, **changes) -> record.Record:
    """A record of the small ListOps with all of its examples, `num_correct` eighths of the test split right."""
    sizes = LISTOPS_SMALL.splits
    flags = np.arange(sizes["test"]) % 8 < num_correct
    scores = make_scores(50, flags.astype(int).tolist())
    splits = {
        name: record.SplitCount(declared=sizes[name], evaluated=sizes[name], majority_share=0.125)
        for name in ("validation", "test")
    }
    values = {"task": "listops_small", "task_title": "ListOps (small)", "protocol": "cpu", "splits": splits}
    last = make_scores(100, (np.arange(sizes["test"]) % 2).tolist())
    return make_record(seed=seed, **(values | {"best": scores, "last": last} | changes))


def write(path: Path, *records: record.Record) -> None:
    for one in records:
        record.write_record(one, path / f"seed{one.seed}" / "record.json")


def test_folders_are_searched_and_other_json_is_passed_over(tmp_path: Path):
    write(tmp_path / "runs" / "deep", make_record(seed=1), make_record(seed=2))
    record.write_record(make_record(seed=3), tmp_path / "records" / "a_name.json")
    (tmp_path / "runs" / "config.json").write_text('{"seed": 1, "task": "listops"}')
    (tmp_path / "runs" / "list.json").write_text("[1]")
    folders = ["runs", "records", "runs/deep", "records/a_name.json"]
    files = find_records([tmp_path / folder for folder in folders])
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "runs/deep/seed1/record.json",
        "runs/deep/seed2/record.json",
        "records/a_name.json",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", "no record in this folder; training writes record.json"), ("nowhere", "no such file or folder")],
)
def test_a_path_without_records_is_an_error(tmp_path: Path, name: str, message: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{name}: {message}"):
        collect([tmp_path / name])


def test_what_cannot_be_trusted_is_named_and_left_out(tmp_path: Path):
    write(tmp_path, full_record())
    texts = {
        "wrong": record.to_json(full_record(num_correct=6)).replace('"test_accuracy": 0.75', '"test_accuracy": 0.875'),
        "short": '{"schema_version": 1, "ta',
        "old": record.to_json(full_record()).replace('"schema_version": 1', '"schema_version": 0'),
        "nan": record.to_json(full_record()).replace('"test_accuracy": 0.625', '"test_accuracy": NaN'),
        "fewer": record.to_json(make_record(task="listops_small")),
        "gone": record.to_json(full_record(task="listops_tiny")),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
    found = collect([tmp_path])
    assert [name for name, _ in found.records] == [str(tmp_path / "seed1" / "record.json")]
    faults = {Path(fault.split(":")[0]).stem: fault for fault in found.faults}
    assert faults.keys() == texts.keys()
    assert "test_correctness has 1500 of 2000 right" in faults["wrong"]
    assert "not JSON" in faults["short"]
    assert "schema_version = 0" in faults["old"]
    assert "test_accuracy = nan" in faults["nan"]
    assert "4 of the 1,000 validation examples of listops_small were scored" in faults["fewer"]
    assert "task 'listops_tiny' does not exist here" in faults["gone"]


def run_results(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lra_tasks.results", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_command_prints_what_can_be_trusted_and_says_what_not(tmp_path: Path):
    write(tmp_path, full_record(), full_record(seed=2, row="gone"))
    (tmp_path / "short.json").write_text('{"schema_version": 1, "ta')
    done = run_results(tmp_path, "--format=csv", "--checkpoint=last")
    assert done.returncode == 1
    entries = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(one["row"], one["values"], one["checkpoint"]) for one in entries[:2]] == [
        ("luna16", "50.0", "last"),
        ("gone", "50.0", "last"),
    ]
    fault, warning = done.stderr.splitlines()
    assert fault.startswith(f"left out: {tmp_path}/short.json: not JSON")
    assert warning == "row 'gone' is not in configs/rows.py: its records count, but this code cannot run it again"


def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path):
    done = run_results(tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/nowhere: no such file or folder; give folders of runs")
    assert done.stderr.count("\n") == 1


def test_published_file_that_cannot_be_used_is_an_error(tmp_path: Path):
    path = tmp_path / "published.json"
    path.write_text('{"unit": "percent"}')
    with pytest.raises(UserError, match=r"published\.json: cannot be used .*missing tasks, rows"):
        published.read_published(path)


BLOCK = "<!-- results: {words} -->\n{body}<!-- end of results -->\n"


def check(tmp_path: Path, text: str, *, update: bool = False) -> tuple[list[str], str]:
    """(stale lines, the text afterwards) with two records of the small ListOps."""
    found = Collection([("a.json", full_record()), ("b.json", full_record(row="transformer", num_correct=6))])
    path = tmp_path / "README.md"
    path.write_text(text)
    stale = results.check_text(path, found, PUBLISHED, update=update)
    return stale, path.read_text()


def test_a_stale_block_is_found_and_updated(tmp_path: Path):
    words = "table=accuracy task=listops_small row=luna16,transformer"
    text = "# Title\n\n" + BLOCK.format(words=words, body="") + "\nafter\n"
    stale, after = check(tmp_path, text)
    assert (len(stale), after) == (1, text)
    assert stale[0].startswith(f"{tmp_path}/README.md, line 3: the table (table=accuracy")
    stale, after = check(tmp_path, text, update=True)
    assert len(stale) == 1
    assert "| Luna-16     | ours, cpu           |  6,060,000 |       62.50 (1) |\n" in after
    assert after.startswith("# Title\n\n<!-- results: ")
    assert after.endswith("|\n<!-- end of results -->\n\nafter\n")
    assert check(tmp_path, after)[0] == []
    assert len(check(tmp_path, after.replace("62.50", "63.50"))[0]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no table\n", "no block to check"),
        ("<!-- results: table=accuracy -->\n", "line 1: the block is not closed"),
        ("<!-- results: table=accuracy -->\n" + BLOCK.format(words="x", body=""), "line 1: another block begins"),
        (BLOCK.format(words="table=acuracy", body=""), "table 'acuracy' does not exist; did you mean 'accuracy'"),
        (BLOCK.format(words="accuracy", body=""), "'accuracy' is not NAME=VALUE"),
        (BLOCK.format(words="checkpoint=first", body=""), "checkpoint 'first' does not exist; one of best, last"),
        (BLOCK.format(words="table=pooling", body=""), "'table=pooling' selects nothing"),
        (BLOCK.format(words="task=listop", body=""), "'listop' has no record"),
    ],
)
def test_a_block_that_says_nothing_sensible_is_an_error(tmp_path: Path, text: str, message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        check(tmp_path, text)


def test_a_text_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        results.check_text(tmp_path / "none.md", Collection(), PUBLISHED, update=False)


def test_records_in_the_repository_can_be_trusted():
    found = collect([ROOT / "results" / "records"])
    assert found.records
    assert found.faults == []


def test_help_is_quick_and_does_not_import_jax():
    code = "import sys, lra_tasks.results; sys.exit(bool({'jax', 'orbax', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def choose(records: list[tuple[str, record.Record]], **choices) -> str:
    selection = Selection(**choices)
    return results.render(select(records, {}, SMALL, selection), "markdown", selection.tables)


def test_a_task_can_be_chosen_and_takes_its_models_and_sources_with_it():
    records = name_records(make_record(seed=1), make_record(seed=2, task="small", task_title="Small"))
    text = choose(records, tasks=("small",))
    assert "| Model   | Source              | Parameters |     Small |" in text
    for absent in ("Local", "Average", "ListOps", "arXiv", NOT_RUN_CELL):
        assert absent not in text


def test_a_published_task_keeps_its_published_rows_and_what_is_not_run():
    text = choose([], tasks=("text",))
    assert "ListOps" not in text
    assert text.count(NOT_RUN_CELL) == 2
    assert "Transformer" in text
    assert "Local" in text


def test_rows_protocols_and_tables_can_be_chosen():
    records = name_records(make_record(), make_record(protocol="cpu"), make_record(row="transformer"))
    text = choose(records, rows=("luna16",), protocols=("cpu",), tables=("cost",))
    assert [line.split("|")[3].strip() for line in text.splitlines() if line.startswith("| Luna")] == ["cpu"]
    assert "Transformer" not in text
    assert "Test accuracy" not in text


def test_the_time_of_all_runs_is_added_up_by_device():
    records = [make_record(seed=seed, wall_seconds=600.0) for seed in (0, 1)]
    records.append(make_record(row="transformer", wall_seconds=1500.0))
    cpu = record.Device(platform="cpu", kind="cpu", count=1)
    records.append(make_record(protocol="cpu", wall_seconds=300.0, device=cpu))
    text = choose(name_records(*records), tables=("cost",))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "All runs" in line]
    assert [(line[0], *line[-3:]) for line in lines] == [
        ("All runs together", "45", "3", "1 x NVIDIA H200"),
        ("All runs together", "5", "1", "cpu, 2 cores"),
    ]


def test_a_cell_printed_as_failed_is_shown_as_such():
    text = results.render(select([], {}, PUBLISHED, Selection(tasks=("pathfinder128",))), "markdown", ["accuracy"])
    assert re.search(r"\| Transformer +\| LRA, Table 1 +\| +– \| +FAIL \|", text)
    assert "S4" not in text.split("\n\n")[1]
    later = select([], {}, PUBLISHED, Selection(tasks=("pathfinder128",), published="all"))
    assert re.search(r"\| S4 +\| S4, Table 4 +\| +– \| +96\.35 \|", results.render(later, "markdown"))


def test_published_numbers_can_be_left_out():
    text = choose(name_records(make_record()), published="none")
    assert "Luna, Table 1" not in text
    assert NOT_RUN_CELL not in text
    assert "| Luna-16 | ours, authors" in text


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"tasks": ("listop",)}, "--task 'listop' .*did you mean 'listops'"),
        ({"rows": ("luna61",)}, "--row 'luna61' .*did you mean 'luna16'"),
        ({"protocols": ("gpu",)}, "--protocol 'gpu' .*"),
        ({"against": "softmax"}, "--against 'softmax' .*"),
    ],
)
def test_a_name_that_nobody_has_is_an_error(choice: dict, message: str):
    with pytest.raises(UserError, match=message):
        choose(name_records(make_record()), **choice)


def test_a_card_tells_what_was_run_and_what_came_out(tmp_path: Path):
    write(tmp_path, full_record(protocol="authors", commit_dirty=True, selection="test"))
    lines = [{"step": 50, "split": "train", "loss": 1.5, "accuracy": 0.4}]
    validation = {"split": "validation", "loss": 1.0}
    lines += [{"step": step, "accuracy": step / 1000, **validation} for step in range(10, 260, 10)]
    (tmp_path / "seed1" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_card(tmp_path / "seed1", PUBLISHED)
    assert text.startswith("# Luna-16 on ListOps (small), seed 1\n")
    assert "| best | 50 | 50.00 | 62.50 |" in text
    assert "| last | 100 | 50.00 | 50.00 |" in text
    assert "**It was chosen on the test split, so its accuracy is too high.**" in text
    assert "**with changes that were not committed**" in text
    assert "python -m lra_tasks.train --config=configs/listops_luna16.py" in text
    assert text.count(" | 1.000 |") == 9  # of 25 validations every third, and the last
    assert "| 250 | 25.00 | 1.000 |" in text
    assert "## Training" not in write_card_without_log(tmp_path)


def write_card_without_log(folder: Path) -> str:
    (folder / "seed1" / "metrics.jsonl").unlink()
    return write_card(folder / "seed1" / "record.json", PUBLISHED)


def test_a_card_of_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"--card .*: no record\.json there"):
        write_card(tmp_path, PUBLISHED)
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(UserError, match="missing"):
        write_card(tmp_path, PUBLISHED)


def test_a_torn_log_is_named_and_its_record_counts(tmp_path: Path):
    write(tmp_path, full_record())
    (tmp_path / "seed1" / "metrics.jsonl").write_text('{"step": 1, "split": "train", "lo')
    found = collect([tmp_path])
    assert (len(found.records), found.curves) == (1, {})
    (fault,) = found.faults
    assert "metrics.jsonl, line 1: not a line of metrics" in fault


def test_curves_lie_beside_records_of_a_collection_too(tmp_path: Path):
    record.write_record(full_record(), tmp_path / "a.json")
    line = {"step": 5, "split": "validation", "loss": math.nan, "accuracy": 0.25}
    (tmp_path / "a.metrics.jsonl").write_text(json.dumps(line) + "\n")
    (curve,) = collect([tmp_path]).curves.values()
    assert (curve.validation_steps, curve.validation_accuracy, curve.train_steps) == ((5,), (25.0,), ())
    assert math.isnan(curve.validation_loss[0])
