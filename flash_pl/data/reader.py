"""Batches of a map-style dataset, whose samples are read one by one, in this process or in worker processes."""

import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from flash_pl.data.batches import EpochLength
from flash_pl.data.labels import read_sample
from flash_pl.errors import SampleError
from flash_pl.seeding import derive_seed, preserve_global_rng, seed_global_rng_

CPU = torch.device("cpu")
Job = tuple[int, list[int]]  # a batch to read: the seed of its random draws, and the indices of its samples


class Reader:
    """Reads batches of a dataset; they are the same for any number of workers.

    Before each batch the global generators of torch, numpy and Python, from which random transforms draw, get a seed of
    this batch. In this process their states are restored afterward. A dataset that draws from a generator of its own
    does not profit from that.

    Args:
        dataset: map-style, with ``__getitem__`` or ``__getitems__``.
        collate_fn: makes a batch of a list of samples; by default torch's ``default_collate``.
        workers: processes that read samples while clients train; 0 reads in this process. They live as long as the
            reader or until ``close``, and serve all clients. Each has a copy of the dataset as it was at their start: a
            later change has no effect.
        worker_init_fn: called with its number in each worker at its start.

    >>> reader = Reader([10, 11, 12, 13])
    >>> list(reader.read([[3, 0], [2]], seed=0))
    [tensor([13, 10]), tensor([12])]
    """

    def __init__(
        self,
        dataset: Any,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        workers: int = 0,
        worker_init_fn: Callable[[int], None] | None = None,
    ) -> None:
        self.fetch, self.workers, self.worker_init_fn = _Fetch(dataset, collate_fn), workers, worker_init_fn
        self._jobs: list[Job] = []
        self._loader: DataLoader | None = None
        self._reads = 0

    def read(self, batches: Sequence[Sequence[int]], seed: int) -> Iterator[Any]:
        """The batches of samples with these indices, in this order. With workers a new call ends the one before it.

        Args:
            batches: sample indices of each batch.
            seed: of the random draws of the dataset.

        Raises:
            SampleError: a sample cannot be read.
        """
        jobs = [(derive_seed(seed, "sample", batch), list(map(int, index))) for batch, index in enumerate(batches)]
        self._reads += 1
        read = self._reads
        if not self.workers:
            for job in jobs:
                with preserve_global_rng(CPU):
                    batch = self.fetch.read(job)
                yield batch
            return
        self._jobs[:] = jobs
        if self._loader is None:
            # Without this call the exit of Python would wait for workers that nobody has told to end. It must come
            # before those that close the queues (priority 10), through which the workers are told.
            Finalize(None, _close, args=(weakref.ref(self),), exitpriority=100)
            self._loader = DataLoader(
                self.fetch,
                batch_sampler=self._jobs,  # type: ignore[arg-type]
                collate_fn=_unchanged,
                num_workers=self.workers,
                persistent_workers=True,  # to start them for every client would take longer than many epochs
                worker_init_fn=partial(_start_worker, self.worker_init_fn),
                pin_memory=torch.cuda.is_available(),
            )
        try:
            with preserve_global_rng(CPU):  # the loader draws a seed for its workers
                loaded = iter(self._loader)
            for batch in loaded:
                if read != self._reads:
                    raise RuntimeError("the batches of this dataset are read anew already")
                if isinstance(batch, _Unreadable):
                    raise SampleError(batch.reason)
                yield batch
        except RuntimeError:  # a worker may be gone, as one that has used too much memory; the next call has new ones
            self.close()
            raise

    def close(self) -> None:
        """End the workers; the next ``read`` starts new ones."""
        iterator = None if self._loader is None else self._loader._iterator
        if iterator is not None:  # an epoch that was broken off may refer to it as well, so that it would live on
            iterator._shutdown_workers()  # type: ignore[attr-defined]
        self._loader = None


class _Fetch(Dataset):
    """The dataset as a ``DataLoader`` sees it: one item is a whole batch."""

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None) -> None:
        self.dataset, self.collate_fn = dataset, collate_fn or default_collate
        # Rows of tensors are taken at once, which is many times faster than one by one.
        self.takes_rows = type(dataset) is TensorDataset and self.collate_fn is default_collate

    def __getitems__(self, job: Job) -> Any:
        try:
            return self.read(job)
        except Exception as error:  # otherwise its message would hold the traceback of the worker
            return _Unreadable(_describe(error))

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, job: Job) -> Any:
        """Read a batch."""
        seed, index = job
        if self.takes_rows:
            return [tensor[index] for tensor in self.dataset.tensors]
        seed_global_rng_(seed, CPU)
        samples = self._samples(index)
        try:
            return self.collate_fn(samples)
        except Exception as error:
            name = getattr(self.collate_fn, "__name__", type(self.collate_fn).__name__)
            raise SampleError(f"{name} cannot make a batch of {len(samples)} samples ({_describe(error)})") from error

    def _samples(self, index: list[int]) -> list[Any]:
        name = type(self.dataset).__name__
        if callable(at_once := getattr(self.dataset, "__getitems__", None)):
            try:
                samples = at_once(index)
            except Exception as error:
                raise SampleError(f"{name}.__getitems__ cannot read {index[:3]}... ({_describe(error)})") from error
            if len(samples) != len(index):
                raise SampleError(f"{name}.__getitems__ returns {len(samples)} samples for {len(index)} indices")
            return samples
        return [read_sample(self.dataset, number) for number in index]


@dataclass(frozen=True)
class _Unreadable:
    """In the place of a batch that a worker cannot read."""

    reason: str


def _describe(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SampleError) else f"{type(error).__name__}: {text}"


def _start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Let a worker ignore requests to stop: a terminal or a cluster sends them to it too, and the run ends it."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if init is not None:
        init(worker)


def _close(reader: "weakref.ref[Reader]") -> None:
    if (found := reader()) is not None:
        found.close()


def _unchanged(batch: Any) -> Any:
    return batch


class DatasetBatches(EpochLength):
    """Batches of some samples of a dataset.

    Args:
        reader: reads the samples.
        index: of the samples in the dataset, int64 ``[n]``.
        batch_size: samples per batch.
        drop_last: leave out a smaller last batch, unless it is the only one.

    >>> batches = DatasetBatches(Reader("abcde", list), torch.tensor([4, 1, 2]), batch_size=2)
    >>> list(batches)
    [['e', 'b'], ['c']]
    >>> sorted(sum(batches.shuffled(torch.Generator().manual_seed(0)), []))
    ['b', 'c', 'e']
    """

    def __init__(self, reader: Reader, index: Tensor, batch_size: int, drop_last: bool = False) -> None:
        self.reader, self.index, self.batch_size, self.drop_last = reader, index, batch_size, drop_last

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.index)

    def __iter__(self) -> Iterator[Any]:
        """The batches in the order of the samples. Random transforms draw the same numbers in every pass."""
        return self.reader.read(self._parts(self.index[: self.epoch_samples]), seed=0)

    def shuffled(self, generator: torch.Generator) -> Iterator[Any]:
        """One epoch in an order drawn from ``generator``: that of ``TensorBatches`` for as many samples."""
        order = self.shuffled_order(generator)
        # The seed of the transforms comes from a copy of the generator, so that the next epoch's order stays that of
        # samples without transforms.
        seed = int(torch.randint(2**62, (), generator=generator.clone_state()))
        return self.reader.read(self._parts(self.index[order]), seed)

    def _parts(self, index: Tensor) -> list[list[int]]:
        """The sample indices of each batch; no batches for no samples."""
        return [part.tolist() for part in index.split(self.batch_size) if len(part)]
