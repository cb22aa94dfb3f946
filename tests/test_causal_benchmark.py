"""The benchmark of causal Luna at a small size: its tables have every form, length and position."""

import re

from lra_tasks import causal_benchmark

SMALL = {
    "EMB_DIM": 16, "NUM_HEADS": 2, "PACK_LENGTH": 8, "LENGTH": 64, "LENGTHS": (64, 256), "CHUNK_SIZES": (8,),
    "POSITIONS": (9,), "STEPS": 3,
}  # fmt: skip


def test_tables(monkeypatch, capsys):
    for name, value in SMALL.items():
        monkeypatch.setattr(causal_benchmark, name, value)
    causal_benchmark.show_causal(2)
    text = capsys.readouterr().out
    assert "2 heads of 8, L = 8" in text
    reference, chunks = (re.search(rf"{form} +(\S+) +(\S+) +(\S+) +(\S+)", text) for form in ("state", "chunks of 8"))
    assert reference[4] == "1.00"
    for found in (reference, chunks):
        middle, least, most = map(float, found.groups()[:3])
        assert 0 <= least <= middle <= most
    sizes = {int(n): int(b) for n, b in re.findall(r"^ +(\d+) +\d+ MiB +(\d+) bytes a position$", text, re.MULTILINE)}
    assert sizes.keys() == {64, 256}
    assert sizes[256] < 1.2 * sizes[64]  # linear in the length
    rows = re.findall(r"^ +(\d+) +(\d+) +(\d+) to (\d+) +(\d+) +(\d+) to (\d+)$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["9"]
    assert all(int(low) <= int(middle) <= int(high) for _, middle, low, high, *_ in rows)


def test_decoding_goes_on_behind_the_past(monkeypatch):
    """The state that is timed has read every position before it."""
    for name, value in SMALL.items():
        monkeypatch.setattr(causal_benchmark, name, value)
    for is_luna in (True, False):
        _, state = causal_benchmark.make_decoding(is_luna, 9)()
        assert state.count.tolist() == [9 + SMALL["STEPS"]]
