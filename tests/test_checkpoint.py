"""Checkpoints: what comes back, what is kept, and what a reader is told when it does not fit."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_machine

from lra_tasks.checkpoint import KEPT, CheckpointError, Checkpoints, TornCheckpoint, describe
from lra_tasks.fingerprints import take_fingerprints


def make_state(value=0.0):
    """A tree as a run has it: nested, several dtypes, scalars; every entry depends on `value`."""
    return jax.device_put(
        {
            "params": {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3) + np.float32(value)}},
            "opt_state": ({"mu": np.full(3, value, jnp.bfloat16)}, np.int32(value)),
            "step": np.int32(value),
        }
    )


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def on_disk(workdir, kind):
    return sorted(folder.name for folder in (workdir / "checkpoints" / kind).iterdir())


@pytest.fixture
def saved(tmp_path):
    """A work directory with `last` at steps 3 and 5 and `best` at 3."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("best", 3, make_state(3)["params"], {"validation_accuracy": 0.25})
        for step in (1, 3, 5):
            checkpoints.save("last", step, make_state(step), {"wall_seconds": step / 3, "speeds": [1.5, 2.5]})
    return tmp_path


def test_round_trip(saved):
    """Every bit, dtype and note comes back, in another process's place: a new object."""
    with Checkpoints(saved) as checkpoints:
        step, state, notes = checkpoints.restore("last", abstract(make_state()))
        best_step, params, _ = checkpoints.restore("best", abstract(make_state()["params"]))
        assert checkpoints.read_notes("best") == (3, {"validation_accuracy": 0.25})
    assert step == 5
    assert best_step == 3
    assert notes == {"wall_seconds": 5 / 3, "speeds": [1.5, 2.5]}
    for found, expected in ((state, make_state(5)), (params, make_state(3)["params"])):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert describe(found) == describe(expected)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_retention(saved):
    """The newest two to resume from, and one best."""
    assert KEPT == {"last": 2, "best": 1}
    assert on_disk(saved, "last") == ["3", "5"]
    with Checkpoints(saved) as checkpoints:
        checkpoints.save("best", 5, make_state(5)["params"], {})
        checkpoints.save("last", 8, make_state(8), {})
    assert on_disk(saved, "last") == ["5", "8"]
    assert on_disk(saved, "best") == ["5"]


def test_a_step_that_is_there_is_left_alone(saved):
    """A signal at a step that was just saved, or that is being saved, saves it again."""
    with Checkpoints(saved) as checkpoints:
        checkpoints.save("last", 5, make_state(99), {})
        checkpoints.save("last", 6, make_state(6), {})
        checkpoints.save("last", 6, make_state(99), {})
    with Checkpoints(saved) as checkpoints:
        step, state, _ = checkpoints.restore("last", abstract(make_state()))
    assert (step, int(state["step"])) == (6, 6)


def test_saving_does_not_see_later_steps(tmp_path):
    """The write goes on in the background while the state's buffers are donated to the next steps."""
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    state = {"a": jnp.zeros((1000, 1000)), "b": jnp.zeros(())}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("last", 1, state, {})
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
    with Checkpoints(tmp_path) as checkpoints:
        _, found, _ = checkpoints.restore("last", abstract(state))
    assert not found["a"].any()
    assert not found["b"].any()


def test_one_write_at_a_time(tmp_path, monkeypatch):
    """`last` is not begun before `best` is on disk: a run killed in between would resume behind a best that is lost."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save("best", 1, make_state(1)["params"], {})
        checkpoints.save("last", 1, make_state(1), {})
        manager = checkpoints._managers["best"]
        waited = []
        wait = manager.wait_until_finished
        monkeypatch.setattr(manager, "wait_until_finished", lambda: (wait(), waited.append("best"))[0])
        begin = checkpoints._managers["last"].save
        monkeypatch.setattr(
            checkpoints._managers["last"], "save", lambda *a, **k: (waited.append("last"), begin(*a, **k))[1]
        )
        checkpoints.save("best", 2, make_state(2)["params"], {})
        waited.clear()
        checkpoints.save("last", 2, make_state(2), {})
        assert waited[:2] == ["best", "last"]


def test_another_model_is_refused_by_the_names_of_its_arrays(saved):
    other = abstract(make_state())
    other["params"]["layer"]["kernel"] = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    other["params"]["head"] = jax.ShapeDtypeStruct((7,), jnp.float32)
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError) as caught:
        checkpoints.restore("last", other)
    for word in ("belongs to another model", "params/layer/kernel", "float32[2, 4]", "float32[2, 3]", "params/head"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_dtype_is_refused(saved):
    other = abstract(make_state())
    other["params"]["layer"]["kernel"] = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match=r"bfloat16\[2, 3\]"):
        checkpoints.restore("last", other)


def test_many_differences_are_counted(saved):
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match="and 1 more"):
        checkpoints.restore(
            "last", {"a": jax.ShapeDtypeStruct((), jnp.float32)} | {"step": jax.ShapeDtypeStruct((), jnp.int32)}
        )


def test_nothing_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step("last") is None
        with pytest.raises(CheckpointError, match=r"no checkpoint under .*best; train first"):
            checkpoints.restore("best", abstract(make_state()))
    assert not (tmp_path / "checkpoints").exists()


def test_a_half_written_folder_is_no_checkpoint(saved):
    """A killed run leaves a folder with orbax's suffix: readers pass it by, the run that takes over removes it."""
    half = saved / "checkpoints" / "last" / "9.orbax-checkpoint-tmp"
    (half / "tree").mkdir(parents=True)
    (half / "tree" / "manifest.ocdbt").write_bytes(b"torn")
    with Checkpoints(saved) as reader:
        assert reader.latest_step("last") == 5
        assert reader.restore("last", abstract(make_state()))[0] == 5
    assert half.exists(), "a reader may not remove what a run is writing"
    with Checkpoints(saved, clean=True) as run:
        assert run.latest_step("last") == 5
        run.save("last", 9, make_state(9), {})
    assert on_disk(saved, "last") == ["5", "9"]


