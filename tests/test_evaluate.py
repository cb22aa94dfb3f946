"""Evaluating a trained run: the record's numbers again, answers to free texts, and every mistake in one line."""

import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_runs import QUICK_COMPILE, ROOT, assert_one_line_error, run, uninterrupted_run

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.errors import UserError
from lra_tasks.image import IMAGE
from lra_tasks.loader import pad_documents
from lra_tasks.model import build_model
from lra_tasks.record import read_record
from lra_tasks.registry import get_task
from lra_tasks.settings import resolve
from lra_tasks.steps import make_predict_step
from lra_tasks.store import read_store
from lra_tasks.text import TEXT
from lra_tasks.texts import parse_text, read_texts, text_batches

TASK = get_task("listops_small")
TEXTS = {"[MAX 2 9 [MIN 4 7 ] 0 ]": 9, "[SM 1 2 3 ]": 6, "( ( [MED 5 ) 7 ) 7 ]": 7, "4": 4}
LONG = "[MAX " + "1 " * 63 + "]"

# One process for many command lines: only the first pays for the imports. What main raises beyond UserError ends it.
DRIVER = """
import contextlib, io, json, sys
from absl import flags
from lra_tasks import cli, evaluate
ends = []
for argv in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    for name in cli.own_flags():
        flags.FLAGS[name].unparse()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.call(evaluate.main, cli.parse(["evaluate", *argv], True))
        except SystemExit as stop:
            code = stop.code
    ends.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A finished run: (work directory, data folder)."""
    return uninterrupted_run(tmp_path_factory.getbasetemp())[:2]


@pytest.fixture(scope="module")
def commands(straight, tmp_path_factory):
    """Name -> the flags behind --workdir and --data_dir (which a mistake may override)."""
    folder = tmp_path_factory.mktemp("inputs")
    lines = list(TEXTS)

    def write(name, content):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    swapped = folder / "swapped"
    shutil.copytree(straight[0], swapped)
    config = json.loads((swapped / "config.json").read_text())
    config["model"]["emb_dim"] = 8
    (swapped / "config.json").write_text(json.dumps(config))
    (folder / "no_run").mkdir()
    broken = folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model": {}}')
    table = "Source\tTarget\n" + "".join(f"{text}\t{answer}\n" for text, answer in TEXTS.items())
    return {
        "test": [],
        "validation": ["--split", "validation", "--checkpoint", "last"],
        "lengths": ["--split", "validation", "--checkpoint", "last", "--lengths", "20,64"],
        "text": ["--text", lines[0]],
        "txt": ["--input", write("texts.txt", "\n".join([lines[0], "", *lines[1:]]) + "\n")],
        "sources": ["--input", write("sources.tsv", "Source\r\n" + "\r\n".join(lines))],
        "targets": ["--input", write("targets.tsv", b"\xef\xbb\xbf" + table.encode())],
        "wrong target": ["--input", write("wrong.tsv", table.replace("\t9", "\t8"))],
        "! unknown token": ["--text", "[MAX 2 x ]"],
        "! glued": ["--text", "[MAX 2 9]"],
        "! empty": ["--text", ""],
        "! too long": ["--text", LONG],
        "! no header": ["--input", write("headless.tsv", table.split("\n", 1)[1])],
        "! label out of range": ["--input", write("range.tsv", "Source\tTarget\n4\t4\n4\t10\n")],
        "! no label": ["--input", write("huge.tsv", "Source\tTarget\n4\t" + "9" * 5000 + "\n")],
        "! columns": ["--input", write("columns.tsv", "Source\tTarget\n4\n")],
        "! line": ["--input", write("line.txt", "4\n[MAX 2\n[MAXI 2 ]\n")],
        "! missing": ["--input", folder / "absent.txt"],
        "! folder": ["--input", folder],
        "! binary": ["--input", write("binary.txt", b"\xff\xfe\x00\x01")],
        "! zeros": ["--input", write("zeros.txt", bytes(64))],
        "! nothing": ["--input", write("blank.txt", "\n\n")],
        "! empty table": ["--input", write("empty.tsv", "")],
        "! both": ["--text", "4", "--input", folder / "texts.txt"],
        "! split": ["--split", "tset"],
        "! lengths": ["--lengths", "20,long"],
        "! falling": ["--lengths", "64,20"],
        "! short": ["--lengths", "20,40"],
        "! no split": ["--lengths", "20,64", "--text", "4"],
        "! no run": ["--workdir", folder / "no_run"],
        "! not there": ["--workdir", folder / "not_there"],
        "! broken config": ["--workdir", broken],
        "! no data": ["--data_dir", folder],
        "! swapped best": ["--workdir", swapped],
        "! swapped last": ["--workdir", swapped, "--checkpoint", "last", "--text", "4"],
    }


