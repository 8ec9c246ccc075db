"""Recorders run a step once and can then repeat its operations, on the same memory and without Python."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# The host must have the result of an operation before it can go on: it is copied to the host, or its size is unknown.
# torch tags most of these operations.
WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
WAITING = {torch.ops.aten.is_nonzero, torch.ops.aten._linalg_check_errors, torch.ops.aten._to_sparse}
INDEXING = {  # wait only for places that a mask gives
    torch.ops.aten.index,
    torch.ops.aten.index_put,
    torch.ops.aten.index_put_,
    torch.ops.aten._index_put_impl_,
}


class NotRepeatable(Exception):
    """A step cannot be recorded; the message says why."""


class Recorder(Protocol):
    """Records one step. A step is a function without arguments; what it reads and writes must stay where it is."""

    @staticmethod
    def warm_up(step: Callable[[], None]) -> None:
        """Run a step that is not recorded, where later ones will be."""

    def record(self, step: Callable[[], None]) -> None:
        """Record a step. Whether it also runs is open, so the caller restores what it may have changed.

        Raises:
            NotRepeatable: it contains something that cannot be repeated.
        """

    def replay(self) -> None:
        """Run the recorded operations again."""


class CudaRecorder:
    """Records a step as a CUDA graph.

    All graphs of a process share one memory pool: only one is replayed at a time, so the temporary tensors of one may
    lie where those of another do. ``torch.cuda.graph`` is not used, since it empties the allocator's cache every time.
    """

    _pool: Any = None
    _stream: Any = None

    def __init__(self) -> None:
        self._prepare()
        self._graph = torch.cuda.CUDAGraph()

    @classmethod
    def _prepare(cls) -> None:
        if cls._stream is None:
            CudaRecorder._stream, CudaRecorder._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    @staticmethod
    def warm_up(step: Callable[[], None]) -> None:
        CudaRecorder._prepare()
        # On the stream of the recording: libraries keep a workspace for each, and autograd remembers streams.
        CudaRecorder._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(CudaRecorder._stream):
            step()
        torch.cuda.current_stream().wait_stream(CudaRecorder._stream)

    def record(self, step: Callable[[], None]) -> None:
        torch.cuda.synchronize()
        try:
            with torch.cuda.stream(self._stream):
                # Other threads, such as NCCL's, may call CUDA meanwhile.
                self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    step()
                finally:
                    self._graph.capture_end()
        except Exception as error:
            torch.cuda.synchronize()
            raise NotRepeatable(f"CUDA cannot capture it ({error})") from error
        torch.cuda.current_stream().wait_stream(self._stream)

    def replay(self) -> None:
        self._graph.replay()


class CpuRecorder(TorchDispatchMode):
    """Stands in for ``CudaRecorder`` where there is no GPU: it repeats the operations of torch one by one.

    Each gets the tensors and numbers that it had and leaves its results where they were. Not faster than the step.

    >>> x, total = torch.tensor(2.0), torch.tensor(0.0)
    >>> recorder = CpuRecorder()
    >>> recorder.record(lambda: total.add_(x * x))
    >>> x.fill_(3.0), recorder.replay(), total
    (tensor(3.), None, tensor(13.))
    >>> recorder.record(lambda: total.item())
    Traceback (most recent call last):
    flash_pl.client.recorder.NotRepeatable: it waits for the device (_local_scalar_dense)
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Sequence[Tensor | None]]] = []

    @staticmethod
    def warm_up(step: Callable[[], None]) -> None:
        step()

    def record(self, step: Callable[[], None]) -> None:
        with self:
            step()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(function, args):
            raise NotRepeatable(f"it waits for the device ({function.overloadpacket.__name__})")
        result = function(*args, **kwargs)
        aliases = [returned.alias_info for returned in function._schema.returns]
        is_view = bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
        if not is_view and function.namespace != "profiler":
            writes = any(alias is not None and alias.is_write for alias in aliases)
            made = [] if writes else [part if isinstance(part, Tensor) else None for part in tree_iter(result)]
            if any(part is not None and part.layout is not torch.strided for part in made):
                raise NotRepeatable(f"{function.overloadpacket.__name__} makes a sparse tensor")
            self._calls.append((function, args, kwargs, made))
        return result

    def replay(self) -> None:
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, made in self._calls:
                result = function(*args, **kwargs)
                for kept, new in zip(made, tree_iter(result), strict=False):
                    if kept is not None and kept.shape != new.shape:
                        raise NotRepeatable(f"{function.overloadpacket.__name__} has results of another shape")
                    if kept is not None:
                        kept.copy_(new)


class WaitWatch(TorchDispatchMode):
    """Notes the first operation inside its block that would make the host wait for a GPU.

    Args:
        replaced: places of tensors that are replaced by others between steps.

    Attributes:
        found: the name of that operation; None as long as no operation waits.
        reads_replaced: whether an operation reads or writes one of these tensors.

    >>> with WaitWatch() as watch:
    ...     total = torch.ones(3).sum().item()
    >>> watch.found
    '_local_scalar_dense'
    """

    def __init__(self, replaced: Collection[int] = ()) -> None:
        super().__init__()
        self.found: str | None = None
        self.reads_replaced, self._replaced = False, replaced

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._replaced and not self.reads_replaced:
            tensors = (part for part in tree_iter((args, kwargs)) if isinstance(part, Tensor))
            self.reads_replaced = any(t.layout is torch.strided and t.data_ptr() in self._replaced for t in tensors)
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if self.found is None and waits(function, args):
            self.found = name
        if self.found is None and name in ("_to_copy", "copy_") and len(_devices((args, result))) > 1:
            self.found = f"{name} between devices"
        return result


def waits(function: Any, args: Any) -> bool:
    """Whether the host must wait for the result of an operation of torch on a GPU."""
    packet = function.overloadpacket
    if packet in INDEXING:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return packet in WAITING or not WAITING_TAGS.isdisjoint(function.tags)


def _devices(tensors: Any) -> set[torch.device]:
    return {tensor.device for tensor in tree_iter(tensors) if isinstance(tensor, Tensor)}
