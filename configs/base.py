"""Every key that exists, with its unit and meaning: the only place where a default lives.

`recipes.py` sets what a task needs; an experiment file sets its few lines; the command line sets the rest, as
`--config.train.seed=1`. The values here are plain starting points of our own, not anybody's recipe.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The base config."""
    config = ConfigDict()
    config.row = ""  # label of the row in tables
    # Whose recipe: "authors" as they ran it, "paper" as their paper prints it, "lra" as Long Range Arena's released
    # configs have it, "ours" where nobody published one, "cpu" a small preset of ours.
    config.protocol = "authors"
    config.data = _data()
    config.model = _model()
    # A mechanism's switches count where model.attention has its name. Sources: [paper] the mechanism's own, [lra] the
    # released models of Long Range Arena, [ours].
    config.luna = _luna()
    config.pack = _pack()
    config.softmax = _softmax()
    config.local = _local()
    config.sparse = _sparse()
    config.longformer = _longformer()
    config.linformer = _linformer()
    config.reformer = _reformer()
    config.sinkhorn = _sinkhorn()
    config.synthesizer = _synthesizer()
    config.bigbird = _bigbird()
    config.linear = ConfigDict()
    config.performer = _performer()
    config.rfa = _rfa()
    config.optim = _optim()
    config.train = _train()
    config.machine = make_machine_section()
    return config


def _data() -> ConfigDict:
    """Which task, and how much of it."""
    data = ConfigDict()
    data.task = ""  # a name in lra_tasks/registry.py
    data.max_length = 0  # tokens of a document that are kept, from its start; 0 = all that the task allows
    # "held_out" examples pick the checkpoint. "test", a legacy: they are trained on too, and the test split picks it.
    data.validation = "held_out"
    return data


def _model() -> ConfigDict:
    """The encoder and its head, whatever the mechanism."""
    model = ConfigDict()
    model.attention = "luna"  # mechanism, a name in luna_jax/attention/registry.py; its own switches are in its section
    model.emb_dim = 512  # width D
    model.mlp_dim = 2048  # feed-forward width F
    model.num_layers = 1  # passes through a layer
    model.tie_layers = False  # one layer's weights for all passes
    model.num_heads = 8  # attention heads H; divides emb_dim
    model.causal = False  # attention sees the past alone; for mechanisms with such a form, pooled by "mean"
    model.norm = "post"  # "post" or "pre": where the layer norms stand
    model.activation = "gelu"  # "gelu" (erf form) or "relu"
    model.embedding = "table"  # "table", a vector a token, or "linear", a pixel as one real number
    model.positions = "learned"  # "learned" or "sinusoidal"
    model.prepend_cls = True  # a learned vector in front of every sequence
    model.scale_embedding = False  # multiply embeddings by sqrt(emb_dim)
    model.embedding_norm = True  # layer norms on embedded tokens and on the initial packed sequence
    model.initializers = "fairseq"  # "fairseq" (Xavier, gain below 1), "bert" (N(0, 0.02^2)) or "lra" (Xavier, N(0, 1))
    model.dropout_rate = 0.1  # on embeddings and on the outputs of attention and feed-forward
    model.attention_dropout_rate = 0.1  # on attention probabilities
    model.activation_dropout_rate = 0.0  # inside the feed-forward
    model.pooling = "cls"  # "cls", "mean" (of x), "packed" (of the last p's real slots) or "packed_all" (of all)
    model.pair_features = "concat"  # of two documents a, b: "concat" [a; b] or "interaction" [a; b; a b; a - b]
    # Of the pooled vector: "none"; "calibrated": shifted and scaled, at first to mean 0, deviation 1 in 64 examples;
    # "whitened": decorrelated, in training by each batch, in evaluation by 1,024 training examples.
    model.feature_norm = "none"
    model.classifier_dim = 2048  # hidden width of the head; 0: no hidden layer
    model.remat = False  # recompute layers in the backward pass: less memory, more time
    model.dtype = "float32"  # of the computation, "float32" or "bfloat16"; parameters are float32
    return model


