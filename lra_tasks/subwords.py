"""A joint subword vocabulary: sentencepiece's byte-pair encoding, trained on the training side alone.

Every character of the text it is trained on is a piece, so that text comes back as it was, but for runs of spaces, and
only characters that the training side never had are unknown. Nothing is normalised, NFKC neither: BLEU compares with
the references as they are.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from lra_tasks.errors import UserError
from lra_tasks.typed_json import write_bytes

PADDING, UNKNOWN, END = 0, 1, 2
"""Ids that every vocabulary has; the end of a sentence also begins the decoder's input, fairseq's way."""
MOST_SENTENCES = 4_000_000
"""Lines that the pieces are learnt from; of more, every second, third and so on is taken."""
ENCODED_AT_ONCE = 10_000  # lines


class Subwords:
    """Text to ids and back, by the bytes of a sentencepiece model. Nothing is normalised but runs of spaces."""

    def __init__(self, model: bytes):
        self.model = model

    @classmethod
    def train(cls, lines: Sequence[str], vocab_size: int) -> "Subwords":
        """Learns `vocab_size` pieces, the three ids above among them; the same lines give the same bytes.

        Raises UserError where the text has too few pieces, or more characters than there is room for.
        """
        import sentencepiece

        step = max(1, -(-len(lines) // MOST_SENTENCES))
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=islice(lines, 0, None, step),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                character_coverage=1.0,
                normalization_rule_name="identity",
                pad_id=PADDING,
                unk_id=UNKNOWN,
                eos_id=END,
                bos_id=-1,
                num_threads=1,
                max_sentence_length=1 << 20,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"no vocabulary of {vocab_size:,} subwords can be learnt from {len(lines):,} lines "
                f"({explain(str(error))}); give more text, or a task with another vocab_size"
            ) from None
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Subwords":
        """The vocabulary in a file. UserError where it is missing or none."""
        try:
            subwords = cls(path.read_bytes())
            _ = subwords._processor
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it is no sentencepiece model"
            raise UserError(f"the vocabulary {path} cannot be read ({reason})") from None
        return subwords

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_bytes(path, self.model)

    def encode(self, text: str) -> np.ndarray:
        """Ids [N] int32, without the end of the sentence."""
        return np.asarray(self._processor.encode(text), np.int32)

    def encode_all(self, lines: Iterable[str]) -> list[list[int]]:
        """Ids of every line, each with the end of the sentence."""
        return [[*ids, END] for ids in self._processor.encode(list(lines))]

    def encode_flat(self, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`encode_all` as tokens [T] of `dtype`, one line after the other, and offsets [E + 1] int64."""
        parts, lengths = [np.zeros(0, self.dtype)], [np.zeros(1, np.int64)]
        for begin in range(0, len(lines), ENCODED_AT_ONCE):
            encoded = self.encode_all(lines[begin : begin + ENCODED_AT_ONCE])
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            parts.append(np.fromiter((token for ids in encoded for token in ids), self.dtype, lengths[-1].sum()))
        return np.concatenate(parts), np.cumsum(np.concatenate(lengths))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids up to the first end of the sentence; padding has none."""
        return self._processor.decode(list(takewhile(lambda number: number != END, map(int, ids))))

    @property
    def size(self) -> int:
        """Ids are 0 .. size - 1."""
        return self._processor.get_piece_size()

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type of the ids."""
        return np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)

    @cached_property
    def checksum(self) -> str:
        """sha256 (hex) of the model: a model trained with one vocabulary reads no other."""
        return hashlib.sha256(self.model).hexdigest()

    @cached_property
    def _processor(self) -> Any:
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        processor.load_from_serialized_proto(self.model)
        return processor


def explain(fault: str) -> str:
    """What sentencepiece says of a vocabulary that cannot be learnt, in our words where it names its own options."""
    if found := re.search(r"too high .*value <= (\d+)", fault):
        return f"the text has {int(found[1]):,} at most"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", fault):
        return f"its characters alone need {int(found[1]):,}"
    if "sentences_.empty()" in fault:
        return "they are empty"
    return (fault.strip().splitlines() or ["sentencepiece does not say why"])[-1]
