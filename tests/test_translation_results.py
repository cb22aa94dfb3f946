"""Translation in the results command: intervals and tests of BLEU, Tables 4 and 5, every format, cards, blocks."""

import csv
import dataclasses
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_record
from scipy import stats
from test_results import full_record, run_results
from translation_records import (
    count_statistics,
    make_references,
    make_translation_record,
    make_translation_scores,
    spoil,
)

from lra_tasks import bleu_intervals, outputs, published, results
from lra_tasks.bleu import bleu_from_statistics
from lra_tasks.bleu_intervals import bleu_interval, compare_bleu
from lra_tasks.card import write_card
from lra_tasks.collection import Collection, collect
from lra_tasks.errors import UserError
from lra_tasks.findings import Findings
from lra_tasks.intervals import holm, seed_interval
from lra_tasks.record_fields import to_json, write_record
from lra_tasks.selection import Selection, select
from lra_tasks.translation_groups import group_translations
from lra_tasks.translation_record import TranslationRecord

ROOT = Path(__file__).parent.parent
PUBLISHED = published.read_published(ROOT / "results" / "published.json")
MULTI30K = "multi30k_deen"


def make_statistics(*shares: float, size: int = 40, seed: int = 0, name: str = "resampled") -> np.ndarray:
    """A model for each share of wrong words, on the same sentences: int [models, size, 10]."""
    references = make_references(name, size)
    rows = [count_statistics(spoil(references, share, seed + i), references) for i, share in enumerate(shares)]
    return np.stack(rows)


def mean_bleu(statistics: np.ndarray) -> float:
    return float(bleu_from_statistics(statistics.sum(axis=1)).mean())


def test_the_interval_of_one_seed_is_scipys_bootstrap():
    statistics = make_statistics(0.3)

    def statistic(*columns: np.ndarray, axis: int) -> np.ndarray:
        return bleu_from_statistics(np.stack([column.sum(axis=axis) for column in columns], axis=-1))

    columns = tuple(statistics[0].T)
    options = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": 4000}
    expected = stats.bootstrap(columns, statistic, rng=np.random.default_rng(1), **options).confidence_interval
    found = bleu_interval(statistics)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.06 * width)
    assert found.high == pytest.approx(expected.high, abs=0.06 * width)


def test_every_sentence_is_drawn_alike():
    """Three sentences: quantiles in the steps of the distribution over all 27 draws."""
    statistics = make_statistics(0.4, size=3, name="three")
    draws = [statistics[0, list(chosen)].sum(axis=0) for chosen in itertools.product(range(3), repeat=3)]
    exact = np.sort(bleu_from_statistics(np.array(draws)))
    assert len(np.unique(exact.round(9))) == 10
    for low in (1, 4, 9):  # of 27 equally likely draws; in the middle of a step of the distribution
        found = bleu_interval(statistics, level=1 - 2 * (low + 0.5) / 27)
        assert (found.low, found.high) == pytest.approx((exact[low], exact[26 - low]))


def test_the_interval_of_several_seeds_is_a_plain_loop():
    statistics = make_statistics(0.1, 0.3, 0.5, size=15)
    rng = np.random.default_rng(5)
    means = []
    for _ in range(3000):
        sentences, seeds = rng.integers(15, size=15), rng.integers(3, size=3)
        means.append(np.mean([float(bleu_from_statistics(statistics[s][sentences].sum(axis=0))) for s in seeds]))
    low, high = np.quantile(means, [0.025, 0.975])
    found = bleu_interval(statistics)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    narrower = bleu_interval(statistics, level=0.5)
    assert found.low < narrower.low < mean_bleu(statistics) < narrower.high < found.high


