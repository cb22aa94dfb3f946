"""The folder of results: what is written, all of it or nothing."""

from pathlib import Path

import pytest
from records import make_record
from small_tables import SMALL, name_records

from lra_tasks import outputs, results
from lra_tasks.errors import UserError
from lra_tasks.findings import Findings, find, trade_offs
from lra_tasks.report import Curve

CURVE = Curve((50, 100), (1.5, 1.2), (50, 100), (40.0, 60.0), (1.4, 1.1))


@pytest.fixture(scope="module")
def findings() -> Findings:
    records = name_records(make_record(), make_record(seed=2, num_correct=6), make_record(row="transformer"))
    return find(records, SMALL, curves={"0.json": CURVE, "1.json": CURVE})


def test_everything_is_written_and_named(findings: Findings, tmp_path: Path):
    written = outputs.write_outputs(findings, tmp_path / "deep" / "report", results.render, {"a card": "# text"})
    names = sorted(str(file.relative_to(tmp_path / "deep" / "report")) for file in written)
    figures = sorted(name for name in names if name.startswith("figures/"))
    assert [name for name in names if name not in figures] == [
        "index.html",
        "results.csv",
        "results.json",
        "results.md",
        "results.tex",
    ]
    assert len(figures) == 6
    assert "a card" in (tmp_path / "deep" / "report" / "index.html").read_text(encoding="utf-8")
    assert sorted({Path(name).suffix for name in figures}) == [".png", ".svg"]
    assert sorted(path for path in (tmp_path / "deep" / "report").rglob("*") if path.is_file()) == sorted(written)
    assert (tmp_path / "deep" / "report" / "results.md").read_text() == results.render(findings, "markdown")


def test_a_failure_leaves_what_was_there(findings: Findings, tmp_path: Path):
    (tmp_path / "results.md").write_text("before")

    def fail(_: Findings, form: str) -> str:
        if form == "csv":
            raise OSError("disk full")
        return "new"

    with pytest.raises(UserError, match="disk full"):
        outputs.write_outputs(findings, tmp_path, fail, {})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("results.md", "before")]


def test_an_output_that_cannot_be_written_is_an_error(findings: Findings, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--output .*file/report: cannot be written \(Not a directory\)"):
        outputs.write_outputs(findings, tmp_path / "file" / "report", results.render, {"a card": "# text"})


def test_points_are_what_the_runs_measured(findings: Findings):
    points = {point.row: point for point in trade_offs(findings)}
    assert points.keys() == {"luna16", "transformer"}
    luna = points["luna16"]
    assert (luna.accuracy, luna.speed, luna.memory, luna.title) == (68.75, 12.5, 2_000_000, "Luna-16")
    assert trade_offs(find(name_records(make_record(steps_per_second=None)), SMALL)) == []
