"""The speed benchmark on a tiny model: what it measures, and the file."""

import json
import statistics

import pytest

from configs import base, rows
from lra_tasks import speed_benchmark
from lra_tasks.measurements import Measurement
from lra_tasks.settings import resolve
from lra_tasks.speed_benchmark import StepSpeed


def make_experiment(row, dropout):
    config = base.get_config()
    config.row, config.data.task = row, "listops"
    config.model.update(emb_dim=16, mlp_dim=16, num_heads=2, num_layers=1, classifier_dim=8)
    config.model.dropout_rate = config.model.attention_dropout_rate = dropout
    config.luna.num_pack_heads = 2
    config.update_from_flattened_dict(rows.ROWS[row])
    return resolve({name: section for name, section in config.to_dict().items() if name != "machine"})


def test_the_share_is_that_of_the_products_rate():
    step = StepSpeed("luna16", 8, "train step", 2 * 2048**3 * 3, (4.0, 5.0, 12.0), (1.0, 1.0, 2.0))
    assert step.units == (4.0, 5.0, 6.0)
    assert step.share == pytest.approx(3 / 5)


def test_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed_benchmark, "show_split", lambda *place, **sizes: [])
    monkeypatch.setattr("lra_tasks.efficiency_machine.GEMM_SIZE", 32)
    options = {"dtype": "float32", "data_dir": "data", "rounds": 3, "measurement": Measurement("speed", tmp_path, [])}
    speed_benchmark.show_speed(make_experiment, "luna16", [8, 24], lambda name: {}, **options)
    value = json.loads((tmp_path / "speed-cpu.json").read_text())
    assert [(step["length"], step["what"]) for step in value["steps"]] == [
        (length, what) for length in (8, 24) for what in speed_benchmark.PASSES
    ]
    assert (value["kind"], value["dtype"]) == ("speed", "float32")
    flops = [step["flops"] for step in value["steps"]]
    assert flops[0] == flops[1], "the optimizer multiplies no matrices"
    assert 2 < flops[2] / flops[0] < 3.2, "linear in the length, with a part that is not"
    for step in value["steps"]:
        assert len(step["seconds"]) == len(step["products"]) == 3
        units = [own / product for own, product in zip(step["seconds"], step["products"], strict=True)]
        assert step["median_units"] == pytest.approx(statistics.median(units))
    assert "of the rate" in capsys.readouterr().out
