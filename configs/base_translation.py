"""Every key of a translation config, with its unit and meaning: the only place where a default lives.

`recipes_translation.py` sets what a task needs, an experiment file its few lines, the command line the rest. The values
here are plain starting points of our own, not anybody's recipe.
"""

from ml_collections import ConfigDict

from configs.base import make_machine_section


def get_config() -> ConfigDict:
    """The base config."""
    config = ConfigDict()
    config.kind = "translation"  # what lra_tasks.train trains with it
    config.row = ""  # label of the row in tables
    config.protocol = "authors"  # whose recipe: "authors" as they ran it, "paper" as they print it, "cpu", "ours"
    config.data = ConfigDict()
    config.data.task = ""  # a name in lra_tasks/translation.py
    config.data.max_tokens = 8192  # subwords of a side in a batch, padding included
    config.model = _model()
    config.luna = ConfigDict()
    config.luna.num_pack_heads = 8  # heads of the pack attention; divides emb_dim
    config.luna.pack_length = 16  # slots of the packed sequence, the number in Luna-16
    config.luna.tie_kv = True  # one projection for key and value in each attention
    config.luna.contextual_pack = True  # False: every layer learns its own pack query (the paper's Table 5)
    config.causal = ConfigDict()
    config.causal.weight = "softplus"  # of the decoder's causal attention: "softplus" (base 2) or "elu" (elu + 1)
    config.causal.chunk_size = 64  # positions taken at once; changes no result
    config.softmax = ConfigDict()
    config.softmax.implementation = "xla"  # "xla", "cudnn" (GPU, no dropout), "unfused", or "chunked"
    config.softmax.chunk_size = 128  # positions a chunk; read by "chunked" alone
    config.optim = _optim()
    config.train = _train()
    config.decode = ConfigDict()
    config.decode.beam_size = 5  # hypotheses kept
    config.decode.length_penalty = 1.0  # score = log probability / length ** length_penalty
    config.decode.length_factor = 1.2  # most tokens of a translation: length_factor * source + length_offset
    config.decode.length_offset = 10
    config.decode.max_tokens = 4096  # source subwords a batch; changes no result
    config.machine = make_machine_section()
    return config


def _model() -> ConfigDict:
    """The encoder-decoder, whatever the mechanism."""
    model = ConfigDict()
    model.attention = "luna"  # "luna" or "softmax"
    model.emb_dim = 512  # width D
    model.mlp_dim = 2048  # feed-forward width F
    model.num_encoder_layers = 6
    model.num_decoder_layers = 6
    model.num_heads = 8  # attention heads H; divides emb_dim
    model.norm = "post"  # "post" or "pre": where the layer norms stand
    model.activation = "relu"  # "gelu" (erf form) or "relu"
    model.dropout_rate = 0.1  # on embeddings and on the outputs of attention and feed-forward
    model.attention_dropout_rate = 0.1  # on attention probabilities and on Luna's causal weights
    model.activation_dropout_rate = 0.1  # inside the feed-forward
    model.remat = False  # recompute layers in the backward pass: less memory, more time
    model.dtype = "float32"  # of the computation, "float32" or "bfloat16"; parameters are float32
    return model


def _optim() -> ConfigDict:
    """Optimizer, schedule, clipping."""
    optim = ConfigDict()
    optim.optimizer = "adam"  # "adam" (decoupled decay) or "apollo"
    optim.learning_rate = 1e-3  # peak
    # Behind the linear warm-up: "constant", "inverse_sqrt", "milestones", or "linear" and "cosine" to 0.
    optim.schedule = "inverse_sqrt"
    optim.warmup_steps = 1000  # steps of linear warm-up
    optim.initial_learning_rate = 1e-7  # at step 0
    optim.milestones = ()  # steps; from each on the rate is milestone_factor times what it was
    optim.milestone_factor = 0.1
    optim.beta1 = 0.9  # of both
    optim.beta2 = 0.98  # of Adam
    optim.epsilon = 1e-8
    optim.rebound = "constant"  # of Apollo: "constant" or "belief"
    optim.weight_decay = 0.0
    optim.decay = "decoupled"  # of Apollo: "l2", "decoupled" or "stable"; Adam's is decoupled
    optim.clip_norm = 0.0  # largest norm of the gradient; 0 = no clipping
    optim.clip_mode = "global"  # "global": of all tensors together; "each": of every tensor on its own
    return optim


def _train() -> ConfigDict:
    """The loop; durations in steps, a step is one batch."""
    train = ConfigDict()
    train.seed = 0  # of parameters, batch order and dropout; 0 to 2^32 - 1
    train.num_steps = 100_000  # updates
    train.label_smoothing = 0.1  # share of the target spread over the whole vocabulary
    train.log_every_steps = 100  # lines in metrics.jsonl
    train.eval_every_steps = 5000  # losses and BLEU (greedy) of the validation split; the best one is kept
    train.checkpoint_every_steps = 5000  # checkpoints to resume from
    train.average_every_steps = 5000  # snapshots of the parameters
    train.num_averaged = 10  # the newest snapshots, averaged at the end
    return train
