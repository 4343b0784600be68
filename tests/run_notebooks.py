"""Run notebooks from a clean kernel and store their outputs, so that what is committed is what the code does.

    python tests/run_notebooks.py           all, in order
    python tests/run_notebooks.py 05 07     those whose names start so

A notebook is written only if every one of its cells succeeded. What would differ from machine to machine is not stored:
times, versions, the state of widgets.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from kernels import addresses
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


def run(path: Path) -> NotebookNode:
    """The notebook, executed in its own folder by this interpreter. Raises what nbclient raises when a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with addresses() as own:
        NotebookClient(
            notebook,
            kernel_name="python3",
            config=Config(KernelManager=next(own)),
            timeout=300,
            startup_timeout=180,
            resources={"metadata": {"path": str(path.parent)}},
            store_widget_state=False,
            record_timing=False,
            coalesce_streams=True,
        ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times that JupyterLab has recorded
        for output in cell.get("outputs", []):
            if view := output.get("data", {}).get(WIDGET):
                view["model_id"] = cell.id  # a random number in every run; without its kernel it points nowhere
    return notebook


def store(notebook: NotebookNode, path: Path) -> None:
    """Replace the file in one step: never half a notebook."""
    nbformat.validate(notebook)
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="how the notebooks' names start, e.g. 05")
    names = tuple(parser.parse_args(arguments).names)
    paths = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if not names or path.name.startswith(names)]
    if not paths:
        parser.error(f"no notebook in {NOTEBOOKS.name}/ is called {' or '.join(names) or '*.ipynb'}")

    failed = 0
    with tempfile.TemporaryDirectory(prefix="adaln_lab_") as home:
        os.environ.update(ADALN_LAB_DEVICE="cpu", ADALN_LAB_HOME=home, IPYTHONDIR=f"{home}/ipython")
        os.environ.setdefault("OMP_NUM_THREADS", "2")
        for path in paths:
            start = time.perf_counter()
            try:
                store(run(path), path)
                verdict = ""
            except (CellControlSignal, DeadKernelError) as error:
                failed += 1
                verdict = f"  NOT STORED\n{error}"
            print(f"{time.perf_counter() - start:6.1f} s  {path.name}{verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