def test_the_paired_bootstrap_is_a_plain_loop():
    first, second = make_statistics(0.25, size=25), make_statistics(0.32, size=25, seed=3)
    found = compare_bleu(first, second)
    assert found.difference == pytest.approx(mean_bleu(first) - mean_bleu(second))
    rng = np.random.default_rng(2)
    differences = []
    for _ in range(3000):
        chosen = rng.integers(25, size=25)
        differences.append(mean_bleu(first[:, chosen]) - mean_bleu(second[:, chosen]))
    assert found.difference > 0
    share = np.mean(np.array(differences) <= 0)
    assert 0.02 < share < 0.4
    assert found.p_value == pytest.approx(2 * share, abs=0.05)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    assert found.method == "paired bootstrap over sentences (Koehn 2004)"


def test_approximate_randomisation_is_the_count_of_all_exchanges():
    first, second = make_statistics(0.25, 0.3, size=9), make_statistics(0.45, 0.4, size=9, seed=3)
    observed = mean_bleu(first) - mean_bleu(second)
    as_large = 0
    for swaps in itertools.product([False, True], repeat=9):
        swap = np.array(swaps)[None, :, None]
        mine, theirs = np.where(swap, second, first), np.where(swap, first, second)
        as_large += abs(mean_bleu(mine) - mean_bleu(theirs)) >= abs(observed) - 1e-9
    found = compare_bleu(first, second).p_value_randomised
    assert 0.01 < as_large / 512 < 0.6
    assert found == pytest.approx(as_large / 512, abs=0.03)


@given(st.integers(0, 50), st.sampled_from([(0.2, 0.4), (0.3, 0.3), (0.5, 0.2)]))
def test_swapping_the_rows_changes_signs_only(seed: int, shares: tuple[float, float]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bleu_intervals, "RESAMPLES", 100)
        first, second = make_statistics(shares[0], size=8, seed=seed), make_statistics(shares[1], size=8, seed=seed + 9)
        one, other = compare_bleu(first, second), compare_bleu(second, first)
    assert one.difference == -other.difference
    assert (one.p_value, one.p_value_randomised) == (other.p_value, other.p_value_randomised)
    if one.difference:
        assert (one.interval.low, one.interval.high) == (-other.interval.high, -other.interval.low)


def test_no_difference_is_no_evidence_and_a_large_one_is():
    same = make_statistics(0.3)
    found = compare_bleu(same, same)
    assert (found.difference, found.p_value, found.p_value_randomised) == (0.0, 1.0, 1.0)
    assert (found.interval.low, found.interval.high) == (0.0, 0.0)
    far = compare_bleu(make_statistics(0.05), make_statistics(0.6, seed=1))
    assert far.p_value == pytest.approx(2 / 4001)
    assert far.p_value_randomised == pytest.approx(1 / 4001)
    assert far.interval.low > 0


def test_p_values_are_even_where_rows_are_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bleu_intervals, "RESAMPLES", 200)
    references = make_references("alike", 30)
    models = [count_statistics(spoil(references, 0.3, seed), references)[None] for seed in range(160)]
    tests = [compare_bleu(*pair) for pair in zip(models[::2], models[1::2], strict=True)]
    for p_values in ([one.p_value for one in tests], [one.p_value_randomised for one in tests]):
        assert stats.kstest(p_values, "uniform").pvalue > 0.01
    held = np.mean([one.interval.low <= 0 <= one.interval.high for one in tests])
    assert 0.85 < held <= 1


def test_seeds_of_each_row_are_drawn_on_their_own():
    """Rows of two seeds far apart: the interval spans the difference of either seed to either seed."""
    first, second = make_statistics(0.1, 0.5), make_statistics(0.15, 0.55, seed=2)
    found = compare_bleu(first, second)
    extremes = [mean_bleu(first[:1]) - mean_bleu(second[1:]), mean_bleu(first[1:]) - mean_bleu(second[:1])]
    assert found.interval.low < 0.7 * min(extremes)
    assert found.interval.high > 0.7 * max(extremes)
    assert compare_bleu(first, second[:1]).p_value_randomised is None


