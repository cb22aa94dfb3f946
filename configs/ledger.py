"""The drift ledger: every difference that is known between Luna's paper, the authors' README and their released code.

All of it was read, most of the code was run; nothing here is a guess unless it says so. Versions of the code:
f5896cd (1 November 2021, the first public one), 5648724 (3 November 2021, with run scripts), 1ea2f78 (8 December 2021,
with READMEs: the one that our recipes follow), 3644d20 (5 December 2023, the last), all of XuezheMax/fairseq-apollo.
Which of our settings expresses a difference stands in `switches.py`, by the item's number.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One difference. Texts are Markdown."""

    title: str
    source: str
    """Where it was read: of the paper, and of the code."""
    paper: str
    readme: str
    code: str
    ours: str
    """What our recipe of the authors' does."""
    no_switch: str = ""
    """Why no switch expresses it; empty where one does."""


SAYS_NOTHING = "says nothing"
AS_CODE = "as the code"

LEDGER = {
    1: Item(
        title="Do the commands start?",
        source="`long_range_arena.py` of the tasks, since c5e204f (March 2022)",
        paper="–",
        readme="the commands of ListOps, Text, Retrieval and Image name no `--sen-rep-type`",
        code="reads the option, which has no default: those four stop with a missing attribute",
        ours="every recipe starts",
        no_switch="a command that stops has no accuracy",
    ),
    2: Item(
        title="The line of ListOps",
        source="`README.lra.md`",
        paper="–",
        readme="`model=luna_lra_listop lra`, which a shell reads as running a program `lra` without a model",
        code="–",
        ours="one line to copy",
        no_switch="a command that stops has no accuracy",
    ),
    3: Item(
        title="Retrieval: features of two documents",
        source="the paper follows LRA's; `model.py`",
        paper="[a; b; a b; a - b]",
        readme=AS_CODE,
        code="[b; a] in 2021; one sequence of both in January 2023; [a; b; a b; a - b] in the last version, where the "
        "head is built for one vector and stops",
        ours="[a; b]",
    ),
    4: Item(
        title="Image: length",
        source="`long_range_arena.py`, `max_positions` of the architecture",
        paper="1,024 pixels",
        readme=AS_CODE,
        code="[CLS] and 1,023 pixels: cut to 1,024 behind [CLS], so the last pixel goes (until February 2022)",
        ours="[CLS] and 1,024 pixels",
    ),
    5: Item(
        title="Image: dropout, on attention",
        source="Table 7; `train_luna_*.sh`, `README.lra.md`",
        paper="0.1, 0.3",
        readme="0.3, 0.1",
        code="0.3, 0.1",
        ours="0.3, 0.1 (`:paper` has 0.1, 0.3)",
    ),
    6: Item(
        title="Retrieval: learning rate",
        source="Table 7; `train_luna_*.sh`, `README.lra.md`",
        paper="5e-5",
        readme="5e-4",
        code="5e-4",
        ours="5e-4 (`:paper` has 5e-5)",
    ),
    7: Item(
        title="ListOps: depth",
        source="`README.lra.md`, `train_luna_*.sh`, the architecture",
        paper="as LRA: 6 layers in its paper, 4 in its configs",
        readme="`--encoder-layers 1`",
        code="the architecture ties one layer's weights and applies it 6 times, as the first script does; from 5648724 "
        "the scripts ask for 1. Which one the published accuracy is of is unknown",
        ours="1 layer",
    ),
    8: Item(
        title="Image, Pathfinder: depth",
        source="the architectures; LRA's paper",
        paper="as LRA: 3 and 4 layers in its paper",
        readme=AS_CODE,
        code="1 layer",
        ours="1 layer",
    ),
    9: Item(
        title="Key and value",
        source="sections 3.1 and 4.2; `luna_attention.py`",
        paper='tied (3.1 says "W_K and W_Q", a slip for the W_K and W_V of 4.2)',
        readme=SAYS_NOTHING,
        code="untied in all tasks of LRA, without a flag; tied exists for translation",
        ours="untied",
    ),
    10: Item(
        title="Norm of embeddings",
        source="equation 6; `luna_lra_encoder.py`",
        paper="post-norm layers, no other norm",
        readme=SAYS_NOTHING,
        code="post-norm layers; `encoder_normalize_before=True` adds layer norms to embedded tokens and to P",
        ours="as the code",
    ),
    11: Item(
        title="Positions",
        source="footnote 2; `luna_lra_encoder.py`",
        paper="learned; sinusoids are similar",
        readme=AS_CODE,
        code="learned in 2021; sinusoids, with tokens and P times sqrt(d), in the last version, where it stops "
        "(it scales P in place)",
        ours="learned, no scale",
    ),
    12: Item(
        title="Slots of P",
        source="section 3.1; `luna_lra_encoder.py`, `dynamic_projection`",
        paper="a fixed number l",
        readme=SAYS_NOTHING,
        code="min(l, length of the document), by a mask; P is cut to the longest of the batch, which changes no result",
        ours="min(l, length of the document)",
    ),
    13: Item(
        title="The initial P",
        source="section 3.1; `luna_lra_encoder.py`",
        paper="learned vectors",
        readme=SAYS_NOTHING,
        code="learned vectors through a layer norm and dropout; in the last version sinusoids are added before",
        ours="a layer norm and dropout",
    ),
    14: Item(
        title="Output projection",
        source="equations 4 and 5; `luna_attention.py`",
        paper="both attentions are written alike",
        readme=SAYS_NOTHING,
        code="of X alone; Y_P is unpacked and handed on as it is. Queries are scaled by each attention's own "
        "head width, input projections start from Xavier with gain 1/sqrt(2)",
        ours="as the code",
    ),
    15: Item(
        title="Causal activation",
        source="equation 7; `luna_attention.py`",
        paper="softplus",
        readme="–",
        code="softplus with beta ln 2, and 1/t twice",
        ours="no causal Luna yet",
        no_switch="comes with causal Luna; no task of LRA is causal",
    ),
    16: Item(
        title="What is classified",
        source="Tables 1 and 3; `model.py`, `sen_rep_type`, `use_p`",
        paper="[CLS] in Table 1, the mean of P in Table 3",
        readme=AS_CODE,
        code="[CLS]; in Pathfinder the mean of X; with `--use-p` the mean of P",
        ours="as the code",
    ),
    17: Item(
        title="Head",
        source="`model.py`",
        paper=SAYS_NOTHING,
        readme=AS_CODE,
        code="a hidden layer with ReLU in 2021; one linear layer, dropout in front of it, in the last version",
        ours="a hidden layer with ReLU",
    ),
    18: Item(
        title="Heads of packing",
        source="`luna_lra_encoder.py` before 6135e5b (18 November 2021)",
        paper="h heads",
        readme="as many as of unpacking",
        code="8 until 18 November 2021, for the flag was not passed on: so probably in the published runs of Text, "
        "Retrieval and Pathfinder, whose h is 4",
        ours="as many as of unpacking",
    ),
    19: Item(
        title="[CLS] where P is pooled",
        source="`long_range_arena.py`, `use_p`",
        paper=SAYS_NOTHING,
        readme=SAYS_NOTHING,
        code="left out; in Retrieval of the first document only, an oversight that no switch repeats",
        ours="kept, in both documents",
    ),
    20: Item(
        title="The mean of P",
        source="`model.py`, `use_p`",
        paper=SAYS_NOTHING,
        readme=SAYS_NOTHING,
        code="over all slots, also those that a short document does not use",
        ours="over the slots in use",
    ),
    21: Item(
        title="Image: first parameters",
        source="the architectures of f5896cd and 1ea2f78",
        paper=SAYS_NOTHING,
        readme=AS_CODE,
        code="N(0, 0.02^2) in the first release, Xavier from December 2021; ListOps and Text N(0, 0.02^2) throughout",
        ours="as in December 2021",
    ),
    22: Item(
        title="Pathfinder: batch",
        source="Table 7; `README.lra.md` before and after d4a632a (April 2022)",
        paper="512",
        readme="256, corrected to 512",
        code="512 (256 on each of two GPUs)",
        ours="512",
    ),
    23: Item(
        title="Precision",
        source="`train_luna_*.sh`, `README.lra.md`",
        paper=SAYS_NOTHING,
        readme="`--fp16`",
        code="float16 with a float32 unpack softmax; the pack softmax in float16",
        ours="float32; the switch is bfloat16 with float32 softmaxes, the nearest on the machines that JAX serves",
    ),
    24: Item(
        title="End of document",
        source="`fairseq-preprocess`",
        paper=SAYS_NOTHING,
        readme="a dictionary made by `fairseq-preprocess`",
        code="`</s>` behind every document; specials and padding in the dictionary",
        ours="no such token",
        no_switch="one constant token of 4,001; it would need other prepared data",
    ),
    25: Item(
        title="Order of two documents",
        source="`model.py`",
        paper="a, b",
        readme=AS_CODE,
        code="[b; a]",
        ours="[a; b]",
        no_switch="the same function: rows of one matrix change places",
    ),
    26: Item(
        title="The mean of X",
        source="`luna_lra_encoder.py`",
        paper=SAYS_NOTHING,
        readme=AS_CODE,
        code="over padding too",
        ours="over real positions",
        no_switch="only Pathfinder has it, and pictures have no padding",
    ),
    27: Item(
        title="Decay of norms",
        source="`layer_norm.py` of 3644d20",
        paper=SAYS_NOTHING,
        readme=SAYS_NOTHING,
        code="the gain is pulled to 0; in the last version, which stores gain - 1, to 1",
        ours="to 0",
        no_switch="decay moves a gain by 0.1 % in a whole run at most (rate x decay x steps = 5e-4 x 1e-4 x 2e4)",
    ),
    28: Item(
        title="Adam's epsilon",
        source="`fairseq/optim/adam.py`",
        paper="Adam",
        readme="1e-8",
        code="added to the root before the correction of its bias",
        ours="behind it (optax)",
        no_switch="epsilon is 1e-8 there and at most 7 times that here, and only in the first steps",
    ),
}
