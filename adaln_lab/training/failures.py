"""What stopped a training run, in one sentence with its remedy."""

import re
from pathlib import Path

import torch

from adaln_lab.data.datasets import Dataset
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.training.train import Run

COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


def explain(error: RuntimeError, run: Run, data: Dataset, folder: Path) -> str | None:
    """A sentence for memory, a missing compiler, a lost GPU or a lost process; None for any other error."""
    text, step = (str(error).splitlines() or [""])[0][:200], run.number + 1
    if _is_memory(error):
        fits = batch_that_fits(run, data)
        remedy = f"a batch of {fits} fits: --batch {fits}, with another --out" if fits else "not even one picture fits"
        return f"out of memory with a batch of {run.config.batch} at step {step}; {remedy}"
    if run.config.compile and type(error).__module__.startswith(COMPILERS):
        return (
            f"torch.compile could not compile the loss ({text}). It needs a C++ compiler, and Triton on a GPU; "
            "install them, or leave out --compile"
        )
    if "CUDA error" in text or isinstance(error, torch.AcceleratorError):
        return (
            f"the GPU stopped answering at step {step} ({text}); the last checkpoint is kept in {folder}. "
            "Once the GPU is back, the same command with --resume goes on"
        )
    if re.search(r"\bpeer\b|NCCL", text):  # what gloo and NCCL say when the connection to a process is lost
        return (
            f"another process of this run is gone at step {step} ({text}); if it reported a reason, that is printed "
            "above. The same command with --resume goes on from the last checkpoint"
        )
    return None


def _is_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def batch_that_fits(run: Run, data: Dataset) -> int:
    """The largest of half, a quarter ... of the batch whose loss and gradient fit; 0 where none does."""
    k, generator = run.config, torch.Generator(run.generator.device).manual_seed(0)
    size = k.batch // 2
    while size:
        try:
            pair = flow_pair(*next(data.batches(size, generator)), run.model.config.n_classes, k.label_drop, generator)
            flow_loss(run.model, pair).backward()
            return size
        except RuntimeError as error:
            if not _is_memory(error):
                raise
            size //= 2
    return 0
