"""What every attention mechanism has to do, as checks that run on anybody's.

    findings = check_mechanism(Subject(config, emb_dim=32, length=64))

`python -m lra_tasks.conformance` prints them. A check returns what it saw, or raises `Failure` with it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from luna_jax.encoder import Encoder, EncoderConfig
from luna_jax.examination import (
    GARBAGE,
    Failure,
    Finding,
    Subject,
    all_finite,
    compile_quickly,
    draw_cotangent,
    draw_params,
    make_key,
    require,
)
from luna_jax.initializers import FAIRSEQ
from luna_jax.layers import LayerConfig


def check_shapes(subject: Subject) -> str:
    """y is x's shape and dtype at lengths that blocks divide and do not; the packed sequence is p's shape, or None."""
    apply, params = subject.plain
    lengths = (subject.length, subject.length - 1, subject.length - subject.length // 7)
    for length in lengths:
        x, p, mask = subject.draw(0, length)
        y, packed = jax.eval_shape(partial(apply, params), x, p, x_mask=mask)
        require((y.shape, y.dtype) == (x.shape, x.dtype), f"x {x.shape} {x.dtype} gives y {y.shape} {y.dtype}")
        expected, found = (None if array is None else array.shape for array in (p, packed))
        require(found == expected, f"p of shape {expected} gives a packed sequence of {found}")
    return f"lengths {', '.join(map(str, lengths))}"


def check_padding_has_no_influence(subject: Subject) -> str:
    """Huge numbers in padded positions change no result and no gradient by a bit, and get no gradient."""
    _, params = subject.plain
    x, p, mask = subject.draw(1)
    clean = subject.gradients(params, x, p, mask)
    spoiled = subject.gradients(params, jnp.where(mask[..., None], x, GARBAGE), p, mask)
    for sign in (clean, spoiled):
        require(all_finite(sign), "a result or a gradient is not finite")
    (_, x_gradient), (y, packed) = spoiled
    padding = ~np.asarray(mask)
    require(not x_gradient[padding].any(), f"padding gets a gradient of {np.abs(x_gradient[padding]).max():.1e}")
    real = (spoiled[0], y[~padding], packed), (clean[0], clean[1][0][~padding], clean[1][1])
    worst = max(
        (float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, real), strict=True) if a.size), default=0.0
    )
    require(worst == 0.0, f"{GARBAGE:g} at padding changes a result or a gradient by {worst:.1e}")
    return f"{GARBAGE:g} at padding changes nothing"


def check_padding_receives_nothing(subject: Subject) -> str:
    """y is zero at padded positions; finite at least where a packed sequence is unpacked, as Luna's authors do."""
    _, params = subject.plain
    x, p, mask = subject.draw(1)
    _, (y, _) = subject.gradients(params, x, p, mask)
    if subject.config.pack_length:
        require(all_finite(y), "y is not finite at padding")
        return "finite; a packed sequence is unpacked everywhere, and nobody reads it there"
    worst = float(np.abs(y[~np.asarray(mask)]).max())
    require(worst == 0.0, f"y is up to {worst:.1e} at padding")
    return "y is zero there"


def check_padding_is_absence(subject: Subject) -> str:
    """A last position that is padding might as well not be there.

    One position, so that no mechanism's blocks or patterns are others without it.
    """
    _, params = subject.plain
    x, p, _ = subject.draw(1)
    real = jnp.broadcast_to(jnp.arange(subject.length) < subject.length - 1, x.shape[:2])
    padded = subject.forward(params, x, p, real)[:, :-1]
    cut = subject.forward(params, x[:, :-1], p, real[:, :-1])
    require(all_finite(cut), "y is not finite")
    worst = float(np.abs(padded - cut).max())
    require(worst <= 1e-5 * max(1.0, float(np.abs(cut).max())), f"a padded position changes others by {worst:.1e}")
    return f"differs from a sequence without it by {worst:.1e}"


def check_batch_mates(subject: Subject) -> str:
    """A row's result does not depend on the other rows of its batch."""
    _, params = subject.plain
    x, p, mask = subject.draw(2)
    other_x, other_mask = x.at[1:].multiply(100.0), mask.at[1:].set(mask[1:][::-1])
    _, (expected, packed) = subject.gradients(params, x, p, mask)
    _, (y, other_packed) = subject.gradients(params, other_x, p, other_mask)
    worst = float(np.abs(y[0] - expected[0]).max())
    if packed is not None:
        worst = max(worst, float(np.abs(other_packed[0] - packed[0]).max()))
    require(worst == 0.0, f"other rows change row 0 by {worst:.1e}")
    return "row 0 is the same, bit for bit"


