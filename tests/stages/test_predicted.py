"""What a search by prediction is told of archs."""

from typing import Any

import numpy as np

from mobilenas.cost import CostModel
from mobilenas.cost.model import flops_and_params
from mobilenas.evaluate.truth import Truth
from mobilenas.space import load_space
from mobilenas.stages.predicted import PredictedAccuracy

SPACE = load_space("macro")


class ByName:
    """Measurements that depend on the name of a network, as those of a supernet do."""

    def figures(self, archs: Any) -> np.ndarray:
        rows = [SPACE.encode(arch) @ (1 + np.arange(8)) for arch in archs]
        return np.column_stack([np.array(rows) / 100, np.array(rows) % 7]).astype(float)


def test_a_network_is_predicted_under_one_name() -> None:
    rng = np.random.default_rng(0)
    archs = tuple({SPACE.canonical(SPACE.sample(rng)) for _ in range(12)})
    truth = Truth("drawn", archs, rng.random(len(archs)), flops_and_params(SPACE, archs))
    measurements: Any = ByName()
    predicted = PredictedAccuracy(measurements, CostModel(SPACE), truth)
    # Within a stage an identity may stand before or behind a block of equal shape.
    texts = ("id_id_id_e3k3_id_id_id_id", "id_id_id_id_e3k3_id_id_id")
    names = [SPACE.parse(text) for text in texts]
    assert names[0] != names[1] and SPACE.canonical(names[0]) == SPACE.canonical(names[1])
    one, other = predicted(names)
    assert one == other
