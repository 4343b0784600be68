"""Several processes, one run: the only file that knows torch.distributed.

    torchrun --standalone --nproc-per-node=4 -m adaln_lab train --out runs/scenes --data scenes --resume

Every rank draws the same global batch from the same generator and keeps its own part, so N processes take the steps of
one. DistributedDataParallel averages gradients; optimisers and the moving average are computed on each rank alike.
Rank 0 alone reads and writes files. If a rank dies, torchrun ends the others; with --max-restarts=3 it starts all
again, and --resume goes on from the last checkpoint. Several machines: on each, with the first one's address,

    torchrun --nnodes=8 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m adaln_lab train ...
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from adaln_lab.flow import FlowPair


class World(NamedTuple):
    """The processes of a run: `size` of them, of which this is number `rank`."""

    rank: int = 0
    size: int = 1

    def shard(self, pair: FlowPair) -> FlowPair:
        """This rank's part of a global batch."""
        n = len(pair.t)
        if n % self.size:
            raise ValueError(
                f"the batch is shared by {self.size} processes and must be a multiple of it, got {n}; "
                f"try --batch {n // self.size * self.size or self.size}"
            )
        n //= self.size
        return FlowPair(*(part[self.rank * n : (self.rank + 1) * n] for part in pair))

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        """The model, with gradients that are averaged over all ranks as they are computed."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all ranks."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def broadcast(self, content: bytes | None) -> bytes:
        """Rank 0's bytes, on every rank; the others pass None. Only rank 0's machine needs the disk."""
        if self.size == 1:
            return content
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        length = torch.tensor([len(content or b"")], device=device)
        dist.broadcast(length, 0)
        buffer = torch.zeros(int(length) + 1, dtype=torch.uint8, device=device)  # no backend sends an empty tensor
        if self.rank == 0:
            buffer.copy_(torch.frombuffer(bytearray(content + b"."), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return buffer.cpu().numpy().tobytes()[:-1]


SINGLE_PROCESS = World()


@contextmanager
def join(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """The world that torchrun started this process in, and this rank's device; SINGLE_PROCESS without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield SINGLE_PROCESS, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise ValueError(
                f"{device} does not exist, this machine has {torch.cuda.device_count()} GPUs; "
                f"start torchrun with --nproc-per-node={torch.cuda.device_count()}"
            )
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    # the last start left its addresses in the launcher's store: a prefix hides them from a restarted job
    store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield World(rank, size), device
    finally:
        dist.destroy_process_group()
