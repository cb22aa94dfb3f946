"""The results: every recorded run beside the published numbers, with intervals and paired tests.

    python -m lra_tasks.results [PATH ...]                     print the tables
    python -m lra_tasks.results [PATH ...] --output FOLDER     all formats, figures and a page to open in a browser
    python -m lra_tasks.results --card RUN                     the model card of one run, as Markdown
    python -m lra_tasks.results [PATH ...] --check README.md   fails when a table in it is not what the records give
    python -m lra_tasks.results [PATH ...] --update README.md  makes those tables anew

PATH is a record, or a folder that is searched for records; without one it is results/records of this project. A record
that cannot be trusted is named on stderr and left out, and the exit code is 1. --task, --row, --protocol and --table
choose what is shown; each may be given several times.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from configs.rows import ROWS
from lra_tasks import cli, table_text
from lra_tasks.blocks import replace_blocks
from lra_tasks.card import make_card, write_card
from lra_tasks.collection import Collection, collect
from lra_tasks.entries import build_entries
from lra_tasks.errors import UserError
from lra_tasks.findings import Findings
from lra_tasks.groups import count
from lra_tasks.layout import LAYOUTS, lay_out, list_sources
from lra_tasks.outputs import write_outputs
from lra_tasks.published import Published, read_published
from lra_tasks.selection import PUBLISHED, Selection, parse_selection, select
from lra_tasks.translation_record import CHECKPOINTS
from lra_tasks.typed_json import write_text

FORMATS = ("markdown", "latex", "csv", "json")
RESULTS = Path(__file__).parents[1] / "results"


def render(findings: Findings, form: str, tables: Sequence[str] = ()) -> str:
    """The whole text in one of FORMATS."""
    notes = [*findings.notes, *list_sources(findings.published)]
    if form in ("csv", "json"):
        entries = build_entries(findings.experiments, findings.translations, findings.comparisons, findings.published)
        return table_text.to_csv(entries) if form == "csv" else table_text.to_json(entries, findings.published, notes)
    write = table_text.to_latex if form == "latex" else table_text.to_markdown
    return write(lay_out(findings, tables), notes)


def make_block(words: str, place: str, found: Collection, published: Published) -> str:
    """What stands in a block of a text: its tables, without captions and notes."""
    selection = parse_selection(words, place)
    findings = select(found.records, {}, published, selection, found.translations)
    tables = lay_out(findings, selection.tables)
    if not tables:
        raise UserError(f"{place}: {words!r} selects nothing that the records have")
    return "\n".join(table_text.to_pipes(table) for table in tables)


def check_text(path: Path, found: Collection, published: Published, *, update: bool) -> list[str]:
    """A line for each table of a text that was stale; with `update` they are made anew."""
    try:
        text = path.read_text(encoding="utf-8")
        renewed, stale = replace_blocks(
            text, str(path), lambda words, place: make_block(words, place, found, published)
        )
        if update and stale:
            write_text(path, renewed)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a Markdown file that can be read and written") from None
    return stale


def make_cards(found: Collection, findings: Findings) -> dict[str, str]:
    """The model card of every run that counts, by a name that says which."""
    counted = {run.file for one in (*findings.experiments, *findings.translations) for run in one.runs}
    cards = {}
    for name, record in (*found.records, *found.translations):
        if name in counted:
            what = (
                f"{findings.published.title(record.row)} on {record.task_title}, {record.protocol}, seed {record.seed}"
            )
            cards[f"{what} ({name})"] = make_card(record, found.curves.get(name), findings.published)
    return cards


def read_selection() -> Selection:
    """The flags that choose what is shown."""
    given = flags.FLAGS
    return Selection(
        tasks=tuple(given.task),
        rows=tuple(given.row),
        protocols=tuple(given.protocol),
        tables=tuple(given.table),
        checkpoint=given.checkpoint,
        against=given.against,
        published=given.published,
    )


def main(argv: Sequence[str]) -> int:
    """Print or write what was asked for. Returns 0, or 1 where a record was left out or a text is stale."""
    given = flags.FLAGS
    text = given.check or given.update
    if sum(map(bool, (given.check, given.update, given.card, given.output))) > 1:
        raise UserError("--check, --update, --card and --output are four things to do; give one of them")
    published = read_published(RESULTS / "published.json")
    if given.card:
        if argv[1:]:
            raise UserError(f"--card shows one run; leave {argv[1]!r} out")
        print(write_card(Path(given.card), published), end="")
        return 0
    paths = [Path(argument) for argument in argv[1:]] or [RESULTS / "records"]
    found = collect(paths)
    for fault in found.faults:
        cli.say(f"left out: {fault}")
    if text:
        stale = check_text(Path(text), found, published, update=bool(given.update))
        for line in stale:
            cli.say(f"{'updated' if given.update else 'stale'}: {line}")
        if not stale:
            number = len(found.records) + len(found.translations)
            cli.say(f"{text}: every table is what {count(number, 'record')} give")
        return 1 if found.faults or (stale and given.check) else 0
    for row in sorted({record.row for _, record in found.records} - set(ROWS)):
        cli.say(f"row {row!r} is not in configs/rows.py: its records count, but this code cannot run it again")
    findings = select(found.records, found.curves, published, read_selection(), found.translations)
    if given.output:
        cards = make_cards(found, findings)
        written = write_outputs(findings, Path(given.output), render, cards)
        print("\n".join(map(str, written)))
    else:
        print(render(findings, given.format, given.table), end="")
    return 1 if found.faults else 0


if __name__ == "__main__":  # here, since other entries have flags of the same names
    flags.DEFINE_enum("format", "markdown", FORMATS, "What to print.")
    flags.DEFINE_enum("checkpoint", "best", CHECKPOINTS, "Which checkpoint of a run counts; averaged: of translations.")
    flags.DEFINE_enum("published", "compared", PUBLISHED, "Which published rows stand beside ours.")
    flags.DEFINE_multi_string("task", [], "A task to show. Default: all.")
    flags.DEFINE_multi_string("row", [], "A row of configs/rows.py to show. Default: all.")
    flags.DEFINE_multi_string("protocol", [], "A protocol of ours to show, such as cpu. Default: all.")
    flags.DEFINE_multi_enum("table", [], list(LAYOUTS), "A table to show. Default: all.")
    flags.DEFINE_string("against", "transformer", "The row that the others are tested against.")
    flags.DEFINE_string("output", None, "Folder for tables in all formats, figures and index.html.")
    flags.DEFINE_string("check", None, "Text whose tables are compared with what the records give.")
    flags.DEFINE_string("update", None, "Text whose tables are made anew.")
    flags.DEFINE_string("card", None, "Folder of a run, or its record: prints its model card.")
    cli.run(main, str(__doc__))
