"""A short federated run that the tests of clients share."""

import pytest

from flash_pl import PDST, FederatedTrainer
from flash_pl.sparsity import AsDrawn, FirstMask


@pytest.fixture
def fit():
    """Trains a module under a fixed random mask, by default for one round of two clients; returns the loop."""

    def fit(module, data, **settings):
        settings = {"density": 0.3, "rounds": 1, "cohort": 2, "accelerator": "cpu"} | settings
        scheduler = PDST(FirstMask(initialize=AsDrawn()))  # so that only one step is tried before the run
        return FederatedTrainer(scheduler, **settings).fit(module, data)

    return fit