def test_statistics_that_cannot_be_compared_are_refused():
    one = make_statistics(0.2, 0.3)
    with pytest.raises(UserError, match="a paired test needs the same sentences in the same order"):
        compare_bleu(one, one[:, ::-1])
    with pytest.raises(UserError, match="first has 40 sentences, second 39"):
        compare_bleu(one, one[:, 1:])
    with pytest.raises(UserError, match="statistics: its seeds have different references"):
        bleu_interval(np.stack([one[0], one[1, ::-1]]))
    with pytest.raises(UserError, match=r"statistics is int64 of shape \(40, 10\): give int \[seeds, sentences, 10\]"):
        bleu_interval(one[0])
    with pytest.raises(UserError, match=r"level = 1\.5"):
        bleu_interval(one, level=1.5)
    with pytest.raises(UserError, match="seed = -1"):
        bleu_interval(one, seed=-1)


def name(*records: TranslationRecord) -> list[tuple[str, TranslationRecord]]:
    return [(f"{index}.json", one) for index, one in enumerate(records)]


def test_seeds_are_joined_and_each_test_set_is_an_entry_of_its_own():
    first, second = make_translation_record(seed=1), make_translation_record(seed=2)
    found, notes = group_translations(name(second, first), "best", PUBLISHED)
    assert [(one.test_set, one.num_examples, one.is_first) for one in found] == [
        ("test_2016_flickr", 12, True),
        ("test_2017_flickr", 8, False),
    ]
    one = found[0]
    assert (one.seeds, one.title) == ((1, 2), "Multi30k de-en, test_2016_flickr")
    assert one.values == (first.best.tests["test_2016_flickr"].bleu, second.best.tests["test_2016_flickr"].bleu)
    assert (one.interval, one.seed_interval) == (bleu_interval(one.statistics), seed_interval(one.values))
    assert [run.file for run in one.runs] == ["1.json", "0.json"]
    assert (one.tie_kv, one.causal_weight, one.contextual_pack) == (True, "softplus", True)
    assert notes == []
    (transformer, *_), _ = group_translations(name(make_translation_record(row="transformer")), "best", PUBLISHED)
    assert (transformer.tie_kv, transformer.causal_weight, transformer.contextual_pack) == (None, None, None)


def test_each_checkpoint_has_its_own_numbers():
    record = make_translation_record()
    for checkpoint, steps in (("best", (60,)), ("last", (100,)), ("averaged", (60, 80, 100))):
        (one, *_), _ = group_translations(name(record), checkpoint, PUBLISHED)
        assert one.values == (getattr(record, checkpoint).percent,)
        assert one.runs[0].steps == steps
    found, notes = group_translations(name(make_translation_record(averaged=None)), "averaged", PUBLISHED)
    assert found == []
    (note,) = notes
    assert note.endswith("seed 1: left out, for it has no averaged checkpoint")


def test_what_cannot_be_joined_is_noted():
    references = make_translation_scores(60, share=0.2, seed=2, tests={"test_2016_flicker": 12, "test_2017_flickr": 8})
    tests = dict(zip(("test_2016_flickr", "test_2017_flickr"), references.tests.values(), strict=True))
    other = dataclasses.replace(references, tests=tests)
    last = dataclasses.replace(other, steps=(100,))
    strange = make_translation_record(seed=2, best=other, last=last, averaged=None)
    first, again = make_translation_record(), make_translation_record(share=0.1)
    fewer = make_translation_record(seed=3, tests={"test_2016_flickr": 12})
    found, notes = group_translations(name(first, again, strange, fewer), "best", PUBLISHED)
    assert [(one.test_set, one.seeds) for one in found] == [("test_2016_flickr", (1, 3)), ("test_2017_flickr", (1, 2))]
    what = f"luna16 on {MULTI30K} (cpu, #{first.experiment_hash[:8]})"
    assert [re.sub(r"\d+\.\d\d", "N", note) for note in notes] == [
        f"{what}, seed 1: counted 0.json, not 1.json (another run with N against N)",
        f"{what}, seed 2: left out of test_2016_flickr, for its references are not those of 0.json",
        f"{what}: 2 of 3 seeds were scored on test_2017_flickr",
    ]


