"""One function a translation task: its hyperparameters, each with its source.

Presets, joined by "+": "" the authors' recipe; "paper" the paper's clipping; "cpu" a small model for two cores; and
the rows of the paper's tables: "untied" (key and value have a projection each) and "elu" (elu + 1 in the decoder) of
Table 4, "noncontextual" (every layer learns its own P) of Table 5. They show in the protocol of a record.

Sources: [readme] `examples/luna/README.wmt.md` of XuezheMax/fairseq-apollo at commit 1ea2f78 (2021-12-08), [arch] the
model `luna_base_tied` registered there, [code], [paper] arXiv 2106.01540, [ours].
"""

import difflib
from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base_translation

TRANSFORMER = "transformer"


def wmt14_ende(row: str, presets: str = "") -> ConfigDict:
    """WMT'14 English to German; for eight accelerators with 8,192 subwords each."""
    config = base_translation.get_config()
    config.data.task = "wmt14_ende"
    config.data.max_tokens = 8 * 8192  # [readme] 8 GPUs x 8192
    model, optim, train = config.model, config.optim, config.train
    model.emb_dim, model.mlp_dim, model.num_heads = 512, 2048, 8  # [arch]
    model.num_encoder_layers, model.num_decoder_layers = 6, 6  # [arch]
    config.luna.num_pack_heads = 8  # [arch]
    model.dropout_rate, model.attention_dropout_rate, model.activation_dropout_rate = 0.1, 0.1, 0.1  # [readme]
    optim.optimizer, optim.learning_rate, optim.beta1, optim.epsilon = "apollo", 0.1, 0.9, 1e-4  # [readme]
    optim.rebound, optim.decay, optim.weight_decay = "constant", "l2", 1e-8  # [readme], [code]
    optim.schedule, optim.warmup_steps, optim.initial_learning_rate = "milestones", 1000, 1e-5  # [readme]
    optim.milestones, optim.milestone_factor = (300_000, 450_000), 0.1  # [readme]
    optim.clip_norm, optim.clip_mode = 0.1, "each"  # [readme]
    train.num_steps, train.label_smoothing = 500_000, 0.1  # [readme]
    train.num_averaged = 10  # [paper]; the readme keeps 5
    train.average_every_steps = train.eval_every_steps = train.checkpoint_every_steps = 5000  # [ours]
    config.decode.beam_size, config.decode.length_penalty = 5, 1.0  # [ours]: the facts at hand do not say
    return _apply(config, row, presets)


def multi30k_deen(row: str, presets: str = "") -> ConfigDict:
    """Multi30k, German to English: 29,000 captions, for one accelerator. All numbers are ours."""
    config = base_translation.get_config()
    config.protocol = "ours"
    config.data.task, config.data.max_tokens = "multi30k_deen", 4096
    model, optim, train = config.model, config.optim, config.train
    model.emb_dim, model.mlp_dim, model.num_heads, config.luna.num_pack_heads = 256, 1024, 4, 4
    model.num_encoder_layers, model.num_decoder_layers = 4, 4
    model.dropout_rate, model.attention_dropout_rate, model.activation_dropout_rate = 0.3, 0.1, 0.1
    optim.learning_rate, optim.warmup_steps, optim.weight_decay = 1e-3, 2000, 1e-4
    train.num_steps, train.eval_every_steps, train.checkpoint_every_steps = 12_000, 1000, 1000
    train.average_every_steps, train.num_averaged = 500, 8
    return _apply(config, row, presets)


def _apply(config: ConfigDict, row: str, presets: str) -> ConfigDict:
    config.row = row
    if row == TRANSFORMER:
        config.model.attention = "softmax"
    else:
        config.luna.pack_length = int(row.removeprefix("luna"))
    changes: dict[str, Callable[[ConfigDict], None]] = {"cpu": _cpu}
    if config.data.task == "wmt14_ende":
        changes = {"paper": _paper}
    if row != TRANSFORMER:
        changes |= {"untied": _untied, "elu": _elu, "noncontextual": _noncontextual}
    names = [name for name in presets.split("+") if name]
    for name in names:
        if name not in changes:
            close = difflib.get_close_matches(name, changes, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"unknown preset {name!r}; {hint}choices, joined by +: {', '.join(changes) or 'none'}")
        changes[name](config)
    if names:
        config.protocol = "+".join(sorted(set(names), key=list(changes).index))
    return config


def _cpu(config: ConfigDict) -> None:
    """A model that two cores train in minutes."""
    model, optim, train = config.model, config.optim, config.train
    config.data.max_tokens = 2048
    model.emb_dim, model.mlp_dim, model.num_heads, config.luna.num_pack_heads = 192, 384, 4, 4
    model.num_encoder_layers, model.num_decoder_layers = 2, 2
    model.dropout_rate, model.attention_dropout_rate, model.activation_dropout_rate = 0.1, 0.0, 0.0
    optim.learning_rate, optim.schedule, optim.warmup_steps = 3e-3, "linear", 120
    train.num_steps, train.eval_every_steps, train.checkpoint_every_steps = 500, 250, 250
    train.log_every_steps, train.average_every_steps, train.num_averaged = 50, 20, 3
    config.causal.chunk_size = 32


def _paper(config: ConfigDict) -> None:
    config.optim.clip_norm, config.optim.clip_mode = 1.0, "global"  # [paper]


def _untied(config: ConfigDict) -> None:
    config.luna.tie_kv = False


def _elu(config: ConfigDict) -> None:
    config.causal.weight = "elu"


def _noncontextual(config: ConfigDict) -> None:
    config.luna.contextual_pack = False
