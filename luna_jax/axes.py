"""The legend of axis letters, and the array types that public signatures are written in.

| letter | axis |
| --- | --- |
| B | batch |
| N | query length |
| M | context length (self-attention: N) |
| L | pack length, the number in Luna-16 |
| D | model width, `emb_dim` |
| H | attention heads |
| K | width of one head, D / H |
| F | feed-forward width, `mlp_dim` |
| V | vocabulary |
| C | classes |

A mask is boolean and True means: real, may be attended.
"""

import jax
from jaxtyping import Bool, Float, Int

Array = jax.Array

Heads = Float[Array, "B N H K"]
ContextHeads = Float[Array, "B M H K"]
Sequence = Float[Array, "B N D"]
Context = Float[Array, "B M D"]
Pack = Float[Array, "B L D"]
Tokens = Int[Array, "B N"]
ContextTokens = Int[Array, "B M"]
SequenceMask = Bool[Array, "B N"]
ContextMask = Bool[Array, "B M"]
PackMask = Bool[Array, "B L"]
