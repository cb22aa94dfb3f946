"""Mistakes that a user can mend: one line with the value, what is allowed, and the next step."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Raised at the door. The entries print it as one line, `error: ...`, and exit with code 2."""


def nearest(value: str, choices: Iterable[str]) -> str:
    """The near miss and the whole list, as the end of an error line."""
    names = sorted(choices)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}choices: {', '.join(names)}"
