"""One switch for each side of each difference in `ledger.py`: what it sets, in which tasks, and who has it so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Changes = dict[str, Any]

TASKS = ("listops", "text", "retrieval", "image", "pathfinder")
"""Those that the authors ran. Nobody published Luna on Path-X, so there is no recipe that others could differ from."""
DOCUMENTS = ("listops", "text", "retrieval")
"""Tasks with documents shorter than a packed sequence; a picture never is."""
PRESETS = ("", "paper", "cpu")
"""What a switch may stand behind; "lra" is the recipe of another project."""
SIDES = {
    "paper": "the paper",
    "first": "the first release, f5896cd (1 November 2021)",
    "readme": "README and code of 1ea2f78 (8 December 2021)",
    "head": "the last version, 3644d20 (5 December 2023)",
}
BUNDLES = {"as_paper": "paper", "as_first_release": "first", "as_readme": "readme", "as_head": "head"}
"""Names for all switches on a side at once."""


@dataclass(frozen=True)
class Switch:
    """One alternative of one difference."""

    items: tuple[int, ...]
    """Numbers in the ledger."""
    what: str
    """What it makes of the recipe, in a few words."""
    changes: dict[str, Changes]
    """By task, the settings that it sets."""
    sides: dict[str, tuple[str, ...]]
    """Who has it, and in which tasks."""
    against: str = ""
    """The switch on the other side, for baselines that stand on neither."""
    presets: tuple[str, ...] = PRESETS


def _everywhere(changes: Changes, tasks: Sequence[str] = TASKS) -> dict[str, Changes]:
    return dict.fromkeys(tasks, changes)


def _depth(depths: dict[str, int], tie_layers: bool = False) -> dict[str, Changes]:
    return {task: {"model.num_layers": depth, "model.tie_layers": tie_layers} for task, depth in depths.items()}


def _dropout(rate: float, attention: float) -> dict[str, Changes]:
    return {"image": {"model.dropout_rate": rate, "model.attention_dropout_rate": attention}}


_RETRIEVAL, _IMAGE, _CLS = ("retrieval",), ("image",), ("listops", "text", "retrieval", "image")
_SINUSOIDS = {"model.positions": "sinusoidal"}
_NO_CLS = {"model.pooling": "packed", "model.prepend_cls": False}

SWITCHES = {
    "interaction": Switch(
        items=(3,),
        what="features a, b, a b and a - b of two documents",
        changes=_everywhere({"model.pair_features": "interaction"}, _RETRIEVAL),
        sides={"paper": _RETRIEVAL, "head": _RETRIEVAL},
        against="concatenation",
    ),
    "concatenation": Switch(
        items=(3,),
        what="features a and b of two documents",
        changes=_everywhere({"model.pair_features": "concat"}, _RETRIEVAL),
        sides={"first": _RETRIEVAL, "readme": _RETRIEVAL},
    ),
    "no_last_pixel": Switch(
        items=(4,),
        what="the last pixel is cut",
        changes=_everywhere({"data.max_length": 1023}, _IMAGE),
        sides={"first": _IMAGE, "readme": _IMAGE},
    ),
    "paper_dropout": Switch(
        items=(5,),
        what="dropout 0.1, on attention 0.3",
        changes=_dropout(0.1, 0.3),
        sides={"paper": _IMAGE},
        against="released_dropout",
    ),
    "released_dropout": Switch(
        items=(5,),
        what="dropout 0.3, on attention 0.1",
        changes=_dropout(0.3, 0.1),
        sides={"readme": _IMAGE, "head": _IMAGE},
    ),
    "paper_rate": Switch(
        items=(6,),
        what="learning rate 5e-5",
        changes=_everywhere({"optim.learning_rate": 5e-5}, _RETRIEVAL),
        sides={"paper": _RETRIEVAL},
        against="released_rate",
    ),
    "released_rate": Switch(
        items=(6,),
        what="learning rate 5e-4",
        changes=_everywhere({"optim.learning_rate": 5e-4}, _RETRIEVAL),
        sides={"readme": _RETRIEVAL, "head": _RETRIEVAL},
    ),
    "six_tied_passes": Switch(
        items=(7,),
        what="one layer, applied six times",
        changes=_depth({"listops": 6}, tie_layers=True),
        sides={"first": ("listops",)},
        against="one_layer",
    ),
    "lra_code_depth": Switch(
        items=(7,),
        what="four layers, as in LRA's configs",
        changes=_depth({"listops": 4}),
        sides={},
        against="one_layer",
    ),
    "lra_paper_depth": Switch(
        items=(7, 8),
        what="layers as in LRA's paper: ListOps 6, Image 3, Pathfinder 4",
        changes=_depth({"listops": 6, "image": 3, "pathfinder": 4}),
        sides={"paper": ("listops", "image", "pathfinder")},
        against="one_layer",
    ),
    "one_layer": Switch(
        items=(7, 8),
        what="one layer, applied once",
        changes=_depth({"listops": 1, "image": 1, "pathfinder": 1}),
        sides=dict.fromkeys(("readme", "head"), ("listops", "image", "pathfinder")),
    ),
    "tied_kv": Switch(
        items=(9,),
        what="one projection for key and value in each attention",
        changes=_everywhere({"luna.tie_kv": True}),
        sides={"paper": TASKS},
    ),
    "no_embedding_norm": Switch(
        items=(10,),
        what="no layer norm on embeddings",
        changes=_everywhere({"model.embedding_norm": False}),
        sides={"paper": TASKS},
    ),
    "sinusoids": Switch(items=(11,), what="sinusoidal positions", changes=_everywhere(_SINUSOIDS), sides={}),
    "scaled_sinusoids": Switch(
        items=(11,),
        what="sinusoidal positions, embeddings and P times sqrt(d)",
        changes=_everywhere(_SINUSOIDS | {"model.scale_embedding": True}),
        sides={"head": TASKS},
    ),
    "all_slots": Switch(
        items=(12,),
        what="every slot of P, however short the document",
        changes=_everywhere({"pack.slots": "all"}, DOCUMENTS),
        sides={"paper": DOCUMENTS},
    ),
    "plain_pack": Switch(
        items=(13,),
        what="P as learned: no norm, no dropout",
        changes=_everywhere({"pack.embedding": "plain"}),
        sides={"paper": TASKS},
    ),
    "sinusoidal_pack": Switch(
        items=(13,),
        what="sinusoids on P",
        changes=_everywhere({"pack.embedding": "sinusoidal"}),
        sides={"head": TASKS},
    ),
    "pack_projection": Switch(
        items=(14,),
        what="an output projection on P's branch",
        changes=_everywhere({"pack.projection": True}),
        sides={"paper": TASKS},
    ),
    "pool_cls": Switch(
        items=(16,),
        what="[CLS] is classified",
        changes=_everywhere({"model.pooling": "cls", "model.prepend_cls": True}),
        sides={"paper": TASKS, "first": _CLS, "readme": _CLS, "head": _CLS},
    ),
    "pool_pack": Switch(
        items=(16,),
        what="the mean of P is classified",
        changes=_everywhere({"model.pooling": "packed"}),
        sides={},
        against="pool_cls",
    ),
    "linear_head": Switch(
        items=(17,),
        what="a head without a hidden layer",
        changes=_everywhere({"model.classifier_dim": 0}),
        sides={"head": TASKS},
    ),
    "eight_pack_heads": Switch(
        items=(18,),
        what="packing with 8 heads, not 4",
        changes=_everywhere({"luna.num_pack_heads": 8}, ("text", "retrieval", "pathfinder")),
        sides={"first": ("text", "retrieval", "pathfinder")},
    ),
    "pool_pack_no_cls": Switch(
        items=(19,),
        what="the mean of P, and no [CLS]",
        changes=_everywhere(_NO_CLS),
        sides={},
        against="pool_pack",
    ),
    "pool_every_slot": Switch(
        items=(20,),
        what="the mean of all of P, masked slots too",
        changes=_everywhere({"model.pooling": "packed_all"}, DOCUMENTS),
        sides={},
        against="pool_pack",
    ),
    "bert_start": Switch(
        items=(21,),
        what="parameters from N(0, 0.02^2)",
        changes=_everywhere({"model.initializers": "bert"}, ("listops", "text", "image")),
        sides={"first": ("listops", "text", "image"), "readme": ("listops", "text")},
    ),
    "batch_256": Switch(
        items=(22,),
        what="256 images a step",
        changes=_everywhere({"train.batch_size": 256}, ("pathfinder",)),
        sides={},
        presets=("", "paper"),
    ),
    "bfloat16": Switch(
        items=(23,), what="computed in bfloat16", changes=_everywhere({"model.dtype": "bfloat16"}), sides={}
    ),
}
