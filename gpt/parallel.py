"""Several processes as one run: DDP, or FSDP2 that shards the weights too, launched by torchrun.

Every process calls `join`, then the same code as a single one. The micro-batches of a step are dealt out to the
processes, so the number of processes changes nothing about what is learnt.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpt.model import Block

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


@contextmanager
def join() -> Iterator[torch.device]:
    """Join the processes that torchrun started, and say which device is this one's. Alone, it does nothing."""
    if "RANK" not in os.environ:
        yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes take part."""
    return dist.get_world_size() if dist.is_initialized() else 1


def distribute(objective: nn.Module, sharded: bool) -> nn.Module:
    """The objective with its gradients averaged over the processes: each block a shard of its own with FSDP2."""
    if size() == 1:
        return objective
    if not sharded:
        return DistributedDataParallel(objective)
    from torch.distributed.fsdp import fully_shard  # half a second, for those who shard

    for module in objective.modules():
        if isinstance(module, Block):
            fully_shard(module)
    fully_shard(objective)
    return objective


@contextmanager
def readable(objective: nn.Module) -> Iterator[None]:
    """Let the model within be called by itself, as evaluation does: what FSDP2 gathers in `forward` is at hand."""
    if not _sharded(objective):
        yield
        return
    objective.unshard()
    try:
        yield
    finally:
        objective.reshard()


@contextmanager
def last_micro_batch(objective: nn.Module, last: bool) -> Iterator[None]:
    """Gradients travel once a step, after its last micro-batch."""
    if isinstance(objective, DistributedDataParallel) and not last:
        with objective.no_sync():
            yield
        return
    if _sharded(objective):
        objective.set_requires_gradient_sync(last)
    yield


def summed(total: Any, count: Any, device: torch.device) -> tuple[float, float]:
    """Loss and count over all processes."""
    if size() == 1:
        return float(total), float(count)
    both = torch.tensor([float(total), float(count)], dtype=torch.float64, device=device)
    dist.all_reduce(both)
    return both[0].item(), both[1].item()


def any_process(flag: bool, when: bool) -> bool:
    """Whether the flag is up in any process. They can only ask together, so it is false when not `when`."""
    if size() == 1:
        return flag
    if not when:
        return False
    up = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(up, dist.ReduceOp.MAX)
    return bool(up.item())


def wait() -> None:
    """Until every process is here."""
    if size() > 1:
        dist.barrier()


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards. All processes must ask together."""
    return tensor.full_tensor() if _is_shard(tensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`whole` of each."""
    return {name: whole(t) for name, t in tensors.items()}


def cut_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, sharded as a parameter of its shape is."""
    if not _is_shard(parameter) or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = parameter.device_mesh
    replicated = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, parameter.placements)


def _sharded(objective: nn.Module) -> TypeGuard["FSDPModule"]:
    if size() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(objective, FSDPModule)


def _is_shard(tensor: Tensor) -> TypeGuard["DTensor"]:
    if size() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
