"""Small models for a few minutes on two cores, for the preset "cpu": one function a task, which changes the recipe.

All numbers are ours. They show that a task is learnt, not how well Luna can do it.
"""

from ml_collections import ConfigDict


def listops(config: ConfigDict) -> None:
    """Short expressions."""
    config.data.task = "listops_small"
    _set_small(config)
    train, optim = config.train, config.optim
    optim.learning_rate, optim.warmup_steps = 2e-3, 100
    train.num_steps, train.batch_size, train.eval_batch_size = 600, 32, 250
    train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps = 50, 100, 300


def text(config: ConfigDict) -> None:
    """The first 512 bytes of a review."""
    config.data.max_length = 512
    _set_small(config)
    config.model.num_layers = 1
    train, optim = config.train, config.optim
    optim.learning_rate, optim.warmup_steps = 2e-3, 100
    train.num_steps, train.batch_size, train.eval_batch_size = 1000, 32, 250
    train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps = 50, 250, 500


def retrieval(config: ConfigDict) -> None:
    """The smaller set of citation pairs, the first 1,000 bytes of each paper."""
    config.data.task, config.data.max_length = "retrieval_aan_subset", 1000
    _set_small(config)
    model, train, optim = config.model, config.train, config.optim
    model.emb_dim, model.mlp_dim, model.num_layers, model.classifier_dim = 32, 64, 1, 256
    model.pooling, model.pair_features, model.feature_norm = "mean", "interaction", "calibrated"
    optim.learning_rate, optim.warmup_steps = 3e-4, 100
    train.num_steps, train.batch_size, train.eval_batch_size = 1500, 16, 125
    train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps = 50, 300, 750


def image(config: ConfigDict) -> None:
    """All pixels of all pictures, each as one real number."""
    _set_small(config)
    model, train, optim = config.model, config.train, config.optim
    model.emb_dim, model.mlp_dim, model.num_layers, model.classifier_dim = 32, 64, 1, 64
    model.embedding, model.pooling = "linear", "mean"
    optim.learning_rate, optim.warmup_steps = 3e-3, 100
    train.num_steps, train.batch_size, train.eval_batch_size = 2000, 16, 250
    train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps = 50, 500, 1000


def pathfinder(config: ConfigDict) -> None:
    """The easiest of the three difficulties, every pixel as one real number, without [CLS]."""
    config.data.task = "pathfinder32_easy"
    _set_small(config)
    model, train, optim = config.model, config.train, config.optim
    model.emb_dim, model.mlp_dim, model.num_layers, model.classifier_dim = 32, 16, 1, 256
    model.num_heads, config.luna.num_pack_heads = 1, 1
    model.norm, model.activation, model.embedding_norm, model.initializers = "pre", "relu", False, "lra"
    # The deviations of 1,024 mostly black pixels' mean from image to image are 1 % of it and lie in one direction.
    model.embedding, model.prepend_cls, model.pooling, model.feature_norm = "linear", False, "mean", "whitened"
    optim.learning_rate, optim.warmup_steps, optim.schedule = 1e-3, 50, "constant"
    train.num_steps, train.batch_size, train.eval_batch_size = 1500, 32, 250
    train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps = 50, 500, 1500


def pathx(config: ConfigDict) -> None:
    """64 x 64 pixels instead of 128 x 128, and the easiest difficulty: an image that is cut to fit shows no path."""
    config.data.task = "pathfinder64_easy"
    _set_small(config)
    config.model.remat = False
    train, optim = config.train, config.optim
    optim.learning_rate, optim.warmup_steps = 2e-3, 100
    train.num_steps, train.batch_size, train.eval_batch_size = 400, 16, 100
    train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps = 50, 200, 200


def _set_small(config: ConfigDict) -> None:
    """Two narrow layers without dropout, whole batches: short sequences leave little to save."""
    config.protocol = "cpu"
    config.machine.lengths = ()
    model = config.model
    model.emb_dim, model.mlp_dim, model.num_heads, model.classifier_dim = 64, 128, 4, 128
    config.luna.num_pack_heads = 4
    model.num_layers = 2
    model.initializers = "fairseq"
    model.dropout_rate, model.attention_dropout_rate = 0.0, 0.0
    _set_small_switches(config)


def _set_small_switches(config: ConfigDict) -> None:
    """Blocks, windows and features that fit sequences of 65 positions and heads of 8 or 16."""
    config.softmax.chunk_size = 32
    config.local.block_size = 16
    config.sparse.block_size, config.sparse.num_summary = 16, 4
    config.longformer.window = 16
    config.linformer.projected_length = 32
    config.reformer.chunk_size = 16
    config.sinkhorn.block_size = 16
    config.synthesizer.rank = 8
    config.bigbird.block_size, config.bigbird.num_global, config.bigbird.num_random = 16, 1, 1
    config.performer.num_features = 32
    config.rfa.num_features = 32