def test_rows_on_other_references_are_not_compared():
    other = make_translation_record(row="transformer", tests={"test_2016_flickr": 12})
    references = make_translation_scores(60, share=0.2, seed=2, tests={"test_2016_flicker": 12}).tests
    changed = {
        checkpoint: dataclasses.replace(
            getattr(other, checkpoint), tests={"test_2016_flickr": references["test_2016_flicker"]}
        )
        for checkpoint in ("best", "last", "averaged")
    }
    findings = find_all(make_translation_record(), dataclasses.replace(other, **changed))
    assert findings.comparisons == ()
    what = f"{MULTI30K} 1.0.0, test_2016_flickr: no paired test of luna16 and transformer"
    assert f"{what}, for their references differ" in findings.notes


def find_all(*records: TranslationRecord, **choices) -> Findings:
    return select([], {}, PUBLISHED, Selection(**choices), name(*records))


def make_all() -> list[TranslationRecord]:
    """Luna-16 in three seeds, with another weight, untied, not contextual; Luna-32; the Transformer in two seeds."""
    elu = {"causal": {"weight": "elu"}}
    command = ("python", "-m", "lra_tasks.train", "--config.causal.weight=elu")
    return [
        *(make_translation_record(seed=seed) for seed in (1, 2, 3)),
        make_translation_record(settings=elu, share=0.3, command=command),
        make_translation_record(settings={"luna": {"contextual_pack": False}}, share=0.4, protocol="cpu+noncontextual"),
        make_translation_record(row="luna32", settings={"luna": {"tie_kv": False}}, num_parameters=5_000_000),
        *(make_translation_record(row="transformer", seed=seed, share=0.25) for seed in (1, 2)),
    ]


@pytest.fixture(scope="module")
def findings() -> Findings:
    return find_all(*make_all())


def read_cells(text: str) -> list[list[str]]:
    lines = (re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line] for line in lines]


def test_table_4_has_the_rows_of_translation(findings: Findings):
    header, _, *lines = read_cells(results.render(findings, "markdown", ["translation"]))
    assert header == [
        *("Model", "Source", "Keys, values", "Weight", "Checkpoint", "Parameters"),
        *("Multi30k de-en, test_2016_flickr", "Multi30k de-en, test_2017_flickr"),
    ]
    assert [line[:6] for line in lines] == [
        ["Transformer", "ours, cpu", "–", "–", "best", "4,000,000"],
        ["Luna-16", "ours, cpu", "tied", "softplus", "best", "4,000,000"],
        ["Luna-16", "ours, cpu, weight elu", "tied", "elu", "best", "4,000,000"],
        ["Luna-16", "ours, cpu+noncontextual", "tied", "softplus", "best", "4,000,000"],
        ["Luna-32", "ours, cpu", "untied", "softplus", "best", "5,000,000"],
    ]
    values = [make_translation_record(seed=seed).best.percent for seed in (1, 2, 3)]
    assert lines[1][6] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} (3)"
    assert lines[4][7].endswith(" (1)")


def test_table_4_stands_beside_what_is_printed_and_adds_no_number():
    wmt = {"task": "wmt14_ende", "task_title": "WMT'14 en-de", "source_language": "en", "target_language": "de"}
    ours = make_translation_record(row="luna32", tests={"test": 12}, protocol="authors", **wmt)
    text = results.render(find_all(ours), "markdown", ["translation"])
    header, _, *lines = read_cells(text)
    assert header[6:] == ["WMT'14 en-de, test"]
    assert [(line[0], line[1], line[5], line[6]) for line in lines] == [
        ("Luna-16, tied", "Luna, Table 4", "69.6 million", "–"),
        ("Luna-16, untied", "Luna, Table 4", "77.5 million", "–"),
        ("Luna-16", "ours", "–", "not run"),
        ("Luna-32, tied", "Luna, Table 4", "69.7 million", "–"),
        ("Luna-32, untied", "Luna, Table 4", "77.6 million", "–"),
        ("Luna-32", "ours, authors", "4,000,000", f"{ours.best.percent:.2f} (1)"),
    ]
    assert "- Luna, Table 4, not shown: BLEU of all rows: " in text
    assert "- Luna, Table 5, not shown: all: contextual against non-contextual P; " in text
    alone = read_cells(results.render(find_all(ours, published="none"), "markdown", ["translation"]))
    assert [line[0] for line in alone[2:]] == ["Luna-32"]
    asked = read_cells(results.render(find_all(tasks=("wmt14_ende",), rows=("luna16",)), "markdown"))
    assert [line[0] for line in asked[2:]] == ["Luna-16, tied", "Luna-16, untied", "Luna-16"]
    assert "Luna, Table 4" not in results.render(find_all(make_translation_record()), "markdown")


