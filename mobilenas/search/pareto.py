"""Non-dominated points and hypervolume. Every column is minimised: negate what is maximised."""

import numpy as np
from numpy.typing import NDArray
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import find_non_dominated


def non_dominated(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices, ascending, of the points (n, objectives) that no other point dominates.

    Equal points do not dominate each other: all of them are kept.
    """
    return find_non_dominated(np.asarray(points, dtype=float))


def hypervolume(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Volume that the points (n, objectives) dominate, up to `reference` (objectives,).

    Points that are not better than the reference in every objective add nothing. The indicator of
    Zitzler & Thiele 1998.
    """
    if len(points) == 0:
        return 0.0
    return float(HV(ref_point=np.asarray(reference, dtype=float))(np.asarray(points, dtype=float)))
