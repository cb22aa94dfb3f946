"""The results as one HTML page that needs nothing else: no network, no fonts or scripts of others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lra_tasks import figure_data
from lra_tasks.groups import Measured
from lra_tasks.page_charts import chart_curves, chart_differences, chart_trade_off
from lra_tasks.report import Comparison, TradeOff
from lra_tasks.tables import Experiment, Table

TITLE = "Long Range Arena in JAX: results"
TEMPLATE = Path(__file__).with_name("page.html")
CARD_LEVEL = 2  # headings of a card stand this much lower than in its own text
# cells that say that there is no number: shown paler, and always last in a sorted column
NO_NUMBER = ("", "–", "not run", "FAIL")


def render_page(
    tables: Sequence[Table],
    experiments: Sequence[Experiment],
    comparisons: Sequence[Comparison],
    trade_offs: Sequence[TradeOff],
    notes: Sequence[str],
    cards: Mapping[str, str],
    titles: Mapping[str, str] | None = None,
    translations: Sequence[Measured] = (),
) -> str:
    """The page as text. The same data give the same page.

    Args:
        tables: shown as they are, and sortable.
        experiments: whose training curves are drawn, where they were logged.
        comparisons: drawn as differences with their intervals.
        trade_offs: the points of Figure 1.
        notes: plain text, listed at the end.
        cards: Markdown by name, such as the model cards of single runs; may be empty.
        titles: what rows are called in the charts; a row that is not there is called by its own name.
        translations: experiments that are counted in the summary too, a test set each.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"),
        "ensure_ascii": False,
        "allow_nan": False,
    }
    logged = [one for one in experiments if figure_data.list_curves(one)]
    curves = [chart_curves(panel) for panel in figure_data.make_panels(logged, titles or {})]
    groups = figure_data.group_trade_offs(trade_offs)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=TITLE,
        summary=_summarise((*experiments, *translations)),
        tables=tables,
        no_number=NO_NUMBER,
        differences=chart_differences(comparisons),
        trade_offs=[chart_trade_off(title, group) for title, group in groups.items()],
        curves=curves,
        data=[_collect_data(chart) for chart in curves],
        cards={name: _to_html(text) for name, text in cards.items()},
        notes=notes,
    )


def _summarise(experiments: Sequence[Measured]) -> str:
    if not experiments:
        return "No run is recorded yet."
    runs = sum(len(one.runs) for one in experiments)
    tasks = len({one.task for one in experiments})
    rows = len({one.row for one in experiments})
    return f"{_count(runs, 'run')} of {_count(rows, 'model')} on {_count(tasks, 'task')}."


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _collect_data(chart: Mapping[str, Any]) -> dict[str, Any]:
    """What the script needs of a chart of curves: its scales, and each series by its label."""
    return {
        "x": chart["x"],
        "y": chart["y"],
        "series": [{"label": one["label"], **one["data"]} for one in chart["series"]],
    }


def _to_html(text: str) -> Any:
    """Markdown as HTML. Raw HTML in it is shown as text, and images are left out, for they would need a network."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + CARD_LEVEL, 6)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))
