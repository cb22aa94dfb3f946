"""Every row of the table by name: a mechanism, and what it changes in a task's recipe.

    configs/listops.py:performer            the recipe of ListOps with Performer's attention
    configs/listops.py:performer:cpu        the same, small
    configs/listops.py:luna16:cpu+tied_kv   with a switch of `drift.py`

A row changes the attention and leaves encoder, optimizer and steps to the task's recipe, so that rows are comparable.
Three exceptions: a mechanism that forms no probabilities has no dropout on them; where [CLS] would see a part of the
sequence only, the head pools the mean; and under the preset "lra" the released configs of Long Range Arena give models
sizes of their own.
"""

import difflib

from ml_collections import ConfigDict

from configs import drift, recipes

# Mechanisms that form no probabilities have nothing that attention dropout could fall on.
PRESETS = ("paper", "lra", "cpu")
NO_PROBABILITIES = {"model.attention_dropout_rate": 0.0}
# One layer of these shows [CLS] its own block or bucket, and summaries at best: 50 of 2,001 positions in Local's case.
MEAN_POOLED = ("local", "sparse", "reformer", "sinkhorn")
ROWS = {
    "luna16": {"model.attention": "luna", "luna.pack_length": 16},
    "luna128": {"model.attention": "luna", "luna.pack_length": 128},
    "luna256": {"model.attention": "luna", "luna.pack_length": 256},
    "transformer": {"model.attention": "softmax"},
    "softmax_unfused": {"model.attention": "softmax", "softmax.implementation": "unfused"},
    "softmax_chunked": {"model.attention": "softmax", "softmax.implementation": "chunked"},
    "local": {"model.attention": "local"},
    "sparse": {"model.attention": "sparse"},
    "longformer": {"model.attention": "longformer"},
    "linformer": {"model.attention": "linformer"},
    "reformer": {"model.attention": "reformer"},
    "sinkhorn": {"model.attention": "sinkhorn"},
    "synthesizer": {"model.attention": "synthesizer"},
    "bigbird": {"model.attention": "bigbird", "machine.lengths": ()},  # its pattern depends on the padded length
    "linear": {"model.attention": "linear", **NO_PROBABILITIES},
    "performer": {"model.attention": "performer", **NO_PROBABILITIES},
    "performer_relu": {"model.attention": "performer", "performer.kernel": "relu", **NO_PROBABILITIES},
    "rfa": {"model.attention": "rfa", **NO_PROBABILITIES},
    "rfa_gated": {"model.attention": "rfa", "rfa.gated": True, **NO_PROBABILITIES},
}

# Sizes of each model in the released configs, where they differ from the task's base: facts of
# lra_benchmarks/image/configs at commit cd31e5c. Columns as in SIZES; "performer" of Pathfinder as corrected by a
# maintainer (issue 37 there). Sinkhorn pools the mean in every task, for its [CLS] raises there; BigBird's head count,
# which the reference refuses, is the one its file asks for. Rows that are not here have the size of the Transformer.
SIZES = ("emb_dim", "mlp_dim", "num_heads", "num_layers", "pooling", "dropout_rate", "attention_dropout_rate")
LRA_SIZES = {
    "image": {
        "local": (128, 128, 2, 1, "mean", 0.3, 0.2),
        "sparse": (128, 128, 8, 1, "cls", 0.3, 0.2),
        "longformer": (128, 128, 4, 4, "mean", 0.3, 0.2),
        "linformer": (128, 128, 8, 1, "cls", 0.3, 0.2),
        "reformer": (64, 64, 8, 4, "cls", 0.3, 0.2),
        "sinkhorn": (32, 64, 1, 1, "mean", 0.1, 0.2),
        "synthesizer": (128, 128, 8, 1, "cls", 0.3, 0.2),
        "bigbird": (128, 128, 4, 1, "cls", 0.3, 0.2),
        "linear": (128, 128, 8, 1, "cls", 0.3, 0.0),
        "performer": (128, 128, 8, 1, "cls", 0.3, 0.0),
    },
    "pathfinder": {
        "local": (64, 64, 4, 2, "mean", 0.1, 0.1),
        "sparse": (32, 32, 8, 1, "mean", 0.2, 0.1),
        "longformer": (32, 32, 2, 2, "mean", 0.1, 0.1),
        "linformer": (32, 32, 2, 1, "mean", 0.2, 0.1),
        "reformer": (64, 64, 8, 2, "mean", 0.2, 0.1),
        "sinkhorn": (32, 64, 4, 2, "mean", 0.2, 0.1),
        "synthesizer": (64, 64, 4, 2, "mean", 0.2, 0.1),
        "bigbird": (64, 64, 2, 4, "mean", 0.2, 0.1),
        "linear": (128, 128, 2, 1, "mean", 0.2, 0.0),
        "performer": (128, 128, 8, 1, "mean", 0.2, 0.0),
    },
}
LRA_WEIGHT_DECAY = {("image", "sinkhorn"): 0.7}

