"""Small records of translators for tests: 12 sentences in one test set and 8 in another, made up and spoilt."""

import functools
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

from lra_tasks import record_fields, translation_record
from lra_tasks.bleu import encode_statistics

WORDS = (
    *("a", "man", "woman", "dog", "red", "blue", "hat", "rides", "runs", "over", "green", "grass"),
    *("street", "the", "in", "with", "big", "small", ",", "on", "two", "near", "."),
)
TESTS = {"test_2016_flickr": 12, "test_2017_flickr": 8}


@functools.cache
def make_references(test: str, size: int) -> tuple[str, ...]:
    """Sentences of 4 to 11 words, the same every time."""
    rng = np.random.default_rng(len(test) + size)
    return tuple(" ".join(rng.choice(WORDS, rng.integers(4, 12))) for _ in range(size))


def spoil(references: tuple[str, ...], share: float, seed: int) -> list[str]:
    """The sentences with this share of their words exchanged for others."""
    rng = np.random.default_rng(seed)
    return [" ".join(str(rng.choice(WORDS)) if rng.random() < share else w for w in r.split()) for r in references]


def count_statistics(translations: list[str], references: tuple[str, ...]) -> np.ndarray:
    """sacrebleu's own statistics of each sentence: int [E, 10]."""
    metric = BLEU(effective_order=True)  # a sentence's counts do not depend on it; without it sacrebleu warns
    scores = [
        metric.sentence_score(text, [reference]) for text, reference in zip(translations, references, strict=True)
    ]
    return np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores])


@functools.cache
def make_bleu(references: tuple[str, ...], share: float, seed: int) -> translation_record.BleuScore:
    """What sacrebleu says of spoilt references."""
    translations, metric = spoil(references, share, seed), BLEU()
    score = metric.corpus_score(translations, [list(references)]).score
    statistics = encode_statistics(count_statistics(translations, references))
    return translation_record.BleuScore(bleu=score, signature=str(metric.get_signature()), statistics=statistics)


def make_translation_scores(
    *steps: int, share: float, seed: int, tests: dict[str, int] | None = None, **changes: Any
) -> translation_record.TranslationScores:
    """A checkpoint that gets this share of words wrong."""
    values: dict[str, Any] = {
        "steps": steps,
        "validation_loss": 2.5,
        "validation_bleu": 30.0,
        "tests": {
            test: make_bleu(make_references(test, size), share, seed + 100 * index)
            for index, (test, size) in enumerate((tests or TESTS).items())
        },
    }
    return translation_record.TranslationScores(**(values | changes))


def make_translation_record(
    *,
    seed: Any = 1,
    row: str = "luna16",
    share: float = 0.2,
    settings: dict[str, dict[str, Any]] | None = None,
    tests: dict[str, int] | None = None,
    **changes: Any,
) -> translation_record.TranslationRecord:
    """A valid record. `share` of the words is wrong at the best checkpoint; `settings` go into the config."""
    config = {"kind": "translation", "row": row, "train": {"seed": seed, "num_steps": 100}, "model": {"emb_dim": 8}}
    if row != "transformer":
        config |= {"luna": {"tie_kv": True, "contextual_pack": True}, "causal": {"weight": "softplus"}}
    config = {
        section: {**value, **(settings or {}).get(section, {})} if isinstance(value, dict) else value
        for section, value in config.items()
    }
    tests = tests or TESTS
    number = seed if isinstance(seed, int) else 0
    scores = functools.partial(make_translation_scores, seed=number, tests=tests)
    sizes = {"validation": 6, **tests}
    values: dict[str, Any] = {
        "task": "multi30k_deen",
        "task_title": "Multi30k de-en",
        "task_version": "1.0.0",
        "row": row,
        "protocol": "cpu",
        "config": config,
        "config_hash": record_fields.canonical_hash(config),
        "experiment_hash": record_fields.experiment_hash(config),
        "seed": seed,
        "commit": "abc123",
        "commit_dirty": False,
        "command": ("python", "-m", "lra_tasks.train", "--config=configs/multi30k_deen_luna16.py:cpu"),
        "versions": {"python": "3.11.9", "sacrebleu": "2.6.0"},
        "device": record_fields.Device(platform="cpu", kind="cpu", count=1),
        "host_cores": 2,
        "num_parameters": 4_000_000,
        "splits": {
            name: translation_record.SentenceCount(declared=size, evaluated=size) for name, size in sizes.items()
        },
        "selection": "validation_bleu",
        "best": scores(60, share=share),
        "last": scores(100, share=share + 0.05),
        "averaged": scores(60, 80, 100, share=share / 2),
        "steps_per_second": 5.0,
        "compile_seconds": 9.0,
        "peak_memory_bytes": record_fields.PeakMemory(process=1_500_000_000, device=None),
        "train_wall_seconds": 20.0,
        "wall_seconds": 90.0,
        "num_steps": 100,
        "examples_seen": 6400,
        "started_at": "2026-03-01T09:30:00+00:00",
        "resumed": 0,
        "source_language": "de",
        "target_language": "en",
        "vocab_size": 6000,
        "vocab_checksum": "0123456789abcdef" * 4,
        "training_pairs": 29_000,
        "tokens_seen": 90_000,
        "decoding": translation_record.Decoding(beam_size=5, length_penalty=1.0, length_factor=1.2, length_offset=10),
    }
    return translation_record.TranslationRecord(**(values | changes))
