"""Where seeds that are trained at once lie: groups, what is refused, what failed; and what a record says of it."""

import dataclasses
import json

import pytest
from records import make_record
from small_tables import SMALL, name_records
from tiny_runs import assert_one_line_error, run, train_command

from lra_tasks.card_parts import tell_cost
from lra_tasks.errors import UserError
from lra_tasks.findings import find
from lra_tasks.groups import describe_group
from lra_tasks.layout import lay_out_cost
from lra_tasks.record import RecordError, from_json, to_json
from lra_tasks.seeds import SeedFolders, parse_seeds
from lra_tasks.workdirs import RunFolder


class Config:
    """As much of an experiment as a folder looks at."""

    def __init__(self, seed, width=8):
        self.values = {"train": {"seed": seed}, "model": {"width": width}}

    def as_dict(self):
        return self.values


def make_folders(workdir, *seeds, width=8):
    return SeedFolders(workdir, {seed: Config(seed, width) for seed in seeds})


def open_folders(workdir, *seeds, width=8):
    folders = make_folders(workdir, *seeds, width=width)
    folders.open()
    return folders


def finish(workdir, *seeds):
    for seed in seeds:
        (workdir / f"seed{seed}" / "record.json").touch()


def test_each_seed_has_the_folder_of_a_run_by_itself(tmp_path):
    folders = open_folders(tmp_path, 1, 11)
    for seed in (1, 11):
        folder = tmp_path / f"seed{seed}"
        assert json.loads((folder / "config.json").read_text())["train"]["seed"] == seed
        assert json.loads((folder / "seeds.json").read_text()) == {"seeds": [1, 11], "failed": None}
    assert (folders.list_groups(), folders.is_done, folders.list_sharers(11)) == ([(1, 11)], False, (1, 11))
    finish(tmp_path, 1, 11)
    assert (folders.list_groups(), folders.is_done) == ([], True)
    RunFolder(tmp_path / "seed1", Config(1)).open()


def test_seeds_that_come_later_are_a_group_of_their_own(tmp_path):
    open_folders(tmp_path, 1, 11)
    assert make_folders(tmp_path, 5, 11, 7, 1).list_groups() == [(1, 11), (5, 7)]
    for seed in (1, 11):
        (tmp_path / f"seed{seed}" / "metrics.jsonl").touch()  # as the loop does
    folders = open_folders(tmp_path, 5, 11, 7, 1)  # in whatever order
    assert folders.list_groups() == [(1, 11), (5, 7)]
    finish(tmp_path, 1)  # killed between the records
    assert folders.list_groups() == [(11,), (5, 7)]
    assert open_folders(tmp_path, 11).list_sharers(11) == (1, 11)
    finish(tmp_path, 5, 11)
    assert (folders.list_groups(), folders.list_sharers(7)) == ([(7,)], (5, 7))
    assert open_folders(tmp_path / "one", 3).list_sharers(3) == ()


def test_one_that_began_with_others_is_not_left_out(tmp_path):
    open_folders(tmp_path, 1, 11, 5)
    with pytest.raises(UserError, match=r"--seeds 1,5 leaves out 11, with which seed 1 began .*; give --seeds 1,11,5"):
        open_folders(tmp_path, 1, 5)


def test_a_seed_that_failed_is_left_out_and_named(tmp_path, capsys):
    folders = open_folders(tmp_path, 1, 11, 5)
    folders.note_failure(11, "loss is nan")
    assert (folders.list_groups(), folders.list_sharers(1), folders.failure(1)) == ([(1, 5)], (1, 5), None)
    assert open_folders(tmp_path, 1, 5).list_groups() == [(1, 5)]
    finish(tmp_path, 1, 5)
    assert (folders.is_done, folders.conclude()) == (True, 1)
    out, err = capsys.readouterr()
    assert [line.split(" is ")[0] for line in out.splitlines()] == [f"{tmp_path}/seed1", f"{tmp_path}/seed5"]
    assert err == "failed: seed 11: loss is nan\n"
    assert make_folders(tmp_path, 1, 5).conclude() == 0


