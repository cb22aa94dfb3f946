"""Multi30k, German to English, with Luna-16.

    python -m lra_tasks.prepare multi30k_deen --raw_dir DIR     (train.de, train.en, val.*, test_2016_flickr.*, ...)
    python -m lra_tasks.train --config configs/multi30k_deen_luna16.py:cpu --workdir runs/multi30k_luna16

Expected: see the README for the cpu preset; the full recipe: not run yet.
Source row: none; captions are no task of the paper.
"""

from configs import recipes_translation


def get_config(presets: str = ""):
    """Our recipe, changed by presets: "cpu", "untied", "elu", "noncontextual", joined by +."""
    return recipes_translation.multi30k_deen("luna16", presets)