def test_a_damaged_checkpoint_is_named(saved):
    for file in (saved / "checkpoints" / "last" / "5" / "tree").rglob("manifest.ocdbt"):
        file.write_bytes(b"torn")
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match=r"last/5 cannot be read") as caught:
        checkpoints.restore("last", abstract(make_state()))
    assert "\n" not in str(caught.value)


def tear(workdir, kind, step):
    """What a power cut may leave of a file."""
    (file,) = (workdir / "checkpoints" / kind / str(step) / "tree").glob("manifest.ocdbt")
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(workdir, kind, step):
    """A changed number in a file that still reads: written again with other arrays under the old notes."""
    folder = workdir / "checkpoints" / kind / str(step)
    with Checkpoints(workdir / "elsewhere") as other:
        tree = make_state(step)
        kernel = tree["params"]["layer"]["kernel"]
        tree["params"]["layer"]["kernel"] = kernel.at[1, 2].set(jnp.nextafter(kernel[1, 2], jnp.inf))
        other.save(kind, step, tree, {})
    shutil.rmtree(folder / "tree")
    shutil.copytree(workdir / "elsewhere" / "checkpoints" / kind / str(step) / "tree", folder / "tree")


@pytest.mark.parametrize(
    ("damage", "words"), [(tear, "cannot be read"), (flip_a_bit, "other numbers than were written")]
)
def test_a_torn_newest_is_put_aside_and_the_one_before_it_taken(saved, damage, words):
    damage(saved, "last", 5)
    told = []
    with Checkpoints(saved, clean=True) as checkpoints:
        step, state, notes = checkpoints.restore_newest("last", abstract(make_state()), told.append)
        assert (step, int(state["step"]), notes["wall_seconds"]) == (3, 3, 1.0)
        checkpoints.save("last", 5, make_state(5), {})  # its place is free
    assert len(told) == 1
    assert words in told[0]
    assert "it is now torn/last-5, and the checkpoint before it is looked at" in told[0]
    assert on_disk(saved, "last") == ["3", "5"]
    assert on_disk(saved, "torn") == ["last-5"]
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.restore_newest("last", abstract(make_state()), told.append)[0] == 5
    assert len(told) == 1


def test_all_torn(saved):
    for step in (3, 5):
        tear(saved, "last", step)
    with Checkpoints(saved) as checkpoints, pytest.raises(TornCheckpoint, match=r"torn: steps 5, 3\); start again"):
        checkpoints.restore_newest("last", abstract(make_state()), lambda text: None)


def test_none_and_another_model_are_no_torn_ones(saved, tmp_path_factory):
    with Checkpoints(tmp_path_factory.mktemp("empty")) as checkpoints:
        assert checkpoints.restore_newest("last", abstract(make_state()), pytest.fail) is None
    other = abstract(make_state())
    other["params"]["layer"]["kernel"] = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match="belongs to another model"):
        checkpoints.restore_newest("last", other, pytest.fail)
    assert on_disk(saved, "last") == ["3", "5"]


def test_fingerprints_see_a_bit_a_swap_and_no_device():
    """One bit, two neighbours exchanged, two rows exchanged; not how the array is split over devices."""
    array = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    base = take_fingerprints({"a": array})
    bit, swap, rows = array.copy(), array.copy(), array[[1, 0, 2, 3, 4, 5, 6, 7]]
    bit.view(np.uint32)[3, 2] ^= 1 << 31
    swap[2, [0, 1]] = swap[2, [1, 0]]
    for other in (bit, swap, rows):
        assert take_fingerprints({"a": other}) != base
    layout = make_machine(data=4).layout
    assert take_fingerprints({"a": jax.device_put(array, layout.rows)}) == base
    mixed = {
        "h": np.ones(3, np.float16),
        "b": np.array([True, False]),
        "i": np.int32(7),
        "none": np.zeros((0, 2), np.float32),
    }
    assert take_fingerprints(mixed).keys() == mixed.keys()