@pytest.fixture(scope="module")
def ends(straight, commands):
    """Name -> how the command ended."""
    lines = [["--workdir", *straight[:1], "--data_dir", straight[1], *command] for command in commands.values()]
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK_COMPILE.items())
    driven = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_NUM_CPU_DEVICES": "1"},
        input=json.dumps([list(map(str, line)) for line in lines]),
        capture_output=True,
        text=True,
    )
    assert driven.returncode == 0, driven.stderr
    found = json.loads(driven.stdout)
    return {name: subprocess.CompletedProcess(name, *end) for name, end in zip(commands, found, strict=True)}


def answers(end):
    """What evaluate printed for texts: [(prediction, known answer or None, probabilities)], and the lines behind."""
    assert end.returncode == 0, end.stderr
    found, rest = [], []
    for line in end.stdout.splitlines():
        match = re.match(r"prediction (\d)(?:  answer (\d))?  ((?:\d:\d\.\d{3} ?)+)", line)
        if match:
            shares = [float(share.split(":")[1]) for share in match[3].split()]
            found.append((int(match[1]), None if match[2] is None else int(match[2]), shares))
        else:
            rest.append(line)
    return found, rest


def test_the_records_accuracy_again(straight):
    """As the README says, a process of its own, and quiet also where JAX looks for accelerators that are not there."""
    record = read_record(straight[0] / "record.json")
    environment = {"JAX_PLATFORMS": ""}
    end = run("evaluate", "--workdir", straight[0], "--data_dir", straight[1], environment=environment)
    assert end.returncode == 0, end.stderr
    best = record.best
    assert (
        f"test, best checkpoint (step {best.step}): accuracy {100 * best.test_accuracy:.2f}%, "
        f"loss {best.test_loss:.4f}, 2000 of 2000" in end.stdout
    )
    assert f"(majority class {100 * record.splits['test'].majority_share:.2f}%)" in end.stdout
    assert end.stderr == ""


def test_split_and_checkpoint(straight, ends):
    record = read_record(straight[0] / "record.json")
    assert f"(step {record.best.step}): accuracy {100 * record.best.test_accuracy:.2f}%" in ends["test"].stdout
    last = f"validation, last checkpoint (step 240): accuracy {100 * record.last.validation_accuracy:.2f}%"
    assert last in ends["validation"].stdout
    assert f"loss {record.last.validation_loss:.4f}, 1000 of 1000" in ends["validation"].stdout
    assert ends["lengths"].stdout == ends["validation"].stdout


@pytest.fixture(scope="module")
def direct(straight):
    """Class probabilities of TEXTS [4, 10] by a forward pass of the best checkpoint, padded to two lengths."""
    experiment = resolve(json.loads((straight[0] / "config.json").read_text()))
    model = build_model(experiment, TASK)
    with Checkpoints(straight[0]) as checkpoints:
        _, params, _ = checkpoints.restore("best", model.abstract)
    documents = [TASK.vocabulary.encode(text) for text in TEXTS]
    found = []
    for length in (15, 64):
        batch = pad_documents(documents, length)
        predict = make_predict_step(model).lower(params, batch).compile(compiler_options=QUICK_COMPILE)
        found.append(np.asarray(predict(params, batch)))
    return found


