"""The recorded arrays of the authors' modules (see golden/README.md), and their weights in the oracles' form."""

import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
SCHEDULES_AND_CLIPPING = json.loads((GOLDEN / "schedules_and_clipping.json").read_text())
CLIPPING = SCHEDULES_AND_CLIPPING["clip"]
"""max_norm, input (arrays as lists), and for the modes total and each: returned (a norm), grads (clipped arrays)."""
# tokens of the recorded models: 0..3 special, pad 1, </s> 2; the last row of the embedding is <CLS>
PAD, CLS = 1, 18
ATTENTION_NAMES = {
    "pq_proj": "pack_query",
    "q_proj": "query",
    "pc_proj": "pack_context",
    "c_proj": "context",
    "pk_proj": "pack_key",
    "pv_proj": "pack_value",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
}


def read_case(name):
    """All arrays of one recorded case, floating ones in float64."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {
            key: np.asarray(arrays[key], np.float64) if arrays[key].dtype.kind == "f" else arrays[key] for key in arrays
        }


def read_schedule(start):
    """The recorded values of the schedule whose title starts so: [(updates made, learning rate)]."""
    schedules = SCHEDULES_AND_CLIPPING["schedules"]
    (values,) = [values for title, values in schedules.items() if title.startswith(start)]
    return [(int(count), rate) for count, rate in values.items()]


def get_weights(case, prefix="w."):
    """The entries below `prefix`, which is cut off: the state dict, or its gradients with prefix "g64.w."."""
    return {key.removeprefix(prefix): array for key, array in case.items() if key.startswith(prefix)}


def read_linear(state, name):
    """Oracle weight of a linear map: the authors keep [out, in]."""
    weight = {"kernel": state[f"{name}.weight"].T}
    return {**weight, "bias": state[f"{name}.bias"]} if f"{name}.bias" in state else weight


def read_norm(state, name):
    """Oracle weight of a layer norm."""
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def read_attention(state, prefix=""):
    """Oracle weights of a Luna attention."""
    return {
        ours: read_linear(state, prefix + theirs)
        for theirs, ours in ATTENTION_NAMES.items()
        if f"{prefix}{theirs}.weight" in state
    }


def read_layer(state, prefix):
    """Oracle weights of an encoder layer."""
    return {
        "attention": read_attention(state, f"{prefix}self_attn."),
        "attention_norm": read_norm(state, f"{prefix}self_attn_layer_norm"),
        "pack_norm": read_norm(state, f"{prefix}self_atten_proj_layer_norm"),
        "fc1": read_linear(state, f"{prefix}fc1"),
        "fc2": read_linear(state, f"{prefix}fc2"),
        "mlp_norm": read_norm(state, f"{prefix}final_layer_norm"),
    }


def read_classifier(state):
    """Oracle weights of the classifier: the CLS row split off, the two rows of positions that no token has dropped."""
    name = "encoder.encoder."
    encoder = {
        "cls": state[f"{name}embed_tokens.weight"][CLS],
        "tokens": state[f"{name}embed_tokens.weight"][:CLS],
        "positions": state[f"{name}embed_positions.weight"][2:],
        "pack": state[f"{name}projected_embeddings"],
        "embedding_norm": read_norm(state, f"{name}emb_layer_norm"),
        "pack_norm": read_norm(state, f"{name}proj_emb_layer_norm"),
        "layers": [read_layer(state, f"{name}layers.{depth}.") for depth in range(2)],
    }
    head = {"hidden": read_linear(state, "classifier.0"), "output": read_linear(state, "sentence_projection_layer")}
    return {"encoder": encoder, **head}


def split_tokens(recorded):
    """(tokens [B,N], token_mask [B,N]) of recorded tokens, whose first column is CLS."""
    assert (recorded[:, 0] == CLS).all()
    return recorded[:, 1:].astype(np.int32), recorded[:, 1:] != PAD
