"""Places for the labels of circles, so that none covers another label, or the centre of a circle. Pure."""

from collections.abc import Sequence

import numpy as np

ANGLES = np.deg2rad(np.arange(0, 360, 22.5))
DISTANCES = (0, 6, 14, 26, 42, 62, 88, 120)  # beyond the edge of the circle
GRID = (16, 24)  # places all over the area, for crowds where the rings are taken
MARGIN = 2.0  # free space around labels and centres
LEADER_POINTS = np.linspace(0.1, 0.9, 9)
MAX_PASSES = 6
# what a place costs, against one unit of distance from the circle
OUTSIDE, OVERLAP, ON_CENTRE = 1e7, 1e5, 1e4
LEADER_ON_LABEL, LEADERS_CROSS, LEADER_NEAR_CENTRE, NEARER_TO_ANOTHER, ON_CIRCLE, NOT_RIGHT = 150, 60, 40, 25, 6, 1.5
NEAR = 5.5  # a label this near to the edge of its circle needs no line to it


def place_labels(
    centres: Sequence[tuple[float, float]],
    radii: Sequence[float],
    sizes: Sequence[tuple[float, float]],
    area: tuple[float, float],
) -> np.ndarray:
    """The lower left corner of each label: [N, 2].

    Labels are placed one by one where they cost least, and then again with the others in place, until none moves. Near
    its circle is cheap; covering a label or a centre is dear, leaving the area dearest. Of two orders, long labels
    first and crowded ones first, the better result is taken.

    Args:
        centres: of the circles, in any unit of length, all lengths in the same.
        radii: of the circles.
        sizes: width and height of the labels.
        area: width and height that labels must keep to, from the origin.
    """
    middle, extent = np.asarray(centres, dtype=float).reshape(-1, 2), np.asarray(sizes, dtype=float).reshape(-1, 2)
    radius = np.asarray(radii, dtype=float)
    count = len(middle)
    places = [_list_places(middle[i], radius[i], extent[i], area) for i in range(count)]
    fixed = [[_cost_alone(tier, extent[i], i, middle, radius, area) for tier in places[i]] for i in range(count)]
    gaps = np.linalg.norm(middle[:, None] - middle[None], axis=-1)
    crowded = np.argsort(np.sort(gaps, axis=1)[:, : min(count, 5)].sum(1), kind="stable")
    long = np.argsort(-extent[:, 0], kind="stable")
    results = [_place_in_turn(order, places, fixed, middle, extent) for order in (long, crowded)]
    return min(results, key=lambda result: result[0])[1]


def _place_in_turn(
    order: np.ndarray,
    places: list[tuple[np.ndarray, np.ndarray]],
    fixed: list[list[np.ndarray]],
    middle: np.ndarray,
    extent: np.ndarray,
) -> tuple[float, np.ndarray]:
    """What the labels cost in the end, and their corners [N, 2]."""
    chosen = np.full((len(middle), 2), np.nan)
    total = 0.0
    for _ in range(MAX_PASSES):
        before, total = chosen.copy(), 0.0
        for i in order:
            others = ~np.isnan(chosen[:, 0])
            others[i] = False
            best = np.inf
            for tier, alone in zip(places[i], fixed[i], strict=True):
                if best < LEADER_ON_LABEL:
                    break  # good enough: no need to look farther away
                cost = alone + _cost_beside(tier, extent[i], middle[i], chosen[others], extent[others], middle[others])
                if cost.min() < best:
                    best, chosen[i] = float(cost.min()), tier[int(cost.argmin())]
            total += best
        if np.array_equal(before, chosen):
            break
    return total, chosen


