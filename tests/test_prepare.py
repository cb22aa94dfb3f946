"""python -m lra_tasks.prepare: records and store together, twice is once, trouble in one line, nothing half-written."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_listops import make_official
from tiny_tasks import TINY

from lra_tasks import dataset, preparation, store
from lra_tasks.errors import UserError
from lra_tasks.listops import GRAMMARS, generate, iterate_chunks
from lra_tasks.preparation import ensure_prepared, prepare_task, records_paths
from lra_tasks.prepare import data_card
from lra_tasks.store import StoreDamaged, StoreMissing, read_manifest, read_store, store_path

ROOT = Path(__file__).parents[1]
LOCK = ".prepare.lock"


def snapshot(folder):
    """Every file below a folder with its bytes; the lock is not data."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != LOCK}


def equal(found, wanted):
    return all(
        np.array_equal(getattr(found[n], a), getattr(wanted[n], a))
        for n in TINY.splits
        for a in ("tokens", "offsets", "labels")
    ) and list(found) == list(wanted)


@pytest.fixture(scope="module")
def wanted():
    return generate(TINY.grammar, TINY.seed, TINY.splits)


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_task(TINY, folder)
    return folder


@pytest.fixture
def data_dir(tmp_path, prepared_once):
    """A prepared data folder of the test's own."""
    return shutil.copytree(prepared_once, tmp_path / "data")


def test_records_and_store_hold_what_was_generated(data_dir, wanted):
    assert equal(read_store(data_dir, TINY), wanted)
    manifest = read_manifest(data_dir, TINY)
    assert manifest["source"] == {
        "kind": "generator",
        "seed": TINY.seed,
        "roots_per_chunk": 1 << 14,
        "grammar": dataclasses.asdict(TINY.grammar),
    }
    assert manifest["records"] == store.describe_files(records_paths(data_dir, TINY)[""], root=data_dir)
    names = {p.relative_to(data_dir).parts[:2] for p in data_dir.rglob("*") if p.is_file()}
    assert names == {(TINY.name, TINY.version), ("store", TINY.name), (LOCK,)}


def test_anybody_can_read_the_records(data_dir, wanted):
    """By tfds' public calls, in a process that knows nothing of this project and has no TensorFlow."""
    code = f"""
import json, sys
import tensorflow_datasets as tfds
by_folder = tfds.builder_from_directory({str(records_paths(data_dir, TINY)[""])!r}).as_data_source(split="test")
by_name = tfds.data_source({TINY.name!r}, split="test", data_dir={str(data_dir)!r},
                           builder_kwargs={{"file_format": "array_record"}})
rows = [
    [(e["tokens"].tolist(), str(e["tokens"].dtype), int(e["label"])) for e in source] for source in (by_folder, by_name)
]
assert rows[0] == rows[1]
print(json.dumps([rows[0], "tensorflow" in sys.modules, "lra_tasks" in sys.modules]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=data_dir)
    rows, has_tensorflow, knows_us = json.loads(out.stdout.splitlines()[-1])
    test = wanted["test"]
    assert rows == [[test.document(i).tolist(), "uint8", int(test.labels[i])] for i in range(test.num_examples)]
    assert (has_tensorflow, knows_us) == (False, False)


def test_the_builder_works_by_itself(tmp_path, wanted):
    """tfds.builder(name) of whoever imports lra_tasks.dataset makes the task's own data."""
    task = dataset.BUILDERS[TINY.name].TASK
    assert (task.name, task.version) == (TINY.name, TINY.version)
    builder = dataset.BUILDERS[TINY.name](data_dir=str(tmp_path), splits=wanted)
    assert (builder.name, str(builder.version)) == (TINY.name, TINY.version)
    assert builder.info.disable_shuffling
    with dataset.quiet_tfds():
        builder.download_and_prepare()
    assert equal(dataset.read_records(records_paths(tmp_path, TINY), TINY, tmp_path / "work", lambda *_: None), wanted)


def test_the_second_time_only_verifies(data_dir, monkeypatch):
    before = snapshot(data_dir)
    monkeypatch.setattr(preparation, "build", None)
    assert prepare_task(TINY, data_dir).was_ready
    assert snapshot(data_dir) == before


