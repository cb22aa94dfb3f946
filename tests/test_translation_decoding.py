"""Decoding a list of sentences: order, limits and batches, with a model that copies; BLEU and its statistics."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from tiny_translation_runs import make_experiment

from lra_tasks.bleu import bleu_from_statistics
from lra_tasks.subwords import END
from lra_tasks.translation_decoding import Translator, measure_bleu
from lra_tasks.translation_model import TranslationModel
from luna_jax.decoder import DecoderState

VOCAB_SIZE = 12


class Digits:
    """A vocabulary: id n + 3 is the digit n."""

    def decode(self, ids):
        return "".join(str(number - 3) for number in ids if number > END)


def make_copier(max_length=64):
    """A model whose scores are those of the source, a token after the other, less and less sure of itself."""

    def start(params, source, mask, limit):
        assert limit <= max_length
        return DecoderState(jnp.asarray(source)[None], mask, jnp.zeros(source.shape[0], jnp.int32))

    def step(params, state, tokens):
        source = state.layers[0]
        here = jnp.take_along_axis(source, jnp.minimum(state.count, source.shape[1] - 1)[:, None], axis=1)[:, 0]
        scores = params * jax.nn.one_hot(here, VOCAB_SIZE)
        return scores, state._replace(count=state.count + 1)

    config = SimpleNamespace(encoder=SimpleNamespace(max_length=max_length))
    return TranslationModel(config, None, None, start, step, None)


def make_translator(max_length=64, **decode):
    experiment = make_experiment(**{f"decode__{key}": value for key, value in decode.items()})
    return Translator(make_copier(max_length), Digits(), experiment.decode)


def make_sentences(lengths, seed=0):
    """Ids of random digits and the end token, and the text that they are."""
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 9, length) for length in lengths]
    return [[*(row + 3).tolist(), END] for row in rows], ["".join(map(str, row)) for row in rows]


def test_translations_come_in_the_order_of_the_sentences():
    """In several batches of two shapes, with rows that only fill up; the empty sentence is one, too."""
    lengths = np.random.default_rng(1).choice([0, 1, 2, 3, 9, 10, 11], 41).tolist()
    sentences, texts = make_sentences(lengths)
    translator = make_translator(beam_size=3, max_tokens=96)
    done = []
    assert translator.translate(jnp.float32(20.0), sentences, report=done.append) == texts
    assert done == sorted(done)
    assert done[-1] == 41
    assert len(done) > 6


def test_corpora_share_their_shapes():
    """Other sentences of other lengths compile nothing anew; a handful has shapes of its own."""
    translator = make_translator(beam_size=1, length_penalty=1.0, max_tokens=256)
    for seed in (0, 1):
        lengths = np.random.default_rng(seed).integers(2, 30 + seed, 150 + 45 * seed).tolist()
        sentences, texts = make_sentences(lengths, seed)
        assert translator.translate(jnp.float32(20.0), sentences) == texts
        assert translator._search._cache_size() == 2  # up to 16, up to 32
    assert translator.translate(jnp.float32(20.0), sentences[:3]) == texts[:3]
    assert translator._search._cache_size() > 2
    assert translator.list_bounds() == [16, 32, 64]
    assert [make_translator(longest).list_bounds() for longest in (16, 10, 40)] == [[16], [10], [16, 32, 40]]


def test_nothing_to_translate():
    assert make_translator().translate(jnp.float32(20.0), []) == []


@pytest.mark.parametrize("greedy", [True, False])
def test_a_translation_is_cut_at_its_own_limit(greedy):
    """length_factor M + length_offset tokens, the end token among them, of its own source, not of its batch's."""
    sentences, texts = make_sentences([3, 4, 5, 6, 7])
    translator = make_translator(length_factor=0.5, length_offset=1)
    found = translator.translate(jnp.float32(20.0), sentences, greedy=greedy)
    assert found == [text[: (len(text) + 1) // 2] for text in texts]


def test_no_translation_is_longer_than_the_model_takes():
    sentences, texts = make_sentences([9, 2])
    found = make_translator(max_length=6).translate(jnp.float32(20.0), sentences, greedy=True)
    assert found == [texts[0][:5], texts[1]]


def test_bleu_is_sacrebleus():
    references = ["a b c d e f", "the cat sat on the mat .", "one two three four", "x", "left alone"]
    texts = ["a b c d f", "the cat sat on a mat .", "one two three four", "x y", ""]
    found = measure_bleu(texts, references)
    assert found.score == BLEU().corpus_score(texts, [references]).score
    assert 0 < found.score < 100
    assert float(bleu_from_statistics(found.statistics.sum(axis=0))) == pytest.approx(found.score, abs=1e-9)
    assert found.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    # tokens of translation and reference, matching 1- to 4-grams, all 1- to 4-grams
    assert found.statistics[0].tolist() == [5, 6, 5, 3, 2, 1, 5, 4, 3, 2]
    assert found.statistics[4].tolist() == [0, 2, *[0] * 8]
    assert measure_bleu(references[:3], references[:3]).score == pytest.approx(100)
