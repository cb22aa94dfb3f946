"""WMT'14 English to German with Luna-16.

    python -m lra_tasks.prepare wmt14_ende --raw_dir DIR            (train.en, train.de, valid.*, test.*)
    python -m lra_tasks.train --config configs/wmt14_ende_luna16.py --workdir runs/wmt14_ende_luna16

Expected: not run yet; the recipe is for eight accelerators.
Source row: Luna paper, Table 4, Luna-16; vocabulary 40,624 of both languages.
"""

from configs import recipes_translation


def get_config(presets: str = ""):
    """The authors' recipe, changed by presets: "paper", "untied", "elu", "noncontextual", joined by +."""
    return recipes_translation.wmt14_ende("luna16", presets)
