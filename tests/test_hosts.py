"""Real processes that train one model over the network interface: together, stopped, one killed, and at odds."""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest
from tiny_runs import finish, once_a_session, read_metrics, start, train_command, write_small_store
from tolerances import TOLERANCE

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.errors import UserError
from lra_tasks.hosts import require_free_port
from lra_tasks.model import build_model
from lra_tasks.record import read_record
from lra_tasks.registry import get_task
from lra_tasks.settings import resolve
from lra_tasks.steps import make_init
from lra_tasks.train import EXIT_STOPPED

NUM_STEPS = 40
STEPS = {"train__num_steps": NUM_STEPS, "train__log_every_steps": 1, "train__eval_every_steps": 20}
STEPS |= {"train__checkpoint_every_steps": 10, "machine__heartbeat_seconds": 10}
STEPS |= {
    "data__max_length": 63
}  # 64 positions with [CLS]: where two parts have to be filled up, dropout draws other numbers
DEADLINE_SECONDS = 120


def find_address():
    """This machine's own address on its network, which a datagram to elsewhere would leave from; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


def find_port():
    with socket.socket(socket.AF_INET) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start_hosts(workdir, data_dir, number, *, devices=2, own=lambda host: {}, **changes):
    """`number` processes of one run with `devices` each; `own(host)` are changes of one, or its own workdir."""
    coordinator, processes = f"{find_address()}:{find_port()}", []
    for host in range(number):
        extra = dict(own(host))
        command = train_command(extra.pop("workdir", workdir), data_dir, **STEPS | changes | extra)
        command += [f"--coordinator={coordinator}", f"--num_processes={number}", f"--process_id={host}"]
        processes.append(start(command, environment={"JAX_NUM_CPU_DEVICES": str(devices)}))
    return processes


def wait_for_step(workdir, step, processes):
    """Returns when the log has come to `step`."""
    log, deadline = workdir / "metrics.jsonl", time.monotonic() + DEADLINE_SECONDS
    while not (log.exists() and f'"step": {step}, "split": "train"' in log.read_text()):
        assert time.monotonic() < deadline, [finish(process).stderr[-2000:] for process in processes]
        assert all(process.poll() is None for process in processes), [finish(one).stderr[-2000:] for one in processes]
        time.sleep(0.02)


def wait_for_checkpoint(workdir, step, processes):
    """Returns when the checkpoint of `step` is whole; it is written beside the training."""
    place, deadline = workdir / "checkpoints" / "last" / str(step), time.monotonic() + DEADLINE_SECONDS
    while not place.exists():
        assert time.monotonic() < deadline, [finish(process).stderr[-2000:] for process in processes]
        time.sleep(0.02)


def read_losses(workdir):
    return np.array([line["loss"] for line in read_metrics(workdir) if line["split"] == "train"])


def read_params(workdir):
    experiment = resolve(json.loads((workdir / "config.json").read_text()))
    model = build_model(experiment, get_task("listops_small"))
    with Checkpoints(workdir) as checkpoints:
        step, state, _ = checkpoints.restore("last", jax.eval_shape(make_init(experiment, model)))
    return step, jax.device_get(state["params"])


def assert_same_run(workdir, expected_workdir):
    """Every loss within float32's tolerance, and the parameters at the end."""
    losses = read_losses(workdir)
    assert len(losses) == NUM_STEPS
    np.testing.assert_allclose(losses, read_losses(expected_workdir), rtol=TOLERANCE["float32"])
    (step, params), (_, expected) = read_params(workdir), read_params(expected_workdir)
    assert step == NUM_STEPS
    wanted = dict(jax.tree_util.tree_leaves_with_path(expected))
    for path, found in jax.tree_util.tree_leaves_with_path(params):
        if not jax.tree_util.keystr(path, simple=True, separator="/").endswith("key/bias"):
            # a softmax does not see its keys' bias: that gradient is rounding, and Adam divides by its size
            np.testing.assert_allclose(found, wanted[path], atol=1e-3)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_small_store(tmp_path_factory.mktemp("hosts") / "data")


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """The run of one process with one device."""

    def make(folder):
        ended = finish(start(train_command(folder / "run", data_dir, **STEPS)))
        assert ended.returncode == 0, ended.stderr
        return folder / "run"

    return once_a_session(tmp_path_factory.getbasetemp(), "alone", make)


