"""What stands in the cells of the results tables. Pure."""

from collections.abc import Callable, Mapping, Sequence

from lra_tasks.groups import Measured
from lra_tasks.intervals import Interval
from lra_tasks.published import Published
from lra_tasks.report import Comparison
from lra_tasks.tables import Table

NOTHING = "–"
NOT_RUN = "not run"
COMPARISON_HEADER = (
    *("Model", "Against", "Task", "Protocol", "Seeds", "Examples", "Difference", "95 % interval", "p", "p (Holm)"),
)
COMPARISON_NUMERIC = (*(False,) * 4, *(True,) * 6)


def show_parameters(experiments: Sequence[Measured]) -> str:
    """`105,280`, or `48,064 to 105,280` over several tasks."""
    counts = sorted({one.num_parameters for one in experiments})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def show_score(one: Measured, remark: str = "") -> str:
    """`45.65 ± 0.30 (3)`: mean, deviation, number of seeds, and what is to be said of them."""
    spread = "" if one.sd is None else f" ± {one.sd:.2f}"
    return f"{one.mean:.2f}{spread} ({len(one.runs)}{remark})"


def show_interval(interval: Interval | None, sign: str = "") -> str:
    """`44.12 to 47.03`; nothing where there is none."""
    return NOTHING if interval is None else f"{interval.low:{sign}.2f} to {interval.high:{sign}.2f}"


def show_model(row: str, variant: str, published: Published) -> str:
    """The title of a row, and what its variant is."""
    return published.title(row) + (f", {variant}" if variant else "")


def show_source(protocol: str, variant: str) -> str:
    """`ours, cpu`, and what a variant is."""
    return f"ours, {protocol}" + (f", {variant}" if variant else "")


def show_chance(p_value: float) -> str:
    """A p-value to three digits; small ones as a bound."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def show_comparison(one: Comparison, published: Published) -> tuple[str, ...]:
    """The cells of a paired test under COMPARISON_HEADER."""
    models = (
        show_model(one.first, one.first_variant, published),
        show_model(one.second, one.second_variant, published),
    )
    counts = (f"{one.first_seeds} / {one.second_seeds}", f"{one.num_examples:,}")
    chances = (show_chance(one.test.p_value), show_chance(one.p_value_holm))
    difference = (f"{one.test.difference:+.2f}", show_interval(one.test.interval, "+"))
    return (*models, one.task_title, one.protocol, *counts, *difference, *chances)


def lay_out_alternatives(
    caption: str,
    header: tuple[str, ...],
    entries: Sequence[tuple[tuple[str, ...], tuple[str, str], str, str]],
    show: Callable[[str], str],
) -> Table:
    """What was run in more than one way on some task, a line a way and a column a task; empty where there is none.

    Args:
        caption: of the table.
        header: of the first columns: those of a name, then the way.
        entries: (name, (column, its title), way, score); of a name only those with several ways in one column stay.
        show: a way, as it is shown.
    """
    cells: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    titles: dict[str, str] = {}
    for name, (column, title), way, score in entries:
        line = cells.setdefault(name, {}).setdefault(way, {})
        line[column] = " / ".join(filter(None, (line.get(column, ""), score)))
        titles[column] = title
    cells = {name: ways for name, ways in cells.items() if _vary(ways)}
    shown = [column for column in titles if any(column in line for ways in cells.values() for line in ways.values())]
    lines = [
        (*name, show(way), *(line.get(column, NOT_RUN) for column in shown))
        for name, ways in cells.items()
        for way, line in sorted(ways.items())
    ]
    numeric = (*(False for _ in header), *(True for _ in shown))
    return Table(caption, (*header, *(titles[column] for column in shown)), numeric, tuple(lines))


def _vary(ways: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether some column has more than one way."""
    columns = [column for line in ways.values() for column in line]
    return len(columns) > len(set(columns))