def _list_places(
    centre: np.ndarray, radius: float, size: np.ndarray, area: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Corners to choose from: rings around the circle, and a grid over the area. Both [places, 2]."""
    directions = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1)
    rings = [centre + directions * (radius + MARGIN + distance) + (directions - 1) * size / 2 for distance in DISTANCES]
    free = np.maximum(np.asarray(area) - size, 0)
    columns, rows = (np.linspace(0, free[axis], GRID[axis]) for axis in (0, 1))
    return np.concatenate(rings), np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)


def find_leaders(
    corners: np.ndarray,
    centres: Sequence[tuple[float, float]],
    radii: Sequence[float],
    sizes: Sequence[tuple[float, float]],
) -> list[tuple[float, float] | None]:
    """Where a line from each circle's centre is to end at its label; None where nobody would ask whose label it is."""
    middle, extent, radius = np.asarray(centres), np.asarray(sizes), np.asarray(radii)
    ends: list[tuple[float, float] | None] = []
    for index, (corner, size) in enumerate(zip(corners, extent, strict=True)):
        gaps = np.linalg.norm(_nearest_point(corner, size, middle) - middle, axis=-1) - radius
        stands_off = gaps[index] > NEAR or (np.delete(gaps, index) <= gaps[index]).any()
        end = _nearest_point(corner, size, middle[index])
        ends.append((float(end[0]), float(end[1])) if stands_off else None)
    return ends


def _nearest_point(corner: np.ndarray, size: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The point of a label that is nearest to a point: arrays [..., 2]."""
    return np.clip(point, corner, corner + size)


def _cost_alone(
    places: np.ndarray, size: np.ndarray, index: int, middle: np.ndarray, radius: np.ndarray, area: tuple[float, float]
) -> np.ndarray:
    """What each place costs whatever the other labels do."""
    centre = middle[index]
    ends = _nearest_point(places, size, centre)
    length = np.maximum(np.linalg.norm(ends - centre, axis=-1) - radius[index], 2 * MARGIN)  # all that touch are equal
    outside = (places < -1e-6).any(-1) | (places + size > np.asarray(area) + 1e-6).any(-1)
    cost = length + OUTSIDE * outside + NOT_RIGHT * (places[:, 0] < centre[0])
    nearest = _nearest_point(places[:, None], size, middle[None])
    gap = np.linalg.norm(nearest - middle[None], axis=-1)
    cost += ON_CENTRE * (gap < 2 * MARGIN).sum(-1) + ON_CIRCLE * (gap < radius).sum(-1)
    edge = gap - radius
    cost += NEARER_TO_ANOTHER * (np.delete(edge, index, axis=1) <= edge[:, index, None]).sum(-1)
    others = np.delete(middle, index, axis=0)
    points = centre + (ends - centre)[:, None] * LEADER_POINTS[:, None]
    near = np.linalg.norm(points[:, :, None] - others, axis=-1) < 2 * MARGIN
    return cost + LEADER_NEAR_CENTRE * near.any(1).sum(-1)


def _cost_beside(
    places: np.ndarray,
    size: np.ndarray,
    centre: np.ndarray,
    corners: np.ndarray,
    sizes: np.ndarray,
    centres: np.ndarray,
) -> np.ndarray:
    """What each place costs beside labels that have theirs: they, and the lines to their centres, want to be clear."""
    if not len(corners):
        return np.zeros(len(places))
    low, high = corners - MARGIN, corners + sizes + MARGIN
    overlaps = ((places[:, None] < high) & (places[:, None] + size > low)).all(-1).sum(-1)
    ends = _nearest_point(places, size, centre)
    points = centre + (ends - centre)[:, None] * LEADER_POINTS[:, None]
    crossed = ((points[:, :, None] > low) & (points[:, :, None] < high)).all(-1).max(1).sum(-1)
    other_ends = _nearest_point(corners, sizes, centres)
    theirs = centres + (other_ends - centres) * LEADER_POINTS[:, None, None]
    covered = ((theirs > places[:, None, None]) & (theirs < places[:, None, None] + size)).all(-1).max(1).sum(-1)
    meet = _cross(centre, ends[:, None], centres, other_ends).sum(-1)
    return OVERLAP * overlaps + LEADER_ON_LABEL * (crossed + covered) + LEADERS_CROSS * meet


def _cross(start: np.ndarray, end: np.ndarray, other_start: np.ndarray, other_end: np.ndarray) -> np.ndarray:
    """Whether two line segments have a point in common, for points [..., 2] that broadcast."""

    def side(a: np.ndarray, b: np.ndarray, point: np.ndarray) -> np.ndarray:
        return (b[..., 0] - a[..., 0]) * (point[..., 1] - a[..., 1]) > (b[..., 1] - a[..., 1]) * (
            point[..., 0] - a[..., 0]
        )

    apart = side(start, end, other_start) == side(start, end, other_end)
    return ~apart & (side(other_start, other_end, start) != side(other_start, other_end, end))
