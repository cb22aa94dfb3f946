"""The README is code too: its layer example runs, its commands name what exists, its numbers are the code's."""

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from configs import rows
from lra_tasks import results
from lra_tasks.collection import collect
from lra_tasks.efficiency import INFERENCE, TRAIN, read_benchmark
from lra_tasks.efficiency_numbers import CHUNKED, UNFUSED
from lra_tasks.model import build_model
from lra_tasks.published import read_published
from lra_tasks.registry import get_task
from lra_tasks.settings import resolve
from luna_jax.conformance import CHECKS

ROOT = Path(__file__).parents[1]
STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % points for n - 1 degrees of freedom
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    return re.split(r"^## ", README.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_layer_example_runs_learns_and_honours_its_mask():
    code = blocks(section("The layer in your own model"), "python")[0]
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) <= 10
    names: dict = {}
    exec(code, names)
    block = names["Block"](64, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 50, 64))
    x_mask = jnp.arange(50)[None] < jnp.array([[50], [30]])
    y = block(x, x_mask)
    assert y.shape == x.shape
    changed = block(x.at[1, 30:].set(9.0), x_mask)
    assert jnp.array_equal(y[1, :30], changed[1, :30])
    assert not jnp.array_equal(y, block(x, x_mask, deterministic=False, rngs=nnx.Rngs(dropout=1)))
    graphdef, params = nnx.split(block)
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(x, x_mask))))(params)
    assert jnp.any(gradients["p"][...] != 0)


def test_the_causal_example_runs_and_its_pieces_are_the_whole():
    names: dict = {}
    exec(blocks(section("Causal Luna"), "python")[0], names)
    assert names["y"].shape == names["x"].shape
    pieces = jnp.concatenate([names["first"], names["rest"]], axis=1)
    assert jnp.abs(pieces - names["y"]).max() < 1e-5
    assert names["state"].count.tolist() == [1000, 1000]


SPEED_ROWS = {
    "Luna-16": "luna16", "Luna-128": "luna128", "Luna-256": "luna256", "linear kernel": "linear",
    "softmax, unfused": UNFUSED, "softmax, fused (in chunks)": CHUNKED,
}  # fmt: skip


def test_the_speeds_are_those_of_the_benchmark():
    """Seconds of every cell that was run, and how many times faster Luna is, from the committed JSON."""
    benchmark = read_benchmark(ROOT / "results" / "benchmarks" / "efficiency-cpu.json")
    medians = {(cell.row, cell.mode, cell.length): cell.median for cell in benchmark.cells if cell.median}
    assert {cell.dropout for cell in benchmark.cells} == {0.0}
    assert not benchmark.commit_dirty
    lines = [line.split("|")[1:-1] for line in section("Speed").splitlines() if line.startswith("|")]
    (_, *lengths), table = [[cell.strip() for cell in lines[0]], {line[0].strip(): line[1:] for line in lines[2:]}]
    lengths = [int(length.replace(",", "")) for length in lengths[:-1]]
    for title, row in SPEED_ROWS.items():
        for length, cell in zip(lengths, table[title], strict=False):
            seconds = medians.get((row, TRAIN, length))
            assert seconds is None or cell.strip() == f"{seconds:#.3g}", (title, length)
    ratios = {
        "Luna-16 is faster than unfused, fused": ("luna16", TRAIN),
        "Luna-256, training": ("luna256", TRAIN),
        "Luna-16, inference": ("luna16", INFERENCE),
        "Luna-256, inference": ("luna256", INFERENCE),
    }
    for title, (row, mode) in ratios.items():
        for length, cell in zip(lengths, table[title], strict=False):
            others = [medians.get((baseline, mode, length)) for baseline in (UNFUSED, CHUNKED)]
            times = [None if other is None else other / medians[row, mode, length] for other in others]
            shown = ["–" if ratio is None else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}" for ratio in times]
            assert cell.strip() == ("" if shown == ["–", "–"] else ", ".join(shown)), (title, length)


def test_the_program_around_the_steps_is_that_of_the_benchmark():
    benchmark = json.loads((ROOT / "results" / "benchmarks" / "program-cpu.json").read_text())
    assert not benchmark["commit_dirty"]
    lines = section("How near to the hardware").partition("The program around")[2].splitlines()
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines if line.startswith("|")}
    starts = table["warm start: seconds from the command to the end of the first step"]
    assert [float(cell.split(",")[0]) for cell in starts] == [round(one["seconds"], 1) for one in benchmark["starts"]]
    outside = table["time outside the compiled steps, with a checkpoint at the end"]
    shares = [f"{one['share_outside']:.1%}".replace("%", " %") for one in benchmark["trainings"]]
    assert [cell.strip() for cell in outside] == shares
    shares = [one["share_of_limit"] for one in benchmark["evaluations"]]
    shown = table["throughput of evaluation, of that of the forward passes alone"]
    assert [float(cell.strip(" %")) for cell in shown] == [pytest.approx(100 * share, abs=0.5) for share in shares]


