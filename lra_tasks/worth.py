"""What a switch of the drift ledger is worth: a variant's accuracy minus its baseline's, paired. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from lra_tasks.groups import GroupKey, collect_groups, drop_duplicates
from lra_tasks.intervals import Interval, PairedTest, compare, holm, is_collapsed, seed_interval
from lra_tasks.mechanisms import USUAL_PACK
from lra_tasks.record import Record
from lra_tasks.settings import differences
from lra_tasks.tables import stack_correctness

BASELINE = "baseline"
NAMES_AND_SEED = frozenset({"protocol", "train.seed"})


@dataclass(frozen=True)
class Worth:
    """A variant against the recipe without its switch, or against the switch on the other side. In percent points."""

    row: str
    task: str
    task_title: str
    protocol: str
    """Of the baseline."""
    baseline: str
    """Experiment hash of the baseline; empty where only the other side's switch ran."""
    switch: str
    against: str
    """BASELINE, or a switch."""
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    """Of the variant, of what it is compared with."""
    means: tuple[float, float]
    collapsed: tuple[int, int]
    """Seeds that are no better than one constant answer."""
    by_seed: tuple[float, ...]
    """Differences of the seeds that both have, in rising order."""
    over_seeds: Interval | None
    """Student interval of the mean of these; None for fewer than two."""
    test: PairedTest
    num_examples: int
    p_value_holm: float = 1.0
    """Adjusted for all that is compared at one place."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What shares a baseline, and so a table."""
        return self.row, self.task, self.protocol, self.baseline


@dataclass(frozen=True)
class _Runs:
    """One experiment: its records by seed, one each."""

    records: tuple[Record, ...]
    correct: np.ndarray

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.seed for record in self.records)

    @property
    def num_collapsed(self) -> int:
        chance = self.first.splits["test"].majority_share
        return sum(is_collapsed(int(flags.sum()), flags.size, chance) for flags in self.correct)


def split_protocol(protocol: str) -> tuple[str, tuple[str, ...]]:
    """`cpu+tied_kv` -> the protocol without switches, and the switches."""
    base, *switches = protocol.split("+")
    return base, tuple(switches)


def measure(
    records: Sequence[tuple[str, Record]],
    settings: Mapping[str, AbstractSet[str]],
    against: Mapping[str, str],
    checkpoint: str = "best",
) -> tuple[list[Worth], list[str], list[str]]:
    """Every variant against its baseline, and against the switch on the other side where that ran too.

    Two runs are compared only if they differ in nothing but what the switches set, so that one item at a time is worth
    something; what finds no such partner is left out.

    Args:
        records: with the names of their files.
        settings: by switch, the dotted settings that it may set.
        against: by switch, the one on the other side of the same difference.
        checkpoint: "best" or "last".

    Returns what was measured, in the order of `settings`; notes; and a line for each variant that was left out.
    """
    groups, notes = _collect(records, checkpoint)
    order = list(settings)
    found: list[Worth] = []
    faults: list[str] = []
    for key in sorted(groups, key=lambda key: _place(key, order)):
        base, switches = split_protocol(key[3])
        if not switches:
            continue
        what = f"{key[0]} on {key[1]} ({key[3]})"
        if unknown := [name for name in switches if name not in settings]:
            faults.append(f"{what}: there is no switch {unknown[0]!r}")
            continue
        partners = [(BASELINE, base)]
        if len(switches) == 1 and switches[0] in against:
            partners.append((against[switches[0]], f"{base}+{against[switches[0]]}"))
        baseline = ""
        for name, protocol in partners:
            free = set().union(*(settings[one] for one in (*switches, name) if one in settings))
            partner = _find_partner(groups, key, protocol, free)
            if partner is not None:
                baseline = partner.first.experiment_hash if name == BASELINE else baseline
                found.append(_compare("+".join(switches), name, baseline, (groups[key], partner), checkpoint))
                notes += _remark(what, groups[key], partner)
            elif name == BASELINE:
                faults.append(f"{what}: no run of {protocol} with otherwise the same settings to compare it with")
    return _adjust(found), list(dict.fromkeys(notes)), faults


def _collect(records: Sequence[tuple[str, Record]], checkpoint: str) -> tuple[dict[GroupKey, _Runs], list[str]]:
    groups, notes = {}, []
    for key, group in collect_groups(records).items():
        kept, duplicates = drop_duplicates(group, checkpoint)
        notes += duplicates
        chosen = tuple(record for _, record in kept)
        groups[key] = _Runs(chosen, stack_correctness(chosen, checkpoint))
    return groups, notes


def _place(key: GroupKey, order: Sequence[str]) -> tuple:
    """Rows, tasks and protocols together, their switches in the order of the ledger, single ones first."""
    base, switches = split_protocol(key[3])
    return (*key[:3], base, len(switches), [order.index(name) if name in order else -1 for name in switches], key[4])


def _find_partner(
    groups: Mapping[GroupKey, _Runs], key: GroupKey, protocol: str, free: AbstractSet[str]
) -> _Runs | None:
    """The experiment of this protocol whose settings differ from those of `key` in the `free` ones only."""
    mine = _complete(groups[key].first)
    for other, runs in groups.items():
        if (*other[:3], other[3]) == (*key[:3], protocol):
            changed = {line.split(":")[0] for line in differences(mine, _complete(runs.first))}
            if changed <= free | NAMES_AND_SEED:
                return runs
    return None


def _complete(record: Record) -> dict:
    """A record leaves the usual treatment of the pack out."""
    return {"pack": dataclasses.asdict(USUAL_PACK)} | record.config


def _compare(switch: str, against: str, baseline: str, pair: tuple[_Runs, _Runs], checkpoint: str) -> Worth:
    mine, theirs = pair
    accuracies = [
        {record.seed: getattr(record, checkpoint).test_accuracy * 100 for record in runs.records} for runs in pair
    ]
    common = sorted(accuracies[0].keys() & accuracies[1].keys())
    by_seed = tuple(accuracies[0][seed] - accuracies[1][seed] for seed in common)
    return Worth(
        row=mine.first.row,
        task=mine.first.task,
        task_title=mine.first.task_title,
        protocol=split_protocol(mine.first.protocol)[0],
        baseline=baseline,
        switch=switch,
        against=against,
        seeds=(mine.seeds, theirs.seeds),
        means=(float(mine.correct.mean() * 100), float(theirs.correct.mean() * 100)),
        collapsed=(mine.num_collapsed, theirs.num_collapsed),
        by_seed=by_seed,
        over_seeds=seed_interval(by_seed) if by_seed else None,
        test=compare(mine.correct, theirs.correct),
        num_examples=mine.correct.shape[1],
    )


def _remark(what: str, mine: _Runs, theirs: _Runs) -> list[str]:
    commits = {record.commit for runs in (mine, theirs) for record in runs.records}
    dirty = any(record.commit_dirty for runs in (mine, theirs) for record in runs.records)
    notes = []
    if len(commits) > 1:
        notes.append(f"{what}: it and what it is compared with ran on {len(commits)} different commits")
    if dirty:
        notes.append(f"{what}: some run had changes that were not committed")
    if mine.seeds != theirs.seeds:
        notes.append(f"{what}: other seeds than what it is compared with; differences by seed are of those in common")
    return notes


def _adjust(found: Sequence[Worth]) -> list[Worth]:
    adjusted = []
    for place in dict.fromkeys(one.place for one in found):
        here = [one for one in found if one.place == place]
        chances = holm([one.test.p_value for one in here])
        adjusted += [dataclasses.replace(one, p_value_holm=p) for one, p in zip(here, chances, strict=True)]
    return adjusted