def test_the_same_bytes_anywhere(data_dir, tmp_path):
    """All arrays, wherever and whenever they are prepared. (Records carry the layout of their writer's version.)"""
    prepare_task(TINY, tmp_path / "other")
    assert snapshot(store_path(tmp_path / "other", TINY)) == snapshot(store_path(data_dir, TINY))


@pytest.mark.parametrize(
    "file", ["store/{name}/train_labels.npy", "{name}/{version}/{name}-train.array_record-00000-of-00001"]
)
def test_damage_is_named_and_only_rebuild_mends_it(data_dir, wanted, file):
    path = data_dir / file.format(name=TINY.name, version=TINY.version)
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    before = snapshot(data_dir)
    with pytest.raises(StoreDamaged, match=f"{path.name} does not have the checksum.*--rebuild"):
        prepare_task(TINY, data_dir)
    assert snapshot(data_dir) == before
    assert not prepare_task(TINY, data_dir, rebuild=True).was_ready
    assert not [p for p in data_dir.rglob("*") if p.name.startswith(".tmp-")], "what was replaced is gone"
    assert equal(read_store(data_dir, TINY), wanted)
    assert prepare_task(TINY, data_dir).was_ready


def test_a_missing_store_is_made_from_the_records(data_dir, wanted, monkeypatch):
    before = snapshot(store_path(data_dir, TINY))
    shutil.rmtree(store_path(data_dir, TINY))
    monkeypatch.setattr(type(TINY), "make_splits", None)
    assert not prepare_task(TINY, data_dir).was_ready
    assert equal(read_store(data_dir, TINY), wanted)
    assert snapshot(store_path(data_dir, TINY)) == before


