"""Figures: the look of rows, curves over seeds, scales, places of labels, and files."""

import itertools
import math

import numpy as np
import pytest
from experiments import make_curve, make_experiment, make_point
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from configs.rows import ROWS
from lra_tasks import figure_data, figure_panels, figures, row_styles
from lra_tasks.errors import UserError
from lra_tasks.label_layout import find_leaders, place_labels

DARK_PAGE = "#15181c"
# how each kind of colour blindness sees linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.0
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_CONES = [
    [0.41222147, 0.53633254, 0.05144599],
    [0.21190350, 0.68069955, 0.10739696],
    [0.08830246, 0.28171884, 0.62997870],
]
TO_LAB = [
    [0.21045426, 0.79361779, -0.00407205],
    [1.97799850, -2.42859221, 0.45059371],
    [0.02590404, 0.78277177, -0.80867577],
]


def to_linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """As the Web Content Accessibility Guidelines define it."""
    light = sorted(to_linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (first, second))
    return (light[1] + 0.05) / (light[0] + 0.05)


def to_oklab(colour: str, kind: str) -> np.ndarray:
    seen = np.clip(np.asarray(VISION[kind]) @ to_linear(colour), 0, 1)
    return np.asarray(TO_LAB) @ np.cbrt(np.asarray(TO_CONES) @ seen)


def test_every_row_has_a_look_of_its_own_and_its_colour_can_be_seen():
    looks = {row: row_styles.style_of(row) for row in ROWS}
    assert len({(look.colour, look.dash) for look in looks.values()}) == len(ROWS)
    for look in looks.values():
        assert contrast(look.colour, "#ffffff") >= 3
        assert contrast(look.dark_colour, DARK_PAGE) >= 3
    assert {row for *_, members in row_styles.COLOURS for row in members} == set(ROWS)


@pytest.mark.parametrize("kind", VISION)
@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stay_apart_for_the_colour_blind(kind: str, theme: int):
    seen = [to_oklab(entry[theme], kind) for entry in row_styles.COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.055


def test_the_same_row_twice_in_a_panel_has_two_dashes_and_one_colour():
    (panel,) = figure_data.make_panels(
        [make_experiment(variant="pooling cls"), make_experiment(variant="pooling mean")], {"luna16": "Luna-16"}
    )
    first, second = panel.entries
    assert (first.label, second.label) == ("Luna-16, pooling cls", "Luna-16, pooling mean")
    assert first.style.colour == second.style.colour == row_styles.colour_of("luna16")
    assert first.style.dash != second.style.dash


def test_a_panel_holds_one_task_version_and_protocol():
    changes = [
        {},
        {"row": "linear"},
        {"protocol": "paper"},
        {"task_version": "2.0.0"},
        {"task": "text", "chance": 50.0},
    ]
    panels = figure_data.make_panels([make_experiment(**change) for change in changes], {})
    assert [len(panel.entries) for panel in panels] == [2, 1, 1, 1]
    assert [panel.title for panel in panels[:3]] == [
        "ListOps 1.0.0, protocol cpu",
        "ListOps 1.0.0, protocol paper",
        "ListOps 2.0.0, protocol cpu",
    ]
    assert panels[3].chances == (50.0,)


def test_seeds_that_logged_at_different_steps_meet_where_all_of_them_ran():
    one = make_experiment(
        curves=[make_curve((0, 100, 200, 300), (10, 20, 30, 40)), make_curve((50, 150, 250), (0, 10, 30))]
    )
    spread = figure_data.summarise(figure_data.list_curves(one))
    assert spread.steps.tolist() == [50, 100, 150, 200, 250]
    assert spread.low.tolist() == [0, 5, 10, 20, 30]
    assert spread.high.tolist() == [15, 20, 25, 30, 35]
    assert spread.mean.tolist() == [7.5, 12.5, 17.5, 25, 32.5]


def test_seeds_without_a_step_in_common_have_no_mean():
    one = make_experiment(curves=[make_curve((1, 2), (10, 20)), make_curve((3, 4), (10, 20))])
    assert figure_data.summarise(figure_data.list_curves(one)).steps.size == 0


def test_points_that_are_not_finite_are_left_out_and_a_run_of_those_alone_has_no_curve():
    one = make_experiment(curves=[make_curve((1, 2, 3), (10, math.nan, 30)), make_curve((1,), (math.nan,))])
    ((steps, values),) = figure_data.list_curves(one)
    assert (steps.tolist(), values.tolist()) == ([1, 3], [10, 30])


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    steps = np.arange(5000)
    thinned, values = figure_data.thin(steps, steps * 2)
    assert (len(thinned), thinned[0], thinned[-1], values[-1]) == (figure_data.MAX_POINTS, 0, 4999, 9998)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (49.2, 62, [50, 52, 54, 56, 58, 60, 62]), (0.1, 0.3, [0.1, 0.15, 0.2, 0.25, 0.3])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]):
    assert figure_data.choose_ticks(low, high) == pytest.approx(ticks)


