"""The benchmark of split sequences at a small size: its tables, its file, and devices that are not there."""

import json

import pytest

from lra_tasks import sequence_benchmark
from lra_tasks.errors import UserError
from lra_tasks.measurements import Measurement
from lra_tasks.sequence_benchmark import FORMS, count_ring_bytes, prepare_devices

SMALL = {"EMB_DIM": 8, "MLP_DIM": 8, "NUM_HEADS": 2, "PACK_LENGTH": 4, "VOCAB_SIZE": 5, "NUM_PARTS": 2}
LENGTHS = (64, 256)


def test_tables_and_file(monkeypatch, capsys, tmp_path):
    for name, value in SMALL.items():
        monkeypatch.setattr(sequence_benchmark, name, value)
    sequence_benchmark.show_sequence(LENGTHS, Measurement("sequence", tmp_path / "new", ["sequence"]))
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "sequence-cpu.json").read_text())
    assert found["setting"] == {"parts": 2, "layers": 3, "width": 8, "feed-forward": 8, "heads": 2, "L": 4}
    rows = {(row["form"], row["length"]): row for row in found["traffic"]}
    assert list(rows) == [(form, length) for form in FORMS for length in LENGTHS]
    for form in FORMS:
        short, long = (rows[form, length] for length in LENGTHS)
        for name in ("attention_bytes", "weight_bytes", "other_bytes"):
            assert short[name] == long[name] > 0
        assert long["ring_bytes"] == 4 * short["ring_bytes"] == 8 * 128 * 8 * 4  # (6 P - 4) blocks of 128 x 8 numbers
        assert f"{long['attention_bytes']:,}" in out
    # maximum, two sums; gradients of the pack query, of keys and of values, L = 4 rows of 8 numbers, 2 heads
    assert rows["bidirectional", 64]["attention_bytes"] == 4 * (4 * 4 * 8 + 2 * 2 * 4)
    # two states of 4 x 8 numbers gathered from 2 parts and their gradients scattered; the gradient of the pack query
    assert rows["causal", 64]["attention_bytes"] == 4 * (2 * 2 * 32 + 2 * 32 + 32)
    assert [(run["form"], run["length"]) for run in found["long_runs"]] == [(form, 256) for form in FORMS]
    assert all(run["loss"] > 0 and run["gradient_norm"] > 0 for run in found["long_runs"])


def test_ring_attention_sends_six_arrays_of_the_whole_sequence_nearly():
    """One device sends nothing but its own gradients to itself; many send 6 N D numbers."""
    width = sequence_benchmark.EMB_DIM * 4
    assert count_ring_bytes(1024, 1024) == pytest.approx(6 * 1024 * width, rel=1e-3)
    assert count_ring_bytes(2**20, 8) == 44 * 2**17 * width


def test_devices_that_are_not_there_are_named():
    prepare_devices(8)
    with pytest.raises(UserError, match=r"16 parts need 16 devices, there are 8 \(cpu\); .*JAX_PLATFORMS=cpu"):
        prepare_devices(16)