def test_padding_does_not_matter(direct):
    np.testing.assert_allclose(direct[0], direct[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["text", "txt", "sources", "targets"])
def test_answers_are_the_models(direct, ends, name):
    """Predictions and probabilities, in order; the three decimals that are printed sum to one."""
    found, _ = answers(ends[name])
    assert len(found) == (1 if name == "text" else 4)
    for (prediction, known, shares), expected, answer in zip(found, direct[0], TEXTS.values(), strict=False):
        assert prediction == expected.argmax()
        assert len(shares) == 10
        np.testing.assert_allclose(shares, expected, rtol=0, atol=0.00051)
        assert sum(shares) == pytest.approx(1.0, abs=0.0051)
        assert known == (answer if name == "targets" else None)


def test_accuracy_where_answers_are_known(direct, ends):
    right = sum(int(row.argmax()) == answer for row, answer in zip(direct[0], TEXTS.values(), strict=True))
    assert answers(ends["targets"])[1][0].startswith(f"accuracy {25 * right:.2f}% of 4 texts (best checkpoint")
    assert answers(ends["txt"])[1] == answers(ends["sources"])[1] == []
    wrong = right - (direct[0][0].argmax() == 9) + (direct[0][0].argmax() == 8)
    assert answers(ends["wrong target"])[1][0].startswith(f"accuracy {25 * wrong:.2f}% of 4 texts")


MISTAKES = {
    "! unknown token": ["unknown token 'x' at place 3", "choices: "],
    "! glued": ["'9]' at place 3", "put spaces"],
    "! empty": ["no token"],
    "! too long": ["65 tokens", "at most 64"],
    "! no header": ["headless.tsv, line 1", "expected the header Source"],
    "! label out of range": ["range.tsv, line 3", "label '10' is outside 0..9"],
    "! no label": ["huge.tsv, line 2", "outside 0..9"],
    "! columns": ["columns.tsv, line 2", "1 columns instead of 2"],
    "! line": ["line.txt, line 3", "'[MAXI'", "did you mean '[MAX'"],
    "! missing": ["absent.txt cannot be read", "No such file"],
    "! folder": ["cannot be read", "Is a directory"],
    "! binary": ["binary.txt is not UTF-8 text", "byte 0"],
    "! zeros": ["zeros.txt, line 1", "unknown token"],
    "! nothing": ["blank.txt holds no text"],
    "! empty table": ["empty.tsv, line 1", "an empty file"],
    "! both": ["--text and --input were both given"],
    "! split": ["tset", "train|validation|test"],
    "! lengths": ["--lengths 20,long must be whole numbers"],
    "! falling": ["--lengths=(64, 20) must be at least 1 each and rise"],
    "! short": ["--lengths=(20, 40) ends below the 64 tokens"],
    "! no split": ["--lengths is for a whole split", "leave it out"],
    "! no run": ["config.json is missing", "lra_tasks.train"],
    "! not there": ["not_there/config.json is missing"],
    "! broken config": ["config.json cannot be read"],
    "! no data": ["listops_small is not prepared", "python -m lra_tasks.prepare listops_small"],
    "! swapped best": ["best/", "belongs to another model", "'float32[16, 8]' here", "'float32[16, 16]' there"],
    "! swapped last": ["last/240 belongs to another model", "and "],
}


def test_every_mistake_is_expected(commands):
    assert MISTAKES.keys() == {name for name in commands if name.startswith("!")}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(ends, name):
    assert_one_line_error(ends[name], *MISTAKES[name])


def test_a_mistake_in_a_process_of_its_own(straight):
    assert_one_line_error(run("evaluate", "--workdir", straight[0], "--text", "[MAX 2 x ]"), "unknown token 'x'")


def test_evaluated_count_is_held(straight):
    """A split with fewer examples than declared is refused, not averaged."""
    from lra_tasks.evaluation import evaluate_split
    from lra_tasks.metrics import Sums

    split = read_store(straight[1], TASK)["validation"]

    def eval_step(_, batch):
        mask = batch.example_mask
        return Sums(np.float32(mask.sum()), mask.sum(), mask.sum()), mask

    result = evaluate_split(eval_step, None, split, batch_size=300, length=64, declared=1000)
    assert (result.accuracy, result.loss, result.evaluated, len(result.correct)) == (1.0, 1.0, 1000, 1000)
    with pytest.raises(UserError, match="1000 examples were evaluated, 1001 are declared"):
        evaluate_split(eval_step, None, split, batch_size=300, length=64, declared=1001)


def test_texts_come_in_order_in_batches_of_one_shape():
    texts = [parse_text(TASK, str(number % 10), 64) for number in range(7)]
    batches = list(text_batches(texts, 3, 64))
    assert {batch.tokens.shape for batch, _ in batches} == {(3, 64)}
    assert [text for _, rows in batches for text in rows] == texts
    assert [int(batch.example_mask.sum()) for batch, _ in batches] == [3, 3, 1]
    assert text_batches([parse_text(TASK, LONG[:-3] + "]", 64)], 3, 64).__next__()[0].tokens.shape == (1, 64)


def test_the_longest_text_is_taken(tmp_path):
    (tmp_path / "one.txt").write_text("[MAX " + "1 " * 62 + "]")
    assert len(read_texts(tmp_path / "one.txt", TASK, 64)[0].tokens) == 64
    assert jax.devices()[0].platform == "cpu"


def test_texts_of_byte_tasks():
    """A review is read as bytes and cut where training cuts; what is shown says so. Pictures are no texts."""
    text = parse_text(TEXT, "Grüße! " * 30, 100, "1")
    assert text.tokens.tolist() == [byte + 1 for byte in ("Grüße! " * 30).encode()[:100]]
    assert text.label == 1
    assert text.shown.endswith("... (the first 100 of 270 bytes)")
    assert parse_text(TEXT, "ab\tc", 4000).tokens.tolist() == [98, 99, 10, 100]
    assert TEXT.vocabulary.decode(text.tokens[:9]) == "Grüße! "
    with pytest.raises(UserError, match="the text is empty"):
        parse_text(TEXT, "", 100)
    with pytest.raises(UserError, match="pictures, not texts; evaluate the model on a split"):
        parse_text(IMAGE, "0 0 255", 1024)
