"""The model in which attention mechanisms are measured, by length: the authors' Text size, whatever the row."""

from ml_collections import ConfigDict

from configs import base, rows

TEXT_SIZE = {"emb_dim": 256, "mlp_dim": 1024, "num_heads": 4, "num_layers": 4, "classifier_dim": 1024}
"""The authors' Text model: `luna_lra` architectures, facts of fairseq-apollo at commit 1ea2f78."""
ROWS = rows.ROWS | {"softmax_cudnn": rows.ROWS["transformer"] | {"softmax.implementation": "cudnn"}}
"""On an NVIDIA GPU without dropout there is one more."""


def get_config(row: str, dropout: float, *, dtype: str, remat: bool) -> ConfigDict:
    """The config of a row, all its dropouts at that rate."""
    config = base.get_config()
    config.row, config.data.task = row, "listops"  # the task gives vocabulary and classes, which are replaced
    config.model.update(TEXT_SIZE)
    config.model.dropout_rate = config.model.attention_dropout_rate = dropout
    config.model.remat, config.model.dtype = remat, dtype
    config.luna.num_pack_heads = TEXT_SIZE["num_heads"]
    config.update_from_flattened_dict(ROWS[row])
    return config
