"""The record of a run that translates: round trip, BLEU from its statistics, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_record
from sacrebleu.metrics import BLEU
from test_record import set_field
from translation_records import (
    count_statistics,
    make_references,
    make_translation_record,
    make_translation_scores,
    spoil,
)

from lra_tasks import bleu, record, translation_record
from lra_tasks.record_fields import RecordError, to_json, validate, write_record

SENTENCES = st.lists(st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join), min_size=1, max_size=6)


def test_round_trip_keeps_every_field(tmp_path: Path):
    original = make_translation_record()
    path = tmp_path / "runs" / "a" / "record.json"
    write_record(original, path)
    assert translation_record.read_record(path) == original
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]
    assert json.loads(path.read_text())["kind"] == "translation"


def test_no_averaged_checkpoint_is_null():
    original = make_translation_record(averaged=None)
    assert translation_record.from_json(to_json(original)) == original
    assert translation_record.list_checkpoints(original) == ["best", "last"]


def test_the_first_test_set_is_the_one_to_report():
    one = make_translation_record()
    assert one.tests == ("test_2016_flickr", "test_2017_flickr")
    assert one.best.percent == one.best.tests["test_2016_flickr"].bleu


@given(SENTENCES, SENTENCES)
def test_bleu_is_that_of_sacrebleu(translations: list[str], references: list[str]):
    """Short sentences of few words, so that orders without a match or without an n-gram are met: smoothing and zero."""
    size = min(len(translations), len(references))
    translations, references = translations[:size], references[:size]
    statistics = count_statistics(translations, tuple(references))
    expected = BLEU().corpus_score(translations, [references]).score
    assert float(bleu.bleu_from_statistics(statistics.sum(axis=0))) == pytest.approx(expected, abs=1e-9)
    text = bleu.encode_statistics(statistics)
    np.testing.assert_array_equal(bleu.decode_statistics(text, size), statistics)


@pytest.mark.parametrize(
    ("translations", "references", "expected"),
    [
        (["a b c d e"], ["a b c d e"], 100.0),
        (["a b c d"], ["a b c d e f g h"], 100 * np.exp(1 - 8 / 4)),
        # precisions 4/5, 2/4, 1 / (2 * 3) and 1 / (4 * 2) by smoothing
        (["a b x c d"], ["a b y c d"], 100 * (4 / 5 * 2 / 4 * 1 / 6 * 1 / 8) ** 0.25),
        (["a b c"], ["a b c"], 0.0),
        (["x y z w v"], ["a b c d e"], 0.0),
        ([""], ["a b c d"], 0.0),
    ],
)
def test_bleu_by_hand(translations: list[str], references: list[str], expected: float):
    statistics = count_statistics(translations, tuple(references))
    assert float(bleu.bleu_from_statistics(statistics.sum(axis=0))) == pytest.approx(expected, abs=1e-9)


def test_bleu_of_many_sums_at_once():
    references = make_references("many", 9)
    statistics = np.stack([count_statistics(spoil(references, share, 1), references) for share in (0.0, 0.3, 0.9)])
    together = bleu.bleu_from_statistics(statistics.sum(axis=1))
    assert together.tolist() == [float(bleu.bleu_from_statistics(one.sum(axis=0))) for one in statistics]
    assert together[0] == pytest.approx(100)


def test_statistics_are_compact():
    references = make_references("compact", 1000)
    text = bleu.encode_statistics(count_statistics(spoil(references, 0.3, 1), references))
    assert len(text) < 5000  # ten numbers a sentence


ONE = [5, 6, 3, 2, 1, 0, 5, 4, 3, 2]


@pytest.mark.parametrize(
    ("column", "value"),
    [(6, 4), (0, 4), (2, 6), (3, -1), (1, 2), (0, 70_000), (9, 0)],
    ids=["total", "length", "above_total", "negative", "above_reference", "too_long", "total_4"],
)
def test_statistics_that_cannot_be_are_refused(column: int, value: int):
    bleu.check_statistics(np.array([ONE, ONE]))
    wrong = [*ONE]
    wrong[column] = value
    with pytest.raises(RecordError, match="BLEU statistics of sentence 2 cannot be those of one reference: sys_len"):
        bleu.encode_statistics(np.array([ONE, wrong]))


def test_statistics_of_another_kind_or_number_are_refused():
    for wrong in (np.array(ONE), np.array([ONE], dtype=float), np.array([ONE[:9]])):
        with pytest.raises(RecordError, match=r"give whole numbers \[sentences, 10\]: sys_len, ref_len, correct_1"):
            bleu.encode_statistics(wrong)
    text = bleu.encode_statistics(np.array([ONE, ONE]))
    with pytest.raises(RecordError, match=r"hold 24 bytes \(12 a sentence\): 3 sentences were expected"):
        bleu.decode_statistics(text, 3)
    with pytest.raises(RecordError, match=r"BLEU statistics 'none'\.\.\. is not deflated base64"):
        bleu.decode_statistics("none", 1)


FIRST = "best.tests.test_2016_flickr"


@pytest.mark.parametrize(
    ("field", "new", "message"),
    [
        ("kind", "summary", "kind = 'summary': must be 'translation'"),
        ("schema_version", 2, "schema_version = 2: this code reads 1; read the record with the code that wrote it"),
        (f"{FIRST}.bleu", 40.0, f"{FIRST}.bleu = 40.0: its statistics give "),
        (f"{FIRST}.bleu", float("nan"), f"{FIRST}.bleu = nan: its statistics give "),
        (f"{FIRST}.statistics", "AAAA", f"{FIRST}.statistics: BLEU statistics 'AAAA'"),
        (f"{FIRST}.signature", "nrefs:2|eff:no|smooth:exp", "must hold nrefs:1"),
        ("last.tests.test_2017_flickr.signature", "nrefs:1|eff:yes|smooth:add-k[1.00]", "must hold eff:no, smooth:exp"),
        (f"{FIRST}.signature", "nrefs:1|eff:no|smooth:exp", "test_2016_flickr: checkpoints have different signatures"),
        ("averaged.tests", {}, "averaged.tests has []: must be the test sets of splits, ['test_2016_flickr', 'test_20"),
        ("best.steps", [60, 80], "best.steps = [60, 80]: must be one step"),
        ("last.steps", [101], "last.steps = 101: must lie between 0 and num_steps = 100"),
        ("averaged.steps", [], "averaged.steps = []: must be at least one step"),
        ("averaged.steps", [80, 200], "averaged.steps = 200: must lie between"),
        ("best.validation_loss", float("inf"), "best.validation_loss = inf: must be finite"),
        ("last.validation_bleu", 101.0, "last.validation_bleu = 101.0: must be percent"),
        ("splits.test_2017_flickr.evaluated", 7, "splits.test_2017_flickr.evaluated = 7: must equal the declared 8"),
        ("splits", {"validation": {"declared": 6, "evaluated": 6}}, "a test set is missing"),
        ("splits", {"test": {"declared": 6, "evaluated": 6}}, "splits has ['test']: validation is missing"),
        ("selection", "test", "selection = 'test': must be one of validation_loss, validation_bleu"),
        ("source_language", "", "source_language = '': must not be empty"),
        ("vocab_checksum", "abc", "vocab_checksum = 'abc': must be a SHA-256"),
        ("vocab_size", 0, "vocab_size = 0: must be at least 1"),
        ("training_pairs", 0, "training_pairs = 0: must be at least 1"),
        ("tokens_seen", 0, "tokens_seen = 0: must be at least 1"),
        ("decoding.beam_size", 0, "decoding.beam_size = 0: must be at least 1"),
        ("decoding.length_penalty", -1.0, "decoding.length_penalty = -1.0: must be at least 0"),
        ("decoding.beam_size", 2.5, "decoding.beam_size = 2.5: must be int, not float"),
        ("config.train.num_steps", 7, "config_hash = "),
        ("num_parameters", 0, "num_parameters = 0: must be at least 1"),
        ("device.count", 0, "device.count = 0: must be at least 1"),
        ("command", ["--workdir=/home/someone"], "a path of one machine"),
        ("best.step", 60, "best: unknown step"),
    ],
)
def test_what_does_not_agree_is_refused_on_reading(tmp_path: Path, field: str, new: object, message: str):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(set_field(dataclasses.asdict(make_translation_record()), field, new)))
    with pytest.raises(RecordError) as caught:
        translation_record.read_record(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_test_sets_in_another_order_are_refused():
    one = make_translation_record()
    turned = dataclasses.replace(one.last, tests=dict(reversed(one.last.tests.items())))
    with pytest.raises(RecordError, match=r"last\.tests has \['test_2017_flickr', 'test_2016_flickr'\]: must be"):
        validate(dataclasses.replace(one, last=turned))


def test_checkpoints_that_translated_other_sentences_are_refused():
    one = make_translation_record()
    other = make_translation_scores(100, share=0.1, seed=1)
    tests = {**other.tests, "test_2017_flickr": make_translation_scores(share=0.1, seed=1, tests={"x": 8}).tests["x"]}
    with pytest.raises(RecordError, match=r"last\.tests\.test_2017_flickr\.statistics: other references, or another"):
        validate(dataclasses.replace(one, last=dataclasses.replace(other, tests=tests)))


def test_the_two_kinds_are_not_read_as_each_other(tmp_path: Path):
    write_record(make_translation_record(), tmp_path / "a.json")
    with pytest.raises(RecordError, match=r"a\.json: fields: unknown .*kind"):
        record.read_record(tmp_path / "a.json")
    write_record(make_record(), tmp_path / "b.json")
    with pytest.raises(RecordError, match=r"b\.json: fields: missing source_language.* kind"):
        translation_record.read_record(tmp_path / "b.json")


def test_a_failed_write_leaves_nothing(tmp_path: Path):
    with pytest.raises(RecordError, match="resumed = -1"):
        write_record(make_translation_record(resumed=-1), tmp_path / "record.json")
    assert list(tmp_path.iterdir()) == []


def test_the_record_imports_neither_jax_nor_sacrebleu():
    code = "import sys, lra_tasks.translation_record; sys.exit(bool({'jax', 'sacrebleu'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
