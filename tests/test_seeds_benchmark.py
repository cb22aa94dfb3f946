"""The measurement of seeds at once: that both ways train on the same batches, and what is made of the times."""

import json

import numpy as np
from tiny_runs import make_experiment

from lra_tasks import seeds_benchmark
from lra_tasks.measurements import Measurement
from lra_tasks.seeds_benchmark import show_seeds


def test_both_ways_train_on_the_same_batches_in_turns(monkeypatch, capsys, tmp_path):
    """The first round is not timed; of two others the medians count."""
    met, seconds = [], iter([9.0, 9.0, 9.0, 2.0, 1.0, 3.0, 4.0, 3.0, 3.0])
    real = seeds_benchmark.time_steps

    def time_steps(program, state, batches):
        found = list(batches)
        met.append([batch.tokens for batch in found])
        return real(program, state, found)[0], next(seconds)

    monkeypatch.setattr(seeds_benchmark, "time_steps", time_steps)
    measurement = Measurement("seeds", tmp_path, [])
    show_seeds(
        lambda name: make_experiment(f"{name}_luna16", train__batch_size=2),
        measurement,
        num_seeds=(2,),
        num_steps=3,
        rounds=2,
        names=("listops",),
    )
    for of_all, first, second in zip(met[::3], met[1::3], met[2::3], strict=True):
        assert np.array_equal(np.stack(of_all), np.stack([np.stack(pair) for pair in zip(first, second, strict=True)]))
    assert len({tokens.tobytes() for of_all in met[::3] for tokens in of_all}) == 9
    (speed,) = json.loads(measurement.file.read_text())["speeds"]
    assert (speed["at_once"], speed["one_by_one"], speed["ratio"]) == (12 / 3, 12 / 5, (2 + 1.5) / 2)
    assert capsys.readouterr().out.splitlines()[-2].split()[-3:] == ["4.0", "2.4", "1.75"]