def test_a_printed_bleu_would_be_shown():
    """The day that published.json has one, without another line of code."""
    (table,) = (one for one in PUBLISHED.tables if one.key == "luna_table4")
    column = dataclasses.replace(table.columns[0], column="bleu", unit="percent")
    line = dataclasses.replace(table.rows[0], values=(69.6, 12.34))
    table = dataclasses.replace(table, columns=(*table.columns, column), rows=(line,))
    known = dataclasses.replace(PUBLISHED, tables=(table,))
    text = results.render(select([], {}, known, Selection(tasks=("wmt14_ende",))), "markdown", ["translation"])
    assert read_cells(text)[2] == ["Luna-16, tied", "Luna, Table 4", "–", "–", "–", "69.6 million", "12.34"]


def test_table_5_sets_contextual_beside_non_contextual(findings: Findings):
    header, _, *lines = read_cells(results.render(findings, "markdown", ["contextual"]))
    assert header[:5] == ["Model", "Protocol", "Keys, values", "Weight", "Packed sequence"]
    assert [line[:5] for line in lines] == [
        ["Luna-16", "cpu", "tied", "softplus", "non-contextual"],
        ["Luna-16", "cpu", "tied", "softplus", "contextual"],
    ]
    assert lines[0][5].endswith(" (1)")
    assert lines[1][5].endswith(" (3)")
    only = find_all(make_translation_record(), make_translation_record(row="transformer"))
    assert read_cells(results.render(only, "markdown", ["contextual"])) == []


def test_intervals_steps_and_signature_are_shown(findings: Findings):
    header, _, *lines = read_cells(results.render(findings, "markdown", ["translation_intervals"]))
    one = next(one for one in findings.translations if (one.row, one.variant, one.protocol) == ("luna16", "", "cpu"))
    line = next(line for line in lines if line[0] == "Luna-16" and line[2] == "cpu")
    assert dict(zip(header, line, strict=True)) == {
        **{"Model": "Luna-16", "Task": one.title, "Protocol": "cpu", "Checkpoint": "best", "Steps": "60"},
        **{"Seeds": "1, 2, 3", "BLEU": f"{one.mean:.2f} ± {one.sd:.2f} (3)", "Sentences": "12"},
        "95 % interval": f"{one.interval.low:.2f} to {one.interval.high:.2f}",
        "over seeds": f"{one.seed_interval.low:.2f} to {one.seed_interval.high:.2f}" if one.seed_interval else "",
        "Signature": one.signature.replace("|", "\\|"),
    }
    averaged = find_all(make_translation_record(), checkpoint="averaged")
    _, _, line, *_ = read_cells(results.render(averaged, "markdown", ["translation_intervals"]))
    assert line[3:5] == ["averaged", "60 to 100"]


