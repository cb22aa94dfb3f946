"""Translation data: parallel text in, a verified store out; every line without partner or words is named."""

import dataclasses
import errno
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from tiny_translation import SIZES, make_pairs, make_text, write_raw
from tiny_translation import TINY as TINY_24
from tiny_translation_runs import WORDS, prepare_words, run

from lra_tasks import dataset, folders, translation_preparation
from lra_tasks.errors import UserError
from lra_tasks.folders import only_writer
from lra_tasks.parallel_text import as_line, find_version, read_lines, read_parallel_text, split_lines
from lra_tasks.prepare import translation_data_card
from lra_tasks.store import StoreDamaged, StoreMissing, describe_files, store_path
from lra_tasks.subwords import END, Subwords
from lra_tasks.translation import MULTI30K_DEEN, TRANSLATIONS, WMT14_ENDE, get_translation
from lra_tasks.translation_data import find_fault, read_translation
from lra_tasks.translation_preparation import prepare_translation

TINY = dataclasses.replace(TINY_24, max_length=32)
"""So that no pair of the tiny text is too long."""


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translation")
    prepare_translation(TINY, folder / "data", raw_dir=write_raw(folder / "raw"))
    return folder


@pytest.fixture
def folder(tmp_path, prepared_once):
    """Raw files in raw/, prepared in data/, of the test's own."""
    return shutil.copytree(prepared_once, tmp_path / "own")


