"""Records grouped into experiments: statistics, intervals, what is never averaged, and what a reader must know."""

import dataclasses

import pytest
from records import make_record, make_scores
from small_tables import SMALL, name_records

from lra_tasks import intervals, record, tables
from lra_tasks.report import Curve


def group(*records: record.Record, checkpoint: str = "best") -> tuple[list[tables.Experiment], list[str]]:
    return tables.group_records(name_records(*records), checkpoint, SMALL)


def test_mean_and_sample_deviation_over_seeds():
    # 5, 6 and 2 of 8: 62.5, 75 and 25 percent; mean 162.5 / 3; squares of the deviations 69.44 + 434.03 + 850.69 over 2
    (one,), _ = group(make_record(seed=3, num_correct=2), make_record(seed=1), make_record(seed=2, num_correct=6))
    assert (one.seeds, one.values) == ((1, 2, 3), (62.5, 75.0, 25.0))
    assert one.mean == pytest.approx(54.1666667)
    assert one.sd == pytest.approx(26.0208165)


def test_the_last_checkpoint_has_its_own_numbers():
    (one,), _ = group(make_record(), checkpoint="last")
    assert (one.mean, one.checkpoint) == (50.0, "last")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 200, "last": make_scores(100, [1] * 8)},
        {"protocol": "cpu"},
        {"row": "luna128"},
        {"task": "text"},
        {"task_version": "2.0.0"},
    ],
)
def test_what_differs_is_never_averaged(change: dict):
    experiments, _ = group(make_record(seed=1), make_record(seed=2, **change))
    assert [len(one.values) for one in experiments] == [1, 1]


def test_the_same_seed_twice_counts_once_with_a_note():
    first = make_record()
    again = make_record(num_correct=6, started_at="2026-02-01T00:00:00+00:00")
    (one,), notes = group(again, first)
    assert one.values == (62.5,)
    what = f"luna16 on listops (authors, #{first.experiment_hash[:8]}), seed 1"
    assert notes == [f"{what}: counted 1.json, not 0.json (another run with 75.00 against 62.50)"]
    assert group(first, first)[1] == [f"{what}: counted 0.json, not 1.json (a copy)"]


def test_what_a_reader_must_know_is_noted():
    dirty = make_record(seed=1, commit="other", commit_dirty=True, selection="test")
    _, notes = group(dirty, make_record(seed=2))
    what = f"luna16 on listops (authors, #{dirty.experiment_hash[:8]}): "
    assert notes == [
        what + "its seeds ran on 2 different commits",
        what + "seed 1 ran with changes that were not committed",
        what + "the best checkpoint was chosen on the test split",
    ]


def test_experiments_are_immutable():
    (one,), _ = group(make_record())
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.row = "other"  # pyright: ignore[reportAttributeAccessIssue]


def with_settings(seed: int = 1, command: tuple[str, ...] = (), **settings) -> record.Record:
    """A record whose model section has these settings too."""
    config = {"train": {"seed": seed, "steps": 100}, "model": {"rate": 0.1, **settings}}
    hashes = {"config_hash": record.canonical_hash(config), "experiment_hash": record.experiment_hash(config)}
    return make_record(seed=seed, config=config, command=("python", "-m", "lra_tasks.train", *command), **hashes)


def test_variants_are_named_by_the_settings_in_which_they_differ():
    plain = with_settings(pooling="cls")
    packed = with_settings(pooling="packed", command=("--config.model.pooling=packed", "--config.train.seed=1"))
    experiments, notes = group(packed, plain)
    assert [(one.variant, one.pooling) for one in experiments] == [("", "cls"), ("pooling packed", "packed")]
    assert [note for note in notes if "never averaged" in note]


def test_only_the_seed_on_the_command_line_is_no_variant():
    (one,), _ = group(with_settings(pooling="cls", command=("--config.train.seed=1",)))
    assert one.variant == ""
    (one,), _ = group(with_settings(pooling="cls", command=("--config.model.pooling=cls",)))
    assert one.variant == ""  # alone in its cell, whatever the command line says


def test_variants_that_differ_in_much_are_named_by_hash():
    experiments, _ = group(with_settings(a=1, b=1, c=1), with_settings(a=2, b=2, c=2))
    assert [one.variant for one in experiments] == [f"#{one.experiment_hash[:8]}" for one in experiments]


def test_intervals_are_those_of_the_answers():
    first, second = make_record(seed=1), make_record(seed=2, num_correct=6)
    (one,), _ = group(first, second)
    answers = [record.decode_correctness(each.best.test_correctness, 8) for each in (first, second)]
    assert one.interval == intervals.accuracy_interval(tables.stack_correctness([first, second], "best"))
    assert [row.tolist() for row in tables.stack_correctness([first, second], "best")] == [a.tolist() for a in answers]
    assert one.seed_interval == intervals.seed_interval([62.5, 75.0])
    (alone,), _ = group(first)
    assert alone.seed_interval is None


def test_collapsed_seeds_are_counted_shown_and_stay_in_the_mean():
    (one,), notes = group(make_record(seed=1, num_correct=8), make_record(seed=2, num_correct=2))
    assert [run.collapsed for run in one.runs] == [False, True]  # where a label has an eighth
    assert (one.num_collapsed, one.mean, one.mean_of_learned) == (1, 62.5, 100.0)
    (note,) = notes
    assert note.endswith("seed 2 is no better than one constant answer, and counts in the mean")
    (one,), _ = group(make_record(num_correct=2))
    assert one.mean_of_learned is None


def test_a_curve_goes_to_its_seed():
    curve = Curve((1,), (0.5,), (1,), (50.0,), (0.7,))
    records = name_records(make_record(seed=1), make_record(seed=2))
    (one,), _ = tables.group_records(records, "best", SMALL, {"1.json": curve})
    assert [run.curve for run in one.runs] == [None, curve]
    assert [run.file for run in one.runs] == ["0.json", "1.json"]


def test_memory_is_that_of_the_device_where_it_says_one():
    (one,), _ = group(make_record())
    assert one.peak_memory_bytes == 2_000_000
    (one,), _ = group(make_record(peak_memory_bytes=record.PeakMemory(process=1_000_000, device=None)))
    assert one.peak_memory_bytes == 1_000_000
