"""An evaluator of ListOps expressions that shares nothing with the generator: it checks answers, ours and official."""

from lra_tasks.errors import UserError
from lra_tasks.vocab import LISTOPS_VOCABULARY

OPERATORS = frozenset({"[MIN", "[MAX", "[MED", "[SM"})
DIGITS = {str(digit): digit for digit in range(10)}


def evaluate_expression(text: str) -> int:
    """The value 0..9 of an expression such as '[MAX 2 9 [MIN 4 7 ] 0 ]', by a stack; parentheses are skipped.

    MED is the median, the mean of the middle two truncated to an integer; SM is the sum modulo 10.
    Raises UserError for text that is not exactly one expression.
    """
    stack: list[list] = []
    values: list = []
    for place, word in enumerate(LISTOPS_VOCABULARY.split(text), 1):
        if word == "]":
            if not stack:
                raise UserError(f"']' at place {place} closes nothing")
            outer = stack.pop()
            if len(values) < 2:
                raise UserError(f"']' at place {place} closes an operator without arguments")
            outer.append(apply(values[0], values[1:]))
            values = outer
        elif word in OPERATORS:
            stack.append(values)
            values = [word]
        elif word in DIGITS:
            values.append(DIGITS[word])
        else:
            LISTOPS_VOCABULARY.encode(text)  # raises, naming the word
    if stack:
        raise UserError(f"{len(stack)} operators are not closed by ']'")
    if len(values) != 1:
        raise UserError(f"expected one expression, found {len(values)}")
    return values[0]


def apply(operator: str, values: list[int]) -> int:
    """The value of one operator applied to digits."""
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
