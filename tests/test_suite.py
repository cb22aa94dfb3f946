"""launch/suite.py with a Python that only pretends to train: order, turns, budget, failures and signals."""

import fcntl
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from launch_tools import make_tools, wait_for

PYTHON = """case "$1 $2" in
  "-c "*) shift 2; for argument; do echo "data_${argument%%:*}"; done ;;
  "-m lra_tasks.prepare") case " $BAD_DATA " in *" $3 "*) echo "error: no room" >&2; exit 2 ;; esac ;;
  "-m lra_tasks.results") echo "the table of $3" ;;
  "-m lra_tasks.train")
    [ -z "$EARLY" ] || exec sleep 60
    trap 'echo "saved at step 3" >&2; exit 75' TERM
    [ -z "$DEAF" ] || trap '' TERM
    cores=$(grep Cpus_allowed_list /proc/self/status | cut -f2)
    sleep "$SECONDS_A_RUN" &
    echo "start $6 $cores $CUDA_VISIBLE_DEVICES $XLA_PYTHON_CLIENT_MEM_FRACTION" >> "$STUBS/events"
    wait
    case $6 in *"$FAIL") [ -z "$WORDS" ] || echo "error: $WORDS" >&2; exit 1 ;; esac
    case " $* " in *" --seeds "*) seeds=$(echo "${10}" | tr , " ") ;; *) seeds="" ;; esac
    for folder in ${seeds:-alone}; do
      folder="$6/seed$folder"; [ -n "$seeds" ] || folder=$6
      [ "$folder" != "$6/seed$LOST" ] || continue
      mkdir -p "$folder"; touch "$folder/record.json"
    done
    echo "end $6" >> "$STUBS/events" ;;
esac
"""


@pytest.fixture
def tools(tmp_path):
    yield from make_tools(tmp_path)


@pytest.fixture
def suite(tools):
    """Runs launch/suite.py with a Python that only pretends to train."""
    tools.add("python3", PYTHON)
    tools.work = tools.folder / "my suite"
    tools.command = [sys.executable, "launch/suite.py", "--python", str(tools.path / "python3"), "--workdir"]
    tools.command += [str(tools.work), "--tasks", "listops,text", "--rows", "luna16,performer", "--preset", "cpu"]
    tools.environment |= {
        "SECONDS_A_RUN": "0.02",
        "FAIL": "nothing",
        "WORDS": "",
        "BAD_DATA": "",
        "DEAF": "",
        "EARLY": "",
        "LOST": "",
    }
    return tools


def events(tools, kind):
    """The starts or ends, as task/row/preset/seed and what else was noted."""
    log = tools.folder / "events"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split(f"{tools.work}/")[1].split() for line in lines if line.startswith(kind)]


NAMES = ["listops/luna16/cpu", "listops/performer/cpu", "text/luna16/cpu", "text/performer/cpu"]
ORDER = [f"{name}/seed{seed}" for seed in (0, 2) for name in NAMES]


def test_a_suite_runs_everything_in_a_fair_order_a_few_at_a_time(suite):
    done = suite.run(*suite.command, "--seeds", "0,2", "--workers", "2", "--gpus", "4,5", SECONDS_A_RUN="0.2")
    assert (done.returncode, done.out) == (0, f"the table of {suite.work}\n")
    started = events(suite, "start")
    assert sorted(name for name, *_ in started) == sorted(ORDER)
    assert {name for name, *_ in started[:4]} == set(ORDER[:4])  # two start at once, so neighbours may change places
    working = most = 0
    for line in (suite.folder / "events").read_text().splitlines():
        working += 1 if line.startswith("start") else -1
        most = max(most, working)
    assert (most, working) == (2, 0)
    assert {gpu for *_, gpu in started} == {"4", "5"}  # and nothing is said of memory: each is alone
    if len(os.sched_getaffinity(0)) > 1:
        assert len({cores for _, cores, _ in started}) == 2
    prepared = suite.called("lra_tasks.prepare")
    assert [call[3:] for call in prepared] == [[f"data_{task}", "--data_dir", "data"] for task in ("listops", "text")]
    assert "8 of 8 finished, 0 failed, 0 to go on with" in done.err