def test_a_store_is_not_made_from_damaged_records(data_dir):
    shutil.rmtree(store_path(data_dir, TINY))
    path = next(records_paths(data_dir, TINY)[""].glob("*-train.*"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"records in .* cannot be read .*--rebuild"):
        prepare_task(TINY, data_dir)
    (records_paths(data_dir, TINY)[""] / "source.json").unlink()
    with pytest.raises(UserError, match=r"source.json is missing or damaged.*--rebuild"):
        prepare_task(TINY, data_dir)
    assert not store_path(data_dir, TINY).exists()


def test_a_store_alone_is_enough(data_dir):
    shutil.rmtree(data_dir / TINY.name)
    prepared = prepare_task(TINY, data_dir)
    assert prepared.was_ready
    assert "none beside the store" in data_card(TINY, data_dir, prepared, 0.0)


def test_official_files(tmp_path, wanted):
    raw, data = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    make_official(raw, wanted)
    assert equal(prepare_task(TINY, data, raw_dir=raw).splits, wanted)
    manifest = read_manifest(data, TINY)
    assert manifest["source"]["kind"] == "official files"
    assert set(manifest["source"]["sha256"]) == {"basic_train.tsv", "basic_val.tsv", "basic_test.tsv"}
    assert prepare_task(TINY, data, raw_dir=raw).was_ready
    assert prepare_task(TINY, data).was_ready, "what is prepared from official files stays in use"
    raw_only = dataclasses.replace(TINY, source_kind="raw", on_demand=False)
    assert prepare_task(raw_only, data).was_ready
    with pytest.raises(UserError, match=r"give the folder of its official files as --raw_dir"):
        prepare_task(raw_only, data, rebuild=True)
    before = snapshot(data)
    (raw / "basic_val.tsv").write_bytes((raw / "basic_val.tsv").read_bytes().replace(b"\r\n", b"\n"))
    with pytest.raises(UserError, match=r"prepared from another basic_val.tsv than .*; --rebuild replaces it"):
        prepare_task(TINY, data, raw_dir=raw)
    assert snapshot(data) == before


def test_official_files_are_not_passed_over_for_generated_data(data_dir, tmp_path, wanted):
    make_official(tmp_path, wanted)
    with pytest.raises(UserError, match=r"prepared from the generator; --rebuild replaces it by the files of"):
        prepare_task(TINY, data_dir, raw_dir=tmp_path)
    prepare_task(TINY, data_dir, raw_dir=tmp_path, rebuild=True)
    assert read_manifest(data_dir, TINY)["source"]["kind"] == "official files"


def test_wrong_official_files_leave_nothing(tmp_path, wanted):
    make_official(tmp_path, wanted | {"test": wanted["validation"]})
    with pytest.raises(UserError, match=r"basic_test.tsv holds 7 examples"):
        prepare_task(TINY, tmp_path / "data", raw_dir=tmp_path)
    assert snapshot(tmp_path / "data") == {}


def test_leftovers_of_killed_runs_go(data_dir):
    left = [data_dir / TINY.name / ".tmp-1.0.0-abc", data_dir / "store" / f".tmp-{TINY.name}-abc"]
    for folder in left:
        folder.mkdir()
        (folder / "half").write_text("half")
    lines = []
    assert prepare_task(TINY, data_dir, report=lines.append).was_ready
    assert not any(folder.exists() for folder in left)
    assert len(lines) == 2
    assert all("left by a run that was killed" in line for line in lines)


FAULTS = {
    "make_splits": OSError(errno.EIO, "Input/output error"),
    "write_records": UserError("cannot write the records: No space left on device"),
    "compare_records": OSError(errno.EIO, "Input/output error"),
    "fill_store": OSError(errno.ENOSPC, "No space left on device"),
    "save": OSError("145964 requested and 20352 written"),
    "interrupted": KeyboardInterrupt(),
}


@pytest.mark.parametrize("place", FAULTS)
@pytest.mark.parametrize("is_first", [True, False])
def test_trouble_leaves_nothing_half_written(data_dir, tmp_path, monkeypatch, place, is_first):
    """Wherever a run breaks off: the data of before is intact, and nothing else is there."""

    def fail(*args, **kwargs):
        raise FAULTS[place]

    owner, name = {
        "make_splits": (type(TINY), "make_splits"),
        "write_records": (dataset, "write_records"),
        "compare_records": (dataset, "compare_records"),
        "fill_store": (preparation, "fill_store"),
        "save": (np, "save"),
        "interrupted": (preparation, "describe_files"),
    }[place]
    folder = tmp_path / "new" if is_first else data_dir
    before = {} if is_first else snapshot(data_dir)
    monkeypatch.setattr(owner, name, fail)
    is_mistake = place != "interrupted"
    message = r"No space left|Input/output|is the disk full" if is_mistake else None
    with pytest.raises(UserError if is_mistake else KeyboardInterrupt, match=message):
        prepare_task(TINY, folder, rebuild=True)
    assert snapshot(folder) == before
    assert not [p for p in folder.rglob("*") if p.name.startswith(".tmp-")]


def test_records_that_read_otherwise_than_written_are_refused(tmp_path, monkeypatch):
    write = dataset.write_records

    def write_others(folder, task, part, splits, progress):
        last = splits["test"].labels.copy()
        last[-1] ^= 1
        others = splits | {"test": dataclasses.replace(splits["test"], labels=last)}
        write(folder, task, part, others, progress)

    monkeypatch.setattr(dataset, "write_records", write_others)
    with pytest.raises(UserError, match=r"do not hold the example 10 of split test that was written"):
        prepare_task(TINY, tmp_path)
    assert snapshot(tmp_path) == {}


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = preparation.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"0 MB free, 0 MB are needed; choose another --data_dir"):
        prepare_task(TINY, tmp_path)
    assert snapshot(tmp_path) == {}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=f"cannot prepare {TINY.name} in .*Not a directory"):
        prepare_task(TINY, tmp_path / "file" / "data")
    with pytest.raises(UserError, match=r"File exists"):
        prepare_task(TINY, tmp_path / "file")


