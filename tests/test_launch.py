"""The launch scripts against tools that only write down what they were asked for: commands, failures and signals."""

import ast
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_tools import ROOT, make_tools, wait_for

SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / "launch" / "slurm.sbatch"]
GCLOUD = """case "$*" in
  *"queued-resources list"*) next there "" ;;
  *"queued-resources create"*) exit "$(next creates 0)" ;;
  *"queued-resources delete"*) exit "$(next deletes 0)" ;;
  *"queued-resources describe"*) next states ACTIVE ;;
  *"tpu-vm scp /tmp"*) exit "$(next copies 0)" ;;
  *lra_tasks.train*)
    code=$(next trains 0)
    [ "$code" != wait ] || { touch "$STUBS/ready"; exec sleep 60; }
    exit "$code" ;;
esac
"""


@pytest.fixture
def tools(tmp_path):
    yield from make_tools(tmp_path)


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of requirements-dev.txt
    done = subprocess.run([shellcheck, "--external-sources", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["tpu_pod.sh", "gke_xpk.sh", "slurm.sbatch", "gpu.sh", "drift.sh"])
def test_help_says_what_it_is_for_and_an_unknown_flag_is_named(name, tools):
    script = ROOT / "launch" / name
    done = tools.run(str(script), "--help")
    assert (done.returncode, done.err) == (0, "")
    assert "--dry-run" in done.out
    wrong = tools.run(str(script), "--dryrun")
    assert wrong.returncode == 2
    assert "--dryrun" in wrong.err.splitlines()[-1]


def test_the_commands_of_the_document_are_accepted(tools):
    tools.add("nvidia-smi", "echo 0")
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "launch.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if "launch/" in line and " ..." not in line]
    assert len(words) == 9
    for command in words:
        if command[0] == "python":
            command = [sys.executable, *command[1:], "--dry-run"]
        elif "--dry-run" not in command:
            command.insert(1, "--dry-run")
        done = tools.run(*command, PYTHON=sys.executable)
        assert (done.returncode, done.err) == (0, ""), command
        assert "lra_tasks.train" in done.out


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
WORKLOAD = ["launch/gke_xpk.sh", "--workload", "w", "--cluster", "c", "--type", "v5litepod-16", "--storage", "fs"]
WORKLOAD += ["--mount", "/data", "--config", "configs/text.py:luna16", "--", "--config.train.seed=1"]
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
    where, ask = "--zone=z --project=p", "--ssh-flag=-oServerAliveInterval=30"
    remote = [line[-1].removeprefix("--command=") for line in lines if line[:5] == [*TPU.split(), "ssh"]]
    assert [" ".join(word for word in line if not word.startswith("--command=")) for line in lines] == [
        f"{QUEUE} list {where} --format=value(name)",
        "git bundle create --quiet /tmp/luna-jax-pod.bundle HEAD",
        f"{QUEUE} create pod --node-id=pod --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite "
        f"{where} --valid-until-duration=6h --metadata=enable-oslogin=TRUE --spot",
        f"{QUEUE} describe pod {where} --format=value(state.state)",
        f"{TPU} scp /tmp/luna-jax-pod.bundle pod:luna-jax.bundle {where} --worker=all",
        f"{TPU} ssh pod {where} --worker=all {ask}",
        f"{TPU} ssh pod {where} --worker=0 {ask}",
        f"{TPU} ssh pod {where} --worker=all {ask}",
        "mkdir -p runs",
        f"{TPU} scp --recurse pod:/mnt/luna/runs/pod runs/ {where} --worker=0",
        f"{QUEUE} delete pod {where} --force --quiet",
    ]  # fmt: skip
    assert remote[1].endswith("-m lra_tasks.prepare text --data_dir /mnt/luna/data")
    assert shlex.split(remote[2])[-11:] == [
        *("-m", "lra_tasks.train", "--config", "configs/text.py:luna16", "--workdir", "/mnt/luna/runs/pod"),
        *("--data_dir", "/mnt/luna/data", "--distributed=auto", "--a=1", "--config.row=it's"),
    ]  # fmt: skip


def test_a_pod_trains_and_is_deleted(cloud):
    cloud.queue("states", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = cloud.run(*POD, "--share=none", "--type", "v6e-8")
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
        ({"deletes": [1] * 20, "there": ["", *["a/pod"] * 20]}, 1, ["delete", "list"], "billed"),
        ({"deletes": [1] * 9, "there": ["", *["a/pod"] * 9]}, 0, ["list", "delete"], ""),
        ({"copies": [1, 1]}, 0, ["scp", "delete"], ""),
        ({"copies": [1, 1, 1]}, 1, ["describe", "delete"], "the installation failed"),
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


def test_a_spot_pod_that_fails_is_watched_for_a_while_for_it_may_be_taken_away(cloud):
    cloud.queue("states", *["ACTIVE"] * 4, "SUSPENDING", "PROVISIONING")
    cloud.queue("trains", 1, 0)
    assert cloud.run(*SHARED, "--spot").returncode == 0
    kept = [step for step in steps(cloud) if step in ("create", "train", "delete")]
    assert kept == ["create", "train", "delete", "create", "train", "delete"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_lets_the_run_save_before_the_pod_is_deleted(cloud, name):
    cloud.queue("trains", "wait")
    process = cloud.start(*SHARED)
    wait_for((cloud.folder / "ready").exists)
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert steps(cloud)[-4:] == ["train", "stop", "scp", "delete"]
    assert "the run saves" in err


def test_the_pod_is_deleted_when_nobody_reads_what_the_script_says(cloud):
    cloud.queue("states", "PROVISIONING")
    process = cloud.start(*SHARED)
    process.stderr.close()
    process.stdout.close()
    assert process.wait(30) == 75
    assert steps(cloud)[-1] == "delete"


def test_a_signal_in_the_middle_of_the_request_waits_for_it(cloud):
    wait = 'touch "$STUBS/ready"; sleep 0.5; echo made >> "$STUBS/log"; exit 0'
    cloud.add("gcloud", GCLOUD.replace('exit "$(next creates 0)"', wait))
    process = cloud.start(*SHARED)
    wait_for((cloud.folder / "ready").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert [call[0] if len(call) == 1 else call[4] for call in cloud.calls if call[0] != "git"][-2:] == [
        "made",
        "delete",
    ]


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
        ([*SHARED, "--zone", "--spot"], "--zone needs a value, and --spot is an option"),
        ([*SHARED, "--project="], "--project needs a value"),
        ([*SHARED, "--config", "configs/txt.py"], "no file configs/txt.py"),
        ([*SHARED, "--restarts", "x"], "give a whole number"),
        ([*SHARED, "--", "--workdir=w"], "--workdir=w: the script gives this flag itself"),
        ([*POD, "--share", "none"], "several hosts"),
        ([*POD, "--share", "none", "--type", "v6e"], "give it with its size"),
        (SHARED, "there is no gcloud here; install it"),
        (["launch/gke_xpk.sh", "--workload", "w"], "--cluster is missing"),
        (["launch/gpu.sh", "one"], "there is no nvidia-smi here"),
        (["launch/gke_xpk.sh", *WORKLOAD[1:], "--distributed=no"], "--distributed=no: the script gives"),
        (["launch/gpu.sh", "--dry-run", "--gpus", "0,", "one"], "give numbers"),
        (["launch/gpu.sh", "--dry-run", "--gpus", "0,1,0", "one"], "names a GPU twice"),
        (["launch/gpu.sh", "--gpus", "0", "one"], "there is no python3 here"),
        (["launch/slurm.sbatch", "--configs", "configs/text.py"], "there is no sbatch here"),
        (["launch/slurm.sbatch", "--configs", "configs/txt.py:luna16"], "no file configs/txt.py"),
        (["launch/slurm.sbatch", "--configs", "configs/text.py", "--seeds", "a"], "a is not a number"),
        (
            ["launch/slurm.sbatch", "--configs", "configs/text.py", "--seeds", "1 2\n1"],
            "would share runs/slurm/text/seed1",
        ),
        (
            ["launch/slurm.sbatch", "--configs", "configs/text.py:luna16,configs/text_luna16.py"],
            "would share runs/slurm/text_luna16/seed0",
        ),
        (
            ["launch/slurm.sbatch", "--configs", "configs/text.py", "--", "--config.train.seed=3"],
            "--config.train.seed=3: the script gives",
        ),
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
    stop = train[: train.index('; if [ "$(cat luna-run.attempt')]
    assert cloud.run("bash", "-c", f"cd {cloud.folder}; {stop}").returncode == 0
    assert (cloud.folder / "saved").read_text() == "saved\n"
    assert process.wait(10) == 75
    assert not (cloud.folder / "luna-run.pid").exists()
    again = cloud.run("bash", "-c", f"cd {cloud.folder}; {train}")  # by gcloud, when the connection broke
    assert (again.returncode, (cloud.folder / "saved").read_text()) == (75, "saved\n")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("rev-parse", "no commit here"),
        ("cat-file", "configs/text.py is not committed"),
        ("status", "git status does not work here"),
        ("changes", "what is not committed is not trained: M configs/text.py; commit it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [SHARED, WORKLOAD])
def test_what_is_not_committed_is_said_before_anything_is_paid_for(tools, command, fault, words):
    tools.add("gcloud", GCLOUD)
    tools.add("xpk")
    tools.add(
        "git", f'case $1 in {fault}) exit 1 ;; status) [ {fault} != changes ] || echo "M configs/text.py" ;; esac'
    )
    done = tools.run(*command)
    assert (done.returncode, {call[0] for call in tools.calls}) == (2, {"git"})
    assert words in done.err
    if fault == "changes":
        assert tools.run(command[0], "--leave-changes", "--dry-run", *command[1:]).returncode == 0
        tools.run(command[0], "--leave-changes", *command[1:])
        assert tools.called("create")


def test_a_config_that_does_not_open_is_said_first_where_python_can(tools):
    done = tools.run(*SHARED, "--config", "configs/text.py:luna17", PYTHON=sys.executable)
    assert done.returncode == 2
    assert "error: --config configs/text.py:luna17: ValueError: unknown row 'luna17'; did you mean 'luna16'" in done.err


# Kubernetes


def test_a_workload_is_created_from_the_committed_state(tools):
    dry = tools.run(*WORKLOAD[:1], "--dry-run", *WORKLOAD[1:])
    for name in ("xpk", "gcloud", "git"):
        tools.add(name)
    assert tools.run(*WORKLOAD).returncode == 0
    commands = [call for call in tools.calls if call[0] == "xpk" or "clone" in call]
    assert commands == [shlex.split(line) for line in dry.out.splitlines()[1:]]
    assert commands[0] == ["git", "clone", "--quiet", ".", "/tmp/luna-jax-w"]
    assert commands[1] == [
        *("xpk", "workload", "create", "--workload=w", "--cluster=c", "--tpu-type=v5litepod-16", "--num-slices=1"),
        *("--storage=fs", "--base-docker-image=python:3.12", "--script-dir=/tmp/luna-jax-w"),
        *("--env=JAX_PLATFORMS=tpu,cpu", "--max-restarts=50", "--restart-on-exit-codes=75,134"),
        "--termination-grace-period-seconds=120",
        "--command=python -m pip install --quiet -r requirements.txt 'jax[tpu]' && exec python -m lra_tasks.train "
        "--config configs/text.py:luna16 --workdir /data/runs/w --data_dir /data/data --distributed=auto "
        "--config.train.seed=1",
    ]  # fmt: skip


# GPUs of one machine


def test_one_run_takes_all_gpus_and_a_suite_gives_each_run_one(tools):
    tools.add("nvidia-smi", "printf '0\\n 1\\n'")
    tools.add("python3", 'echo "$CUDA_VISIBLE_DEVICES $JAX_PLATFORMS $CUDA_DEVICE_ORDER" >> "$STUBS/seen"; exit 75')
    one = tools.run("launch/gpu.sh", "one", "--config", "c", "--workdir", "my run", TRAIN_FLAGS="--a=1 --b=2")
    each = tools.run("launch/gpu.sh", "each", "--tasks", "text")
    assert (one.returncode, each.returncode) == (75, 75)
    assert [call for call in tools.calls if call[0] == "python3"] == [
        ["python3", "-m", "lra_tasks.train", "--a=1", "--b=2", "--config", "c", "--workdir", "my run"],
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
    tools.array += ["--data_dir", str(tools.folder)]
    tools.job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    return tools


def test_an_array_submits_itself(slurm):
    submit = [*slurm.array, "--at_most", "2", "--sbatch", "--partition=big", "--", "--config.row=a b"]
    assert slurm.run(*submit).returncode == 0
    kept = ["--configs", CONFIGS, "--seeds", "0 3", "--workdir", f"{slurm.folder}/w", "--data_dir"]
    kept += [str(slurm.folder), "--gpus", "1", "--nodes", "1"]
    wanted = ["--export=ALL", "--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--partition=big"]
    expected = ["sbatch", "--array=0-3%2", *wanted, "launch/slurm.sbatch", *kept, "--", "--config.row=a b"]
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
        *("srun", "--kill-on-bad-exit=0", "env", "JAX_PLATFORMS=cuda,cpu", "python3", "-m", "lra_tasks.train"),
        *("--config", "configs/image.py:luna16:cpu"),
        *("--workdir", str(workdir), "--data_dir", str(slurm.folder)),
        *("--config.train.seed=3", "--a=1", "--config.row=a b"),
    ]]  # fmt: skip
    workdir.mkdir(parents=True)
    (workdir / "record.json").touch()
    done = slurm.run(*slurm.array, **slurm.job)
    assert (done.returncode, done.out, len(slurm.calls)) == (0, f"finished: {workdir}\n", 1)
    alone = slurm.run(*slurm.array, SLURM_JOB_ID="9")
    assert alone.returncode == 2
    assert "this job is no array" in alone.err


def test_a_run_on_several_gpus_has_a_process_for_each(slurm):
    command = [*slurm.array, "--gpus=4", "--nodes", "2"]
    dry = [shlex.split(line) for line in slurm.run(*command, "--dry-run").out.splitlines()]
    assert dry[0][2:6] == ["--export=ALL", "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"]
    assert slurm.run(*command, **slurm.job, SLURM_NTASKS="8").returncode == 0
    assert slurm.calls[-1][-1] == "--distributed=auto"
    wrong = slurm.run(*slurm.array, **slurm.job, SLURM_NTASKS="8")
    assert wrong.returncode == 2
    assert "has 8 tasks, and its run 1; ask with --gpus and --nodes" in wrong.err
    cpu = [shlex.split(line) for line in slurm.run(*slurm.array, "--gpus", "0", "--dry-run").out.splitlines()]
    assert not any("gpus-per-node" in word for word in cpu[0])
    assert "env" not in cpu[2]


def test_an_array_without_data_is_not_submitted(slurm):
    done = slurm.run(*slurm.array, "--data_dir", "/no/where")
    assert (done.returncode, slurm.calls) == (2, [])
    assert "--data_dir: there is no /no/where; prepare first: python3 -m lra_tasks.prepare TASK" in done.err


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
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@300", "#SBATCH --open-mode=append"} <= set(directives)
