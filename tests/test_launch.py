"""The launch scripts against tools that only write down what they were asked for: commands, failures and signals."""

import ast
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / "launch" / "slurm.sbatch"]
# what the scripts may use without asking; gcloud, xpk, sbatch and nvidia-smi are there only when a test puts them there
USUAL = (
    "bash", "sh", "cat", "cut", "env", "grep", "head", "id", "mkdir", "paste", "printf", "rm", "sed", "seq", "sleep",
    "touch", "tr",
)  # fmt: skip
STUB = """#!/bin/sh
name=${0##*/}
{ printf '%s' "$name"; for word; do printf '\\037%s' "$word"; done; echo; } >> "$STUBS/log"
# next FILE DEFAULT: the first line of a file, which is taken away; DEFAULT where there is none left
next() {
  line=''
  [ ! -e "$STUBS/$1" ] || { line=$(head -n 1 "$STUBS/$1"); sed -i 1d "$STUBS/$1"; }
  echo "${line:-$2}"
}
[ ! -e "$STUBS/$name.sh" ] || . "$STUBS/$name.sh"
"""
GCLOUD = """case "$*" in
  *"queued-resources list"*) next there "" ;;
  *"queued-resources create"*) exit "$(next creates 0)" ;;
  *"queued-resources delete"*) exit "$(next deletes 0)" ;;
  *"queued-resources describe"*) next states ACTIVE ;;
  *lra_tasks.train*)
    code=$(next trains 0)
    [ "$code" != wait ] || { touch "$STUBS/ready"; exec sleep 60; }
    exit "$code" ;;
esac
"""