def test_one_writer_at_a_time(data_dir):
    code = (
        "import sys, time; from pathlib import Path; from lra_tasks.folders import only_writer\n"
        f"with only_writer(Path({str(data_dir)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"another process is preparing data"):
            prepare_task(TINY, data_dir)
        holder.kill()
    assert prepare_task(TINY, data_dir).was_ready, "a killed holder's lock is gone with it"


def test_ensure_prepared(tmp_path, data_dir, wanted):
    lines = []
    assert equal(ensure_prepared(TINY, tmp_path / "new", lines.append), wanted)
    assert "preparing it now" in lines[0]
    with pytest.raises(StoreMissing, match=r"python -m lra_tasks.prepare"):
        ensure_prepared(dataclasses.replace(TINY, source_kind="raw", on_demand=False), tmp_path / "newer")
    with pytest.raises(UserError, match=r"give the folder of its official files as --raw_dir"):
        prepare_task(dataclasses.replace(TINY, source_kind="raw", on_demand=False), tmp_path / "newer")
    (store_path(data_dir, TINY) / "train_tokens.npy").unlink()
    with pytest.raises(StoreDamaged, match=r"train_tokens.npy is missing"):
        ensure_prepared(TINY, data_dir)


def run(*arguments):
    command = [sys.executable, "-m", "lra_tasks.prepare", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command(tmp_path):
    first = run("listops_small", "--data_dir", tmp_path / "data")
    assert first.returncode == 0, first.stderr
    assert "ListOps (small): listops_small 1.0.0, prepared in" in first.stdout
    for text in ("10,000", "1,000", "2,000", "0 (11.58%)", "sha256 ee2abff90be51ad8", str(tmp_path / "data")):
        assert text in first.stdout
    stages = ["generate", "write records", "read records"]
    assert [line.split(":")[0] for line in first.stderr.splitlines()] == [s for stage in stages for s in (stage, stage)]
    second = run("listops_small", "--data_dir", tmp_path / "data", "--num_workers", "1")
    assert second.returncode == 0
    assert "verified in" in second.stdout
    flip = tmp_path / "data" / "store" / "listops_small" / "test_tokens.npy"
    flip.write_bytes(flip.read_bytes()[:-1])
    third = run("listops_small", "--data_dir", tmp_path / "data")
    assert (third.returncode, third.stdout) == (2, "")
    assert third.stderr.startswith("error: ")
    assert third.stderr.count("\n") == 1
    assert "test_tokens.npy has 29269 bytes, the manifest says 29270" in third.stderr


def test_a_full_disk_in_the_command(tmp_path):
    """A file size limit makes array_record's own write fail, as a full disk does."""
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"sys.argv = ['prepare', 'listops_small', '--data_dir', {str(tmp_path / 'data')!r}];"
        "runpy.run_module('lra_tasks.prepare', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: cannot write the records in" in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr.splitlines()[-1]
    assert snapshot(tmp_path / "data") == {}


def test_workers_never_see_ctrl_c():
    """Not even before their own code runs: SIGINT is blocked from the start of each worker, and only there."""
    chunks = iterate_chunks(GRAMMARS["listops_small"], 0, 2)
    next(chunks)
    states = [Path(f"/proc/{child}/status").read_text() for child in children_of(os.getpid())]
    chunks.close()
    masks = [int(state.split("SigBlk:")[1].split()[0], 16) for state in states]
    assert sum(mask >> (signal.SIGINT - 1) & 1 for mask in masks) == 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_is_stopped_leaves_nothing(tmp_path, number, code):
    """By Ctrl-C or killed while it generates: no files, no traceback, and no worker outlives it."""
    data = tmp_path / "data"
    command = [sys.executable, "-m", "lra_tasks.prepare", "listops", "--data_dir", str(data), "--num_workers", "2"]
    # A test session that runs in the background ignores SIGINT, and its children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stderr is not None
        assert "generate" in process.stderr.readline()
        workers = children_of(process.pid)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches the workers too
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{worker}") for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if os.path.exists(f"/proc/{worker}")]
    assert snapshot(data) == {}


def children_of(pid):
    """Process ids of the children, where the system shows them."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["listop"], "unknown task 'listop'; did you mean 'listops'? choices: image, listops, "),
        ([], "name at least one task: listops, listops_small, text, "),
        (["listops", "listops_small", "--raw_dir", "x"], "--raw_dir holds the files of one task, 2 were named"),
        (["listops", "--num_workers", "0"], "--num_workers is 0; it must be at least 1"),
        (["listops", "--raw_dir", "/nowhere"], "--raw_dir /nowhere is not a folder"),
        (["listops", "--data_dir", "/dev/null/data"], "cannot prepare listops in /dev/null/data: Not a directory"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    done = run(*(arguments if "--data_dir" in arguments else [*arguments, "--data_dir", tmp_path]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
