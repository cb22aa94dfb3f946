"""Sentences through a trained translation model: beam search in batches of like length, and BLEU of a test set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from lra_tasks.subwords import END, Subwords
from lra_tasks.translation_batches import source_batches
from lra_tasks.translation_data import ParallelSplit
from lra_tasks.translation_model import TranslationModel
from lra_tasks.translation_settings import DecodeSettings
from luna_jax.decoder import reorder
from luna_jax.generation import beam_search, greedy_search


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU of a test set, and what it is made of."""

    score: float
    """0 to 100."""
    signature: str
    """sacrebleu's, with its version and tokenizer."""
    statistics: np.ndarray
    """[E, 10] integers, see `lra_tasks.bleu.STATISTICS`."""


SHORTEST_BOUND = 16
"""Corpora are decoded in buckets of this length, twice it, and so on up to the longest sentence that a model takes:
compiling a beam search takes longer than searching a thousand sentences, so all splits of a task share their shapes."""
CORPUS = 128
"""Fewer sentences are in shapes of their own, which pad less."""


class Translator:
    """A model with a vocabulary and a way to search. It compiles once for each shape of a batch.

    A translation of M source subwords has at most length_factor M + length_offset, and never more than the model takes.
    """

    def __init__(self, model: TranslationModel, subwords: Subwords, decode: DecodeSettings):
        self.model, self.subwords, self.decode = model, subwords, decode
        self._search = jax.jit(self._run, static_argnames=("max_length", "greedy"))

    def translate(
        self,
        params: Any,
        sentences: Sequence[Any],
        *,
        greedy: bool = False,
        report: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Translations of encoded sentences, each with its end token, in their order; `report` is told how many."""
        texts: list[str] = [""] * len(sentences)
        done = 0
        budget = self.decode.max_tokens if greedy else max(1, self.decode.max_tokens // self.decode.beam_size)
        bounds = self.list_bounds() if len(sentences) >= CORPUS else ()
        for source, mask, numbers in source_batches(sentences, max_tokens=budget, bounds=bounds):
            limit = min(self.most_tokens(source.shape[1]), self.model.config.encoder.max_length)
            tokens, lengths = self._search(params, source, mask, max_length=limit, greedy=greedy)
            for number, ids, length in zip(numbers, np.asarray(tokens), np.asarray(lengths), strict=True):
                if number >= 0:
                    texts[number] = self.subwords.decode(ids[:length])
                    done += 1
            report(done)
        return texts

    def list_bounds(self) -> list[int]:
        """The lengths of the buckets of a corpus."""
        longest, bounds = self.model.config.encoder.max_length, [SHORTEST_BOUND]
        while bounds[-1] < longest:
            bounds.append(2 * bounds[-1])
        return [*bounds[:-1], longest]

    def most_tokens(self, source_length: int) -> int:
        """The limit on the tokens of a translation, the end token among them."""
        return int(self.decode.length_factor * source_length) + self.decode.length_offset

    def _run(self, params: Any, source: Any, mask: Any, *, max_length: int, greedy: bool) -> tuple[Any, Any]:
        batch_size = source.shape[0]
        limits = (self.decode.length_factor * mask.sum(1)).astype(int) + self.decode.length_offset
        state = self.model.start(params, source, mask, max_length)
        step = partial(self.model.step, params)
        options = {"batch_size": batch_size, "start": END, "end": END, "max_length": max_length, "limits": limits}
        if greedy or self.decode.beam_size == 1:
            found = greedy_search(step, state, **options)
            return found.tokens, found.lengths
        decode = self.decode
        penalty = {"beam_size": decode.beam_size, "length_penalty": decode.length_penalty}
        beams = beam_search(step, state, reorder, **penalty, **options)
        return beams.tokens[:, 0], beams.lengths[:, 0]


def list_sources(split: ParallelSplit) -> list[np.ndarray]:
    """The encoded source sentences of a split, each with its end token."""
    side = split.source
    return [side.tokens[begin:end] for begin, end in zip(side.offsets[:-1], side.offsets[1:], strict=True)]


def measure_bleu(translations: Sequence[str], references: Sequence[str]) -> Bleu:
    """sacrebleu's corpus BLEU in its default form, with the statistics of each sentence."""
    from sacrebleu.metrics.bleu import BLEU

    corpus, sentence = BLEU(), BLEU(effective_order=True)  # which order is effective changes no count
    score = corpus.corpus_score(list(translations), [list(references)]).score
    rows = []
    for text, reference in zip(translations, references, strict=True):
        one = sentence.sentence_score(text, [reference])
        rows.append([one.sys_len, one.ref_len, *one.counts, *one.totals])
    return Bleu(score, str(corpus.get_signature()), np.array(rows, np.int64))
