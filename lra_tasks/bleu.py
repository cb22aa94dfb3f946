"""BLEU from its sufficient statistics, and these as text. Pure.

Of each sentence: the tokens of the translation, those of the reference, the n-grams (n = 1 to 4) of the translation
that the reference has too, and all n-grams of the translation: int [E, 10], columns in sacrebleu's order. Summed over
sentences they give corpus BLEU, and summed over resampled sentences what a bootstrap needs.
"""

import numpy as np

from lra_tasks.record_fields import RecordError, deflate_text, inflate_text

MAX_ORDER = 4
STATISTICS = ("sys_len", "ref_len", *(f"{what}_{n}" for what in ("correct", "total") for n in range(1, MAX_ORDER + 1)))
NUM_STORED = 2 + MAX_ORDER  # statistics that are written; the totals follow from sys_len
LARGEST = 2**16 - 1  # tokens of a sentence


def bleu_from_statistics(sums: np.ndarray) -> np.ndarray:
    """BLEU = b (p_1 p_2 p_3 p_4)^(1/4), b = min(1, exp(1 - r / c)), in percent: sums [..., 10] -> float64 [...].

    p_n = correct_n / total_n; c and r are the tokens of translations and references (Papineni et al. 2002). Where
    correct_n = 0 for the k-th time, p_n = 1 / (2^k total_n): sacrebleu's smoothing "exp", NIST's. Without a single
    right word, or without an n-gram of some order (effective_order=False), BLEU is 0.
    """
    sums = np.asarray(sums, dtype=np.float64)
    translated, reference = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2:NUM_STORED], sums[..., NUM_STORED:]
    missed = correct == 0
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), correct)
    is_scored = (total > 0).all(axis=-1) & ~missed.all(axis=-1)
    precisions = smoothed / np.maximum(total, 1.0)
    brevity = np.minimum(0.0, 1.0 - reference / np.maximum(translated, 1.0))
    return np.where(is_scored, 100 * np.exp(brevity + np.log(precisions).mean(axis=-1)), 0.0)


def check_statistics(statistics: np.ndarray) -> np.ndarray:
    """Statistics as int64 [E, 10]. RecordError names the first sentence whose counts cannot be, for one reference."""
    statistics = np.asarray(statistics)
    if statistics.dtype.kind not in "iu" or statistics.ndim != 2 or statistics.shape[1] != len(STATISTICS):
        raise RecordError(
            f"BLEU statistics are {statistics.dtype} of shape {statistics.shape}: give whole numbers "
            f"[sentences, {len(STATISTICS)}]: {', '.join(STATISTICS)}"
        )
    statistics = statistics.astype(np.int64)
    lengths, correct, total = statistics[:, :2], statistics[:, 2:NUM_STORED], statistics[:, NUM_STORED:]
    possible = ((lengths >= 0) & (lengths <= LARGEST)).all(axis=1)
    possible &= (total == _count_ngrams(lengths[:, 0])).all(axis=1)
    possible &= ((correct >= 0) & (correct <= np.minimum(total, _count_ngrams(lengths[:, 1])))).all(axis=1)
    if not possible.all():
        first = int(np.argmin(possible))
        shown = ", ".join(f"{name} {count}" for name, count in zip(STATISTICS, statistics[first].tolist(), strict=True))
        raise RecordError(f"BLEU statistics of sentence {first + 1} cannot be those of one reference: {shown}")
    return statistics


def _count_ngrams(lengths: np.ndarray) -> np.ndarray:
    """How many n-grams a sentence of so many tokens has: int [E] -> int [E, 4]."""
    return np.maximum(lengths[:, None] - np.arange(MAX_ORDER), 0)


def encode_statistics(statistics: np.ndarray) -> str:
    """Statistics of one reference a sentence: int [E, 10] -> text, see decode_statistics. RecordError as above.

    All but the totals, as 16 bits a number, column by column, first all low bytes, then all high ones, deflated, in
    base64: under half a byte a number.
    """
    stored = np.ascontiguousarray(check_statistics(statistics)[:, :NUM_STORED].T, dtype="<u2")
    return deflate_text(np.ascontiguousarray(stored.view(np.uint8).reshape(-1, 2).T).tobytes())


def decode_statistics(text: str, num_sentences: int) -> np.ndarray:
    """The statistics again: text -> int64 [num_sentences, 10]. RecordError where the text holds another number."""
    planes = np.frombuffer(inflate_text(text, "BLEU statistics"), dtype=np.uint8)
    if planes.size != num_sentences * NUM_STORED * 2:
        raise RecordError(
            f"BLEU statistics hold {planes.size} bytes ({NUM_STORED * 2} a sentence): {num_sentences} sentences were "
            "expected"
        )
    stored = np.ascontiguousarray(planes.reshape(2, -1).T).view("<u2").reshape(NUM_STORED, -1).T.astype(np.int64)
    return check_statistics(np.concatenate([stored, _count_ngrams(stored[:, 0])], axis=1))
