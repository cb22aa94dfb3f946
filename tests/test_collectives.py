"""The reader of compiled programs: real ones whose traffic is known, and the asynchronous forms of other backends."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from models import jit_quickly, raises_naming

from lra_tasks.collectives import KINDS, Collective, list_collectives, total_bytes

AXIS = "parts"
SPLIT, WHOLE = PartitionSpec(AXIS), PartitionSpec()


def make_mesh(num_parts=8):
    return jax.make_mesh((num_parts,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:num_parts])


def list_of(function, *args, out_specs=SPLIT):
    """Of a function of each device's part, compiled for eight devices."""
    mapped = jax.shard_map(function, mesh=make_mesh(), in_specs=SPLIT, out_specs=out_specs)
    return list_collectives(jit_quickly(mapped).lower(*args).compile().as_text())


@pytest.mark.parametrize(
    ("function", "out_specs", "expected"),
    [
        (partial(jax.lax.psum, axis_name=AXIS), WHOLE, Collective("all-reduce", 2 * 16 * 4, 1)),
        (partial(jax.lax.all_gather, axis_name=AXIS), SPLIT, Collective("all-gather", 8 * 2 * 16 * 4, 1)),
        (
            lambda x: jax.lax.psum_scatter(x, AXIS, scatter_dimension=1, tiled=True),
            SPLIT,
            Collective("reduce-scatter", 2 * 2 * 4, 1),
        ),
        (
            lambda x: jax.lax.ppermute(x, AXIS, [(part, (part + 1) % 8) for part in range(8)]),
            SPLIT,
            Collective("collective-permute", 2 * 16 * 4, 1),
        ),
        (
            lambda x: jax.lax.all_to_all(x, AXIS, split_axis=1, concat_axis=0, tiled=True),
            SPLIT,
            Collective("all-to-all", 2 * 16 * 4, 1),
        ),
    ],
    ids=KINDS,
)
def test_one_of_every_kind(function, out_specs, expected):
    """Of 16 rows of 16 numbers a device holds two."""
    assert list_of(function, jnp.ones((16, 16)), out_specs=out_specs) == [expected]


def test_a_tuple_counts_all_its_arrays_in_their_types():
    def run(x, y):
        return jax.lax.psum((x, y), AXIS)

    found = list_of(run, jnp.ones((8, 3)), jnp.ones((16, 5), jnp.int8), out_specs=WHOLE)
    assert total_bytes(found) == 3 * 4 + 2 * 5


def test_what_stands_in_loops_counts_as_often_as_they_go_round():
    def step(x, _):
        inner = jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(jax.lax.ppermute(y, AXIS, [(0, 1), (1, 0)])), x)
        return jax.lax.pcast(jnp.cos(jax.lax.psum(inner, AXIS)), AXIS, to="varying"), None

    def run(x):
        return jax.lax.scan(step, x, None, length=5)[0]

    found = list_of(run, jnp.ones((8, 6)))
    assert sorted(found, key=lambda one: one.kind) == [
        Collective("all-reduce", 6 * 4, 5),
        Collective("collective-permute", 6 * 4, 15),
    ]
    assert total_bytes(found) == 5 * 24 + 15 * 24


def test_what_the_compiler_adds_is_found():
    """A product over a split axis is summed, and a split array that is asked for whole is gathered."""
    mesh = make_mesh()
    x = jax.device_put(jnp.ones((4, 16)), NamedSharding(mesh, PartitionSpec(None, AXIS)))
    w = jax.device_put(jnp.ones((16, 6)), NamedSharding(mesh, PartitionSpec(AXIS)))
    step = jit_quickly(lambda x, w: (x @ w, w), out_shardings=NamedSharding(mesh, WHOLE))
    found = list_collectives(step.lower(x, w).compile().as_text())
    assert {(one.kind, one.bytes) for one in found} == {("all-reduce", 4 * 6 * 4), ("all-gather", 16 * 6 * 4)}


ASYNCHRONOUS = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

%taken (p: f32[4]) -> f32[4] {
  ROOT %moved = f32[4]{0} collective-permute(f32[4]{0} %p), source_target_pairs={{0,1}}
}

%left (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

ENTRY %main.9 (x: bf16[2,16], i: s32[]) -> (bf16[2,128], /*index=1*/f32[4]) {
  %sum = (f32[4]{0:T(8,128)}, f32[2]{0}) all-reduce-start(%a, %b), replica_groups={{0,1}}, to_apply=%add
  %gathered = (bf16[2,16]{1,0}, bf16[2,128]{1,0:T(8,128)(2,1)}) all-gather-start(%x), dimensions={1}
  %pair = ((f32[4]{0}, s8[3]{0}), (f32[32]{0}, /*index=1*/s8[24]{0})) all-gather-start(%a, %c), dimensions={0}
  %sent = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}
  %done = bf16[2,128]{1,0} all-gather-done((bf16[2,16]{1,0}, bf16[2,128]{1,0}) %gathered)
  ROOT %chosen = f32[4]{0} conditional(%i, %a, %a), branch_computations={%taken, %left}
}
"""


def test_asynchronous_forms_count_their_results_once():
    """As GPUs and TPUs print them: operands stand before results, all-reduce aside, and `-done` moves nothing more."""
    assert list_collectives(ASYNCHRONOUS) == [
        Collective("all-reduce", 4 * 4 + 2 * 4, 1),
        Collective("all-gather", 2 * 128 * 2, 1),
        Collective("all-gather", 32 * 4 + 24, 1),
        Collective("collective-permute", 4 * 4, 1),
        Collective("collective-permute", 4 * 4, 1),
    ]


def test_other_texts_are_refused():
    with raises_naming(["ENTRY", "as_text()"]):
        list_collectives("module @jit_f {}")
