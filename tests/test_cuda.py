"""On a GPU: the checks that `make gpu` runs before it measures. On a CPU those of them that mean something there."""

import pytest
import torch

from benchmarks.cuda_checks import CHECKS, ON_A_CPU_TOO


@pytest.mark.cuda
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_a_gpu(check, tmp_path):
    check(torch.device("cuda"), tmp_path)


@pytest.mark.parametrize("check", ON_A_CPU_TOO, ids=lambda check: check.__name__)
def test_on_a_cpu(check, tmp_path):
    check(torch.device("cpu"), tmp_path)
