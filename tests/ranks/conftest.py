"""Runs a function in several processes that make up one run, as torchrun would start them."""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

Run = Callable[..., list[Any]]


@pytest.fixture
def run_ranks() -> Run:
    """See ``in_processes``."""
    if torch.cuda.is_available():
        pytest.skip("the ranks are forked, and autograd with a GPU does not survive that: set CUDA_VISIBLE_DEVICES=")
    return in_processes


def in_processes(size: int, function: Callable[[int], Any], seconds: float = 90) -> list[Any]:
    """Return the results of ``function(rank)`` by rank; None for a rank that ended without a result.

    An exception on any rank fails the test, and so does a rank that takes longer than ``seconds``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_rank, args=(rank, size, port, function, pipes[rank][1]), daemon=True)
        for rank in range(size)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    results, deadline = [], time.monotonic() + seconds
    for receiver, _ in pipes:
        if not receiver.poll(max(0.0, deadline - time.monotonic())):
            for process in processes:
                process.kill()
            raise TimeoutError(f"a rank has not ended after {seconds} s")
        try:
            results.append(receiver.recv())
        except EOFError:
            results.append(None)
    for process in processes:
        process.join()
    for rank, result in enumerate(results):
        if isinstance(result, BaseException):
            raise AssertionError(f"rank {rank}") from result
    return results


def _rank(rank: int, size: int, port: int, function: Callable[[int], Any], pipe: Any) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(value) for name, value in names.items()}
    torch.set_num_threads(1)
    try:
        result = function(rank)
    except BaseException as error:
        traceback.print_exc()
        result = AssertionError(f"{type(error).__name__}: {error}")
    pipe.send(result)
    pipe.close()
    os._exit(0)  # leaves alone the open files and exit handlers of the parent, which a fork inherits
