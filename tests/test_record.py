"""The record of a run: round trip, hashes, right answers, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_record, make_scores

from lra_tasks import provenance, record
from lra_tasks.errors import UserError
from lra_tasks.record import RecordError
from lra_tasks.typed_json import JsonError, canonical_json


def test_round_trip_keeps_every_field(tmp_path: Path):
    original = make_record()
    path = tmp_path / "runs" / "a" / "record.json"
    record.write_record(original, path)
    assert record.read_record(path) == original
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_writing_over_an_older_record_replaces_it(tmp_path: Path):
    path = tmp_path / "record.json"
    record.write_record(make_record(seed=1), path)
    record.write_record(make_record(seed=2), path)
    assert record.read_record(path).seed == 2


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "record.json"
    record.write_record(make_record(), path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match="resumed = -1"):
        record.write_record(make_record(resumed=-1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_hash_of_a_config_ignores_order_and_sees_every_value():
    # sha256 of the text {"a":1,"b":{"c":[2.5,null]}}
    expected = "80b933a3627b48e17b660ced7e849bf723f6b40832756362b09fe745abe7e606"
    assert canonical_json({"b": {"c": (2.5, None)}, "a": 1}) == '{"a":1,"b":{"c":[2.5,null]}}'
    assert record.canonical_hash({"b": {"c": [2.5, None]}, "a": 1}) == expected
    assert record.canonical_hash({"b": {"c": [2.5, 0]}, "a": 1}) != expected


def test_experiment_hash_is_shared_by_seeds_only():
    config = {"train": {"seed": 1, "steps": 5}, "model": {"seed": 1}}
    other_seed = {"train": {"seed": 2, "steps": 5}, "model": {"seed": 1}}
    assert record.experiment_hash(config) == record.experiment_hash(other_seed)
    assert record.canonical_hash(config) != record.canonical_hash(other_seed)
    for changed in ({"train": {"seed": 1, "steps": 6}, "model": {"seed": 1}}, {**config, "model": {"seed": 2}}):
        assert record.experiment_hash(config) != record.experiment_hash(changed)
    assert config["train"] == {"seed": 1, "steps": 5}


def test_a_config_that_is_no_json_is_refused():
    with pytest.raises(JsonError, match="no JSON can say this"):
        record.canonical_hash({"rate": float("nan")})


@given(st.lists(st.booleans(), max_size=70))
def test_correctness_comes_back(flags: list[bool]):
    correct = np.array(flags, dtype=bool)
    text = record.encode_correctness(correct)
    np.testing.assert_array_equal(record.decode_correctness(text, len(flags)), correct)


def test_correctness_is_compact():
    correct = np.random.default_rng(0).random(25000) < 0.65
    assert len(record.encode_correctness(correct)) < 25000 / 5


def test_correctness_of_another_length_or_another_kind_is_refused():
    text = record.encode_correctness(np.ones(10, dtype=bool))
    for count in (8, 9, 17):
        with pytest.raises(RecordError, match=f"{count} examples were expected"):
            record.decode_correctness(text, count)
    with pytest.raises(RecordError, match="not deflated base64"):
        record.decode_correctness("no bits", 10)
    with pytest.raises(RecordError, match="int64"):
        record.encode_correctness(np.ones(10, dtype=np.int64))


def set_field(value: dict, field: str, new: object) -> dict:
    *parents, last = field.split(".")
    target = value
    for parent in parents:
        target = target[parent]
    target[last] = new
    return value


@pytest.mark.parametrize(
    ("field", "new", "message"),
    [
        ("schema_version", 2, "schema_version = 2: this code reads 1; read the record with the code that wrote it"),
        ("best.test_accuracy", 0.75, "best.test_accuracy = 0.75: test_correctness has 5 of 8 right"),
        ("last.test_accuracy", 0.51, "last.test_accuracy = 0.51: no number of right answers out of 8 gives it"),
        ("best.test_accuracy", 1.5, "best.test_accuracy = 1.5: must be a share between 0 and 1"),
        ("last.validation_accuracy", 0.3, "last.validation_accuracy = 0.3: no number of right answers out of 4"),
        ("best.test_loss", -1.0, "best.test_loss = -1.0: must be finite"),
        ("last.validation_loss", float("nan"), "last.validation_loss = nan: must be finite"),
        ("best.test_correctness", "AAAA", "best.test_correctness: correctness 'AAAA'"),
        ("splits.test.evaluated", 7, "splits.test.evaluated = 7: must equal the declared 8 examples"),
        ("splits.validation.declared", 5, "splits.validation.evaluated = 4: must equal the declared 5"),
        ("splits.test.majority_share", 0.0, "splits.test.majority_share = 0.0"),
        ("splits", {}, "validation is missing"),
        ("selection", "train", "selection = 'train': must be one of the splits ['test', 'validation']"),
        ("config.train.steps", 999, "config_hash = "),
        ("config.train", None, "seed = 1: config.train is None"),
        ("experiment_hash", "0" * 64, "experiment_hash = '000"),
        ("seed", 3, "seed = 3: config.train is {'seed': 1"),
        ("seed", True, "seed = True: must be int, not bool"),
        ("num_steps", 10.5, "num_steps = 10.5: must be int, not float"),
        ("num_steps", 50, "last.step = 100: must lie between 0 and num_steps = 50"),
        ("num_parameters", 0, "num_parameters = 0: must be at least 1"),
        ("steps_per_second", 0.0, "steps_per_second = 0.0: must be above 0"),
        ("compile_seconds", -0.1, "compile_seconds = -0.1: must be at least 0"),
        ("wall_seconds", float("inf"), "wall_seconds = inf: must be at least 0"),
        ("peak_memory_bytes.device", -1, "peak_memory_bytes.device = -1"),
        ("device.count", 0, "device.count = 0: must be at least 1"),
        ("device", None, "device = None: must be an object, not NoneType"),
        ("commit_dirty", None, "commit_dirty = None: with commit = 'abc123'"),
        ("command", ["python", "--workdir=/home/someone/a"], "'--workdir=/home/someone/a': a path of one machine"),
        ("command", "python", "command = 'python': must be a list, not str"),
        ("started_at", "2026-01-31T09:30:00+02:00", "must be ISO 8601 in UTC"),
        ("started_at", "yesterday", "must be ISO 8601 in UTC"),
        ("row", " ", "row = ' ': must not be empty"),
        ("versions.jax", 1, "versions.jax = 1: must be text, not int"),
        ("accuracy", 0.5, "fields: unknown accuracy"),
        ("best.note", "", "best: unknown note"),
    ],
)
def test_what_does_not_agree_is_refused_on_reading(tmp_path: Path, field: str, new: object, message: str):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(set_field(dataclasses.asdict(make_record()), field, new)))
    with pytest.raises(RecordError) as caught:
        record.read_record(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_fields_are_listed(tmp_path: Path):
    value = dataclasses.asdict(make_record())
    del value["row"], value["seed"], value["schema_version"]
    with pytest.raises(RecordError, match=r"a\.json: fields: missing row, seed, schema_version"):
        record.from_json(json.dumps(value), "a.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"schema_version": 1}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"record\.json: "):
        record.read_record(path)
    with pytest.raises(RecordError, match="cannot be read"):
        record.read_record(tmp_path / "nothing.json")


def test_what_does_not_agree_is_refused_on_writing(tmp_path: Path):
    wrong = dataclasses.replace(make_record(), best=make_scores(50, [1, 1, 0, 0, 0, 0, 0, 0], test_accuracy=0.5))
    with pytest.raises(RecordError, match=r"best\.test_accuracy = 0\.5: test_correctness has 2 of 8 right"):
        record.write_record(wrong, tmp_path / "record.json")
    with pytest.raises(RecordError, match="seed = 'one': must be int, not str"):
        record.validate(make_record(seed="one"))
    with pytest.raises(RecordError, match="must be float, not float32"):
        record.validate(make_record(compile_seconds=np.float32(1)))
    assert list(tmp_path.iterdir()) == []


def test_null_is_allowed_where_it_says_so():
    memory = record.PeakMemory(process=1, device=None)
    unknown = make_record(commit=None, commit_dirty=None, steps_per_second=None, peak_memory_bytes=memory)
    assert record.from_json(record.to_json(unknown)) == unknown


def test_accuracy_may_come_from_float32():
    ten = record.SplitCount(declared=10, evaluated=10, majority_share=0.2)
    splits = make_record().splits | {"test": ten}
    scores = make_scores(50, [1] * 3 + [0] * 7, test_accuracy=float(np.float32(0.3)))
    assert scores.test_accuracy != 0.3
    record.validate(make_record(splits=splits, best=scores, last=scores))


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_git_commit_knows_the_commit_and_whether_the_code_differs(tmp_path: Path):
    source = tmp_path / "package" / "code.py"
    source.parent.mkdir()
    source.write_text("a = 1\n")
    assert provenance.git_commit(source) == (None, None)
    git(tmp_path, "init")
    assert provenance.git_commit(source) == (None, None)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert provenance.git_commit(source) == (commit, False)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.json").write_text("{}")
    assert provenance.git_commit(source) == (commit, False)
    (tmp_path / "other.py").write_text("b = 2\n")
    assert provenance.git_commit(source) == (commit, True)
    untracked = tmp_path / "venv" / "code.py"
    untracked.parent.mkdir()
    untracked.write_text("")
    assert provenance.git_commit(untracked) == (None, None)


def test_versions_name_every_library():
    versions = provenance.library_versions()
    assert list(versions) == [
        "python",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax",
        "numpy",
        "sentencepiece",
        "sacrebleu",
    ]
    assert versions["numpy"] == np.__version__
    assert None not in versions.values()


def test_command_has_no_path_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"--workdir={tmp_path}/runs/a",
        "--data_dir",
        "/data/lra",
        "--config=configs/a.py",
        "--x.rate=0.1",
        "a/b",
    ]
    assert provenance.portable_command("lra_tasks.train", arguments) == (
        *("python", "-m", "lra_tasks.train", "--workdir=runs/a", "--data_dir", "lra"),
        *("--config=configs/a.py", "--x.rate=0.1", "a/b"),
    )


def test_peak_memory_grows_with_what_is_held():
    code = "import numpy as np; from lra_tasks import provenance as p; a = p.peak_process_bytes()\n"
    code += "np.ones(40_000_000, np.uint8); print(a, p.peak_process_bytes())"
    before, after = map(
        int, subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.split()
    )
    assert 10e6 < before < 500e6
    assert 30e6 < after - before < 60e6


def test_host_cores_is_a_count():
    assert provenance.host_cores() >= 1


def test_errors_are_mendable_by_the_user():
    assert issubclass(RecordError, UserError)
    assert issubclass(JsonError, UserError)


def test_record_does_not_import_jax():
    code = "import sys; from lra_tasks import record, provenance, tables, table_text; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
