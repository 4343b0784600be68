"""Kernels that are started at the same moment cannot be given the same address, by nbclient or by nbval."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from kernels import addresses
from run_notebooks import METADATA, run

ROOT = Path(__file__).parents[1]
WHERE = """import json, os, ipykernel
with open(ipykernel.get_connection_file()) as file:
    info = json.load(file)
print(info["transport"], os.path.exists(f"{info['ip']}-{info['shell_port']}"))"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps TCP")


def test_addresses_are_different_within_and_between_processes() -> None:
    """A folder belongs to one process; a socket's path may have 103 letters on macOS, with its number."""
    with addresses() as one, addresses() as other:
        found = [next(own)["ip"] for own in (one, one, other)]
    assert len(set(found)) == 3
    assert max(len(f"{ip}-5") for ip in found) <= 103


@pytest.mark.slow
def test_nbclient_and_nbval_start_kernels_there(tmp_path: Path) -> None:
    path = tmp_path / "where.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WHERE)], metadata=METADATA), path)
    ran = run(path)
    assert ran.cells[0].outputs[0].text == "ipc True\n"
    nbformat.write(ran, path)
    nbval = [sys.executable, "-m", "pytest", "-p", "tests.kernels", "--nbval", "--nbval-current-env", str(path)]
    done = subprocess.run(nbval, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