def snapshot(path):
    """Every file below a folder with its bytes; the lock is not data."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name[0] != "."}


def arrays(path):
    """The same without the manifest, which names the source."""
    return {name: content for name, content in snapshot(path).items() if not name.endswith("manifest.json")}


def test_declared_tasks():
    assert [get_translation(name) for name in TRANSLATIONS] == list(TRANSLATIONS.values())
    assert (MULTI30K_DEEN.languages, MULTI30K_DEEN.tests[0]) == (("de", "en"), "test_2016_flickr")
    assert (WMT14_ENDE.languages, WMT14_ENDE.vocab_size) == (("en", "de"), 40_624)
    with pytest.raises(
        UserError, match=r"pair 'multi30k_ende'; did you mean 'multi30k_deen'\? choices: multi30k_deen, wmt"
    ):
        get_translation("multi30k_ende")


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")).map(lambda t: t.rstrip("\r")))
)
def test_only_a_line_feed_ends_a_line(lines):
    """Whatever else str.splitlines obeys stands inside; with and without the last line feed, also as Windows writes."""
    content = "\n".join(["first", *lines]).encode()
    assert split_lines(content, "x") == ["first", *lines[: len(lines) - (lines[-1:] == [""])]]
    for end in (b"\n", b"\r\n"):
        content = b"".join(line.encode() + end for line in ["first", *lines])
        for mark in (b"", b"\xef\xbb\xbf"):
            assert split_lines(mark + content, "x") == ["first", *lines]
    assert split_lines(b"", "x") == []
    assert split_lines(b"\n", "x") == split_lines(b"\r\n", "x") == [""]


def test_text_becomes_subwords(folder):
    """Each side of each pair in order, encoded by one vocabulary learnt from both sides of the training text alone."""
    text, prepared = make_text(), read_translation(folder / "data", TINY)
    assert list(prepared.splits) == list(TINY.splits) == list(text)
    assert prepared.subwords.checksum == Subwords.train([*text["train"][0], *text["train"][1]], 60).checksum
    for split, sides in text.items():
        pairs = prepared.splits[split]
        assert pairs.num_examples == SIZES[split]
        for side, lines in zip((pairs.source, pairs.target), sides, strict=True):
            assert (side.tokens.dtype, side.offsets.dtype) == (np.uint16, np.int64)
            found = [side.tokens[begin:end].tolist() for begin, end in pairwise(side.offsets)]
            assert found == [[*prepared.subwords.encode(line).tolist(), END] for line in lines]
            assert [prepared.subwords.decode(ids) for ids in found] == lines
            assert side.lengths.tolist() == [len(ids) for ids in found]
        kept = (None, None) if split == "train" else tuple(map(tuple, sides))
        assert (pairs.source_lines, pairs.target_lines) == kept
    manifest = prepared.manifest
    assert manifest["splits"] == SIZES
    assert manifest["left_out"] == {"empty": 0, "too long": 0}
    assert manifest["source"]["kind"] == "parallel files"
    assert len(manifest["source"]["sha256"]) == 8
    assert "sentencepiece" in manifest["libraries"]


def test_the_vocabulary_knows_no_test_text(folder, tmp_path):
    text = make_text() | {"validation": make_pairs(9, 77), "test_b": (["Ω"], ["zzz"])}
    prepared = prepare_translation(TINY, tmp_path / "data", raw_dir=write_raw(tmp_path / "raw", text))
    assert prepared.subwords.checksum == read_translation(folder / "data", TINY).subwords.checksum
    assert prepared.splits["test_b"].source_lines == ("Ω",), "kept as it is, whatever it is encoded to"
    card = translation_data_card(TINY, tmp_path / "data", prepared, 0.0)
    assert card.splitlines()[-5].split()[-1] == "33.333%", "of the space before it, Ω and the end, Ω is unknown"


def test_lines_are_kept_to_the_letter(tmp_path):
    """BLEU is measured on the text: carriage returns, line separators and spaces inside come back."""
    odd = ["a\rb", "  c\u2028d\x85 ", "e\tf\x0b\x0cg\x1c"]
    text = make_text() | {"test_a": (odd, odd[::-1])}
    prepared = prepare_translation(TINY, tmp_path / "data", raw_dir=write_raw(tmp_path / "raw", text))
    assert prepared.splits["test_a"].source_lines == tuple(odd)
    assert prepared.splits["test_a"].target_lines == tuple(odd[::-1])


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_the_same_bytes_anywhere(folder, tmp_path, name):
    """Plain or compressed, whatever the validation files are called."""
    suffix = ".gz" if name in ("val", "dev") else ""
    raw = write_raw(tmp_path / "raw", names={"validation": name}, suffix=suffix)
    prepare_translation(TINY, tmp_path / "data", raw_dir=raw)
    assert arrays(tmp_path / "data") == arrays(folder / "data")


def test_the_second_time_only_verifies(folder, monkeypatch):
    before = snapshot(folder / "data")
    monkeypatch.setattr(translation_preparation, "read_parallel_text", None)
    assert prepare_translation(TINY, folder / "data", raw_dir=folder / "raw").was_ready
    assert prepare_translation(TINY, folder / "data").was_ready, "raw files are needed once only"
    assert snapshot(folder / "data") == before


def test_rebuild_replaces(folder, tmp_path):
    raw = write_raw(tmp_path / "raw", make_text() | {"test_a": make_pairs(5, 9)})
    message = r"tiny_deen is prepared from another test_a.de than .*; --rebuild replaces it"
    with pytest.raises(UserError, match=message):
        prepare_translation(TINY, folder / "data", raw_dir=raw)
    prepared = prepare_translation(TINY, folder / "data", raw_dir=raw, rebuild=True)
    assert (prepared.was_ready, prepared.splits["test_a"].num_examples) == (False, 5)


def test_training_pairs_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    sources, targets = make_text()["train"]
    long = " ".join(["sieben"] * 40)
    bad = {3: ("", "x"), 7: ("x", " \t\u00a0"), 12: (long, "x"), 20: ("x", long), 21: (long, long)}
    mixed = [bad.get(at, pair) for at, pair in enumerate(zip(sources, targets, strict=True))]
    good = [pair for at, pair in enumerate(mixed) if at not in bad]
    text = make_text() | {"train": tuple(map(list, zip(*mixed, strict=True)))}
    prepared = prepare_translation(TINY, tmp_path / "data", raw_dir=write_raw(tmp_path / "raw", text))
    assert prepared.manifest["left_out"] == {"empty": 2, "too long": 3}
    train = prepared.splits["train"]
    assert train.num_examples == prepared.manifest["splits"]["train"] == len(good) == 195
    for side, lines in zip((train.source, train.target), zip(*good, strict=True), strict=True):
        found = [prepared.subwords.decode(side.tokens[begin:end]) for begin, end in pairwise(side.offsets)]
        assert found == list(lines)
    assert train.longest.max() <= TINY.max_length
    card = translation_data_card(TINY, tmp_path / "data", prepared, 0.0)
    assert "left out  2 pairs with an empty side and 3 longer than 32 subwords, of 200 for training" in card


def test_a_pair_of_just_the_maximum_stays(folder):
    longest = int(read_translation(folder / "data", TINY).splits["train"].longest.max())
    for max_length, num_long in ((longest, 0), (longest - 1, 1)):
        task = dataclasses.replace(TINY, name=f"up_to_{max_length}", max_length=max_length)
        prepared = prepare_translation(task, folder / "data", raw_dir=folder / "raw")
        assert prepared.manifest["left_out"]["too long"] == num_long


LONG = " ".join(["sieben"] * 40)
MISTAKES = {
    "unequal": (
        {"train": (["eins", "zwei", "drei"], ["one"])},
        r"train.de has 3 lines and .*train.en has 1; .*train.de, line 2, has no partner in .*train.en: line n of one",
    ),
    "unequal the other way": (
        {"test_b": (["eins"], ["one", "two"])},
        r"test_b.en, line 2, has no partner in .*test_b.de: ",
    ),
    "empty source": (
        {"validation": (["eins", " "], ["one", "two"])},
        r"/validation.de, line 2: empty; a sentence that is scored needs words on both sides",
    ),
    "empty target": ({"test_a": (["eins", "zwei"], ["", "two"])}, r"/test_a.en, line 1: empty"),
    "too long source": (
        {"test_a": (["eins", LONG], ["one", "two"])},
        r"/test_a.de, line 2: \d\d subwords, tiny_deen allows 32; shorten the sentence: it is scored",
    ),
    "too long target": (
        {"validation": (["eins"], [LONG])},
        r"/validation.en, line 1: \d\d subwords, tiny_deen allows 32",
    ),
    "no training pair": ({"train": (["", "zwei"], ["one", ""])}, r"train.de and .*train.en hold no pair of sentences"),
    "no line": ({"test_a": ([], [])}, r"test_a.de and .*test_a.en hold no pair of sentences"),
    "too little text": (
        {"train": (["eins zwei"], ["one"])},
        r"no vocabulary of 60 subwords can be learnt from 2 lines \(the text has \d+ at most\); give more text",
    ),
    "only long training pairs": (
        {"train": ([" ".join(side) for side in zip(*[iter(lines)] * 20, strict=True)] for lines in make_pairs(200))},
        r"every training pair of tiny_deen is longer than 32 subwords",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_text_that_cannot_be_used_leaves_nothing(tmp_path, name):
    changed, message = MISTAKES[name]
    raw = write_raw(tmp_path / "raw", make_text() | changed)
    with pytest.raises(UserError, match=message) as error:
        prepare_translation(TINY, tmp_path / "data", raw_dir=raw)
    assert "\n" not in str(error.value)
    assert snapshot(tmp_path / "data") == {}


def test_files_that_cannot_be_read(tmp_path):
    raw = write_raw(tmp_path / "raw")
    (raw / "test_a.de").write_bytes("eins\nzwei\nfünf".encode("latin-1"))
    with pytest.raises(UserError, match=r"test_a.de, line 3: not UTF-8 \(invalid .* at byte 1\); convert it"):
        read_parallel_text(TINY, raw, None)
    (raw / "validation.de").unlink()
    looked = r"validation.de, validation.de.gz, valid.de, valid.de.gz, valid.en, .*dev.en, dev.en.gz"
    with pytest.raises(UserError, match=rf"raw lacks the validation files of tiny_deen; looked for {looked}$"):
        read_parallel_text(TINY, raw, None)
    with pytest.raises(UserError, match=r"--raw_dir .*none is not a folder; it must hold train.de, train.en"):
        read_parallel_text(TINY, tmp_path / "none", None)
    with pytest.raises(UserError, match=r"give --raw_dir, a folder with train.de, .*, or --tfds_dir, where tiny_tr"):
        read_parallel_text(TINY, None, None)
    with pytest.raises(UserError, match=r"--raw_dir and --tfds_dir are two sources"):
        prepare_translation(TINY, tmp_path / "data", raw_dir=raw, tfds_dir=raw)
    whole = write_raw(tmp_path / "zipped", suffix=".gz") / "train.de.gz"
    assert read_lines(whole) == make_text()["train"][0]
    for content in (whole.read_bytes()[:-20], b"no gzip", bytes([*whole.read_bytes()[:60], *b"x" * 40])):
        whole.write_bytes(content)
        with pytest.raises(UserError, match=r"train.de.gz is truncated or damaged"):
            read_lines(whole)
    with pytest.raises(UserError, match=r"raw cannot be read \(Is a directory\)"):
        read_lines(raw)


def store_of(folder):
    return store_path(folder / "data", TINY)


def test_a_store_that_is_missing(tmp_path):
    with pytest.raises(StoreMissing, match=r"run: python -m lra_tasks.prepare tiny_deen --data_dir .* --raw_dir DIR"):
        read_translation(tmp_path, TINY)


def test_damage_of_any_file_is_named_and_only_rebuild_mends_it(folder):
    wanted = snapshot(folder / "data")
    files = sorted(path for path in store_of(folder).iterdir() if path.name != "manifest.json")
    assert len(files) == 1 + 4 * 4 + 3 * 2
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StoreDamaged, match=rf"{path.name} does not have the checksum of the manifest; .*--rebuild"):
            read_translation(folder / "data", TINY)
        path.unlink()
        with pytest.raises(StoreDamaged, match=rf"{path.name} is missing"):
            prepare_translation(TINY, folder / "data", raw_dir=folder / "raw")
        path.write_bytes(content)
    store_of(folder).joinpath("subwords.model").unlink()
    prepare_translation(TINY, folder / "data", raw_dir=folder / "raw", rebuild=True)
    assert snapshot(folder / "data") == wanted


def change_manifest(folder, **changes):
    """Sets entries of the manifest, and lists the files as they are now."""
    path = store_of(folder) / "manifest.json"
    files = {name: entry for name, entry in describe_files(path.parent).items() if name != path.name}
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": files, **changes}))


MANIFESTS = {
    "version": ("0.9.0", r"says version '0.9.0', the task declares '1.0.0'"),
    "vocab_size": (61, r"says vocab_size 61, the task declares 60"),
    "max_length": (25, r"says max_length 25"),
    "languages": (["en", "de"], r"says languages \['en', 'de'\]"),
    "format": (0, r"says format 0"),
    "splits": ({"train": 200, "test_a": 11}, r"says splits train, test_a, the task declares train, validation, test_a"),
    "left_out": (None, r"has no table 'left_out'"),
    "files": ({}, r"subwords.model is not in the manifest"),
    "vocabulary_sha256": ("0" * 64, r"subwords.model is another vocabulary than the manifest's"),
}


@pytest.mark.parametrize("key", MANIFESTS)
def test_a_manifest_of_something_else_is_refused(folder, key):
    value, message = MANIFESTS[key]
    change_manifest(folder, **{key: value})
    with pytest.raises(StoreDamaged, match=message + r".*--rebuild"):
        read_translation(folder / "data", TINY)


def test_a_manifest_that_is_none(folder):
    path = store_of(folder) / "manifest.json"
    path.write_text("{")
    with pytest.raises(StoreDamaged, match=r"manifest.json cannot be read"):
        read_translation(folder / "data", TINY)
    path.unlink()
    with pytest.raises(StoreDamaged, match=r"manifest.json is missing"):
        read_translation(folder / "data", TINY)


def test_another_vocabulary_is_refused(folder):
    """Whoever puts another model in the store, with a checksum to match, is told."""
    Subwords.train([*make_pairs(90, 5)[0], "other"], 60).save(store_of(folder) / "subwords.model")
    change_manifest(folder)
    with pytest.raises(StoreDamaged, match=r"another vocabulary than the manifest's"):
        read_translation(folder / "data", TINY)
    smaller = Subwords.train(make_pairs(90, 5)[0], 50)
    smaller.save(store_of(folder) / "subwords.model")
    change_manifest(folder, vocabulary_sha256=smaller.checksum)
    with pytest.raises(StoreDamaged, match=r"another vocabulary than the manifest's"):
        read_translation(folder / "data", TINY)
    (store_of(folder) / "subwords.model").write_bytes(b"none")
    change_manifest(folder)
    with pytest.raises(StoreDamaged, match=r"is no vocabulary"):
        read_translation(folder / "data", TINY)


def test_faults_within_a_split(folder):
    splits = read_translation(folder / "data", TINY).splits
    pairs = splits["test_a"]
    number = pairs.num_examples
    assert find_fault(TINY, pairs, number) is None
    side = pairs.target
    tokens = side.tokens.copy()
    tokens[-1] = 5
    high = side.tokens.copy()
    high[0] = TINY.vocab_size
    offsets = side.offsets.copy()
    offsets[1] = 0
    faults = {
        "200 sentences on a side, the manifest says 199 pairs": (splits["train"], 199),
        "without its end": (dataclasses.replace(side, tokens=tokens), number),
        "outside the vocabulary": (dataclasses.replace(side, tokens=high), number),
        "offsets that do not fit": (dataclasses.replace(side, offsets=offsets), number),
        "offsets that do not fit its tokens": (dataclasses.replace(side, tokens=side.tokens[:-1]), number),
        "lines of text": (dataclasses.replace(pairs, target_lines=("one",)), number),
    }
    for wanted, (changed, count) in faults.items():
        changed = changed if hasattr(changed, "target") else dataclasses.replace(pairs, target=changed)
        assert wanted in (find_fault(TINY, changed, count) or "")
    assert "allows 4" in (find_fault(dataclasses.replace(TINY, max_length=4), pairs, number) or "")


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("place", ["save", "fsync"])
def test_trouble_leaves_nothing_half_written(folder, tmp_path, monkeypatch, place, is_first):
    """A disk that is full leaves what was there before, and nothing else."""

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner, name = {"save": (np, "save"), "fsync": (folders, "sync_one")}[place]
    data = tmp_path / "new" if is_first else folder / "data"
    before = {} if is_first else snapshot(data)
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(UserError, match=r"cannot prepare tiny_deen in .*No space left"):
        prepare_translation(TINY, data, raw_dir=folder / "raw", rebuild=True)
    assert snapshot(data) == before
    assert not list(data.rglob(".tmp-*"))


def test_one_writer_and_leftovers(folder):
    with only_writer(folder / "data"), pytest.raises(UserError, match=r"another process is preparing data"):
        prepare_translation(TINY, folder / "data")
    left = store_of(folder).with_name(".tmp-tiny_deen-abc")
    left.mkdir()
    lines = []
    assert prepare_translation(TINY, folder / "data", report=lines.append).was_ready
    assert not left.exists()
    assert len(lines) == 1
    assert "left by a run that was killed" in lines[0]


def test_too_little_room_is_said_before_anything_is_written(folder, tmp_path, monkeypatch):
    usage = folders.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"are needed; choose another --data_dir"):
        prepare_translation(TINY, tmp_path / "data", raw_dir=folder / "raw")
    assert snapshot(tmp_path / "data") == {}


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """`wmt14_translate/de-en` as tensorflow-datasets prepares it, of the tiny text."""
    folder = tmp_path_factory.mktemp("tfds")
    text = make_text({"train": 200, "validation": 13, "test": 11})
    with tfds.core.registered.skip_registration():

        class Wmt14Translate(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="de-en")]  # noqa: RUF012

            def _info(self):
                features = tfds.features.Translation(languages=("de", "en"))
                return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in text}

            def _generate_examples(self, split):
                for number, (german, english) in enumerate(zip(*text[split], strict=True)):
                    yield number, {"de": german, "en": english}

    with dataset.quiet_tfds():
        Wmt14Translate(config="de-en", data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


TINY_WMT = dataclasses.replace(
    WMT14_ENDE, name="tiny_ende", vocab_size=60, max_length=32, tests=("test",)
)  # English to German


def test_tensorflow_datasets(tfds_dir, tmp_path, monkeypatch):
    """Read without TensorFlow: the same arrays as from files of the same text, with the sides as the task says."""
    monkeypatch.setattr(dataset, "READ_AT_ONCE", 64)
    german_english = make_text({"train": 200, "validation": 13, "test": 11})
    raw = write_raw(tmp_path / "raw", german_english)
    from_files = prepare_translation(TINY_WMT, tmp_path / "one", raw_dir=raw)
    stages = []
    prepared = prepare_translation(
        TINY_WMT, tmp_path / "two", tfds_dir=tfds_dir, progress=lambda stage, done, total: stages.append((stage, total))
    )
    assert {("read train", 200), ("encode", 224)} <= set(stages)
    assert arrays(tmp_path / "one") == arrays(tmp_path / "two")
    assert prepared.splits["test"].source_lines == tuple(german_english["test"][1])
    source = {"kind": "tensorflow-datasets", "name": "wmt14_translate/de-en", "version": "1.0.0"}
    assert prepared.manifest["source"] == source
    assert from_files.manifest["source"]["kind"] == "parallel files"
    assert prepare_translation(TINY_WMT, tmp_path / "two", tfds_dir=tfds_dir).was_ready
    with pytest.raises(UserError, match=r"prepared from parallel files; --rebuild replaces it by .*de-en/1.0.0"):
        prepare_translation(TINY_WMT, tmp_path / "one", tfds_dir=tfds_dir)
    with pytest.raises(
        UserError, match=r"prepared from the tensorflow-datasets; --rebuild replaces it by the files of"
    ):
        prepare_translation(TINY_WMT, tmp_path / "two", raw_dir=raw)


def test_tensorflow_datasets_that_cannot_be_read(tfds_dir, tmp_path):
    remedy = r"on a machine with TensorFlow: python -c .*tfds.builder\('wmt14_translate/de-en', .*array_record"
    with pytest.raises(UserError, match=rf"wmt14_translate/de-en is not prepared in .*; prepare it {remedy}"):
        prepare_translation(TINY_WMT, tmp_path / "data", tfds_dir=tmp_path)
    with pytest.raises(UserError, match=r"multi30k_deen is not in tensorflow-datasets; give its files as --raw_dir"):
        prepare_translation(MULTI30K_DEEN, tmp_path / "data", tfds_dir=tmp_path)
    other = dataclasses.replace(TINY_WMT, tests=("test", "test_b"))
    with pytest.raises(UserError, match=r"1.0.0 has no split test_b; it has train, validation, test"):
        prepare_translation(other, tmp_path / "data", tfds_dir=tfds_dir)
    own = shutil.copytree(tfds_dir, tmp_path / "own")
    info = own / "wmt14_translate" / "de-en" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=rf"the records in .*1.0.0 cannot be read \(.*\); prepare it again, {remedy}"):
        prepare_translation(TINY_WMT, tmp_path / "data", tfds_dir=own)
    assert snapshot(tmp_path / "data") == {}


def test_a_sentence_of_a_data_set_is_one_line():
    assert as_line("fünf\nsechs\r".encode()) == as_line("fünf sechs") == "fünf sechs"


def test_the_newest_version_is_read(tfds_dir, tmp_path):
    folder = tmp_path / "wmt14_translate" / "de-en"
    for name in ("1.9.0", "1.10.0", "1.2.0", "a.b.c"):
        (folder / name).mkdir(parents=True)
    assert find_version(TINY_WMT, tmp_path).name == "1.10.0"


def test_the_command(tmp_path):
    """Prepares, verifies, says what is damaged; several tasks at once, mistakes in one line."""
    data, raw = tmp_path / "data", tmp_path / "raw"
    missing = run(["prepare", WORDS.name, "--data_dir", data])
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (2, "", 1)
    assert missing.stderr.startswith(
        "error: words_deen is read from your files; give --raw_dir, a folder with train.de"
    )
    prepare_words(tmp_path)
    shutil.rmtree(data)
    first = run(["prepare", WORDS.name, "--data_dir", data, "--raw_dir", raw])
    assert first.returncode == 0, first.stderr
    card = first.stdout.splitlines()
    assert card[0].startswith("Tiny de-en: words_deen 1.0.0, prepared in")
    assert card[1] == "  source    parallel files"
    assert card[3].split()[:4] == ["train", "de", "240", "1,680"], "six words and the end each"
    assert card[3].split()[-1] == "0.000%"
    assert (
        card[-2] == f"  subwords  100 for both languages, sha256 {read_translation(data, WORDS).subwords.checksum[:16]}"
    )
    assert "learning 100 subwords from 240 pairs" in first.stderr
    second = run(["prepare", WORDS.name, "listops_small", "--data_dir", data])
    assert second.returncode == 0, second.stderr
    assert "words_deen 1.0.0, verified in" in second.stdout
    assert "listops_small 1.0.0, prepared in" in second.stdout
    wrong = run(["prepare", "words_den", "--data_dir", data])
    assert wrong.stderr.startswith("error: unknown task 'words_den'; did you mean 'words_deen'? choices: image, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["listops_small", "--tfds_dir", "x"], "--tfds_dir is read for one translation task alone; leave it out"),
        (["wmt14_ende", "--tfds_dir", "/x"], "wmt14_translate/de-en is not prepared in /x; prepare it on a machine"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    done = run(["prepare", *arguments, "--data_dir", tmp_path])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif("MULTI30K_DIR" not in os.environ, reason="MULTI30K_DIR names no folder of the real Multi30k")
def test_the_real_multi30k(tmp_path):
    prepared = prepare_translation(MULTI30K_DEEN, tmp_path, raw_dir=Path(os.environ["MULTI30K_DIR"]))
    assert prepared.subwords.checksum[:16] == "7da8b5b5a0a097ba"
    assert [pairs.num_examples for pairs in prepared.splits.values()] == [29_000, 1014, 1000, 1000, 1071, 461]
    differ = 0
    for pairs in prepared.splits.values():
        for side, lines in ((pairs.source, pairs.source_lines), (pairs.target, pairs.target_lines)):
            for (begin, end), line in zip(pairwise(side.offsets), lines or (), strict=lines is not None):
                differ += prepared.subwords.decode(side.tokens[begin:end]).split() != line.split()
    assert differ == 1, "the á of one source sentence is in no training sentence"