def test_logarithmic_ticks_references_and_numbers():
    assert figure_data.choose_log_ticks(0.9, 30) == [1, 2, 5, 10, 20]
    assert figure_data.choose_references([7e8, 1.3e9]) == [2e8, 5e8, 1e9]
    assert figure_data.choose_references([0.0]) == []
    assert [figure_data.show_bytes(amount) for amount in (0, 850e6, 1.25e9)] == ["0 B", "850 MB", "1.25 GB"]
    assert [figure_data.show_number(value) for value in (0.5, 12.0, 2000.0)] == ["0.5", "12", "2,000"]


def test_labels_cover_neither_each_other_nor_a_centre_and_stay_inside():
    random = np.random.default_rng(0)
    area, size = (400, 160), (90, 12)
    centres = random.normal((370, 80), (20, 16), (14, 2)).clip((10, 10), (390, 150))
    corners = place_labels(centres.tolist(), [4.0] * 14, [size] * 14, area)
    for first, second in itertools.combinations(corners, 2):
        assert (abs(first - second) >= size).any()
    for corner, centre in itertools.product(corners, centres):
        assert not ((corner < centre) & (centre < corner + size)).all()
    assert (corners >= 0).all()
    assert (corners + size <= area).all()


def test_a_label_goes_far_rather_than_onto_a_centre():
    centres = [(200, 14), (200, 26), (200, 38), (200, 50)]  # labels as wide as the area, room above all circles only
    corners = place_labels(centres, [4] * 4, [(380, 12)] * 4, (400, 140))
    for (_, low), (_, middle) in itertools.product(corners, centres):
        assert not low < middle < low + 12


def test_a_single_label_stands_to_the_right_of_its_circle():
    ((x, y),) = place_labels([(100, 50)], [10], [(40, 12)], (300, 100))
    assert (x, y) == (pytest.approx(112), pytest.approx(44))


def test_a_label_has_a_line_to_its_circle_where_one_could_ask_whose_it_is():
    centres, radii, sizes = [(50, 50), (100, 50)], [10, 10], [(20, 10), (20, 10)]
    beside = np.array([(62, 45), (112, 45)])
    assert find_leaders(beside, centres, radii, sizes) == [None, None]
    between = np.array([(68, 45), (150, 45)])  # as near to the second circle as to its own; far from its own
    assert find_leaders(between, centres, radii, sizes) == [(68, 50), (150, 50)]


def test_speeds_that_span_more_than_a_factor_of_four_stand_on_a_logarithmic_scale_and_areas_follow_memory():
    for fastest, scale in ((4.0, "linear"), (4.1, "log")):
        axes = Figure().subplots()
        points = [make_point(speed=1.0, memory=1e9), make_point(speed=fastest, memory=4e9)]
        radii = figure_panels.draw_circles(axes, "a", points)
        assert axes.get_xscale() == scale
        assert radii[1] ** 2 / radii[0] ** 2 == pytest.approx(4)
        discs = next(found for found in axes.collections if isinstance(found, PathCollection))
        assert np.sqrt(discs.get_sizes()) / 2 == pytest.approx(radii)


def test_dots_are_sorted_and_collapsed_seeds_are_hollow():
    experiments = [
        make_experiment("luna16", (40.0, 50.0), collapsed=(True, False)),
        make_experiment("linear", (60.0,)),
    ]
    axes = Figure().subplots()
    figure_panels.draw_accuracies_of(axes, figure_data.make_panels(experiments, {})[0])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["luna16", "linear"]
    small = [line for line in axes.get_lines() if line.get_markersize() < 4]
    assert {float(line.get_xdata()[0]): line.get_markerfacecolor() == "none" for line in small} == {
        40.0: True,
        50.0: False,
    }
    assert "chance, 17.00" in axes.get_xlabel() or any(
        list(line.get_xdata()) == [17.0, 17.0] for line in axes.get_lines()
    )


def test_figures_are_whole_and_change_with_their_data_only(tmp_path):
    experiments = [make_experiment(), make_experiment("linear", (30.0,))]
    written = figures.draw_curves(experiments, tmp_path / "a")
    again = figures.draw_curves(experiments, tmp_path / "b")
    assert [path.name for path in written] == ["training_curves.png", "training_curves.svg"]
    for first, second in zip(written, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert b"<dc:date>" not in written[1].read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["training_curves.png", "training_curves.svg"]


def test_the_other_figures_are_written_too(tmp_path):
    points = [make_point(), make_point("linear", 30.0, 44.0, task_title="Text")]
    names = [path.name for path in figures.draw_trade_off(points, tmp_path)]
    names += [path.name for path in figures.draw_accuracies([make_experiment()], tmp_path, {"luna16": "Luna-16"})]
    assert names == ["trade_off.png", "trade_off.svg", "accuracy.png", "accuracy.svg"]
    for name in names:
        start = (tmp_path / name).read_bytes()[:5]
        assert start == (b"\x89PNG\r" if name.endswith("png") else b"<?xml")


def test_no_data_makes_no_figure(tmp_path):
    assert figures.draw_trade_off([], tmp_path) == []
    assert figures.draw_trade_off([make_point(speed=0.0)], tmp_path) == []
    assert figures.draw_curves([make_experiment(curves=[None, None])], tmp_path) == []
    assert figures.draw_accuracies([], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/figures: figures cannot be written"):
        figures.draw_curves([make_experiment()], tmp_path / "file" / "figures")