# The mechanisms' switches in the released models: blocks are 50 positions in ListOps, Text and Retrieval. Their ReLU
# kernel is one without random features; Sinkhorn's iterations and temperature, which theirs never uses, are ours.
LRA_SWITCHES = {
    "linformer.projected_length": 16,
    "reformer.num_hashes": 1,
    "reformer.num_buckets": 10,
    "synthesizer.mode": "random",
    "performer.kernel": "relu",
    "performer.redraw_every_steps": 1,
    "longformer.num_global": 0,
    "local.block_size": 50,
    "sinkhorn.block_size": 50,
}
LRA_LISTOPS_PERFORMER = {"performer.kernel": "softmax", "performer.num_features": 2}
LRA_TASK_SWITCHES = {
    "listops": {"reformer.chunk_size": 201},
    "text": {"reformer.chunk_size": 101},
    "retrieval": {"reformer.chunk_size": 401},
    "image": {"reformer.chunk_size": 103, "local.block_size": 64, "sinkhorn.block_size": 64},
    "pathfinder": {"reformer.chunk_size": 103, "local.block_size": 64, "sinkhorn.block_size": 64},
    "pathx": {"reformer.chunk_size": 1639, "local.block_size": 64, "sinkhorn.block_size": 64},
}


def get_config(task: str, argument: str) -> ConfigDict:
    """The config of a task's recipe with a row's mechanism; `argument`: "ROW", "ROW:PRESET" or "ROW:PRESET+SWITCH"."""
    row, _, rest = argument.partition(":")
    preset, *switches = rest.split("+")
    if row.partition("+")[0] in PRESETS:
        raise ValueError(f"{row!r} is a preset, which stands behind a row: luna16:{row}, or any of {', '.join(ROWS)}")
    if row not in ROWS:
        close = difflib.get_close_matches(row, ROWS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown row {row!r}; {hint}choices: {', '.join(ROWS)}")
    config = getattr(recipes, task)(preset)
    if (row, preset) == ("performer_relu", "lra"):
        raise ValueError("there is no performer_relu:lra; LRA's Performer has the ReLU kernel: take performer:lra")
    config.row = row
    if preset == "lra":
        _set_lra(config, task, row)
    elif row in MEAN_POOLED:
        config.model.pooling = "mean"
    config.update_from_flattened_dict(ROWS[row])
    drift.apply(config, task, preset, switches)
    return config


def _set_lra(config: ConfigDict, task: str, row: str) -> None:
    """Sizes and switches of the released model."""
    config.update_from_flattened_dict(LRA_SWITCHES | LRA_TASK_SWITCHES[task])
    if (task, row) == ("listops", "performer"):
        config.update_from_flattened_dict(LRA_LISTOPS_PERFORMER)
    if row == "sinkhorn":
        config.model.pooling, config.model.prepend_cls = "mean", False
    if row in LRA_SIZES.get(task, {}):
        config.model.update(dict(zip(SIZES, LRA_SIZES[task][row], strict=True)))
        config.model.activation_dropout_rate = config.model.dropout_rate
        config.model.classifier_dim = config.model.mlp_dim
        config.model.prepend_cls = config.model.pooling == "cls"
        config.optim.weight_decay = LRA_WEIGHT_DECAY.get((task, row), config.optim.weight_decay)