def test_paired_tests_are_against_one_row_on_each_test_set(findings: Findings):
    header, _, *lines = read_cells(results.render(findings, "markdown", ["translation_paired"]))
    assert header[-3:] == ["p", "p (Holm)", "p (randomisation)"]
    assert [[*line[:2], line[2].split(", ")[1], *line[3:5]] for line in lines] == [
        [*line[:2], test, *line[2:]]
        for group in (
            (
                ["Luna-16", "Transformer", "cpu", "3 / 2"],
                ["Luna-16, weight elu", "Transformer", "cpu", "1 / 2"],
                ["Luna-16", "Transformer", "cpu+noncontextual / cpu", "1 / 2"],
                ["Luna-32", "Transformer", "cpu", "1 / 2"],
            ),
            (["Luna-16", "Luna-16", "cpu / cpu+noncontextual", "3 / 1"],),
        )
        for test in ("test_2016_flickr", "test_2017_flickr")
        for line in group
    ]
    assert {line[-1] for line in lines} == {"–"}
    assert read_cells(results.render(findings, "markdown", ["paired"])) == []
    against = find_all(make_translation_record(), make_translation_record(row="transformer"), against="luna16")
    _, _, line, *_ = read_cells(results.render(against, "markdown", ["translation_paired"]))
    assert line[:2] == ["Transformer", "Luna-16"]
    assert re.fullmatch(r"< 0\.001|[01]\.\d{3}", line[-1])


def test_only_what_differs_in_the_mechanism_alone_is_compared():
    """Holm's adjustment takes what is compared with one row together, and contextual against not apart from it."""
    larger = make_translation_record(row="transformer", settings={"model": {"emb_dim": 16}})
    assert find_all(make_translation_record(), larger).comparisons == ()
    untied = {"luna": {"contextual_pack": False, "tie_kv": False}}
    other_twin = make_translation_record(settings=untied, protocol="cpu+untied+noncontextual")
    assert find_all(make_translation_record(), other_twin).comparisons == ()
    found = find_all(*make_all())
    first = [one for one in found.comparisons if one.test_set == "test_2016_flickr"]
    rows, (twins,) = first[:4], first[4:]
    assert [one.p_value_holm for one in rows] == list(holm([one.test.p_value for one in rows]))
    assert twins.p_value_holm == twins.test.p_value
    pair = (found.translations[i].statistics for i in (2, 6))
    assert twins.test == compare_bleu(*pair)


def test_cost_has_one_line_an_experiment(findings: Findings):
    _, _, *lines, last = read_cells(results.render(findings, "markdown", ["cost"]))
    assert len(lines) == 5
    seeds = lines[0].pop(7)
    assert lines[0] == ["Transformer", "Multi30k de-en", "cpu", "4,000,000", "5", "1.50", "1.5", "cpu, 2 cores"]
    assert int(seeds) >= 1
    assert last[7] == str(int(seeds) + sum(int(line[7]) for line in lines[1:]))


def test_classifiers_have_no_averaged_checkpoint():
    selection = Selection(checkpoint="averaged")
    found = select([("a.json", full_record())], {}, PUBLISHED, selection, name(make_translation_record()))
    assert found.experiments == ()
    assert len(found.translations) == 2
    assert any("left out, for only translations have averaged checkpoints" in note for note in found.notes)


def test_translations_leave_the_tables_of_classifiers_alone():
    """Rows that only translate are not missed in Table 1, and its numbers are those without translations."""
    records = [("a.json", full_record()), ("b.json", full_record(row="transformer", num_correct=6))]
    choice = Selection(tasks=("listops_small", MULTI30K))
    with_both = select(records, {}, PUBLISHED, choice, name(*make_all()))
    for table in ("translation", "contextual", "translation_intervals", "translation_paired"):
        assert read_cells(results.render(with_both, "markdown", [table])) == (
            read_cells(results.render(find_all(*make_all()), "markdown", [table]))
        )
    alone = select(records, {}, PUBLISHED, Selection(tasks=("listops_small",)))
    for table in ("accuracy", "intervals", "paired", "pooling"):
        assert read_cells(results.render(with_both, "markdown", [table])) == (
            read_cells(results.render(alone, "markdown", [table]))
        )
    assert read_cells(results.render(find_all(*make_all(), tasks=(MULTI30K,)), "markdown", ["accuracy"])) == []


