"""The token tables: fixed ids, fixed digest, and errors that name the word and its place."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lra_tasks.errors import UserError
from lra_tasks.vocab import LISTOPS_VOCABULARY, Vocabulary

ROOT = Path(__file__).parents[1]
TEXT = "[MAX 2 9 [MIN 4 7 ] 0 ]"
OFFICIAL = "( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) 0 ) ] )"
IDS = [12, 3, 10, 11, 5, 8, 15, 1, 15]


def test_table_is_fixed():
    assert LISTOPS_VOCABULARY.tokens == ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
    assert LISTOPS_VOCABULARY.size == 16
    assert LISTOPS_VOCABULARY.dtype == np.uint8
    assert LISTOPS_VOCABULARY.digest == hashlib.sha256("\n".join(LISTOPS_VOCABULARY.tokens).encode()).hexdigest()
    # Every store and checkpoint carries this digest: a change here makes all of them unreadable.
    assert LISTOPS_VOCABULARY.digest.startswith("edb72b8db3a4ee0b")


@pytest.mark.parametrize("text", [TEXT, OFFICIAL, f"  {TEXT}\n"])
def test_plain_and_official_text_give_the_same_ids(text):
    ids = LISTOPS_VOCABULARY.encode(text)
    assert ids.tolist() == IDS
    assert ids.dtype == np.uint8


def test_decode_is_the_inverse_and_skips_padding():
    assert LISTOPS_VOCABULARY.decode([*IDS, 0, 0]) == TEXT


@given(st.lists(st.integers(1, 15), min_size=1, max_size=50))
def test_round_trip(ids):
    assert LISTOPS_VOCABULARY.encode(LISTOPS_VOCABULARY.decode(ids)).tolist() == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[MAX 2 9]", r"token '9\]' at place 3: put spaces between tokens"),
        ("[MAX2 9 ]", r"token '\[MAX2' at place 1: put spaces"),
        ("1 [MAX[MIN 9 ]", r"token '\[MAX\[MIN' at place 2: put spaces"),
        ("[MAX 2 ]]", r"token '\]\]' at place 3: put spaces"),
        ("[MAX 2 11 ]", "unknown token '11' at place 3; .*choices"),
        ("[MAXI 2 1 ]", r"unknown token '\[MAXI' at place 1; did you mean '\[MAX'"),
        ("[MAX 2 <pad> ]", "unknown token '<pad>' at place 3"),
        ("( [MAX 2 ) x", "unknown token 'x' at place 3"),
        ("", "no token"),
        (" ( ) ", "no token"),
    ],
)
def test_bad_text_is_named_with_its_place(text, message):
    with pytest.raises(UserError, match=message):
        LISTOPS_VOCABULARY.encode(text)


@pytest.mark.parametrize("value", [-1, 16])
def test_bad_id_is_named(value):
    with pytest.raises(UserError, match=f"id {value} at place 2"):
        LISTOPS_VOCABULARY.decode([1, value])


def test_digest_tells_orders_apart():
    assert Vocabulary(("<pad>", "a", "b")).digest != Vocabulary(("<pad>", "b", "a")).digest


def test_large_tables_get_wider_ids():
    assert Vocabulary(tuple(map(str, range(256)))).dtype == np.uint8
    assert Vocabulary(tuple(map(str, range(257)))).dtype == np.uint16


def test_ids_are_the_same_in_another_process():
    """The reference numbers tokens by the order of a set, which PYTHONHASHSEED changes; ours must not."""
    code = f"from lra_tasks.vocab import *; print(LISTOPS_VOCABULARY.encode({TEXT!r}).tolist())"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert json.loads(out.stdout) == IDS
