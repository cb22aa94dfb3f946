"""The drift ledger: where Luna's paper, README and code differ, and what each difference is worth.

  python -m lra_tasks.drift                               the ledger
  python -m lra_tasks.drift --markdown                    the same as docs/drift.md
  python -m lra_tasks.drift --task listops --preset cpu   the variants of a task: names, and what they set
  python -m lra_tasks.drift runs/drift/listops            what each switch is worth, from the records of its runs

launch/drift.sh runs the variants of a task, one item at a time. PATH is a record, or a folder that is searched for
records; a variant is compared with runs that differ from it in nothing but the switch. A record that cannot be trusted,
or that has nothing to be compared with, is named on stderr and left out, and the exit code is 1."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from lra_tasks import cli
from lra_tasks.errors import UserError, nearest
from lra_tasks.table_text import to_markdown, to_pipes
from lra_tasks.tables import Table
from lra_tasks.worth import BASELINE, Worth, measure

WIDTH = 110  # of the ledger in a terminal
NOTHING = "–"


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    given = flags.FLAGS
    paths = [Path(argument) for argument in argv[1:]]
    asked = [name for name, value in (("--markdown", given.markdown), ("--task", given.task), ("PATH", paths)) if value]
    if len(asked) > 1:
        raise UserError(f"{asked[0]} and {asked[1]} are two things to do; give one of them")
    for name, owner, is_there in (
        ("preset", "--task", given.task),
        ("row", "--task", given.task),
        ("checkpoint", "PATH", paths),
    ):
        if not is_there and flags.FLAGS[name].present:
            raise UserError(f"--{name} belongs to {owner}, which is missing")
    if paths:
        return print_worth(paths, given.checkpoint)
    if given.task:
        print("\n".join("\t".join(line) for line in list_variants(given.task, given.preset, given.row)))
    else:
        print(write_page() if given.markdown else write_ledger(), end="")
    return 0


def list_variants(task: str, preset: str, row: str) -> list[tuple[str, str]]:
    """(name, what it sets) of every switch that changes something in a recipe; bundles last. UserError for mistakes."""
    from configs import drift, rows, switches

    preset = "" if preset == "authors" else preset
    if task not in switches.TASKS:
        raise UserError(f"--task {task!r} has no recipe of Luna's authors; {nearest(task, switches.TASKS)}")
    if preset not in switches.PRESETS:
        raise UserError(f"--preset {preset!r} is none of Luna's; {nearest(preset, ('authors', 'paper', 'cpu'))}")
    if row not in rows.ROWS:
        raise UserError(f"--row {row!r} is unknown; {nearest(row, rows.ROWS)}")
    config = rows.get_config(task, f"{row}:{preset}")
    found = drift.list_variants(config, task, preset)
    return [(name, " ".join(f"{key}={value}" for key, value in changes.items())) for name, changes in found.items()]


def write_ledger() -> str:
    """The ledger for a terminal, a paragraph an item."""
    paragraphs = []
    for (number, title, source, *sides), switches in list_items():
        lines = [f"{number}. {title}  ({source})"]
        for name, text in zip(("paper", "README", "code", "ours"), sides, strict=True):
            lines.append(textwrap.fill(text, WIDTH, initial_indent=f"   {name:7} ", subsequent_indent=" " * 11))
        lines.append(textwrap.fill(switches, WIDTH, initial_indent="   switch  ", subsequent_indent=" " * 11))
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs).replace("`", "") + "\n"


def list_items() -> list[tuple[tuple[str, ...], str]]:
    """((number, title, source, paper, README, code, ours), switches or why there is none) of each item."""
    from configs.ledger import LEDGER
    from configs.switches import SWITCHES

    found: list[tuple[tuple[str, ...], str]] = []
    for number, item in LEDGER.items():
        names = [f"`{name}`: {switch.what}" for name, switch in SWITCHES.items() if number in switch.items]
        texts = (str(number), item.title, item.source, item.paper, item.readme, item.code, item.ours)
        found.append((texts, "; ".join(names) or f"none: {item.no_switch}"))
    return found


def write_page() -> str:
    """docs/drift.md."""
    from configs.switches import BUNDLES, SIDES, SWITCHES

    header = ("", "Difference", "Source", "Paper", "README", "Code", "Ours", "Switch")
    rows = [header, ("--:", *("---",) * 7), *((*texts, switches) for texts, switches in list_items())]
    ledger = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)  # too wide to align
    lines = []
    for name, switch in SWITCHES.items():
        sets = "; ".join(_group_changes(switch.changes))
        sides = "; ".join(f"{side}: {join_tasks(tasks)}" for side, tasks in switch.sides.items())
        lines.append((f"`{name}`", join_numbers(switch.items), sets, sides or NOTHING))
    table = Table("", ("Switch", "Item", "Sets", "On the side of"), (False, True, False, False), tuple(lines))
    bundles = "\n".join(f"- `{name}`: the side `{side}`, {SIDES[side]}" for name, side in BUNDLES.items())
    return PAGE.format(ledger=ledger, switches=to_pipes(table), bundles=bundles)


def _group_changes(changes: dict[str, dict]) -> list[str]:
    """`data.max_length=1023 (image)`: tasks that set the same stand together."""
    grouped: dict[str, list[str]] = {}
    for task, settings in changes.items():
        grouped.setdefault(", ".join(f"{key}={value}" for key, value in settings.items()), []).append(task)
    return [f"`{text}` ({join_tasks(tasks)})" for text, tasks in grouped.items()]


def join_tasks(tasks: Sequence[str]) -> str:
    """`listops, text`, or `all tasks`."""
    from configs.switches import TASKS

    return "all tasks" if len(tasks) == len(TASKS) else ", ".join(tasks)


PAGE = """# Drift ledger