def test_csv_and_json_have_every_seed_and_test_set(findings: Findings):
    entries = [one for one in csv.DictReader(io.StringIO(results.render(findings, "csv"))) if one["measure"] == "BLEU"]
    ours = [one for one in entries if one["kind"] == "ours"]
    assert [(one["row"], one["test_set"]) for one in ours[:2]] == [
        ("transformer", "test_2016_flickr"),
        ("transformer", "test_2017_flickr"),
    ]
    assert len(ours) == 10
    luna = next(one for one in ours if (one["row"], one["variant"]) == ("luna16", ""))
    assert luna["values"].split(";") == [str(make_translation_record(seed=seed).best.percent) for seed in (1, 2, 3)]
    shown = ("n", "num_examples", "tie_kv", "causal_weight", "contextual_pack", "checkpoint", "chance")
    assert [luna[key] for key in shown] == ["3", "12", "True", "softplus", "True", "best", ""]
    assert luna["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    paired = [one for one in entries if one["kind"] == "paired test"]
    assert len(paired) == 10
    assert {one["method"] for one in paired} == {"paired bootstrap over sentences (Koehn 2004)"}
    pair = (make_translation_record(), make_translation_record(row="transformer"))
    (one, *_) = (entry for entry in json.loads(results.render(find_all(*pair), "json"))["entries"] if entry["p_value"])
    first, second = (group_translations(name(record), "best", PUBLISHED)[0][0].statistics for record in pair)
    test = compare_bleu(first, second)
    assert (one["p_value"], one["p_value_randomised"]) == (test.p_value, test.p_value_randomised)
    content = json.loads(results.render(findings, "json"))["entries"]
    one = next(entry for entry in content if entry["measure"] == "BLEU")
    assert (one["kind"], one["seeds"]) == ("ours", [1, 2])


def test_latex_and_the_page_hold_the_tables(findings: Findings, tmp_path: Path):
    text = results.render(findings, "latex", ["translation", "contextual"])
    assert text.count(r"\begin{tabular}") == 2
    assert r"test\_2016\_flickr" in text
    assert r"nrefs:1\textbar{}case:mixed" in results.render(findings, "latex", ["translation_intervals"])
    written = outputs.write_outputs(findings, tmp_path, results.render, {"a card": "# text"})
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "8 runs of 3 models on 1 task." in page
    assert "Multi30k de-en, test_2016_flickr, protocol cpu: against Transformer" in page
    assert [file.name for file in written] == ["index.html", "results.csv", "results.json", "results.md", "results.tex"]


BLOCK = "<!-- results: {words} -->\n{body}<!-- end of results -->\n"


def test_a_block_of_a_text_is_checked_and_updated(tmp_path: Path):
    found = Collection([("a.json", full_record())], translations=name(*make_all()))
    path = tmp_path / "README.md"
    path.write_text(BLOCK.format(words=f"table=translation task={MULTI30K} row=luna16,transformer", body=""))
    assert len(results.check_text(path, found, PUBLISHED, update=True)) == 1
    assert results.check_text(path, found, PUBLISHED, update=False) == []
    text = path.read_text()
    assert "| Luna-16     | ours, cpu " in text
    assert "Luna-32" not in text
    assert "ListOps" not in text
    path.write_text(BLOCK.format(words="table=translation task=listops_small", body=""))
    with pytest.raises(UserError, match="selects nothing that the records have"):
        results.check_text(path, found, PUBLISHED, update=False)


def test_records_of_both_kinds_in_one_folder_are_told_apart(tmp_path: Path):
    write_record(make_translation_record(), tmp_path / "t" / "record.json")
    write_record(full_record(), tmp_path / "c" / "record.json")
    translation = make_translation_record()
    texts = {
        "wrong": re.sub(r'"bleu": [0-9.]+', '"bleu": 1.0', to_json(translation), count=1),
        "short": to_json(translation)[:900],
        "old": to_json(translation).replace('"schema_version": 1', '"schema_version": 0'),
        "kind": to_json(translation).replace('"kind": "translation"\n', '"kind": "summary"\n'),
        "gone": to_json(make_translation_record(task="wmt14_enfr")),
        "language": to_json(make_translation_record(source_language="fr")),
        "order": to_json(make_translation_record(tests={"test_2017_flickr": 8})),
        "unknown": to_json(make_translation_record(tests={"test_2016_flickr": 12, "test_2019": 8})),
    }
    for stem, text in texts.items():
        (tmp_path / f"{stem}.json").write_text(text)
    (tmp_path / "t" / "metrics.jsonl").write_text(
        '{"step": 5, "split": "train", "loss": 1.5}\n{"step": 5, "split": "validation", "loss": 2.0, "bleu": 12.5}\n'
    )
    found = collect([tmp_path])
    assert [Path(file).parent.name for file, _ in found.records] == ["c"]
    assert [Path(file).parent.name for file, _ in found.translations] == ["t"]
    (curve,) = found.curves.values()
    assert (curve.validation_accuracy, curve.validation_loss, curve.train_loss) == ((12.5,), (2.0,), (1.5,))
    faults = {Path(fault.split(":")[0]).stem: fault for fault in found.faults}
    assert faults.keys() == texts.keys()
    for stem, message in {
        "wrong": "best.tests.test_2016_flickr.bleu = 1.0: its statistics give",
        "short": "not JSON",
        "old": "schema_version = 0: this code reads 1",
        "kind": "kind = 'summary': this code reads 'translation', and records of classifiers",
        "gone": "task 'wmt14_enfr' does not exist here",
        "language": "translates fr to en; multi30k_deen is de to en",
        "order": "test sets test_2017_flickr; multi30k_deen has test_2016_flickr, test_2017_flickr",
        "unknown": "test sets test_2016_flickr, test_2019; multi30k_deen has",
    }.items():
        assert message in faults[stem], faults[stem]


def test_the_command_prints_translations_and_names_what_is_left_out(tmp_path: Path):
    for one in make_all()[:2]:
        write_record(one, tmp_path / f"{one.row}-{one.seed}.json")
    write_record(make_record(), tmp_path / "few.json")
    done = run_results(tmp_path, "--table=translation", "--checkpoint=averaged")
    assert done.returncode == 1
    _, _, line = read_cells(done.stdout)
    assert line[:6] == ["Luna-16", "ours, cpu", "tied", "softplus", "averaged", "4,000,000"]
    (fault,) = done.stderr.splitlines()
    assert fault.startswith(f"left out: {tmp_path}/few.json: 4 of the ")


def test_a_card_tells_what_was_run_and_what_came_out(tmp_path: Path):
    record = make_translation_record(averaged=None)
    write_record(record, tmp_path / "record.json")
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "split": "validation", "loss": 2.0, "bleu": 12.5}\n')
    text = write_card(tmp_path, PUBLISHED)
    assert text.startswith("# Luna-16 on Multi30k de-en, seed 1\n")
    assert "from de to en" in text
    rows = [line[:6] for line in read_cells(text) if line[0] in ("best", "last")]
    best = record.best.tests
    assert rows[0] == ["best", "60", "2.500", "30.00", "test_2016_flickr", f"{best['test_2016_flickr'].bleu:.2f}"]
    assert [row[0] for row in rows] == ["best", "best", "last", "last"]
    assert "| step | validation BLEU (greedy) | validation loss |" in text
    assert "| 5 | 12.50 | 2.000 |" in text
    assert "beam search of width 5, length penalty 1, at most 1.2 times the source and 10 subwords." in text
    assert "The best checkpoint was chosen by validation BLEU." in text
    assert "| train | 29,000 |" in text
    assert "6,000 subwords" in text
    assert "tie_kv = True" in text
    findings = find_all(record)
    (card,) = results.make_cards(Collection(translations=name(record)), findings)
    assert card == "Luna-16 on Multi30k de-en, cpu, seed 1 (0.json)"