def _luna() -> ConfigDict:
    """Luna (Ma et al. 2021)."""
    luna = ConfigDict()
    luna.num_pack_heads = 8  # heads of the pack attention; divides emb_dim
    luna.pack_length = 16  # slots of the packed sequence, the number in Luna-16
    luna.tie_kv = False  # one projection for key and value in each of the two attentions
    luna.contextual_pack = True  # False: every layer learns its own pack query (the paper's Table 5)
    return luna


def _pack() -> ConfigDict:
    """Other treatments of Luna's packed sequence, see switches.py. In a record only where one is not as here."""
    pack = ConfigDict()
    pack.embedding = "as_tokens"  # the initial P: "as_tokens" (scale, norm, dropout), "plain", "sinusoidal"
    pack.slots = "by_length"  # "by_length": a sequence shorter than P uses as many slots as it has positions; or "all"
    pack.projection = False  # an output projection of the packed sequence
    return pack


def _softmax() -> ConfigDict:
    """Softmax attention (Vaswani et al. 2017)."""
    softmax = ConfigDict()
    softmax.implementation = "xla"  # "xla", "cudnn" (GPU, no dropout), "unfused", or "chunked" (memory linear in N)
    softmax.chunk_size = 128  # positions a chunk of queries or keys; read by "chunked" alone
    return softmax


def _local() -> ConfigDict:
    """Block-local attention."""
    local = ConfigDict()
    local.block_size = 50  # positions a block [lra]; 64 in its image tasks
    local.num_neighbours = 0  # blocks on each side that a query also sees; none [lra]
    return local


def _sparse() -> ConfigDict:
    """The fixed pattern of the Sparse Transformer (Child et al. 2019)."""
    sparse = ConfigDict()
    sparse.block_size = 50  # the paper's stride [lra]
    sparse.num_summary = 10  # the last positions of each block, which everybody sees [lra]
    return sparse


def _longformer() -> ConfigDict:
    """Longformer (Beltagy et al. 2020)."""
    longformer = ConfigDict()
    longformer.window = 256  # positions to each side: 512 in all [paper, lra]
    longformer.dilation = 1  # distance between the positions of the window; 1: none is left out
    longformer.num_global = 1  # the first positions, [CLS] at their head, which see and are seen by all [paper]
    return longformer


def _linformer() -> ConfigDict:
    """Linformer (Wang et al. 2020)."""
    linformer = ConfigDict()
    linformer.projected_length = 256  # positions that keys and values are projected to [paper]
    linformer.sharing = "key_value"  # of projections: "none", "headwise", "key_value" or "layerwise" [lra]
    return linformer


def _reformer() -> ConfigDict:
    """Reformer (Kitaev et al. 2020)."""
    reformer = ConfigDict()
    reformer.num_hashes = 2  # rounds [ours]; the paper has 1 to 8
    reformer.num_buckets = 0  # even, or 1; 0: 2 N / chunk_size [paper]
    reformer.chunk_size = 64  # sorted positions a chunk; each also sees the chunk before it
    reformer.seed = 0  # of the rotations, which are drawn anew every training step
    return reformer


def _sinkhorn() -> ConfigDict:
    """Sparse Sinkhorn attention (Tay et al. 2020)."""
    sinkhorn = ConfigDict()
    sinkhorn.block_size = 64  # positions a block [lra] in its image tasks, 50 in the others
    sinkhorn.num_iterations = 8  # of normalising rows and columns [paper]: 5 to 10
    sinkhorn.temperature = 0.75  # of the Gumbel-Sinkhorn [paper]
    sinkhorn.seed = 0  # of the Gumbel noise, which is drawn anew every training step and absent in evaluation
    return sinkhorn


def _synthesizer() -> ConfigDict:
    """Synthesizer (Tay et al. 2020)."""
    synthesizer = ConfigDict()
    # "dense", "random" [lra], "factorized_random" [ours]: a full table of 4,001 positions has 16 million entries a head
    synthesizer.mode = "factorized_random"
    synthesizer.dot_product = True  # add the scores of queries and keys [lra]
    synthesizer.rank = 32  # of the factorised table [lra]; read by "factorized_random" alone
    return synthesizer


