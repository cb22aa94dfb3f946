"""A translation run small enough for tests: number words from German to English, trained in seconds."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
from quick_compile import QUICK_FLAGS
from tiny_runs import ROOT
from tiny_translation import ENGLISH, GERMAN, TINY, write_raw

from configs import multi30k_deen_luna16
from lra_tasks.translation_preparation import prepare_translation
from lra_tasks.translation_settings import resolve_translation

WORDS = dataclasses.replace(TINY, name="words_deen", vocab_size=100)
"""Enough subwords for one a word."""
SIZES = {"train": 240, "validation": 8, "test_a": 8, "test_b": 8}
NUM_STEPS = 140
OVERRIDES = {
    "data.task": WORDS.name,
    "data.max_tokens": 320,
    "model.emb_dim": 32,
    "model.mlp_dim": 64,
    "model.num_heads": 2,
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "model.dropout_rate": 0.05,  # so that the state of dropout matters, too
    "luna.num_pack_heads": 2,
    "luna.pack_length": 8,
    "causal.chunk_size": 8,
    "optim.learning_rate": 0.01,
    "optim.warmup_steps": 40,
    "train.num_steps": NUM_STEPS,
    "train.log_every_steps": 20,
    "train.eval_every_steps": 70,
    "train.checkpoint_every_steps": 50,
    "train.average_every_steps": 30,
    "train.num_averaged": 3,
    "decode.beam_size": 2,
}
"""Of the preset cpu."""

# Python with the tiny task among the tasks: what main of an entry raises beyond UserError ends it with a traceback
ENTRY = """
import runpy, sys
sys.path.insert(0, "tests")
from tiny_translation_runs import WORDS
from lra_tasks.translation import TRANSLATIONS
TRANSLATIONS[WORDS.name] = WORDS
runpy.run_module(f"lra_tasks.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
"""


def make_config(**changes):
    """The tiny config as a nested dict; `model__emb_dim=8` changes model.emb_dim."""
    config = multi30k_deen_luna16.get_config("cpu").to_dict()
    for key, value in {**OVERRIDES, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        section, _, field = key.rpartition(".")
        (config[section] if section else config)[field] = value
    return config


def make_experiment(**changes):
    """A tiny translation experiment."""
    return resolve_translation(make_config(**changes))


def make_pairs(num_pairs, seed):
    """(German lines, English lines) of the same six digits: every length is one more shape to compile."""
    rows = np.random.default_rng(seed).integers(0, 10, (num_pairs, 6))
    return tuple([" ".join(words[digit] for digit in row) for row in rows] for words in (GERMAN, ENGLISH))


def prepare_words(folder, seed=0):
    """The prepared tiny task, in `folder` / data."""
    text = {split: make_pairs(size, seed + place) for place, (split, size) in enumerate(SIZES.items())}
    return prepare_translation(WORDS, folder / "data", raw_dir=write_raw(folder / "raw", text))


def train_command(workdir, data_dir, **changes):
    """The README's command with the tiny overrides."""
    overrides = {**OVERRIDES, **{key.replace("__", "."): value for key, value in changes.items()}}
    config = [f"--config.{key}={value}" for key, value in overrides.items()]
    config = ["--config", "configs/multi30k_deen_luna16.py:cpu", *config]
    return ["train", *config, "--workdir", workdir, "--data_dir", data_dir]


def start(command, **options):
    """An entry as a process of its own, with the tiny task among the tasks, its output in pipes."""
    environment = os.environ | {"XLA_FLAGS": QUICK_FLAGS, "JAX_NUM_CPU_DEVICES": "1"} | options.pop("environment", {})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    line = [sys.executable, "-c", ENTRY, *map(str, command)]
    return subprocess.Popen(line, cwd=ROOT, env=environment, text=True, encoding="utf-8", **pipes | options)


def run(command, text="", **options):
    """Starts an entry, gives it `text` and waits for it."""
    process = start(command, **options)
    out, err = process.communicate(text, timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def read_experiment(workdir):
    """The experiment of a work directory."""
    return resolve_translation(json.loads((workdir / "config.json").read_text()))
