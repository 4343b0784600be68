"""What stopped a training run, in one sentence with its remedy."""

import re
from pathlib import Path

import torch

from adaln_lab.training.train import Run

COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


def explain(error: RuntimeError, run: Run, folder: Path) -> str | None:
    """A sentence for memory, a missing compiler, a lost GPU or a lost process; None for any other error."""
    text, step = (str(error).splitlines() or [""])[0][:200], run.number + 1
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        batch = run.config.batch
        remedy = f"try --batch {batch // 2}, with another --out" if batch > 1 else "not even one picture fits"
        return f"out of memory with a batch of {batch} at step {step}; {remedy}"
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
