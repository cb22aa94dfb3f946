"""Records of translators -> what tables show: seeds together, a test set each, with their intervals. Pure."""

import copy
import dataclasses
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lra_tasks.bleu_intervals import bleu_interval
from lra_tasks.groups import (
    Measured,
    collect_groups,
    describe,
    describe_group,
    drop_duplicates,
    name_variants,
    note_mixed,
    order_of,
    remark,
)
from lra_tasks.intervals import seed_interval
from lra_tasks.published import Published
from lra_tasks.record_fields import canonical_hash
from lra_tasks.translation_record import TranslationRecord, read_statistics

Named = tuple[str, TranslationRecord]
MECHANISM = ("luna", "causal", "softmax")  # sections of a config


@dataclass(frozen=True)
class TranslationRun:
    """One seed on one test set, at the checkpoint that counts."""

    seed: int
    bleu: float  # percent
    steps: tuple[int, ...]  # updates behind the checkpoint; of an average, those of all it is made of
    file: str


@dataclass(frozen=True, kw_only=True)
class Translated(Measured):
    """Runs that differ in the seed only, on one test set. Scores are BLEU in percent.

    `tie_kv`, `causal_weight` and `contextual_pack` are settings of Luna, None for a model without them.
    """

    runs: tuple[TranslationRun, ...]
    is_first: bool  # whether this is the test set to report
    signature: str  # sacrebleu's
    tie_kv: bool | None  # one projection for keys and values
    causal_weight: str | None  # of the decoder's causal attention, "softplus" or "elu"
    contextual_pack: bool | None  # whether a layer's packed sequence queries the next layer
    recipe: str  # hash of all settings but those of the mechanism: rows that share it may be compared
    twin: str  # hash of all settings but `contextual_pack`
    statistics: np.ndarray = dataclasses.field(compare=False, repr=False)  # int [seeds, sentences, 10], see bleu

    @property
    def values(self) -> tuple[float, ...]:
        """The BLEU of each seed."""
        return tuple(run.bleu for run in self.runs)

    @property
    def place(self) -> tuple[str, ...]:
        """What two must share to be compared: the test set and the recipe. Presets of Luna alone change a protocol."""
        return self.task, self.task_version, self.test_set, str(self.num_examples), self.recipe

    @property
    def title(self) -> str:
        """The task and the test set."""
        return f"{self.task_title}, {self.test_set}"


def group_translations(
    records: Iterable[Named], checkpoint: str, published: Published
) -> tuple[list[Translated], list[str]]:
    """Named records -> an entry for each experiment and test set in the order of the tables, and notes.

    Records with the same experiment and seed count once: the one that started first. `checkpoint`: "best", "last" or
    "averaged"; a record without one is left out with a note.
    """
    scored, notes = [], []
    for name, record in records:
        if getattr(record, checkpoint) is None:
            notes.append(f"{describe(record)}, seed {record.seed}: left out, for it has no {checkpoint} checkpoint")
        else:
            scored.append((name, record))
    groups = collect_groups(scored)
    variants = name_variants({key: group[0][1] for key, group in groups.items()})
    found: list[Translated] = []
    for key, group in groups.items():
        kept, duplicates = drop_duplicates(group, checkpoint)
        notes += duplicates + remark([record for _, record in kept])
        for test in dict.fromkeys(test for _, record in kept for test in record.tests):
            one, more = _score_test(kept, test, checkpoint, variants[key])
            found.append(one)
            notes += more
    found.sort(key=lambda one: order_of(one, published))  # keeps the order of an experiment's test sets
    return found, notes + note_mixed(found)


def _score_test(kept: Sequence[Named], test: str, checkpoint: str, variant: str) -> tuple[Translated, list[str]]:
    having = [(name, record) for name, record in kept if test in record.tests]
    named, statistics, notes = _read_same(having, test, checkpoint)
    if len(having) < len(kept):
        notes.append(f"{describe(kept[0][1])}: {len(having)} of {len(kept)} seeds were scored on {test}")
    records = [record for _, record in named]
    first = records[0]
    scores = [getattr(record, checkpoint) for record in records]
    runs = tuple(
        TranslationRun(record.seed, score.tests[test].bleu, score.steps, name)
        for (name, record), score in zip(named, scores, strict=True)
    )
    translated = Translated(
        **describe_group(records, checkpoint, variant),
        runs=runs,
        interval=bleu_interval(statistics),
        seed_interval=seed_interval([run.bleu for run in runs]),
        num_examples=first.splits[test].evaluated,
        test_set=test,
        is_first=test == first.tests[0],
        signature=" / ".join(sorted({score.tests[test].signature for score in scores})),
        tie_kv=_read_setting(first, "luna", "tie_kv"),
        causal_weight=_read_setting(first, "causal", "weight"),
        contextual_pack=_read_setting(first, "luna", "contextual_pack"),
        recipe=_hash_without(first, "row", "protocol", "model.attention", *MECHANISM),
        twin=_hash_without(first, "protocol", "luna.contextual_pack"),
        statistics=statistics,
    )
    return translated, notes


def _read_same(having: Sequence[Named], test: str, checkpoint: str) -> tuple[list[Named], np.ndarray, list[str]]:
    """The records that were scored on the references of the first, and their statistics: int [records, E, 10]."""
    stacked: list[np.ndarray] = []
    named, notes = [], []
    for name, record in having:
        statistics = read_statistics(record, checkpoint, test)
        if stacked and not np.array_equal(statistics[:, 1], stacked[0][:, 1]):
            what = f"{describe(record)}, seed {record.seed}: left out of {test}"
            notes.append(f"{what}, for its references are not those of {named[0][0]}")
            continue
        stacked.append(statistics)
        named.append((name, record))
    return named, np.stack(stacked), notes


def _read_setting(record: TranslationRecord, section: str, name: str) -> typing.Any:
    """A setting of the record's config; None where the section of its mechanism is not there."""
    return record.config.get(section, {}).get(name)


def _hash_without(record: TranslationRecord, *names: str) -> str:
    """The hash of a record's config without these sections and settings, and without the seed."""
    config = copy.deepcopy(record.config)
    for name in (*names, "train.seed"):
        section, _, setting = name.partition(".")
        if setting:
            config.get(section, {}).pop(setting, None)
        else:
            config.pop(section, None)
    return canonical_hash(config)