Luna's paper ([arXiv 2106.01540](https://arxiv.org/abs/2106.01540)), the authors' README and their released code
([XuezheMax/fairseq-apollo](https://github.com/XuezheMax/fairseq-apollo)) say different things in many places, and which
of them a published number belongs to is often unknown. Here is each difference that we know of, what our recipe does,
and the switch that does the other thing. `python -m lra_tasks.drift --markdown` writes this page, from
[`configs/ledger.py`](../configs/ledger.py) and [`configs/switches.py`](../configs/switches.py).

{ledger}

## Switches

A switch stands behind a preset and a plus; several may follow each other. The record's protocol names them, so that no
table mixes such a run with others:

```sh
python -m lra_tasks.train --config configs/listops.py:luna16:cpu+tied_kv --workdir runs/tied     # cpu+tied_kv
python -m lra_tasks.train --config configs/image.py:luna16:+no_last_pixel --workdir runs/pixel   # authors+no_last_pixel
python -m lra_tasks.train --config configs/listops.py:luna16:+as_paper --workdir runs/as_paper   # all that it says
```

A switch that changes nothing in a recipe, or is not for its task, is refused. All switches of a side at once:

{bundles}

{switches}
## What each is worth

```sh
launch/drift.sh listops cpu "0 1 2"            # the recipe and every variant, one item at a time
launch/drift.sh --dry-run image                # the commands of the full recipe, without running them
python -m lra_tasks.drift runs/drift/listops   # the table again
```

The first of these goes on where it stopped. A variant is compared with runs that differ from it in nothing but the
switch, on the same test examples: the difference by seed and of the mean, its interval, an exact paired test, and
Holm's adjustment for the whole table. Where a preset stands on neither side of a difference (`:cpu` has two layers in
ListOps, and no dropout), the two sides are compared with each other, too.
"""


def join_numbers(items: Sequence[int]) -> str:
    """`7, 8`."""
    return ", ".join(map(str, items))


def print_worth(paths: Sequence[Path], checkpoint: str) -> int:
    """Prints the tables and notes of some records. Returns 0, or 1 where something was left out."""
    from configs.drift import list_settings
    from configs.switches import SWITCHES
    from lra_tasks.collection import collect

    found = collect(paths)
    against = {name: switch.against for name, switch in SWITCHES.items() if switch.against}
    worths, notes, faults = measure(found.records, list_settings(), against, checkpoint)
    for fault in [*found.faults, *faults]:
        print(f"left out: {fault}", file=sys.stderr)
    tables = lay_out(worths, {name: join_numbers(switch.items) for name, switch in SWITCHES.items()}, checkpoint)
    if not tables:
        notes.append("no variant with a baseline among these records; launch/drift.sh TASK runs them")
    print(to_markdown(tables, notes), end="")
    return 1 if found.faults or faults else 0


def lay_out(worths: Sequence[Worth], items: dict[str, str], checkpoint: str) -> list[Table]:
    """A table for each baseline; the numbers of the ledger's items are given by switch."""
    header = ("Item", "Switch", "Against", "Seeds", "Accuracy", "Against", "Difference by seed", "Difference")
    header += ("95 % interval", "over seeds", "p", "p (Holm)")
    tables = []
    for place in dict.fromkeys(one.place for one in worths):
        here = [one for one in worths if one.place == place]
        methods = "; ".join(dict.fromkeys(one.test.method for one in here))
        baseline = f"baseline #{place[3][:8]}" if place[3] else "no baseline"
        caption = (
            f"{place[0]} on {here[0].task_title}, protocol {place[2]} ({baseline}), {checkpoint} checkpoint, "
            f"{here[0].num_examples:,} test examples: what each switch adds, in points. The interval is a bootstrap "
            f"over seeds and examples, `over seeds` Student's over the differences by seed; p ({methods}) is about "
            "these trained models, Holm's for the whole table."
        )
        lines = tuple(_lay_out_line(one, items) for one in here)
        tables.append(Table(caption, header, (True, False, False, *(True,) * 9), lines))
    return tables


def _lay_out_line(one: Worth, items: dict[str, str]) -> tuple[str, ...]:
    numbers = dict.fromkeys(items.get(name, "all") for name in one.switch.split("+"))
    accuracies = [
        f"{mean:.2f}" + (f", {at_chance} at chance" if at_chance else "")
        for mean, at_chance in zip(one.means, one.collapsed, strict=True)
    ]
    interval, seeds = one.test.interval, one.over_seeds
    return (
        ", ".join(numbers),
        one.switch,
        one.protocol if one.against == BASELINE else one.against,
        " / ".join(str(len(found)) for found in one.seeds),
        *accuracies,
        " ".join(f"{difference:+.2f}" for difference in one.by_seed) or NOTHING,
        f"{one.test.difference:+.2f}",
        f"{interval.low:+.2f} to {interval.high:+.2f}",
        NOTHING if seeds is None else f"{seeds.low:+.2f} to {seeds.high:+.2f}",
        *("< 0.001" if p < 0.001 else f"{p:.3f}" for p in (one.test.p_value, one.p_value_holm)),
    )


if __name__ == "__main__":  # here, since other entries have flags of the same names
    flags.DEFINE_bool("markdown", False, "The ledger as docs/drift.md.")
    flags.DEFINE_string("task", "", "A task whose variants are listed, a name and what it sets a line.")
    flags.DEFINE_string("preset", "", "With --task: authors, paper or cpu; none is the authors' recipe.")
    flags.DEFINE_string("row", "luna16", "With --task: the row.")
    flags.DEFINE_enum("checkpoint", "best", ("best", "last"), "Which checkpoint of a run counts.")
    cli.run(main, str(__doc__))
