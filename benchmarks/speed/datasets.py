"""How fast clients train on a dataset that is read sample by sample, against tensors; the samples are the same.

    python benchmarks/speed/datasets.py

LeNet-5 on Fashion-MNIST, one client of 600 samples in batches of 32, one epoch, SPDST, d = 0.05, one thread. Contenders
take turns; the table has the median of the seconds, and the median of the ratios to TensorData in the same turn.
``decoded`` stands for samples in files: each is a PNG in memory that Pillow decodes.
"""

import argparse
import io
import time
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms.functional import pil_to_tensor

from flash_pl import SPDST, Classifier, FederatedTrainer
from flash_pl.data import IID, FashionMNIST, PartitionedDataset, TensorData
from flash_pl.models import LeNet5

CLIENTS, SAMPLES = 20, 12_000


class OneByOne(Dataset):
    """Rows of tensors, one after the other."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.targets = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.targets[index])


class Decoded(OneByOne):
    """Images that are decoded at every access."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__(images, labels)
        self.files = []
        for image in (images * 255).round().byte():
            file = io.BytesIO()
            Image.fromarray(image[0].numpy()).save(file, "png")
            self.files.append(file.getvalue())

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(io.BytesIO(self.files[index])) as image:
            return pil_to_tensor(image).float() / 255, int(self.targets[index])


def contenders() -> dict[str, Any]:
    """The data of each contender, by name."""
    stored = FashionMNIST()
    stored.prepare_data()
    train, test = stored.load()
    images, labels = train.inputs[:SAMPLES].float() / 255, train.labels[:SAMPLES]
    small = test.inputs[:100].float() / 255, test.labels[:100]
    setting: dict[str, Any] = {"clients": CLIENTS, "partition": IID(), "batch_size": 32}
    tested = TensorDataset(*small)
    return {
        "TensorData": TensorData((images, labels), small, **setting),
        "TensorDataset": PartitionedDataset(TensorDataset(images, labels), tested, **setting),
        "one by one": PartitionedDataset(OneByOne(images, labels), tested, **setting),
        "one by one, 1 worker": PartitionedDataset(OneByOne(images, labels), tested, workers=1, **setting),
        "decoded": PartitionedDataset(Decoded(images, labels), tested, **setting),
        "decoded, 1 worker": PartitionedDataset(Decoded(images, labels), tested, workers=1, **setting),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    clients, seconds = {}, {}
    for name, data in contenders().items():
        torch.manual_seed(0)
        trainer = FederatedTrainer(
            SPDST(), density=0.05, rounds=1, cohort=1, accelerator="cpu", enable_progress_bar=False
        )
        loop = trainer.loop(Classifier(LeNet5(), classes=10), data)
        loop.client.attach_()
        loop.make_first_mask()
        clients[name], seconds[name] = loop, []
    weights = {}
    for turn in range(turns + 1):
        for name, loop in clients.items():
            participant = loop.plan.everyone(0)[turn % CLIENTS]
            batches = loop.data.client_batches(participant.client)
            loop.client.receive(loop.server.masked(), loop.server.mask)
            context = loop.plan.context(participant, len(batches), 0)
            start = time.perf_counter()
            with loop.client.backend:
                loop.local.run(loop.client, loop.scheduler, batches, context)
            seconds[name].append(time.perf_counter() - start)
            weights[name] = loop.client.arena.clone()
        assert all(torch.equal(found, weights["TensorData"]) for found in weights.values())
    print("| data | seconds of a client | times TensorData |\n|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values[1:], seconds["TensorData"][1:], strict=True)]
        print(f"| {name} | {median(values[1:]):.3f} | {median(ratios):.2f} |")
    for loop in clients.values():
        if hasattr(loop.data, "teardown"):
            loop.data.teardown("fit")


if __name__ == "__main__":
    main()
