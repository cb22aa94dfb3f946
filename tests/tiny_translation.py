"""A translation task of a few hundred sentences of number words, and its files."""

import gzip

import numpy as np

from lra_tasks.translation import TranslationTask

GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TINY = TranslationTask(
    name="tiny_deen",
    version="1.0.0",
    title="Tiny de-en",
    source_language="de",
    target_language="en",
    vocab_size=60,
    max_length=24,
    tests=("test_a", "test_b"),
    tfds_name="tiny_translate/de-en",
)
SIZES = {"train": 200, "validation": 13, "test_a": 11, "test_b": 7}


def make_pairs(num_pairs, seed=0, most_words=6):
    """(German lines, English lines) of the same digits."""
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 10, random.integers(1, most_words + 1)) for _ in range(num_pairs)]
    return tuple([" ".join(words[digit] for digit in row) for row in rows] for words in (GERMAN, ENGLISH))


def make_text(sizes=SIZES):
    """{split: (German lines, English lines)}."""
    return {split: make_pairs(size, seed) for seed, (split, size) in enumerate(sizes.items())}


def write_raw(folder, text=None, names=None, suffix=""):
    """Files train.de and so on; `names` renames splits, `suffix` is "" or ".gz". Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, sides in (text or make_text()).items():
        for language, lines in zip(TINY.languages, sides, strict=True):
            content = "".join(f"{line}\n" for line in lines).encode()
            path = folder / f"{(names or {}).get(split, split)}.{language}{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)
    return folder