def test_a_dry_run_of_a_suite_prints_its_commands(suite):
    (suite.work / ORDER[1]).mkdir(parents=True)
    (suite.work / ORDER[1] / "record.json").touch()
    done = suite.run(*suite.command, "--seeds", "0,2", "--dry-run", "--", "--config.row=x y", TRAIN_FLAGS="--a=1")
    assert events(suite, "start") == []
    lines = [shlex.split(line) for line in done.out.splitlines() if not line.startswith("#")]
    python = str(suite.path / "python3")
    assert lines[0] == [python, "-m", "lra_tasks.prepare", "data_listops", "--data_dir", "data"]
    assert lines[2] == [
        *(python, "-m", "lra_tasks.train", "--config", "configs/listops.py:luna16:cpu"),
        *("--workdir", f"{suite.work}/{ORDER[0]}", "--data_dir", "data"),
        *("--config.train.seed=0", "--a=1", "--config.row=x y"),
    ]  # fmt: skip
    assert [line[6].removeprefix(f"{suite.work}/") for line in lines[2:-1]] == [ORDER[0], *ORDER[2:]]
    assert lines[-1] == [python, "-m", "lra_tasks.results", str(suite.work)]
    assert f"# finished: {ORDER[1]}" in done.out


def test_runs_that_share_a_gpu_have_a_part_of_its_memory_each(suite):
    command = [*suite.command, "--workers", "4", "--gpus", "7,8", "--cores-per-run", "0"]
    assert suite.run(*command).returncode == 0
    assert {tuple(rest[-2:]) for _, *rest in events(suite, "start")} == {("7", "0.45"), ("8", "0.45")}
    assert suite.run(*command, "--seeds", "1", XLA_PYTHON_CLIENT_MEM_FRACTION=".2").returncode == 0
    assert {rest[-1] for _, *rest in events(suite, "start")[4:]} == {".2"}


def test_the_plan_of_the_reproduction(suite):
    command = [*suite.command[: suite.command.index("--tasks")], "--preset", "reproduction", "--dry-run"]
    lines = [shlex.split(line) for line in suite.run(*command).out.splitlines() if not line.startswith("#")]
    tasks = ["listops", "image", "text", "retrieval_aan_subset", "pathfinder"]
    assert [line[3] for line in lines[:5]] == [f"data_{task}" if "aan" not in task else task for task in tasks]
    runs = [line[6].removeprefix(f"{suite.work}/").split("/") for line in lines[5:-1]]
    assert len(runs) == len({tuple(run) for run in runs}) == 5 * 4 * 5
    assert [run[:3] for run in runs[:10]] == [
        [task, row, "paper"] for row in ("transformer", "luna16") for task in tasks
    ]
    assert {tuple(run[:2]) for run in runs[:20]} == {tuple(run[:2]) for run in runs}
    assert [run[3] for run in runs[::20]] == ["seed1", "seed11", "seed65537", "seed101", "seed1999"]
    assert lines[8][4] == "configs/retrieval.py:transformer:paper"
    assert lines[8][-2:] == ["--config.train.seed=1", "--config.data.task=retrieval_aan_subset"]
    part = suite.run(*command, "--tasks", "image,listops", "--seeds", "1999", "--rows", "luna128").out
    assert [shlex.split(line)[4] for line in part.splitlines() if "lra_tasks.train" in line] == [
        "configs/listops.py:luna128:paper", "configs/image.py:luna128:paper",
    ]  # fmt: skip
    wrong = suite.run(*command, "--seeds", "2")
    assert wrong.returncode == 2
    assert wrong.err == "error: --seeds 2 is not in the plan reproduction; it has 1, 11, 65537, 101, 1999\n"


def test_the_plan_for_two_cores(suite):
    command = [*suite.command[: suite.command.index("--tasks")], "--preset", "small", "--dry-run"]
    lines = [shlex.split(line) for line in suite.run(*command).out.splitlines() if "lra_tasks.train" in line]
    runs = [line[6].removeprefix(f"{suite.work}/").split("/") for line in lines]
    assert len(runs) == len({tuple(run) for run in runs}) == 5 * 4 * 3
    assert {run[2] for run in runs} == {"cpu"}
    assert [run[:2] for run in runs[:5]] == [
        [task, "transformer"] for task in ("listops", "text", "image", "pathfinder", "retrieval")
    ]
    assert [run[3] for run in runs[::20]] == ["seed0", "seed1", "seed2"]


