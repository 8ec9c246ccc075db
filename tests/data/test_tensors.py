"""TensorData: tensors and arrays of the caller."""

import pytest
import torch

from flash_pl.data import IID, Dirichlet, TensorData
from flash_pl.errors import ConfigError


def test_tensors_are_used_unchanged() -> None:
    images, labels = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    data = TensorData((images, labels), (images, labels), clients=1, eval_batch_size=12)
    data.setup("fit")
    assert data.classes == 3 and data.shape == (1, 4, 4)
    assert torch.equal(next(iter(data.val_dataloader()))[0], images)


def test_images_in_double_precision_become_single() -> None:
    images, labels = torch.rand(12, 1, 4, 4, dtype=torch.float64), torch.arange(12) % 3
    data = TensorData((images, labels), (images, labels), clients=2, partition=IID(), seed=1)
    data.setup("fit")
    batches = data.client_batches(0)
    assert batches.inputs.dtype == torch.float32 and data.val_dataloader().inputs.dtype == torch.float32


def test_numpy_arrays_are_used_like_tensors() -> None:
    images, labels = torch.rand(6, 1, 2, 2), torch.arange(6)
    tensors, arrays = ((images, labels), (images.numpy(), labels.numpy()))
    data = [TensorData(split, split, clients=2, partition=IID()) for split in (tensors, arrays)]
    for module in data:
        module.setup()
    assert torch.equal(data[0].train.inputs, data[1].train.inputs) and data[0].classes == data[1].classes == 6


GOOD = torch.rand(6, 1, 2, 2), torch.arange(6)


@pytest.mark.parametrize(
    "train, test, key, value",
    [
        (GOOD, None, "test", "NoneType"),
        (GOOD[0], GOOD, "train", "Tensor"),
        (([1], [2]), GOOD, "train", "tuple"),
    ],
)
def test_objects_that_are_not_samples_are_refused(train: object, test: object, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{value} .* Samples") as error:
        TensorData(train, test)  # type: ignore[arg-type]
    assert error.value.key == key


def test_a_label_in_a_column_divides_samples_like_a_label():
    inputs = torch.rand(200, 3)
    for labels in (torch.rand(200), torch.arange(200) % 4):
        shapes = [(inputs, labels), (inputs, labels.reshape(-1, 1))]
        parts = [TensorData(split, split, clients=5, partition=Dirichlet(0.3), seed=1) for split in shapes]
        for data in parts:
            data.setup()
        own = [[data.client_batches(client).labels.flatten() for client in range(5)] for data in parts]
        assert all(torch.equal(*both) for both in zip(*own, strict=True))
        means = torch.stack([labels.double().mean() for labels in own[1]])
        assert means.std() > 0.3 * labels.double().std()  # divided at random they would be nearly equal
    pairs = TensorData((inputs, torch.rand(200, 2)), (inputs, torch.rand(200, 2)), clients=5)
    assert pairs.train.targets is None