def test_units_and_split_batches_are_those_of_the_benchmark():
    benchmark = json.loads((ROOT / "results" / "benchmarks" / "speed-cpu.json").read_text())
    assert not benchmark["commit_dirty"]
    lines = [line.split("|")[1:-1] for line in section("How near to the hardware").splitlines() if line.startswith("|")]
    table = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    lengths = [int(length.replace(",", "")) for length in table["length"]]
    steps = {(step["what"], step["length"]): step for step in benchmark["steps"]}
    for title, what in (("forward and backward, units", "forward and backward"), ("train step, units", "train step")):
        assert table[title] == [f"{steps[what, length]['median_units']:.2f}" for length in lengths]
    shares = [f"{100 * steps['train step', length]['gemm_share']:.0f} %" for length in lengths]
    assert table["train step, share of the product's rate"] == shares
    for split, title in zip(benchmark["splits"], ("ListOps, 2,000", "Text, 4,000"), strict=True):
        assert table[title][2:] == [f"{split['ratio']:.2f}", f"{split['token_ratio']:.2f}"]


def test_the_traffic_is_that_of_the_benchmark():
    """Bytes of every length, and time and memory of the long sequence, from the committed JSON."""
    benchmark = json.loads((ROOT / "results" / "benchmarks" / "sequence-cpu.json").read_text())
    assert not benchmark["commit_dirty"]
    text = section("Many devices, many hosts")
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("|")}
    lengths = [int(length.replace(",", "")) for length in table["length"]]
    traffic = {(row["form"], row["length"]): row for row in benchmark["traffic"]}
    titles = {"bidirectional": "Luna-16", "causal": "Luna-16, causal"}
    for (form, title), long in zip(titles.items(), benchmark["long_runs"], strict=True):
        rows = [traffic[form, length] for length in lengths]
        assert [cell.strip() for cell in table[title]] == [f"{row['attention_bytes']:,}" for row in rows]
        ring = [cell.strip() for cell in table["ring attention, by formula"]]
        assert ring == [f"{row['ring_bytes']:,}" for row in rows]
        assert {f"{row['weight_bytes']:,}" in text for row in rows} == {True}
        assert (long["form"], long["length"]) == (form, lengths[-1])
        assert re.search(rf"{long['seconds']:.0f} s and\s{long['peak_bytes'] / 2**30:.1f} GiB", text)


def test_your_own_mechanism_conforms(tmp_path):
    """The README's example, saved and examined by the README's command."""
    text = section("Every mechanism, and yours")
    code = blocks(text, "python")[0]
    command = blocks(text, "sh")[1].split()
    assert command[:3] == ["python", "-m", "lra_tasks.conformance"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    (tmp_path / "my_attention.py").write_text(code)
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].strip() == f"{len(CHECKS)} of {len(CHECKS)} checks passed"


def test_every_row_is_in_the_readme():
    table = section("Every mechanism, and yours").split("```sh", 1)[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(rows.ROWS)


def test_commands_name_entries_and_configs_that_exist():
    commands = "\n".join(blocks(README, "sh"))
    entries = set(re.findall(r"python -m (lra_tasks\.\w+)", commands))
    assert {"lra_tasks.prepare", "lra_tasks.train", "lra_tasks.evaluate", "lra_tasks.results"} <= entries
    for entry in entries:
        assert (ROOT / f"{entry.replace('.', '/')}.py").is_file(), entry
    for config in re.findall(r"--config (configs/\w+\.py)", commands):
        assert (ROOT / config).is_file(), config
    for target in re.findall(r"make ([\w-]+)", commands):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("listops_*.py")))
def test_parameter_counts_in_the_readme_are_the_models(name):
    experiment = resolve(importlib.import_module(f"configs.{name}").get_config().to_dict())
    count = build_model(experiment, get_task(experiment.data.task)).num_parameters
    row = next(line for line in section("The tasks").splitlines() if f"`{name}.py`" in line and line.startswith("|"))
    assert f"{count:,}" in row


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.fixture(scope="module")
def collection():
    """The records of this project."""
    found = collect([ROOT / "results" / "records"])
    assert found.faults == []
    return found


def test_the_tables_are_what_the_records_give(collection):
    published = read_published(ROOT / "results" / "published.json")
    assert results.check_text(ROOT / "README.md", collection, published, update=False) == []


def read_table(marker: str) -> list[list[str]]:
    """The cells of the table below a marker, without its two lines of headings."""
    lines = README.split(f"<!-- {marker} -->\n", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_small_runs_are_what_the_records_give(collection):
    """Accuracy, interval, majority class and counts of Luna-16 on every task, from all its records of it."""
    of_title: dict[str, list] = {}
    for _, record in collection.records:
        if record.task != "listops_small" and record.row == "luna16":
            of_title.setdefault(record.task_title, []).append(record)
    shown = {cells[0]: cells[2:7] for cells in read_table("small runs: results/records")}
    assert shown.keys() == of_title.keys()
    for title, found in of_title.items():
        values = [100 * record.best.test_accuracy for record in found]
        mean, sd, test = statistics.fmean(values), statistics.stdev(values), found[0].splits["test"]
        half = STUDENT_95[len(values)] * sd / len(values) ** 0.5
        assert shown[title] == [
            f"{mean:.2f} ± {sd:.2f} ({len(values)})",
            f"{mean - half:.1f} to {mean + half:.1f}",
            f"{100 * test.majority_share:.2f}",
            f"{test.evaluated:,}",
            f"{found[0].num_parameters:,}",
        ]
