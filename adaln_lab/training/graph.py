"""The update as one CUDA graph: a small model takes about a thousand short kernels, and starting them costs more than
running them. A graph is recorded once and then started as a whole.

What it needs: tensors that stay where they are, random numbers from a registered generator, and no look at a number.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaln_lab.training.distributed import World

if TYPE_CHECKING:
    from adaln_lab.training.train import Run


def captured(run: "Run", compute: Callable[[], Tensor], world: World) -> Callable[[], Tensor]:
    """`compute` as a graph: the same function, one launch. The run is left as it was. ValueError without a GPU."""
    device = run.generator.device.type
    if device != "cuda" or world.size > 1:
        raise ValueError(f"graph=True needs one process on a CUDA device, got {world.size} on {device}; leave it out")
    run.begin()
    stream = torch.cuda.Stream()  # warm-up on another stream, as recording demands
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    run.undo()
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(run.generator)
    with torch.cuda.graph(graph):
        found = compute()

    def replay() -> Tensor:
        graph.replay()
        return found.clone()  # the next replay writes to the same place

    return replay
