"""One run on meshes of virtual devices: the same losses, parameters where they belong, and bad meshes refused."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from meshes import make_machine
from tiny_runs import make_batch, make_experiment
from tolerances import TOLERANCE

from lra_tasks.checkpoint import Checkpoints
from lra_tasks.distributed import DATA, MODEL
from lra_tasks.errors import UserError
from lra_tasks.hosts import require_equal_copies
from lra_tasks.machine import Processes, take_machine
from lra_tasks.model import build_model
from lra_tasks.registry import get_task
from lra_tasks.steps import make_eval_step, make_init, make_train_step
from lra_tasks.training import build_split_model
from lra_tasks.translation_training import check_mesh

TASK = get_task("listops_small")
NUM_STEPS, BATCH_SIZE, LENGTH = (
    50,
    16,
    15,
)  # [CLS] makes it 16 positions, so that dropout's shapes are the same everywhere
SIZES = {"data__max_length": LENGTH, "model__num_layers": 2, "model__mlp_dim": 32, "train__batch_size": BATCH_SIZE}
SIZES |= {"model__num_heads": 4, "luna__num_pack_heads": 2, "model__dropout_rate": 0.1, "optim__learning_rate": 0.01}
CAUSAL = {"model__causal": True, "model__pooling": "mean", "model__prepend_cls": False, "luna__contextual_pack": False}
CAUSAL |= {"luna__num_pack_heads": 4, "data__max_length": 16}
PRODUCTS = (
    {"data": 2, "shard_params": True},
    {"sequence": 4},
    {"data": 2, "model": 2, "sequence": 2, "shard_params": True},
)
MORE = (
    *({"data": 2}, {"data": 4}, {"data": 8}, {"data": 8, "shard_params": True}, {"sequence": 2}, {"sequence": 8}),
    {"model": 2},
    *({"data": 2, "model": 2}, {"data": 4, "sequence": 2}, {"model": 2, "sequence": 4}, {"data": 4, "model": 2}),
)


class TinyTraining:
    """A tiny model on a mesh."""

    def __init__(self, machine, changes):
        self.layout, self.experiment = machine.layout, make_experiment(**SIZES | changes)
        self.model = build_split_model(self.experiment, TASK, machine)
        self.init = make_init(self.experiment, self.model)
        self.abstract = jax.eval_shape(self.init)
        self.shardings = self.layout.for_steps(self.abstract)
        options = {"microbatches": machine.settings.microbatches}
        self.step = make_train_step(self.experiment, self.model, self.shardings, **options)

    def start(self):
        return jax.jit(self.init, out_shardings=self.shardings.state)()

    def run(self, state, steps):
        """Losses of these steps, and the state behind them."""
        losses = []
        length = self.experiment.data.max_length
        for number in steps:
            batch = make_batch(BATCH_SIZE, length, seed=number)
            batch = self.layout.put(BATCH_SIZE, lambda rows, batch=batch: jax.tree.map(lambda leaf: leaf[rows], batch))
            state, numbers = self.step(state, batch)
            losses.append(numbers["loss"])
        return np.array(jax.device_get(losses), np.float64), state


def train_on(mesh, num_steps=NUM_STEPS, **changes):
    """Losses of a tiny run, and the run."""
    training = TinyTraining(make_machine(**mesh), changes)
    losses, state = training.run(training.start(), range(num_steps))
    return losses, training, state


@functools.cache
def reference(causal=False):
    """Losses on one device, which fall."""
    losses, _, _ = train_on({}, **CAUSAL if causal else {})
    assert losses[-10:].mean() < losses[:10].mean() - 0.01
    return losses


def assert_same_losses(losses, expected):
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE["float32"], atol=0)


@pytest.mark.parametrize("mesh", [*PRODUCTS, *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in MORE)], ids=str)
def test_losses_do_not_depend_on_the_mesh(mesh):
    """Fifty steps with dropout, one seed, one global batch."""
    assert_same_losses(train_on(mesh)[0], reference())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"sequence": 8}, {"data": 2, "model": 2, "sequence": 2}], ids=str)
def test_losses_of_causal_luna_neither(mesh):
    assert_same_losses(train_on(mesh, **CAUSAL)[0], reference(causal=True))


def test_filling_up_a_sequence_changes_no_loss():
    """Thirteen positions over four devices: three masked ones more. Without dropout, whose draws have other shapes."""
    changes = {"data__max_length": 12, "model__dropout_rate": 0.0}
    expected, _, _ = train_on({}, 5, **changes)
    assert_same_losses(train_on({"sequence": 4}, 5, **changes)[0], expected)


def test_microbatches_are_the_large_batch():
    """Parts with unequal numbers of real rows, over devices too; the mean is over all that is real."""
    changes = {"model__dropout_rate": 0.0}
    expected, whole, whole_state = train_on({}, 5, **changes)
    assert_same_losses(train_on({"microbatches": 4}, 5, **changes)[0], expected)
    losses, training, state = train_on({"microbatches": 2, "data": 4}, 5, **changes)
    assert_same_losses(losses, expected)
    batch = make_batch(BATCH_SIZE, LENGTH, seed=99, num_real=9)
    _, numbers = training.step(
        state, training.layout.put(BATCH_SIZE, lambda rows: jax.tree.map(lambda x: x[rows], batch))
    )
    _, expected_numbers = whole.step(whole_state, whole.layout.put(BATCH_SIZE, lambda rows: batch))
    assert_same_losses(float(numbers["loss"]), float(expected_numbers["loss"]))
    assert_same_losses(float(numbers["gradient_norm"]), float(expected_numbers["gradient_norm"]))


def test_parameters_and_moments_lie_where_they_are_worked_on():
    """Heads and feed-forward over `model`, all that is large over `data`; a moment lies like its parameter."""
    changes = {"model__emb_dim": 64, "model__mlp_dim": 128}
    training = TinyTraining(make_machine(data=4, model=2, shard_params=True), changes)
    places = {
        jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(training.shardings.state)
    }
    layer = "params/encoder/layers"
    assert places[f"{layer}/attention/pack_query/kernel"] == P(None, DATA, MODEL)
    assert places[f"{layer}/attention/out/kernel"] == P(None, MODEL, DATA)
    assert places[f"{layer}/feed_forward/fc1/bias"] == P(None, MODEL)
    assert places[f"{layer}/feed_forward/fc2/kernel"] == P(None, MODEL, DATA)
    assert places[f"{layer}/feed_forward/fc2/bias"] == P(None, None)
    assert places["step"] == P()
    for name, place in places.items():
        if name.startswith("params/"):
            moments = [other for other in places if other.startswith("opt_state") and other.endswith(name[6:])]
            assert len(moments) == 2
            assert {places[other] for other in moments} == {place}
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(training.start()))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(training.abstract))
    assert held < 0.3 * whole


def test_another_number_of_devices_goes_on(tmp_path):
    """Ten steps on eight devices, ten on two, ten on eight: the losses of thirty on one."""
    meshes = [{"data": 8, "shard_params": True}, {"data": 2}, {"data": 8, "shard_params": True}]
    found = []
    for turn, mesh in enumerate(meshes):
        training = TinyTraining(make_machine(**mesh), {})
        with Checkpoints(tmp_path) as checkpoints:
            if turn:
                shardings = training.shardings.state
                _, state, _ = checkpoints.restore("last", training.abstract, shardings=shardings)
                assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
            else:
                state = training.start()
            losses, state = training.run(state, range(10 * turn, 10 * turn + 10))
            found.extend(losses)
            checkpoints.save("last", 10 * turn + 10, state, {})
    assert_same_losses(np.array(found), reference()[:30])


def test_evaluation_counts_right_answers_in_order_on_a_mesh():
    machine = make_machine(data=4)
    experiment = make_experiment(**SIZES)
    model = build_split_model(experiment, TASK, machine)
    params = model.init(jax.random.key(0))
    batch = make_batch(8, LENGTH, num_real=5)
    expected_sums, expected = jax.device_get(make_eval_step(build_model(experiment, TASK))(params, batch))
    shardings = machine.layout.for_steps(jax.eval_shape(make_init(experiment, model)))
    placed = machine.layout.put(8, lambda rows: batch)
    sums, correct = make_eval_step(model, shardings)(machine.layout.keep(params, shardings.state["params"]), placed)
    assert correct.sharding.is_fully_replicated
    np.testing.assert_array_equal(correct, expected)
    assert int(sums.count) == int(expected_sums.count) == 5


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ({"data": 16}, "data=16, model=1, sequence=1 need 16 devices, there are 8"),
        ({"data": 0, "model": 3}, "use 6 devices, there are 8"),
        ({"model": 16}, "need 16 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices(mesh, words):
    with pytest.raises(UserError, match=words):
        make_machine(**mesh)


@pytest.mark.parametrize(
    ("mesh", "changes", "words"),
    [
        ({"data": 8}, {"train__batch_size": 12}, "train.batch_size=12 cannot be split into 8 equal parts"),
        ({"data": 2, "microbatches": 16}, {}, r"equal parts \(data 2 x microbatches 16\)"),
        ({"model": 4}, {}, "luna.num_pack_heads=2 cannot be split over machine.model=4"),
        ({"model": 8}, {"model__num_heads": 4}, "model.num_heads=4 cannot be split"),
        ({"sequence": 2}, {"name": "listops_transformer"}, "which softmax attention cannot; set it to 1"),
        ({"microbatches": 2}, {"model__feature_norm": "whitened"}, "machine.microbatches=2 changes what"),
    ],
)
def test_a_model_that_does_not_fit_the_mesh(mesh, changes, words):
    changes = dict(changes)
    name = changes.pop("name", "listops_luna16")
    sizes = {key: value for key, value in SIZES.items() if name == "listops_luna16" or not key.startswith("luna")}
    experiment = make_experiment(name, **sizes | changes)
    with pytest.raises(UserError, match=words):
        build_split_model(experiment, TASK, make_machine(**mesh))


def test_translation_does_not_split_sentences():
    with pytest.raises(UserError, match=r"machine\.sequence=2: sentences are short"):
        check_mesh(None, make_machine(sequence=2))


def test_all_devices_that_are_left_split_the_batch():
    assert make_machine(data=0, model=2).layout.mesh.shape == {"data": 4, "model": 2, "sequence": 1}
    assert make_machine(data=0).layout.round_up(13, 2) == 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": 0}, "machine.model=0 must be at least 1"),
        ({"compilation_cache": ""}, "machine.compilation_cache='' is no folder"),
        ({"shard_params": 1}, "machine.shard_params = 1"),
    ],
)
def test_settings_that_cannot_be(changes, words):
    section = {**make_machine().settings.__dict__, **changes}
    with pytest.raises(UserError, match=words):
        take_machine({"machine": section})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((True, "a:1", None, None), "--distributed=auto finds the processes by itself"),
        ((False, "a:1", 2, None), "belong together"),
        ((False, "nohost", 2, 0), "must be HOST:PORT"),
        ((False, "a:99999", 2, 0), "must be HOST:PORT"),
        ((False, "a:1", 2, 2), "--process_id 2 must be 0 to 1"),
    ],
)
def test_processes_that_cannot_meet(arguments, words):
    with pytest.raises(UserError, match=words):
        Processes(*arguments)


def test_copies_that_differ_are_found():
    """Three of four devices hold the same; of an array that is split each part has one holder."""
    layout = make_machine(data=4).layout
    parts = [
        jax.device_put(np.float32([1, 2 + (number == 2)]), device) for number, device in enumerate(jax.devices()[:4])
    ]
    require_equal_copies({"split": jax.make_array_from_single_device_arrays((8,), layout.rows, parts)})
    wrong = jax.make_array_from_single_device_arrays((2,), layout.whole, parts)
    with pytest.raises(UserError, match=r"copies of a/wrong \[\(0, 2\)\] differ between devices \(1 arrays in all\)"):
        require_equal_copies({"a": {"wrong": wrong}})
