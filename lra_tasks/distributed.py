"""Where the arrays of a run lie: one mesh of all devices, from a laptop's one to those of many hosts.

The mesh has three axes: a batch is split over `data`, heads and feed-forward width over `model`, sequences over
`sequence`. The compiler finds the communication from where parameters and batch lie; Luna's attention over a split
sequence says its own (`luna_jax.sequence_parallel`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lra_tasks.errors import UserError
from lra_tasks.machine import MOST_PARTS, MachineSettings

DATA, MODEL, SEQUENCE = AXES = ("data", "model", "sequence")
COLUMNS = {
    *("query", "key", "value", "context", "global_query", "global_key", "global_value", "fc1"),
    *("pack_query", "pack_key", "pack_value", "pack_context"),
}
"""Dense layers whose outputs are split over `model`: by heads in attention, by width in the feed-forward."""
ROWS = {"out", "pack_out", "fc2"}
"""Dense layers whose inputs are: their products are summed over `model`."""
SMALLEST_SHARDED = 4096
"""Numbers from which on a parameter is split over `data` with `machine.shard_params`; gathering less takes longer."""
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class StepShardings:
    """Where what goes into a step and comes out of it lies."""

    state: Any
    """Of the train state, a tree like it."""
    rows: NamedSharding
    """Of every array of a batch: its rows split over `data`."""
    whole: NamedSharding
    """Of numbers and results: a copy on every device."""


@dataclass(frozen=True)
class Layout:
    """A mesh and how parameters lie on it."""

    mesh: Mesh
    shard_params: bool

    @property
    def rows(self) -> NamedSharding:
        """Of a batch."""
        return NamedSharding(self.mesh, PartitionSpec(DATA))

    @property
    def whole(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def place(self, abstract: Tree) -> Tree:
        """A sharding for every array of a tree of parameters or of a train state, by its path and shape."""

        def place_one(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return NamedSharding(self.mesh, self.split(name, leaf.shape))

        return jax.tree_util.tree_map_with_path(place_one, abstract)

    def split(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """The axes of one array: `model` by what it does, then `data`, if asked for, on its largest axis that is left.

        Moments of an optimizer have the names of their parameters at their ends, so they lie like them.
        """
        axes: list[str | None] = [None] * len(shape)
        parts = name.split("/")
        layer, kind = (parts[-2], parts[-1]) if len(parts) > 1 else ("", parts[-1])
        inside = any(part.endswith("attention") or part == "feed_forward" for part in parts[:-2])
        if inside and self.mesh.shape[MODEL] > 1:
            if layer in COLUMNS:
                axes[-1] = MODEL
            elif layer in ROWS and kind == "kernel":
                axes[-2] = MODEL
        if self.shard_params and np.prod(shape) >= SMALLEST_SHARDED:
            # the first axis of a stack counts layers, of which the scan takes one after the other
            free = [at for at in range("layers" in parts, len(shape)) if axes[at] is None]
            fits = [at for at in free if shape[at] % self.mesh.shape[DATA] == 0]
            if fits:
                axes[max(fits, key=lambda at: shape[at])] = DATA
        return PartitionSpec(*axes)

    def for_steps(self, abstract_state: Any) -> StepShardings:
        """The shardings of train and eval steps."""
        return StepShardings(self.place(abstract_state), self.rows, self.whole)

    def round_up(self, num_rows: int, parts: int = 1) -> int:
        """The least number of rows, at least `num_rows`, that can be split over `data` and into `parts`."""
        return num_rows + -num_rows % (self.mesh.shape[DATA] * parts)

    def put(self, num_rows: int, gather: Callable[[slice], Tree]) -> Tree:
        """A batch of `num_rows` rows on the devices; `gather` makes those rows of it that this host holds."""
        if jax.process_count() == 1:
            return jax.device_put(gather(slice(0, num_rows)), self.rows)
        places = self.rows.addressable_devices_indices_map((num_rows,)).values()
        held = [index[0].indices(num_rows) for index in places if index is not None]
        begin, end = min(span[0] for span in held), max(span[1] for span in held)

        def put_one(array):
            def take(index):
                start, stop, _ = index[0].indices(num_rows)
                return array[start - begin : stop - begin]

            return jax.make_array_from_callback((num_rows, *array.shape[1:]), self.rows, take)

        return jax.tree.map(put_one, gather(slice(begin, end)))

    def keep(self, tree: Tree, shardings: Tree) -> Tree:
        """Arrays that something computed from the train state, put where the state's own lie."""
        return jax.jit(lambda same: same, out_shardings=shardings)(tree)

    def bring_home(self, tree: Tree) -> Tree:
        """A copy on this host's first device alone, for what every host does by itself."""
        if self.mesh.size == 1:
            return tree
        copies = jax.jit(lambda same: same, out_shardings=self.whole)(tree)
        return jax.device_put(jax.device_get(copies), jax.local_devices()[0])


def make_layout(settings: MachineSettings) -> Layout:
    """The mesh that a config asks for. UserError where it does not fit the devices."""
    devices = jax.devices()
    inner = settings.model * settings.sequence
    data = settings.data or max(1, len(devices) // inner)
    size = data * inner
    shape = f"machine.data={settings.data}, model={settings.model}, sequence={settings.sequence}"
    here = f"there are {len(devices)} ({devices[0].platform}, {jax.process_count()} processes)"
    if size > len(devices):
        raise UserError(f"{shape} need {size} devices, {here}; lower them, or set machine.data=0 for all that are left")
    if size < len(devices) and (settings.data == 0 or jax.process_count() > 1):
        raise UserError(
            f"{shape} use {size} devices, {here}; set them so that data * model * sequence = {len(devices)}"
        )
    # Auto: the compiler places what is computed; the default of recent JAX wants every product's placing spelled out.
    mesh = jax.make_mesh((data, settings.model, settings.sequence), AXES, (AxisType.Auto,) * 3, devices=devices[:size])
    return Layout(mesh, settings.shard_params)


def check_divisible(layout: Layout, settings: MachineSettings, batch_size: int | None, sizes: dict[str, int]) -> None:
    """UserError for a batch that `data` times `microbatches` does not divide, or sizes that `model` does not.

    `sizes` of the model by their config keys. A batch size of None: batches are filled up.
    """
    data, model = layout.mesh.shape[DATA], layout.mesh.shape[MODEL]
    parts = data * max(1, settings.microbatches)
    if batch_size is not None and batch_size % parts:
        raise UserError(
            f"train.batch_size={batch_size} cannot be split into {parts} equal parts (data {data} x microbatches "
            f"{parts // data}); set machine.data and machine.microbatches so that their product divides it"
        )
    for key, size in sizes.items():
        if size % model:
            raise UserError(f"{key}={size} cannot be split over machine.model={model}; take a divisor of {size}")


def count_parts(layout: Layout, settings: MachineSettings, batch_size: int) -> int:
    """Parts of a batch, one after the other: `microbatches`, or, if that is 0, what batch and mesh suggest.

    One, and with `lengths` as many as the rows of a device allow, up to MOST_PARTS.
    """
    if settings.microbatches or not settings.lengths:
        return max(1, settings.microbatches)
    rows = batch_size // layout.mesh.shape[DATA]
    return max(parts for parts in range(1, MOST_PARTS + 1) if rows % parts == 0)
