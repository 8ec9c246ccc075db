"""Every shipped method keeps the contract."""

import pytest
import torch

from flash_pl import JMWST, NST, PDST, SPDST, Dense, FederatedTrainer
from flash_pl.schedulers import (
    FIARSE,
    SSFL,
    STEAD,
    AfterTraining,
    Cosine,
    DynamicSparseTraining,
    EveryEpoch,
    EverySteps,
    FedDST,
    FedRTS,
    HeteroFL,
    LastStep,
    MagnitudeUpload,
    SaliencyStage,
    SaliencyTrainee,
    Sensitivity,
    SparseScheduler,
    SparsyFed,
    TopK,
    ZeroFL,
)
from flash_pl.sparsity import Gradient, KeepLayers, Move, Saliency, TotalMagnitude
from flash_pl.testing import check_scheduler

STAGE_1 = Sensitivity(init_fraction=0.4, epochs=2)
OFTEN = LastStep(rounds=2)
METHODS = {
    "base": SparseScheduler,
    "dense": Dense,
    "dst": DynamicSparseTraining,
    "nst": NST,
    "pdst": PDST,
    "spdst": lambda: SPDST(sensitivity=STAGE_1),
    "stead": lambda: STEAD(every=2),
    "jmwst": lambda: JMWST(sensitivity=STAGE_1),
    "jmwst every second round": lambda: JMWST(sensitivity=STAGE_1, interval=EveryEpoch(rounds=2)),
    "rigl": lambda: NST(move=Move(growth=Gradient(), redistribution=KeepLayers()), decay=Cosine()),
    "momentum": lambda: NST(
        move=Move(Saliency(), Gradient(), TotalMagnitude(), memory=0.9), interval=EverySteps(steps=2)
    ),
    "set": lambda: NST(move=Move(redistribution=KeepLayers()), interval=LastStep(), decay=Cosine(rounds=3)),
    "magnitude upload": MagnitudeUpload,
    "top k": TopK,
    "zerofl": lambda: ZeroFL(ratio=0.1),
    "ssfl": lambda: SSFL(SaliencyStage(init_fraction=0.5)),
    "saliency trainee": SaliencyTrainee,
    "feddst": lambda: FedDST(interval=OFTEN, decay=Cosine(rounds=3)),
    "feddst after training": lambda: FedDST(interval=AfterTraining(rounds=2), decay=Cosine(rounds=3)),
    "sparsyfed": SparsyFed,
    "heterofl": HeteroFL,
    "fiarse": FIARSE,
    "fiarse with importance": lambda: FIARSE(importance=True),
    "fedrts": lambda: FedRTS(interval=OFTEN, decay=Cosine(rounds=3)),
}
QUICK = ("jmwst",)  # the others are for a full run of the tests
LIMITS = {"dense": (1.0, 1.0), "saliency trainee": (1.0, 1.0), "zerofl": (0.3, None)}


def every_subclass(cls: type) -> set[type]:
    return {cls}.union(*(every_subclass(sub) for sub in cls.__subclasses__()))


def test_no_shipped_method_is_left_out():
    shipped = {cls for cls in every_subclass(SparseScheduler) if cls.__module__.startswith("flash_pl.schedulers.")}
    assert shipped == {type(make()) for make in METHODS.values()}


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_the_contract(name, accelerator):
    upload, server = LIMITS.get(name, (None, None))
    check_scheduler(METHODS[name], upload=upload, server=server, accelerator=accelerator)


def test_a_name_that_looks_like_a_hook_is_one():
    with pytest.raises(TypeError, match="Typo.on_agregate is not a hook of a scheduler; did you mean on_aggregate?"):

        class Typo(SparseScheduler):
            def on_agregate(self, server, updates, round):
                pass


def test_a_method_may_forget_to_call_the_constructor_of_its_base_class(unaware, tiny_data):
    class Forgets(SparseScheduler):
        def __init__(self, rate=0.1):
            self.rate = rate

    servers = []
    for make in (Forgets, SparseScheduler):
        torch.manual_seed(0)
        loop = FederatedTrainer(make(), density=0.3, rounds=1, cohort=2, accelerator="cpu").fit(unaware(), tiny_data)
        servers.append(loop.server)
    assert torch.equal(servers[0].weights, servers[1].weights) and torch.equal(servers[0].mask, servers[1].mask)
