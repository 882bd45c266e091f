"""The real default backbone, from SPARSERM_HOME or downloaded into it."""

import pytest

from sparserm.model import SparseRM


@pytest.fixture(scope="session")
def head() -> SparseRM:
    model = SparseRM.from_pretrained("truthfulness")
    model.load_backbone()
    return model