@pytest.fixture(scope="module")
def together(data_dir, tmp_path_factory):
    """The same run by two processes: one told to stop, both taken up again and one killed, both taken up to the end."""

    def make(folder):
        workdir, ends = folder / "run", {}
        processes = start_hosts(workdir, data_dir, 2)
        wait_for_step(workdir, 12, processes)
        processes[1].terminate()
        ends["told"] = [finish(process) for process in processes]
        processes = start_hosts(workdir, data_dir, 2)
        wait_for_step(workdir, 25, processes)
        wait_for_checkpoint(workdir, 20, processes)  # which says that the run was taken up once
        processes[1].kill()
        killed_at = time.monotonic()
        ends["killed"] = [finish(process) for process in processes]
        ends["seconds"] = time.monotonic() - killed_at
        ends["finished"] = [finish(process) for process in start_hosts(workdir, data_dir, 2)]
        return workdir, ends

    return once_a_session(tmp_path_factory.getbasetemp(), "together", make)


def test_a_signal_to_one_stops_all_at_the_same_step(together):
    lead, other = together[1]["told"]
    assert lead.returncode == other.returncode == EXIT_STOPPED, (lead.stderr, other.stderr)
    assert "SIGTERM at step" in lead.stderr
    assert "saved; the same command goes on from there" in lead.stderr
    assert "SIGTERM at step" not in other.stderr


def test_a_host_that_dies_ends_the_others_with_a_message(together):
    """By the broken connection, which we report; or, where a transfer hangs, by JAX, when the heartbeats stay away."""
    lead, _ = together[1]["killed"]
    if lead.returncode == EXIT_STOPPED:
        assert "host 0: another host is gone or cannot be reached" in lead.stderr
        assert "the same command on all hosts goes on from the last checkpoint" in lead.stderr
    else:
        assert lead.returncode == -signal.SIGABRT, lead.stderr[-3000:]
        assert "This most likely indicates that another task died" in lead.stderr
    assert together[1]["seconds"] < 30


def test_two_hosts_make_the_run_of_one(together, alone):
    """Every loss, and the parameters at the end, within float32's tolerance: after a stop and a death, too."""
    workdir, ends = together
    lead, other = ends["finished"]
    assert lead.returncode == other.returncode == 0, (lead.stderr, other.stderr)
    assert "test accuracy" in lead.stdout
    assert "test accuracy" not in other.stdout  # one host says what is said once; beside it there are Gloo's own words
    assert "loss" in lead.stderr
    assert "loss" not in other.stderr
    assert_same_run(workdir, alone)
    record = read_record(workdir / "record.json")
    assert (record.resumed, record.device.count) == (2, 4)
    assert record.last.test_correctness == read_record(alone / "record.json").last.test_correctness


def test_hosts_with_different_configs_are_told(data_dir, tmp_path):
    processes = start_hosts(tmp_path / "run", data_dir, 2, devices=1, own=lambda host: {"train__seed": host})
    for ended in map(finish, processes):
        assert ended.returncode == 2, ended.stderr
        assert "host 1 has another config or code than host 0: config.train.seed: 1 here, 0 there" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_work_directory_that_is_not_shared(data_dir, tmp_path):
    processes = start_hosts(
        None, data_dir, 2, devices=1, own=lambda host: {"workdir": tmp_path / f"disk{host}" / "run"}
    )
    for ended in map(finish, processes):
        assert ended.returncode == 2, ended.stderr
        assert "is not on a file system that all hosts share" in ended.stderr
        assert "is not seen by host 1; take a folder on one that they share" in ended.stderr


def test_a_port_in_use():
    with socket.socket(socket.AF_INET) as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of --coordinator host:{port} cannot be used"):
            require_free_port(f"host:{port}")
    require_free_port(f"host:{port}")


@pytest.mark.slow
def test_four_hosts_make_the_run_of_one(data_dir, alone, tmp_path):
    """Sequences split over the devices of each, the batch over hosts, parameters over all."""
    mesh = {"machine__sequence": 2, "machine__shard_params": True}
    for ended in map(finish, start_hosts(tmp_path / "run", data_dir, 4, **mesh)):
        assert ended.returncode == 0, ended.stderr
    assert_same_run(tmp_path / "run", alone)