def test_seeds_at_once_are_one_run_a_cell(suite):
    """It is finished with its last record, goes on until then, and each seed lies where it would lie alone."""
    command = [*suite.command, "--seeds", "0,2", "--seeds_at_once"]
    lost = suite.run(*command, LOST="2")
    assert (lost.returncode, [name for name, *_ in events(suite, "start")]) == (1, NAMES)
    assert f"failed: {NAMES[0]}: it ended without a record.json" in lost.err.splitlines()
    assert suite.run(*command).returncode == 0
    assert [name for name, *_ in events(suite, "start")] == [*NAMES, *NAMES]
    assert {path.parent.relative_to(suite.work) for path in suite.work.rglob("record.json")} == set(map(Path, ORDER))
    again = suite.run(*command, "--dry-run")
    assert again.out.count("# finished: ") == 4
    assert suite.run(*suite.command, "--seeds", "0,2", "--dry-run").out.count("# finished: ") == 8
    other = suite.run(*suite.command, "--seeds", "0,2,7", "--seeds_at_once", "--dry-run")
    line = next(shlex.split(line) for line in other.out.splitlines() if "lra_tasks.train" in line)
    assert line[4:] == [
        *("configs/listops.py:luna16:cpu", "--workdir", f"{suite.work}/{NAMES[0]}"),
        *("--data_dir", "data", "--seeds", "0,2,7"),
    ]  # fmt: skip


def test_seeds_at_once_take_turns(suite):
    turns = ["--slice_minutes", "0.005", "--seeds", "0,2", "--seeds_at_once"]
    done = suite.run(*suite.command, *turns, "--hours", "0.0005", SECONDS_A_RUN="60")
    assert done.returncode == 75
    first = [name for name, *_ in events(suite, "start")]
    assert len(first) > 1
    assert first == (NAMES * 9)[: len(first)]


def test_runs_take_turns_within_a_seed_and_go_on_where_the_last_call_left_off(suite):
    turns = ["--slice_minutes", "0.005", "--seeds", "0,2"]  # 0.3 s
    done = suite.run(*suite.command, *turns, "--hours", "0.0008", SECONDS_A_RUN="60")  # 2.88 s
    assert done.returncode == 75
    first = [name for name, *_ in events(suite, "start")]
    assert len(first) > 1
    assert first == (ORDER[:4] * 9)[: len(first)]  # nothing of seed 2 while seed 0 is not finished
    assert f"turn over: {ORDER[0]} after 0:00:00: saved at step 3" in done.err
    assert done.err.splitlines()[-1] == "not all is finished: the same command goes on from here"
    assert suite.run(*suite.command, *turns, SECONDS_A_RUN="0.02").returncode == 0
    assert [name for name, *_ in events(suite, "start")][len(first)] == ORDER[len(first) % 4]
    assert sorted(name for (name,) in events(suite, "end")) == sorted(ORDER)


def test_a_turn_that_is_too_short_to_save_anything_is_a_failure(suite):
    done = suite.run(*suite.command, "--slice_minutes", "0.001", "--hours", "0.0003", EARLY="yes")
    failed = "it had not saved when its turn was over; give more --slice_minutes: it said nothing"
    assert f"failed: {ORDER[0]}: {failed}" in done.err.splitlines()


def test_a_run_for_whose_place_nobody_waits_keeps_it(suite):
    one = ["--slice_minutes", "0.001", "--tasks", "text", "--rows", "luna16", "--seeds", "0,2"]
    done = suite.run(*suite.command, *one, SECONDS_A_RUN="0.5")
    assert (done.returncode, len(events(suite, "start"))) == (0, 2)


