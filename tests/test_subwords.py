"""The vocabulary: the same bytes for the same lines, text comes back as it was, and no text makes a special id."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tiny_translation import make_pairs

from lra_tasks import subwords as subwords_module
from lra_tasks.errors import UserError
from lra_tasks.subwords import END, PADDING, UNKNOWN, Subwords, explain

ROOT = Path(__file__).parents[1]
RARE = "½ ﬁ e\u0301 é ß Ⅳ \u00a0 \u2028 \u0085 \u3000 漢 Ａ"
"""Characters that NFKC, or a reader of lines, would change."""
LINES = [line for side in make_pairs(60) for line in side] + [RARE]
SIZE = 80


@pytest.fixture(scope="module")
def subwords():
    return Subwords.train(LINES, SIZE)


def test_ids(subwords):
    """0 padding, 1 unknown, 2 end, then pieces, and vocab_size counts everything."""
    assert subwords.size == SIZE
    processor = sentencepiece.SentencePieceProcessor()
    processor.load_from_serialized_proto(subwords.model)
    assert (processor.pad_id(), processor.unk_id(), processor.eos_id(), processor.bos_id()) == (0, 1, 2, -1)
    assert (PADDING, UNKNOWN, END) == (0, 1, 2)
    assert subwords.dtype == np.uint16


def test_the_same_lines_give_the_same_bytes(subwords):
    """In another process, with other hash seeds; and other lines give others."""
    code = "import sys, test_subwords as t; sys.stdout.write(t.Subwords.train(t.LINES, t.SIZE).checksum)"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == subwords.checksum
    assert Subwords.train(LINES[1:], SIZE).checksum != subwords.checksum


@given(st.text(sorted(set("".join(LINES)))))
def test_text_comes_back_but_for_runs_of_spaces(subwords, text):
    ids = subwords.encode(text)
    assert ids.dtype == np.int32
    assert not np.isin(ids, [PADDING, UNKNOWN, END]).any()
    assert subwords.decode(ids) == " ".join(word for word in text.split(" ") if word)


@given(
    st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["</s>", "<pad>", "<unk> </s>", "a</s>b", ""])
)
def test_no_text_makes_a_special_id(subwords, text):
    ids = subwords.encode(text)
    assert not np.isin(ids, [PADDING, END]).any()
    assert ids.size == 0 or ids.max() < SIZE
    known = set("".join(LINES)) | set(" \u2581")
    assert (UNKNOWN in ids) == bool(set(text) - known)


def test_decoding_stops_at_the_end(subwords):
    ids = subwords.encode("zwei three").tolist()
    assert subwords.decode([PADDING, *ids, END, *ids]) == "zwei three"
    assert subwords.decode(np.array([END, 5])) == subwords.decode([]) == ""


def test_all_lines_at_once_are_each_line(subwords, monkeypatch):
    monkeypatch.setattr(subwords_module, "ENCODED_AT_ONCE", 3)
    lines = ["eins", "", "two three", "vier", "  ", "five", "sechs"]
    tokens, offsets = subwords.encode_flat(lines)
    assert (tokens.dtype, offsets.dtype) == (np.uint16, np.int64)
    wanted = [[*subwords.encode(line).tolist(), END] for line in lines]
    assert [tokens[b:e].tolist() for b, e in pairwise(offsets)] == wanted
    assert subwords.encode_all(lines) == wanted
    tokens, offsets = subwords.encode_flat([])
    assert (tokens.tolist(), offsets.tolist()) == ([], [0])


def test_of_very_many_lines_an_even_share_is_learnt_from(monkeypatch):
    monkeypatch.setattr(subwords_module, "MOST_SENTENCES", 50)
    assert Subwords.train(LINES, 70).checksum == Subwords.train(LINES[::3], 70).checksum


@pytest.mark.parametrize(
    ("lines", "size", "message"),
    [
        (
            LINES,
            5000,
            r"^no vocabulary of 5,000 subwords can be learnt from 121 lines \(the text has \d+ at most\); give",
        ),
        (
            LINES,
            20,
            r"^no vocabulary of 20 subwords .* \(its characters alone need 3\d\); give more text, or a task with",
        ),
        ([], 20, r"from 0 lines \(they are empty\)"),
    ],
)
def test_text_that_does_not_fit_the_vocabulary(lines, size, message, capfd):
    with pytest.raises(UserError, match=message) as error:
        Subwords.train(lines, size)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", ""), "sentencepiece writes nothing of its own"


def test_what_else_sentencepiece_says_is_passed_on():
    assert explain("first\nINTERNAL: no memory\n") == "INTERNAL: no memory"
    assert explain("") == "sentencepiece does not say why"


def test_files(subwords, tmp_path):
    path = tmp_path / "subwords.model"
    subwords.save(path)
    found = Subwords.load(path)
    assert (found.model, found.checksum) == (subwords.model, subwords.checksum)
    path.write_bytes(b"no model")
    with pytest.raises(
        UserError, match=r"the vocabulary .*subwords.model cannot be read \(it is no sentencepiece model\)"
    ):
        Subwords.load(path)
    with pytest.raises(UserError, match=r"none.model cannot be read \(No such file or directory\)"):
        Subwords.load(tmp_path / "none.model")
