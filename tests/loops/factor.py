"""What the tests of captured steps share: a module whose loss has a factor, and runs of few clients."""

from tests.loops import test_captured as captured


class Net(captured.Net):
    """Multiplies its loss by ``factor``, which subclasses change."""

    def factor(self):
        return 1

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * self.factor()


def check(make, **settings):
    return captured.check(make, **({"rounds": 2, "cohort": 2} | settings))
