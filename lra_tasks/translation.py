"""Translation tasks: what each declares, and where its parallel text is looked for. Imports nothing heavy."""

from dataclasses import dataclass

from lra_tasks.errors import UserError, nearest

TRAIN, VALIDATION = "train", "validation"
ALIASES = {VALIDATION: ("validation", "valid", "val", "dev")}
"""Other names of a split's files; Multi30k says val, fairseq's preparations valid."""


@dataclass(frozen=True)
class TranslationTask:
    """The declared facts of a translation task.

    Attributes:
        name: the name in flags, folders and records.
        version: of the prepared data; a change of any byte of it raises the version.
        title: the name in tables.
        source_language, target_language: endings of the files, train.de and train.en.
        vocab_size: subwords of both languages together, padding, unknown and end of sentence among them.
        max_length: most subwords of a side, the end of the sentence included.
        tests: test sets by the names of their files; the first is the one that tables show.
        tfds_name: the same pair in tensorflow-datasets, or None.
    """

    name: str
    version: str
    title: str
    source_language: str
    target_language: str
    vocab_size: int
    max_length: int
    tests: tuple[str, ...]
    tfds_name: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Training, validation, and the test sets."""
        return (TRAIN, VALIDATION, *self.tests)

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target."""
        return self.source_language, self.target_language


MULTI30K_DEEN = TranslationTask(
    name="multi30k_deen",
    version="1.0.0",
    title="Multi30k de-en",
    source_language="de",
    target_language="en",
    vocab_size=6_000,
    max_length=128,
    tests=("test_2016_flickr", "test_2017_flickr", "test_2018_flickr", "test_2017_mscoco"),
)
WMT14_ENDE = TranslationTask(
    name="wmt14_ende",
    version="1.0.0",
    title="WMT'14 en-de",
    source_language="en",
    target_language="de",
    vocab_size=40_624,  # the authors', from a log in XuezheMax/apollo issue 4
    max_length=256,
    tests=("test",),
    tfds_name="wmt14_translate/de-en",
)
TRANSLATIONS: dict[str, TranslationTask] = {task.name: task for task in (MULTI30K_DEEN, WMT14_ENDE)}


def get_translation(name: str) -> TranslationTask:
    """The translation task of this name. Raises UserError with the nearest match and the whole list."""
    if name not in TRANSLATIONS:
        raise UserError(f"unknown language pair {name!r}; {nearest(name, TRANSLATIONS)}")
    return TRANSLATIONS[name]
