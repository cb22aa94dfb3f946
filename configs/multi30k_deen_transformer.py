"""Multi30k, German to English, with the Transformer (softmax attention, the same encoder-decoder).

    python -m lra_tasks.prepare multi30k_deen --raw_dir DIR     (train.de, train.en, val.*, test_2016_flickr.*, ...)
    python -m lra_tasks.train --config configs/multi30k_deen_transformer.py:cpu --workdir runs/multi30k_transformer

Expected: see the README for the cpu preset; the full recipe: not run yet.
Source row: none; captions are no task of the paper.
"""

from configs import recipes_translation


def get_config(presets: str = ""):
    """Our recipe, changed by presets: "cpu"."""
    return recipes_translation.multi30k_deen("transformer", presets)
