"""The file of a measurement, and a folder that cannot hold it."""

import json

import pytest

from lra_tasks.errors import UserError
from lra_tasks.measurements import Measurement


def test_what_was_found_is_between_where_and_with_what(tmp_path, capsys):
    measurement = Measurement("speed", tmp_path / "new", ["speed", f"--output={tmp_path}"])
    measurement.write(rows=[{"seconds": 1.5}])
    value = json.loads((tmp_path / "new" / "speed-cpu.json").read_text())
    assert (value["kind"], value["rows"], value["started_at"]) == ("speed", [{"seconds": 1.5}], measurement.started_at)
    assert str(tmp_path) not in json.dumps(value), "no path of the machine"
    assert value["command"][:3] == ["python", "-m", "lra_tasks.benchmark"]
    assert {"commit", "commit_dirty", "versions", "device", "host_cores", "schema_version"} <= value.keys()
    assert capsys.readouterr().out == f"written: {measurement.file}\n"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output \S+file cannot be written to: .*choose another folder"):
        Measurement("speed", tmp_path / "file", [])