def is_free(lock):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_nothing_goes_on_when_the_suite_itself_fails(suite):
    """The log of the second run cannot be written: a folder is in its place."""
    first, second = (suite.work / "logs" / f"{name.replace('/', '.')}.log" for name in ORDER[:2])
    second.mkdir(parents=True)
    done = suite.run(*suite.command, "--workers", "2", SECONDS_A_RUN="60")
    assert (done.returncode, done.err.splitlines()[-1][:7]) == (2, "error: ")
    assert first.exists()
    with open(suite.work / ".lock") as lock:
        wait_for(lambda: is_free(lock))  # the run has ended, long before its time


def test_a_failed_run_stops_no_other_and_is_taken_up_again(suite):
    done = suite.run(*suite.command, "--workers", "2", FAIL="text/luna16/cpu/seed0", WORDS="loss is nan")
    assert done.returncode == 1
    assert f"failed: {ORDER[2]}: exit code 1: error: loss is nan" in done.err.splitlines()
    assert len(events(suite, "end")) == 3
    footer = "For simplicity, JAX has removed its internal frames from the traceback of the following exception."
    other = suite.run(*suite.command, FAIL="text/luna16/cpu/seed0", WORDS=f"no room\n--------------------\n{footer}")
    assert f"failed: {ORDER[2]}: exit code 1: error: no room" in other.err.splitlines()
    silent = suite.run(*suite.command, FAIL="text/luna16/cpu/seed0")
    assert f"failed: {ORDER[2]}: exit code 1: it said nothing" in silent.err.splitlines()
    again = suite.run(*suite.command)
    assert again.returncode == 0
    assert [name for name, *_ in events(suite, "start")[4:]] == [ORDER[2]] * 3
    assert again.err.count("finished before") == 3


def test_runs_without_data_fail_and_the_others_go_on(suite):
    done = suite.run(*suite.command, BAD_DATA="data_listops")
    assert done.returncode == 1
    assert f"failed: {ORDER[0]}: data_listops is not prepared: error: no room" in done.err.splitlines()
    assert [name for (name,) in events(suite, "end")] == ORDER[2:4]


def test_a_suite_ends_with_its_budget_and_goes_on_next_time(suite):
    done = suite.run(*suite.command, "--workers", "2", "--hours", "0.001", SECONDS_A_RUN="60")  # 3.6 s to start
    assert done.returncode == 75
    assert "the budget of 0.001 hours is used up" in done.err
    assert f"stopped {ORDER[0]}: saved at step 3" in done.err
    assert done.err.splitlines()[-1] == "not all is finished: the same command goes on from here"
    assert len(events(suite, "start")) == 2
    assert suite.run(*suite.command).returncode == 0
    assert len(events(suite, "end")) == 4


@pytest.mark.parametrize("deaf", ["", "yes"])
def test_a_signal_stops_the_runs_and_a_second_one_ends_them(suite, deaf):
    process = suite.start(*suite.command, "--workers", "2", SECONDS_A_RUN="60", DEAF=deaf)
    wait_for(lambda: len(events(suite, "start")) == 2)
    second = suite.run(*suite.command)
    assert (second.returncode, "another suite" in second.err) == (2, True)
    process.send_signal(signal.SIGINT)
    if deaf:
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "SIGINT: 2 running, which save and end" in err
    assert ("SIGTERM again" in err) == bool(deaf)
    assert len(events(suite, "start")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "txt"], "there is no configs/txt.py"),
        (["--rows", "a,a"], "something twice"),
        (["--seeds", "x"], "give numbers"),
        (["--workers", "0"], "give at least 1"),
        (["--hours", "nan"], "must be a number above 0"),
        (["--slice_minutes", "0"], "must be a number above 0"),
        (["--seeds", "1,01"], "names a seed twice"),
        (["--", "--seeds=4"], "the suite gives this flag to each run itself"),
        (["--", "--config.train.seed=4"], "the suite gives this flag to each run itself"),
        (["--workers", "9", "--cores-per-run", "999"], "there are"),
        (["--python", "/no/python"], "/no/python: No such file"),
        (["--python", sys.executable, "--rows", "luna17"], "did you mean 'luna16'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_suite_is_one_line(suite, arguments, words):
    done = suite.run(*suite.command, *arguments)
    assert (done.returncode, done.err.count("\n"), done.err[:7]) == (2, 1, "error: ")
    assert words in done.err
    assert events(suite, "start") == []
