"""WMT'14 English to German with the Transformer (softmax attention, the same encoder-decoder).

    python -m lra_tasks.prepare wmt14_ende --raw_dir DIR            (train.en, train.de, valid.*, test.*)
    python -m lra_tasks.train --config configs/wmt14_ende_transformer.py --workdir runs/wmt14_ende_transformer

Expected: not run yet; the recipe is for eight accelerators.
Source row: Luna paper, Table 4, Transformer-base; vocabulary 40,624 of both languages.
"""

from configs import recipes_translation


def get_config(presets: str = ""):
    """The authors' recipe, changed by presets: "paper"."""
    return recipes_translation.wmt14_ende("transformer", presets)