def _bigbird() -> ConfigDict:
    """BigBird (Zaheer et al. 2020)."""
    bigbird = ConfigDict()
    bigbird.block_size = 64  # positions a block [paper, lra]
    bigbird.num_window = 3  # blocks of the window, a query's own in the middle [paper, lra]
    bigbird.num_global = 2  # blocks that see and are seen by all [paper, lra]
    bigbird.num_random = 3  # blocks drawn for each block of queries [paper, lra]
    bigbird.seed = 0  # of the pattern, which is drawn once, for each layer and head
    return bigbird


def _performer() -> ConfigDict:
    """Performer (Choromanski et al. 2021)."""
    performer = ConfigDict()
    performer.num_features = 256  # random features a head [paper]
    performer.kernel = "softmax"  # "softmax" (FAVOR+) or "relu" [paper]
    performer.seed = 0  # of the features
    # Training steps between draws [lra]: every one; 0: never. Evaluation has a draw of its own that never changes, so
    # with a long interval it meets features that the model was not trained on.
    performer.redraw_every_steps = 1
    return performer


def _rfa() -> ConfigDict:
    """Random feature attention (Peng et al. 2021)."""
    rfa = ConfigDict()
    rfa.num_features = 64  # random features a head, a sine and a cosine each [paper]
    rfa.gated = False  # a learned recency gate
    rfa.seed = 0  # of the features
    rfa.redraw_every_steps = 1  # training steps between draws [paper]; 0: never
    return rfa


def _optim() -> ConfigDict:
    """Adam with decoupled decay and its schedule."""
    optim = ConfigDict()
    optim.learning_rate = 1e-4  # peak
    # Behind the warm-up: "constant", "inverse_sqrt", "cosine" or "linear" (both to 0), "cosine_cycle" (as in LRA).
    optim.schedule = "inverse_sqrt"
    optim.warmup_steps = 1000  # steps of linear warm-up
    optim.initial_learning_rate = 1e-7  # at step 0
    optim.beta1 = 0.9
    optim.beta2 = 0.98
    optim.epsilon = 1e-8
    optim.weight_decay = 1e-4  # decoupled: times the current learning rate, on every parameter
    optim.clip_norm = 0.0  # largest global norm of the gradient; 0 = no clipping
    return optim


def _train() -> ConfigDict:
    """The loop; durations in steps, a step is one batch."""
    train = ConfigDict()
    train.seed = 0  # of parameters, batch order and dropout; 0 to 2^32 - 1
    train.num_steps = 5000  # updates
    train.batch_size = 32  # examples an update
    train.eval_batch_size = 100  # examples an evaluation batch; changes no result
    train.log_every_steps = 50  # lines in metrics.jsonl
    train.eval_every_steps = 500  # evaluations on the whole validation split; the best one is kept
    train.checkpoint_every_steps = 500  # checkpoints to resume from
    return train


def make_machine_section() -> ConfigDict:
    """How machines carry a run out. Decides no result beyond rounding, and is in no record's hash."""
    machine = ConfigDict()
    # The mesh: data * model * sequence devices, of all hosts together.
    machine.data = 0  # parts of a batch; 0: as many as devices are left
    machine.model = 1  # parts of attention heads and feed-forward width; divides them
    machine.sequence = 1  # parts of every sequence; for Luna, whose traffic does not grow with the length
    machine.shard_params = False  # parameters and optimizer state split over `data`, too (FSDP), which saves memory
    # Parts of a batch one after the other, their gradients summed: less memory. Dropout then draws other numbers.
    # 0: one; with `lengths` as many as the rows of a device allow, up to 8.
    machine.microbatches = 0
    # Tokens, rising. The parts of a batch are sorted by length, and each is padded to the first of these that holds it;
    # so are the batches of an evaluation. A program is compiled for each. Empty: all are padded to the longest.
    machine.lengths = ()
    # Folder of compiled programs, so that the next start compiles nothing. "auto": in the user's cache; "off": none.
    machine.compilation_cache = "auto"
    machine.heartbeat_seconds = 60  # a host that is silent for so long is dead, and ends the others
    return machine
