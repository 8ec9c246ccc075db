"""flash_pl: ``FederatedTrainer.fit``, dense and under a fixed random mask (PDST) with the sparse kernels."""

import torch
from rounds import Rounds
from workload import BATCH, LR, Task, Workload

from flash_pl import PDST, Classifier, Dense, EvaluationSchedule, FederatedTrainer
from flash_pl.callbacks import Callback
from flash_pl.data import Samples, TensorData
from flash_pl.loops import FederatedLoop
from flash_pl.server import ClientSampler, Population

DENSE_LAYERS = {"lenet5": [], "resnet18": ["model.fc"]}  # as in the shipped configurations
NEVER = 10**6


class SharedCohorts(ClientSampler):
    def __init__(self, cohorts: list[list[int]]) -> None:
        self.cohorts = cohorts

    def __call__(self, population: Population, cohort: int, seed: int, round: int) -> list[int]:
        return self.cohorts[round]


class Timing(Callback):
    """Ends the run after the last timed round: no round has an evaluation."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def on_first_mask(self, loop: FederatedLoop) -> None:
        self.rounds.mark()

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        self.rounds.mark()
        loop.should_stop = loop.round == self.rounds.task.rounds


def main() -> None:
    task = Task.given()
    workload = Workload(task)
    images, labels = (tensor.flatten(0, 1) for tensor in workload.all_samples())
    owners = torch.arange(workload.clients).repeat_interleave(workload.samples)
    train = Samples(images, labels, owners)
    data = TensorData(train, Samples(images[:BATCH], labels[:BATCH]), clients=None, classes=10, batch_size=BATCH)
    network, dense = workload.network(), task.variant == "dense"
    trainer = FederatedTrainer(
        Dense() if dense else PDST(),
        density=1.0 if dense else float(task.variant),
        rounds=NEVER,
        cohort=workload.per_round,
        sampler=SharedCohorts(workload.cohorts),
        exclude=DENSE_LAYERS[task.workload],
        evaluate=EvaluationSchedule(eval_every=NEVER),
        accelerator="cpu",
        callbacks=[Timing(rounds := Rounds(task, workload))],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(network, classes=10, lr=LR), data)
    rounds.report(network, "flash-pl")


if __name__ == "__main__":
    main()
