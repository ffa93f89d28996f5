import pytest
from exporting import TINY, Exported, make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The smallest network, exported once; tests leave it as it is."""
    return make(TINY, tmp_path_factory.mktemp("tiny") / "model.onnx")
