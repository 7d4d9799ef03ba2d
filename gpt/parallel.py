"""Training on several processes that torchrun starts: DDP, or FSDP2, which also shards the weights.

Every process calls `join` and then runs the same code as a single process would. The micro-batches of a step are
divided among the processes, so the model learns the same on any number of them. All functions work without torchrun.
"""

from __future__ import annotations

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
    """Join the processes that torchrun started, if it did, and yield the device of this process."""
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
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def distribute(objective: nn.Module, sharded: bool) -> nn.Module:
    """Wrap an objective so that its gradients are averaged over the processes.

    With `sharded`, FSDP2 also shards the weights, each block separately. A single process gets the objective itself.
    """
    if size() == 1:
        return objective
    if not sharded:
        return DistributedDataParallel(objective)
    from torch.distributed.fsdp import fully_shard  # the import takes half a second

    for module in objective.modules():
        if isinstance(module, Block):
            fully_shard(module)
    fully_shard(objective)
    return objective


@contextmanager
def unsharded(objective: nn.Module) -> Iterator[None]:
    """Gather the whole weights, so that evaluation can call the model inside the objective directly."""
    if not _is_sharded(objective):
        yield
        return
    objective.unshard()
    try:
        yield
    finally:
        objective.reshard()


@contextmanager
def gradient_exchange(objective: nn.Module, active: bool) -> Iterator[None]:
    """Average gradients over the processes only where active: once a step, after its last micro-batch."""
    if isinstance(objective, DistributedDataParallel) and not active:
        with objective.no_sync():
            yield
        return
    if _is_sharded(objective):
        objective.set_requires_gradient_sync(active)
    yield


def sum_over_processes(total: Any, count: Any, device: torch.device) -> tuple[float, float]:
    """Return the sums of loss and count over all processes."""
    if size() == 1:
        return float(total), float(count)
    both = torch.tensor([float(total), float(count)], dtype=torch.float64, device=device)
    dist.all_reduce(both)
    return both[0].item(), both[1].item()


def any_process(flag: bool, when: bool) -> bool:
    """Return whether the flag is true in any process.

    Processes compare their flags only where `when` is true, which must be so in all of them or in none. Otherwise the
    result is false. A single process returns its own flag.
    """
    if size() == 1:
        return flag
    if not when:
        return False
    most = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return bool(most.item())


def wait() -> None:
    """Wait until every process has called this function."""
    if size() > 1:
        dist.barrier()


def gather(tensor: Tensor) -> Tensor:
    """Gather a whole tensor from its shards. All processes must call this together."""
    return tensor.full_tensor() if _is_shard(tensor) else tensor


def gather_all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather each tensor of a mapping from its shards."""
    return {name: gather(t) for name, t in tensors.items()}


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a whole tensor like a parameter of equal shape, if that parameter is sharded."""
    if not _is_shard(parameter) or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = parameter.device_mesh
    replicated = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, parameter.placements)


def _is_sharded(objective: nn.Module) -> TypeGuard[FSDPModule]:
    if size() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(objective, FSDPModule)


def _is_shard(tensor: Tensor) -> TypeGuard[DTensor]:
    if size() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