def wait_for(condition, seconds=20):
    """Until it holds; fails after a while."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Tools:
    """A PATH of the usual commands and of stubs, and what the stubs were called with."""

    def __init__(self, folder):
        self.folder, self.path, self.started = folder, folder / "bin", []
        self.path.mkdir()
        for name in USUAL:
            (self.path / name).symlink_to(shutil.which(name))
        self.environment = {"PATH": str(self.path), "STUBS": str(folder), "HOME": str(folder), "POLL_SECONDS": "0"}
        self.environment |= {"TMPDIR": "/tmp", "PYTHON": "python3"}

    def add(self, name, behaviour=""):
        stub = self.path / name
        stub.write_text(STUB)
        stub.chmod(0o755)
        (self.folder / f"{name}.sh").write_text(behaviour)

    def queue(self, name, *lines):
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def start(self, *command, **environment):
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *command, **environment):
        process = self.start(*command, **environment)
        process.out, process.err = process.communicate(timeout=60)
        return process

    @property
    def calls(self):
        log = self.folder / "log"
        return [line.split("\x1f") for line in log.read_text().splitlines()] if log.exists() else []

    def called(self, words):
        return [call for call in self.calls if words in " ".join(call)]


@pytest.fixture
def tools(tmp_path):
    tools = Tools(tmp_path)
    yield tools
    for process in tools.started:  # of a test that failed
        process.kill()
        process.communicate()


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here")
    done = subprocess.run(["shellcheck", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["tpu_pod.sh", "gke_xpk.sh", "slurm.sbatch", "gpu.sh", "drift.sh"])
def test_help_says_what_it_is_for_and_an_unknown_flag_is_named(name, tools):
    script = ROOT / "launch" / name
    done = tools.run(str(script), "--help")
    assert (done.returncode, done.err) == (0, "")
    assert "--dry-run" in done.out
    wrong = tools.run(str(script), "--dryrun")
    assert wrong.returncode == 2
    assert "--dryrun" in wrong.err.splitlines()[-1]


def test_functions_and_files_keep_their_size():
    for file in (ROOT / "launch").glob("*.py"):
        source = file.read_text()
        assert len(source.splitlines()) <= 300
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        assert [node.name for node in functions if node.end_lineno - node.lineno >= 50] == []


# the TPU slice

POD = ["launch/tpu_pod.sh", "--name", "pod", "--zone", "z", "--project", "p", "--type", "v5litepod-16"]
POD += ["--config", "configs/text.py:luna16"]
WORKER = """#!/bin/sh
trap 'kill $!; sleep 0.2; echo saved >> ../saved; exit 75' TERM
sleep 60 > /dev/null 2>&1 &
echo $JAX_PLATFORMS $1 $2 > ../ready
wait
"""
SHARED = [*POD, "--share", "10.0.0.2:/luna"]
TPU = "gcloud compute tpus tpu-vm"
QUEUE = "gcloud compute tpus queued-resources"


@pytest.fixture
def cloud(tools):
    tools.add("gcloud", GCLOUD)
    tools.add("git")
    return tools


def steps(tools):
    """The calls in short."""
    names = {"lra_tasks.train": "train", "lra_tasks.prepare": "prepare", "git clone": "install", "luna-run.pid": "stop"}
    found = []
    for call in tools.calls:
        text = " ".join(call)
        name = next((short for words, short in names.items() if words in text), call[4] if len(call) > 4 else call[1])
        found += [name] if call[0] == "gcloud" else []
    return found


def test_a_dry_run_of_a_pod_prints_its_commands(tools):
    options = ["--spot", "--prepare", "text", "--dry-run", "--", "--config.row=it's"]
    done = tools.run(*SHARED, *options, TRAIN_FLAGS="--a=1")
    assert (done.returncode, tools.calls) == (0, [])
    lines = [shlex.split(line) for line in done.out.splitlines()]
    where = "--zone=z --project=p"
    remote = [line[-1].removeprefix("--command=") for line in lines if line[:5] == [*TPU.split(), "ssh"]]
    assert [" ".join(line if line[-2:-1] != ["--worker=all"] else line[:-1]) for line in lines] == [
        f"{QUEUE} list {where} --format=value(name)",
        f"{QUEUE} create pod --node-id=pod --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite "
        f"{where} --valid-until-duration=6h --metadata=enable-oslogin=TRUE --spot",
        f"{QUEUE} describe pod {where} --format=value(state.state)",
        "git bundle create --quiet /tmp/luna-jax-pod.bundle HEAD",
        f"{TPU} scp /tmp/luna-jax-pod.bundle pod:luna-jax.bundle {where} --worker=all",
        f"{TPU} ssh pod {where} --worker=all",
        f"{TPU} ssh pod {where} --worker=0 --command={remote[1]}",
        f"{TPU} ssh pod {where} --worker=all",
        "mkdir -p runs",
        f"{TPU} scp --recurse pod:/mnt/luna/runs/pod runs/ {where} --worker=0",
        f"{QUEUE} delete pod {where} --force --quiet",
    ]  # fmt: skip
    assert remote[1].endswith("-m lra_tasks.prepare text --data_dir /mnt/luna/data")
    assert shlex.split(remote[2])[-10:] == [
        *("-m", "lra_tasks.train", "--config", "configs/text.py:luna16", "--workdir", "/mnt/luna/runs/pod"),
        *("--data_dir", "/mnt/luna/data", "--a=1", "--config.row=it's"),
    ]  # fmt: skip


def test_a_pod_trains_and_is_deleted(cloud):
    cloud.queue("states", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = cloud.run(*POD, "--share", "none")
    assert done.returncode == 0
    assert steps(cloud) == [
        *("list", "create", "describe", "describe", "describe", "scp", "install", "train", "scp", "delete"),
    ]  # fmt: skip
    assert "pod: PROVISIONING" in done.err
    assert cloud.called("scp")[-1][5:8] == ["--recurse", "pod:luna/runs/pod", "runs/"]


def test_a_preempted_pod_is_replaced_and_goes_on(cloud):
    cloud.queue("states", "ACTIVE", "SUSPENDING", "SUSPENDED", "SUSPENDED", "PROVISIONING")  # and ACTIVE from then on
    cloud.queue("trains", 255, 75, 255, 0)  # taken away; stopped by a signal; the connection broke; done
    done = cloud.run(*SHARED, "--spot")
    assert done.returncode == 0
    trained = [step for step in steps(cloud) if step in ("create", "install", "train", "delete")]
    first, second = ["create", "install", "train", "delete"], ["create", "delete"]
    assert trained == [*first, *second, "create", "install", *["train"] * 3, "delete"]


@pytest.mark.parametrize(
    ("queues", "code", "last", "words"),
    [
        ({"creates": [1]}, 1, ["create", "delete"], "the request failed"),
        ({"states": ["FAILED"]}, 1, ["describe", "delete"], "no TPU within 6h"),
        ({"trains": [3]}, 3, ["scp", "delete"], ""),
        ({"trains": [75, 75]}, 75, ["describe", "delete"], "stopped 2 times"),
        (
            {"deletes": [1, 1, 1], "there": ["", *["a/pod"] * 3]},
            1,
            ["delete", "list"],
            "billed",
        ),
        ({"creates": [1], "deletes": [1]}, 1, ["delete", "list"], "the request failed"),
    ],
)
def test_nothing_is_left_running(cloud, queues, code, last, words):
    for name, lines in queues.items():
        cloud.queue(name, *lines)
    done = cloud.run(*SHARED, "--restarts", "1")
    assert (done.returncode, steps(cloud)[-2:]) == (code, last)
    assert words in done.err
    assert ("by hand: gcloud compute tpus queued-resources delete pod" in done.err) == (words == "billed")


def test_a_signal_lets_the_run_save_before_the_pod_is_deleted(cloud):
    cloud.queue("trains", "wait")
    process = cloud.start(*SHARED)
    wait_for((cloud.folder / "ready").exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert steps(cloud)[-4:] == ["train", "stop", "scp", "delete"]
    assert "the run saves" in err


def test_a_pod_of_that_name_is_not_touched(cloud):
    cloud.queue("there", "projects/p/locations/z/queuedResources/pod")
    done = cloud.run(*SHARED)
    assert (done.returncode, steps(cloud)) == (2, ["list"])
    assert "there is a TPU pod already" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*POD, "--share", "none", "--spot"], "--spot needs a --share"),
        ([*POD, "--share", "somewhere"], "give SERVER:/PATH"),
        ([*POD, "--share", "a:/b; rm -rf /"], "give SERVER:/PATH"),
        (POD, "--share is missing"),
        ([*SHARED, "--name", "My pod"], "lower-case"),
        ([*SHARED, "--zone"], "--zone needs a value"),
        (SHARED, "there is no gcloud here; install it"),
        (["launch/gke_xpk.sh", "--workload", "w"], "--cluster is missing"),
        (["launch/gpu.sh", "one"], "there is no nvidia-smi here"),
        (["launch/gpu.sh", "--gpus", "0,", "one"], "give numbers"),
        (["launch/slurm.sbatch", "--configs", "configs/text.py"], "there is no sbatch here"),
        (["launch/slurm.sbatch", "--configs", "configs/txt.py:luna16"], "no file configs/txt.py"),
        (["launch/slurm.sbatch", "--configs", "configs/text.py", "--seeds", "a"], "a is not a number"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_at_once(tools, arguments, words):
    done = tools.run(*arguments)
    assert (done.returncode, tools.calls) == (2, [])
    assert done.err.splitlines()[-1].startswith("error: ")
    assert words in done.err


def test_what_the_workers_are_told_does_what_it_should(cloud):
    """The installation ends where the share cannot be mounted; a run gets one SIGTERM, and is waited for."""
    cloud.run(*SHARED)
    install, train = (call[-1].removeprefix("--command=") for call in cloud.called("tpu-vm ssh"))
    cloud.add("mountpoint", "exit 1")
    cloud.add("sudo", 'case "$*" in *mount\\ -t*) exit 32 ;; esac')
    done = cloud.run("bash", "-c", f"cd {cloud.folder}; {install}")
    assert (done.returncode, cloud.calls[-1]) == (32, ["sudo", "mount", "-t", "nfs", "10.0.0.2:/luna", "/mnt/luna"])
    python = cloud.folder / "luna-venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (cloud.folder / "luna-jax").mkdir()
    python.write_text(WORKER)
    python.chmod(0o755)
    session = f"cd {cloud.folder}; bash -c {shlex.quote(train)}; exit $?"  # as the ssh server, it reaps the run
    process = cloud.start("bash", "-c", session)
    wait_for(lambda: (cloud.folder / "ready").exists() and (cloud.folder / "ready").read_text())
    assert (cloud.folder / "ready").read_text() == "tpu,cpu -m lra_tasks.train\n"
    stop = train[: train.index("; echo $$")]
    assert cloud.run("bash", "-c", f"cd {cloud.folder}; {stop}").returncode == 0
    assert (cloud.folder / "saved").read_text() == "saved\n"
    assert process.wait(10) == 75
    assert not (cloud.folder / "luna-run.pid").exists()


# Kubernetes

WORKLOAD = ["launch/gke_xpk.sh", "--workload", "w", "--cluster", "c", "--type", "v5litepod-16", "--storage", "fs"]
WORKLOAD += ["--mount", "/data", "--config", "configs/text.py:luna16", "--", "--config.train.seed=1"]


def test_a_workload_is_created_from_the_committed_state(tools):
    dry = tools.run(*WORKLOAD[:1], "--dry-run", *WORKLOAD[1:])
    for name in ("xpk", "gcloud", "git"):
        tools.add(name)
    assert tools.run(*WORKLOAD).returncode == 0
    commands = [call for call in tools.calls if "status" not in call]
    assert commands == [shlex.split(line) for line in dry.out.splitlines()[1:]]
    assert commands[0] == ["git", "clone", "--quiet", ".", "/tmp/luna-jax-w"]
    assert commands[1] == [
        *("xpk", "workload", "create", "--workload=w", "--cluster=c", "--tpu-type=v5litepod-16", "--num-slices=1"),
        *("--storage=fs", "--base-docker-image=python:3.12", "--script-dir=/tmp/luna-jax-w"),
        *("--env=JAX_PLATFORMS=tpu,cpu", "--max-restarts=50", "--restart-on-exit-codes=75"),
        "--termination-grace-period-seconds=120",
        "--command=python -m pip install --quiet -r requirements.txt 'jax[tpu]' && exec python -m lra_tasks.train "
        "--config configs/text.py:luna16 --workdir /data/runs/w --data_dir /data/data --config.train.seed=1",
    ]  # fmt: skip


# GPUs of one machine


def test_one_run_takes_all_gpus_and_a_suite_gives_each_run_one(tools):
    tools.add("nvidia-smi", "printf '0\\n 1\\n'")
    tools.add("python3", 'echo "$CUDA_VISIBLE_DEVICES $JAX_PLATFORMS $CUDA_DEVICE_ORDER" >> "$STUBS/seen"; exit 75')
    one = tools.run("launch/gpu.sh", "one", "--config", "c", "--workdir", "my run", TRAIN_FLAGS="--a=1 --b=2")
    each = tools.run("launch/gpu.sh", "each", "--tasks", "text")
    assert (one.returncode, each.returncode) == (75, 75)
    assert [call for call in tools.calls if call[0] == "python3"] == [
        ["python3", "-m", "lra_tasks.train", "--config", "c", "--workdir", "my run", "--a=1", "--b=2"],
        ["python3", "launch/suite.py", "--gpus", "0,1", "--tasks", "text"],
    ]
    assert (tools.folder / "seen").read_text() == "0,1 cuda,cpu PCI_BUS_ID\n cuda,cpu PCI_BUS_ID\n"
    dry = tools.run("launch/gpu.sh", "--dry-run", "--gpus", "3", "one", "--config", "c", "--workdir", "my run")
    assert dry.out == (
        "env CUDA_DEVICE_ORDER=PCI_BUS_ID JAX_PLATFORMS=cuda,cpu CUDA_VISIBLE_DEVICES=3 "
        "python3 -m lra_tasks.train --config c --workdir 'my run'\n"
    )


# Slurm

CONFIGS = "configs/text.py:luna16 configs/image.py:luna16:cpu"
SRUN = """trap 'kill $!; exit 75' TERM
code=$(next trains 0)
[ "$code" = wait ] || exit "$code"
sleep 60 > /dev/null 2>&1 &
touch "$STUBS/ready"
wait
"""


@pytest.fixture
def slurm(tools):
    tools.add("sbatch")
    tools.add("scontrol", 'case $1 in show) next jobs "JobState=RUNNING" ;; esac')
    tools.add("srun", SRUN)
    tools.array = ["launch/slurm.sbatch", "--configs", CONFIGS, "--seeds", "0 3", "--workdir", str(tools.folder / "w")]
    tools.job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    return tools


def test_an_array_submits_itself(slurm):
    submit = [*slurm.array, "--at_most", "2", "--sbatch", "--partition=big", "--", "--config.row=a b"]
    assert slurm.run(*submit).returncode == 0
    kept = ["--configs", CONFIGS, "--seeds", "0 3", "--workdir", f"{slurm.folder}/w", "--data_dir", "data"]
    expected = ["sbatch", "--array=0-3%2", "--partition=big", "launch/slurm.sbatch", *kept, "--", "--config.row=a b"]
    assert slurm.calls == [expected]
    dry = slurm.run(*submit[:-2], "--dry-run", *submit[-2:])
    lines = [shlex.split(line) for line in dry.out.splitlines() if not line.startswith("#")]
    assert lines[0] == expected
    assert [line[line.index("--workdir") + 1].removeprefix(f"{slurm.folder}/w/") for line in lines[1:]] == [
        "text_luna16/seed0", "image_luna16_cpu/seed0", "text_luna16/seed3", "image_luna16_cpu/seed3",
    ]  # fmt: skip


def test_an_element_trains_its_config_and_seed(slurm):
    slurm.queue("trains", 3, 0)
    assert slurm.run(*slurm.array, "--", "--config.row=a b", **slurm.job, TRAIN_FLAGS="--a=1").returncode == 3
    workdir = slurm.folder / "w" / "image_luna16_cpu" / "seed3"
    assert slurm.calls == [[
        *("srun", "--kill-on-bad-exit=0", "python3", "-m", "lra_tasks.train"),
        *("--config", "configs/image.py:luna16:cpu"),
        *("--workdir", str(workdir), "--data_dir", "data", "--config.train.seed=3", "--a=1", "--config.row=a b"),
    ]]  # fmt: skip
    workdir.mkdir(parents=True)
    (workdir / "record.json").touch()
    done = slurm.run(*slurm.array, **slurm.job)
    assert (done.returncode, done.out, len(slurm.calls)) == (0, f"finished: {workdir}\n", 1)
    alone = slurm.run(*slurm.array, SLURM_JOB_ID="9")
    assert alone.returncode == 2
    assert "this job is no array" in alone.err


@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED"])
def test_an_element_that_saved_is_requeued_unless_it_was_cancelled(slurm, state):
    slurm.queue("trains", "wait")
    slurm.queue("jobs", f"JobId=9 JobState={state} Reason=None")
    process = slurm.start(*slurm.array, **slurm.job)
    wait_for((slurm.folder / "ready").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert slurm.called("requeue") == ([["scontrol", "requeue", "7_3"]] if state == "RUNNING" else [])


def test_a_stopped_job_outside_an_array_is_requeued_by_its_number(slurm):
    slurm.queue("trains", 75)
    done = slurm.run("launch/slurm.sbatch", "--configs", "configs/text.py:luna16", SLURM_JOB_ID="9")
    assert done.returncode == 75
    assert slurm.called("requeue") == [["scontrol", "requeue", "9"]]


def test_the_directives_ask_for_a_warning_and_a_requeue():
    directives = [line for line in SCRIPTS[-1].read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@120", "#SBATCH --open-mode=append"} <= set(directives)


# the suite

PYTHON = """case "$1 $2" in
  "-c "*) shift 2; for argument; do echo "data_${argument%%:*}"; done ;;
  "-m lra_tasks.prepare") case " $BAD_DATA " in *" $3 "*) echo "error: no room" >&2; exit 2 ;; esac ;;
  "-m lra_tasks.results") echo "the table of $3" ;;
  "-m lra_tasks.train")
    trap 'echo "saved at step 3" >&2; exit 75' TERM
    [ -z "$DEAF" ] || trap '' TERM
    cores=$(grep Cpus_allowed_list /proc/self/status | cut -f2)
    sleep "$SECONDS_A_RUN" &
    echo "start $6 $cores $CUDA_VISIBLE_DEVICES" >> "$STUBS/events"
    wait
    case $6 in *"$FAIL") [ -z "$WORDS" ] || echo "error: $WORDS" >&2; exit 1 ;; esac
    mkdir -p "$6"; touch "$6/record.json"; echo "end $6" >> "$STUBS/events" ;;