def check_empty_rows(subject: Subject) -> str:
    """A row without a real position, which only a compiled program can meet, is finite and so are all gradients."""
    _, params = subject.plain
    x, p, mask = subject.draw(3)
    require(all_finite(subject.gradients(params, x, p, mask.at[1].set(False))), "a result or a gradient is not finite")
    return "finite, with its gradients"


def check_no_mask(subject: Subject) -> str:
    """x_mask=None means that every position is real."""
    _, params = subject.plain
    x, p, mask = subject.draw(4)
    bare, full = (subject.forward(params, x, p, given) for given in (None, jnp.ones_like(mask)))
    worst = float(np.abs(bare - full).max())
    require(worst <= 1e-5 * max(1.0, float(np.abs(full).max())), f"None differs from all True by {worst:.1e}")
    return f"differs from all True by {worst:.1e}"


def check_parameters(subject: Subject) -> str:
    """Every parameter gets a gradient."""
    _, params = subject.plain
    x, p, mask = subject.draw(5)
    (gradients, _), _ = subject.gradients(params, x, p, mask)
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(gradients))
    idle = [jax.tree_util.keystr(path) for path, leaf in leaves if not np.asarray(leaf).any()]
    require(not idle, f"no gradient reaches {', '.join(idle)}")
    return f"{len(leaves)} arrays"


def check_bfloat16(subject: Subject) -> str:
    """With dtype bfloat16 a bfloat16 x gives a finite bfloat16 y, and the parameters stay float32."""
    apply, params = subject.build("bfloat16")
    x, p, mask = subject.draw(6, dtype="bfloat16")
    y, _ = compile_quickly(apply)(params, x, p, x_mask=mask)
    require(y.dtype == jnp.bfloat16, f"y is {y.dtype}")
    require(all_finite(y), "y is not finite")
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    require(kinds == {"float32"}, f"parameters are {', '.join(sorted(kinds))}")
    return "y bfloat16, parameters float32"


def check_dropout(subject: Subject) -> str:
    """A rate is refused; or dropout follows its key, is off when deterministic, and asks for a key that is missing."""
    try:
        apply, params = subject.build(dropout_rate=0.5)
    except ValueError as refusal:
        return f"refused: {str(refusal).split(';')[0]}"
    x, p, mask = subject.draw(7)
    plain, _ = subject.plain

    def run(key):
        rngs = nnx.Rngs(dropout=key, draws=make_key(0))
        dropped = apply(params, x, p, x_mask=mask, deterministic=False, rngs=rngs)[0]
        return dropped, apply(params, x, p, x_mask=mask)[0], plain(params, x, p, x_mask=mask)[0]

    run = compile_quickly(run)
    (first, off, expected), (again, _, _), (other, _, _) = (run(make_key(seed)) for seed in (0, 0, 1))
    require(bool((off == expected).all()), "deterministic=True depends on the rate")
    require(bool((first == again).all()), "the same key drops differently")
    require(bool((first != other).any()), "another key drops the same")
    _expect_error("deterministic=False without rngs", lambda: apply(params, x, p, x_mask=mask, deterministic=False))
    return "follows its key"