def test_runs_by_themselves_and_seeds_at_once_are_not_mixed(tmp_path):
    RunFolder(tmp_path / "alone", Config(1)).open()
    with pytest.raises(UserError, match="alone holds a run by itself; take another"):
        open_folders(tmp_path / "alone", 1)
    RunFolder(tmp_path / "cell" / "seed1", Config(1)).open()
    with pytest.raises(
        UserError, match=r"seed1 was begun by itself; finish it so, with --workdir .*seed1 --config.train"
    ):
        open_folders(tmp_path / "cell", 1, 11)
    finish(tmp_path / "cell", 1)
    assert open_folders(tmp_path / "cell", 1, 11, 5).list_groups() == [(11, 5)]
    with pytest.raises(UserError, match="cell holds seeds that are trained at once; give --seeds"):
        RunFolder(tmp_path / "cell", Config(1)).open()
    with pytest.raises(
        UserError, match=r"seed11 is trained at once with other seeds; give --workdir .*cell and --seeds"
    ):
        RunFolder(tmp_path / "cell" / "seed11", Config(11)).open()
    with pytest.raises(UserError, match=r"seed1 holds another config \(model.width: 9 here, 8 there\)"):
        open_folders(tmp_path / "cell", 1, 11, 5, width=9)


def test_what_never_began_claims_no_folder(tmp_path):
    open_folders(tmp_path / "cell", 1).withdraw()
    assert not (tmp_path / "cell").exists()
    open_folders(tmp_path / "cell", 1)
    open_folders(tmp_path / "cell", 1, 2).withdraw()
    assert [path.name for path in (tmp_path / "cell").iterdir()] == ["seed1"]
    (tmp_path / "cell" / "seed1" / "seeds.json").write_text('{"seeds": [1]}')
    with pytest.raises(UserError, match=r"seeds.json cannot be read \(.*missing failed\); take another"):
        open_folders(tmp_path / "cell", 1)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["1", "01"], "names seed 1 twice"),
        (["1", "x"], r"must be whole numbers below 2\*\*32"),
        (["4294967296"], "must be whole numbers"),
        ([], "must be whole numbers"),
        ([str(seed) for seed in range(33)], "names 33 seeds; train at most 32"),
    ],
)
def test_seeds_that_cannot_be(words, fault):
    with pytest.raises(UserError, match=fault):
        parse_seeds(words)


def test_the_seed_is_given_once(tmp_path):
    command = [*train_command(tmp_path / "run", tmp_path, train__seed=3), "--seeds", "1,11"]
    assert_one_line_error(run(*command), "--seeds and --config.train.seed were both given")
    command[2] = "configs/multi30k_deen_luna16.py:cpu"
    translation = [*command[:3], *command[-6:]]
    assert_one_line_error(run(*translation), "--seeds trains classifiers at once")
    assert not (tmp_path / "run").exists()


def test_a_record_says_who_shared_the_device():
    """And one of a run by itself says nothing, as ever."""
    alone = make_record(seed=1)
    assert "seeds_at_once" not in to_json(alone)
    assert from_json(to_json(alone)) == alone
    shared = dataclasses.replace(alone, seeds_at_once=(11, 1))
    assert from_json(to_json(shared)) == shared
    assert (alone.device_seconds, shared.device_seconds) == (14.0, 7.0)
    for wrong in ((1,), (2, 3), (1, 1)):
        with pytest.raises(RecordError, match=r"seeds_at_once = .* must name several seeds once each, 1 among them"):
            to_json(dataclasses.replace(alone, seeds_at_once=wrong))


def test_tables_count_each_ones_share_of_the_time():
    seeds = (1, 2, 3, 4)
    records = [make_record(seed=seed, seeds_at_once=seeds, wall_seconds=20.0) for seed in seeds]
    found = describe_group(records, "best", "")
    assert (found["wall_seconds"], found["steps_per_second"]) == (5.0, 50.0)
    assert found["device"] == "1 x NVIDIA H200, 4 seeds at once"
    shown = lay_out_cost(find(name_records(*records), SMALL, checkpoint="best", against="luna16", curves={}))
    assert shown.lines[0][4:] == ("50", "0.00", "0.1", "4", "1 x NVIDIA H200, 4 seeds at once")
    assert shown.caption.endswith(
        "Of seeds at once they are the steps of all, each one's share of the minutes, and the memory of all."
    )
    assert "Seeds 1, 2, 3, 4 were trained at once" in tell_cost(records[0])
    assert "at once" not in tell_cost(make_record())