esac
"""


@pytest.fixture
def suite(tools):
    """Runs launch/suite.py with a Python that only pretends to train."""
    tools.add("python3", PYTHON)
    tools.work = tools.folder / "my suite"
    tools.command = [sys.executable, "launch/suite.py", "--python", str(tools.path / "python3"), "--workdir"]
    tools.command += [str(tools.work), "--tasks", "listops,text", "--rows", "luna16,performer", "--preset", "cpu"]
    tools.environment |= {"SECONDS_A_RUN": "0.02", "FAIL": "nothing", "WORDS": "", "BAD_DATA": "", "DEAF": ""}
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
    assert {gpu for *_, gpu in started} == {"4", "5"}
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


def test_a_failed_run_stops_no_other_and_is_taken_up_again(suite):
    done = suite.run(*suite.command, "--workers", "2", FAIL="text/luna16/cpu/seed0", WORDS="loss is nan")
    assert done.returncode == 1
    assert f"failed: {ORDER[2]}: exit code 1: error: loss is nan" in done.err.splitlines()
    assert len(events(suite, "end")) == 3
    silent = suite.run(*suite.command, FAIL="text/luna16/cpu/seed0")
    assert f"failed: {ORDER[2]}: exit code 1: it said nothing" in silent.err.splitlines()
    again = suite.run(*suite.command)
    assert again.returncode == 0
    assert [name for name, *_ in events(suite, "start")[4:]] == [ORDER[2]] * 2
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
        (["--workers", "0"], "must be more than 0"),
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
