"""FedJAX: its ``federated_averaging`` with the jit backend; LeNet-5 once more in JAX.

Only LeNet-5, because FedJAX has no buffers such as BatchNorm's. Its last release calls functions that JAX has moved.
"""

# ruff: noqa: E402 - the names are patched before the package is imported

import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

from typing import Any

import jax

for name in ("tree_map", "tree_leaves", "tree_unflatten", "tree_structure"):
    if not hasattr(jax, name):
        setattr(jax, name, getattr(jax.tree_util, name))
jax.tree_multimap = jax.tree_util.tree_map

import fedjax
import numpy as np
import torch
from fedjax.algorithms import fed_avg
from jax import numpy as jnp
from rounds import Rounds
from workload import BATCH, LR, Task, Workload

Weights = dict[str, Any]


def convolution(images: Any, weights: Weights, layer: str, padding: int) -> Any:
    dimensions = ("NCHW", "OIHW", "NCHW")
    strides, border = (1, 1), [(padding, padding)] * 2
    product = jax.lax.conv_general_dilated(
        images, weights[f"{layer}.weight"], strides, border, dimension_numbers=dimensions
    )
    return jax.nn.relu(product + weights[f"{layer}.bias"][:, None, None])


def pool(images: Any) -> Any:
    n, channels, height, width = images.shape
    return images.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5))


def linear(inputs: Any, weights: Weights, layer: str) -> Any:
    return inputs @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]


def loss(weights: Weights, batch: dict[str, Any]) -> Any:
    features = pool(convolution(batch["x"], weights, "conv1", 2))
    features = pool(convolution(features, weights, "conv2", 0)).reshape(len(batch["y"]), -1)
    for layer in ("fc1", "fc2"):
        features = jax.nn.relu(linear(features, weights, layer))
    log_probabilities = jax.nn.log_softmax(linear(features, weights, "fc3"))
    return -jnp.take_along_axis(log_probabilities, batch["y"][:, None], 1).mean()


def main() -> None:
    task = Task.given()
    workload = Workload(task)
    network = workload.network()
    clients = {
        index: {"x": images.numpy(), "y": labels.numpy().astype(np.int32)}
        for index, (images, labels) in enumerate(workload.all_clients())
    }
    data = fedjax.InMemoryFederatedData(clients)
    algorithm = fed_avg.federated_averaging(
        lambda weights, batch, key: jax.grad(loss)(weights, batch),
        fedjax.optimizers.sgd(LR),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH, num_epochs=1, seed=None),
    )
    state = algorithm.init({name: jnp.asarray(value.numpy()) for name, value in network.state_dict().items()})
    key = jax.random.PRNGKey(0)
    rounds = Rounds(task, workload)
    rounds.mark()
    for round, cohort in enumerate(workload.cohorts):
        keys = jax.random.split(jax.random.fold_in(key, round), len(cohort))
        given = [(*pair, own) for pair, own in zip(data.get_clients(cohort), keys, strict=True)]
        state, _ = algorithm.apply(state, given)
        jax.block_until_ready(state.params)
        rounds.mark()
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.params.items()})
    rounds.report(network, "fedjax")


if __name__ == "__main__":
    main()
