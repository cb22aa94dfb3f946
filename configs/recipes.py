"""One function a task: its hyperparameters, each with its source.

Sources: [script] `examples/long_range_arena/train_luna_*.sh` of XuezheMax/fairseq-apollo at commit 5648724 (Nov 2021),
[readme] `examples/luna/README.lra.md` at commit 1ea2f78 (2021-12-08), [arch] the model registered there,
[code] its task and trainer, [table 7] the Luna paper's appendix, [ours].
"""

import difflib

from ml_collections import ConfigDict

from configs import base


def listops(preset: str = "") -> ConfigDict:
    """ListOps. Presets: "" as the authors ran it; "cpu", a small task and model for a laptop."""
    config = base.get_config()
    config.data.task = "listops"
    model, optim, train = config.model, config.optim, config.train
    model.emb_dim, model.mlp_dim, model.num_heads, model.classifier_dim = 512, 2048, 8, 2048  # [arch]
    config.luna.num_pack_heads = 8  # [arch]
    # [script, readme] one pass. The first release's script gave six passes through the same weights ([arch] ties them);
    # the paper says nothing. --config.model.num_layers=6 --config.model.tie_layers=True gives that one.
    model.num_layers, model.tie_layers = 1, False
    config.luna.tie_kv = False  # [code] no flag ties them, though the paper's section 3.1 suggests it
    model.initializers = "bert"  # [arch] apply_bert_init
    model.dropout_rate, model.attention_dropout_rate = 0.1, 0.1  # [script, table 7]
    optim.learning_rate, optim.warmup_steps, optim.weight_decay = 1e-4, 1000, 1e-4  # [script, table 7]
    train.num_steps, train.batch_size = 5000, 32  # [script, table 7]
    train.eval_every_steps = 20  # [code] the best of 250 validations is tested
    train.checkpoint_every_steps = 500  # [ours]
    return _apply(preset, config, {"cpu": _listops_cpu})


def _listops_cpu(config: ConfigDict) -> None:
    """Short expressions and a small model, all [ours]: minutes on two cores."""
    config.protocol = "cpu"
    config.data.task = "listops_small"
    model, optim, train = config.model, config.optim, config.train
    model.emb_dim, model.mlp_dim, model.num_heads, model.classifier_dim = 64, 128, 4, 128
    config.luna.num_pack_heads = 4
    model.num_layers = 2
    model.initializers = "fairseq"
    model.dropout_rate, model.attention_dropout_rate = 0.0, 0.0
    optim.learning_rate, optim.warmup_steps = 2e-3, 100
    train.num_steps, train.batch_size, train.eval_batch_size = 600, 32, 250
    train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps = 50, 100, 300


def _apply(preset: str, config: ConfigDict, presets: dict) -> ConfigDict:
    """Changes `config` by the named preset; an unknown name raises with the nearest match and the whole list."""
    if not preset:
        return config
    if preset not in presets:
        close = difflib.get_close_matches(preset, presets, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown preset {preset!r}; {hint}choices: {', '.join(presets)} (or none)")
    presets[preset](config)
    return config
