"""Tables inside a text, between two comments, that must be what the records give. Pure.

    <!-- results: table=accuracy task=listops_small row=luna16,transformer -->
    | ... |
    <!-- end of results -->

The words after `results:` are those of selection.parse_selection.
"""

import re
from collections.abc import Callable

from lra_tasks.errors import UserError

BLOCK = re.compile(
    r"(<!-- results: *(?P<words>[^>\n]*?) *-->\n)(?P<body>.*?)(?P<end><!-- end of results -->|\Z)", re.DOTALL
)


def replace_blocks(text: str, where: str, make: Callable[[str, str], str]) -> tuple[str, list[str]]:
    """The text with every block made anew, and a line for each block that differed.

    Args:
        text: of the file.
        where: its name, for errors.
        make: (words, place) -> what should stand in the block.

    UserError for a text without a block, and for one that is not closed.
    """
    stale: list[str] = []

    def renew(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start()) + 1
        place = f"{where}, line {line}"
        if not match["end"]:
            raise UserError(f"{place}: the block is not closed; put <!-- end of results --> below its table")
        if "<!-- results:" in match["body"]:
            raise UserError(f"{place}: another block begins before <!-- end of results -->")
        body = make(match["words"], place)
        if body != match["body"]:
            stale.append(f"{place}: the table ({match['words']}) is not what the records give")
        return match[1] + body + match["end"]

    renewed, count = BLOCK.subn(renew, text)
    if not count:
        raise UserError(
            f"{where}: no block to check; begin one with <!-- results: table=accuracy --> and end it with "
            "<!-- end of results -->"
        )
    return renewed, stale