def check_causality(subject: Subject) -> str:
    """causal=True is refused, or the future has no gradient, exactly zero, and another future changes nothing."""
    # a packed sequence that sees all positions cannot query the next layer of a causal stack
    changes: dict[str, Any] = {"contextual_pack": False} if subject.config.contextual_pack else {}
    try:
        apply, params = subject.build(causal=True, **changes)
    except (ValueError, TypeError) as refusal:
        return f"refused: {str(refusal).split(';')[0]}"
    x, p, mask = subject.draw(8)

    forward = compile_quickly(lambda x: apply(params, x, p, x_mask=mask)[0])
    reach = compile_quickly(
        lambda x, position: jax.grad(lambda x: jnp.sum(jnp.sin(apply(params, x, p, x_mask=mask)[0][:, position])))(x)
    )
    expected = np.asarray(forward(x))
    for position in (0, subject.length // 3, subject.length - 2):
        gradient = np.asarray(reach(x, position))
        require(not gradient[:, position + 1 :].any(), f"a gradient reaches position {position} from its future")
        require(bool(gradient[0, : position + 1].any()), f"position {position} sees nothing")
        later = jnp.arange(subject.length)[None, :, None] > position
        changed = np.asarray(forward(jnp.where(later, 3.0 * x[:, ::-1] + 1.0, x)))
        # a sort or a maximum has no gradient and leaks all the same; another order of a sum is no leak
        worst = float(np.abs(changed - expected)[:, : position + 1].max())
        require(worst <= 1e-5, f"another future changes position {position} or an earlier one by {worst:.1e}")
    return "no gradient from the future, and no change by another one"


def check_mistakes(subject: Subject) -> str:
    """A mask of another type or shape or without a real position in a row, and an x of another width, raise."""
    apply, params = subject.plain
    x, p, mask = subject.draw(9)
    mistakes = {
        "a float mask": {"x_mask": mask.astype(jnp.float32)},
        "a mask that is too short": {"x_mask": mask[:, :-1]},
        "a row that is False throughout": {"x_mask": mask.at[1].set(False)},
        "a narrow x": {"x": x[..., :-1]},
    }
    for name, changes in mistakes.items():
        _expect_error(name, lambda changes=changes: apply(params, **({"x": x, "p": p, "x_mask": mask} | changes)))
    _expect_error("heads that do not divide", lambda: subject.build(num_heads=subject.emb_dim + 1))
    return f"{len(mistakes) + 1} of them raise"


def _expect_error(name: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except (ValueError, TypeError):
        return
    raise Failure(f"{name} is accepted")


def check_encoder(subject: Subject) -> str:
    """Two scanned and recomputed layers in the encoder: training gradients are finite, and each layer has its own."""
    layer = LayerConfig(
        attention=subject.config, emb_dim=subject.emb_dim, mlp_dim=subject.emb_dim, norm="post", activation="gelu",
        dropout_rate=0.0, activation_dropout_rate=0.0, dtype=jnp.float32, param_dtype=jnp.float32, initializers=FAIRSEQ,
    )  # fmt: skip
    config = EncoderConfig(
        layer=layer, num_layers=2, tie_layers=False, vocab_size=17, embedding="table", max_length=subject.length,
        prepend_cls=True, positions="learned", first_position=0, scale_embedding=False, embedding_norm=True,
        pack_embedding="as_tokens", pack_slots="by_length", remat=True,
    )  # fmt: skip
    graphdef, params = draw_params(lambda rngs: Encoder(config, rngs=rngs))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 17, (2, subject.length - 1)), jnp.int32)
    mask = jnp.arange(subject.length - 1)[None, :] < jnp.asarray([subject.length - 1, subject.length // 2])[:, None]

    def loss(params, key):
        model = nnx.merge(graphdef, params)
        encoded = model(tokens, mask, deterministic=False, rngs=nnx.Rngs(dropout=key, draws=key))
        return jnp.sum(jnp.where(encoded.x_mask[..., None], encoded.x, 0.0) * draw_cotangent(encoded.x.shape))

    gradients = compile_quickly(jax.grad(loss))(params, make_key(0))
    require(all_finite(gradients), "a gradient is not finite")
    stacked = [leaf for leaf in jax.tree.leaves(nnx.to_pure_dict(gradients)["layers"]) if leaf.shape[0] == 2]
    require(any(bool((leaf[0] != leaf[1]).any()) for leaf in stacked), "both layers have the same gradient")
    return f"{len(jax.tree.leaves(gradients))} gradients, finite, each layer its own"


CHECKS = {
    "shapes": check_shapes,
    "padding has no influence": check_padding_has_no_influence,
    "padding receives nothing": check_padding_receives_nothing,
    "padding is absence": check_padding_is_absence,
    "batch mates": check_batch_mates,
    "rows without a real position": check_empty_rows,
    "no mask": check_no_mask,
    "every parameter takes part": check_parameters,
    "bfloat16": check_bfloat16,
    "dropout": check_dropout,
    "causality": check_causality,
    "mistakes": check_mistakes,
    "in an encoder": check_encoder,
}


def check_mechanism(subject: Subject) -> list[Finding]:
    """All checks, in order. What raises where it should not counts as failed, with its message."""
    findings = []
    for name, check in CHECKS.items():
        try:
            findings.append(Finding(name, True, check(subject)))
        except Exception as failure:  # a mechanism under examination may raise anything
            kind = "" if isinstance(failure, Failure) else f"{type(failure).__name__}: "
            findings.append(Finding(name, False, kind + (str(failure).splitlines() or ["no message"])[0]))
    return findings
