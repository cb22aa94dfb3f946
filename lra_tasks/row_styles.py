"""The look of each row, the same in every figure and on the page."""

import zlib
from dataclasses import dataclass

# A family of mechanisms has one colour, its members differ in dashes. Each colour, light and dark, has a contrast of at
# least 3:1 to the page; any two stay apart for deuteranopes, protanopes and tritanopes (Machado et al. 2009; a test
# measures both).
COLOURS = (
    ("#0173cc", "#2f93d8", ("luna16", "luna128", "luna256")),  # blue
    ("#595659", "#f0f0f0", ("transformer", "softmax_chunked", "softmax_unfused")),  # grey
    ("#d97a05", "#eb9826", ("local", "longformer")),  # orange
    ("#09774b", "#66fa85", ("sparse", "bigbird")),  # green
    ("#250866", "#7f52f3", ("linformer", "synthesizer")),  # indigo
    ("#580306", "#e23a32", ("reformer", "sinkhorn")),  # maroon
    ("#b7249a", "#b8649a", ("linear", "performer", "performer_relu")),  # magenta
    ("#9b7efd", "#c9b5f1", ("rfa", "rfa_gated")),  # lavender
)
DASHES = ((), (6.0, 2.5), (1.5, 2.0), (8.0, 2.5, 1.5, 2.5))  # lengths of ink and gap, empty for a solid line
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")  # one a colour, in the names of matplotlib


@dataclass(frozen=True)
class Style:
    """How a row is drawn in every figure."""

    colour: str  # on white
    dark_colour: str  # on the dark page
    dash: tuple[float, ...]
    marker: str


def style_of(row: str, repetition: int = 0) -> Style:
    """The look of a row, the same in every figure. Further experiments of the row in one panel have other dashes."""
    for index, (colour, dark_colour, members) in enumerate(COLOURS):
        if row in members:
            dash = DASHES[(members.index(row) + repetition) % len(DASHES)]
            return Style(colour, dark_colour, dash, MARKERS[index])
    number = zlib.crc32(row.encode())  # a row of the user's own: any look, but always the same
    colour, dark_colour, _ = COLOURS[number % len(COLOURS)]
    return Style(colour, dark_colour, DASHES[(3 + repetition) % len(DASHES)], MARKERS[number % len(MARKERS)])


def colour_of(row: str) -> str:
    """The colour of a row on white, the same in every figure."""
    return style_of(row).colour
