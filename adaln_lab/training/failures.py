"""What stopped a training run, in one sentence with its remedy."""

from pathlib import Path

import torch

from adaln_lab.data.datasets import Dataset
from adaln_lab.flow import flow_loss, flow_pair
from adaln_lab.training.train import Run


def explained(error: Exception, run: Run, data: Dataset, folder: Path) -> Exception:
    """The same failure in one sentence with its remedy, where it is memory, a lost GPU or a lost process."""
    text = str(error).splitlines()[0]
    if _is_memory(error):
        fits = batch_that_fits(run, data)
        remedy = f"a batch of {fits} fits: --batch {fits}, with another --out" if fits else "not even one picture fits"
        return ValueError(f"out of memory with a batch of {run.config.batch} at step {run.number + 1}; {remedy}")
    if "CUDA error" in text or isinstance(error, torch.AcceleratorError):
        return ValueError(
            f"the GPU stopped answering at step {run.number + 1} ({text}); the last checkpoint is kept in {folder}. "
            "Once the GPU is back, the same command with --resume goes on"
        )
    if "peer" in text or "NCCL" in text:  # what gloo and NCCL say when the other end is gone
        return ValueError(
            f"another process of this run is gone at step {run.number + 1} ({text[:200]}); if it could say why, that "
            "stands above. The same command with --resume goes on from the last checkpoint"
        )
    return error


def _is_memory(error: Exception) -> bool:
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
