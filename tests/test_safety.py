"""Safe to run: nothing here disables a token, listens, calls out, runs data as code, or writes where nobody asked.

What Python files and notebooks may import and call is ruff's to hold (`make lint`: its rules S, and the banned imports
in pyproject.toml). Here the other files are read, and the package runs and is watched.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # jupyterlab brings it

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "eval(text)",
        "exec(text)",
        "torch.load(path, weights_only=False)",
        "os.system(text)",
        "import subprocess",
        "from concurrent.futures import ProcessPoolExecutor",
        "import requests",
        "from urllib import request",
        "from torchvision import datasets",
        "from torch import distributed",
        f"server.bind(({'.'.join('0000')!r}, 80))",
    ],
)
def test_lint_refuses_in_the_package(code: str) -> None:
    """A rule that another line of pyproject.toml has switched off would say nothing."""
    lint = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "adaln_lab/new.py", "-"]
    done = subprocess.run(
        lint, cwd=ROOT, input=f"import os\n\nimport torch\n\n{code}\n", text=True, capture_output=True
    )
    assert re.search(r"^(S\d+|TID251) ", done.stdout, re.M), done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_publish_pages(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"} and "secrets." not in text
    granted = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    publishes = {
        "publish": {"pages": "write", "id-token": "write"}
    }  # what GitHub Pages needs, in a job that runs no code
    assert granted == (publishes if path.name == "pages.yml" else {})
    assert all("run" not in step for name in granted for step in workflow["jobs"][name]["steps"])


FORBIDDEN = {  # in any committed file but notebooks, which tests/notebooks reads
    "a machine path": re.compile(r"(?<![\w.~])/(home|root|tmp|Users)/\w|[A-Z]:\\+Users"),
    "a Jupyter without token": re.compile(
        r"""(App|IdentityProvider)\.(token|password)\s*=\s*(''|""|$|\s-)|disable_check_\w+""", re.M
    ),
    "a server open to the network": re.compile(r"0\.0\.0\.0|\bip\s*=\s*['\"]?\*"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_committed_has(what: str) -> None:
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    names = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = []
    for path in (ROOT / name for name in names if name and not name.endswith((".safetensors", ".png", ".ipynb"))):
        if path.is_file():
            text = path.read_text(encoding="utf8", errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in FORBIDDEN[what].finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a machine path", "/".join(["", "home", "ada", "x"])),
        ("a machine path", "C:" + r"\Users\ada"),
        ("a Jupyter without token", "--ServerApp." + "token="),
        ("a Jupyter without token", "c.IdentityProvider." + "token = ''"),
        ("a server open to the network", "--ip=" + ".".join("0000")),
        ("a server open to the network", "--ip" + "='*'"),
    ],
)
def test_forbidden_is_recognised(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


# The network is cut while the tests run, and not only in the process of pytest

OFFLINE = ROOT / "tests" / "offline"


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("code", "is_refused"),
    [
        ("socket.create_connection(('192.0.2.1', 80), 1)", True),  # an address that the standards keep unused
        ("socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 80))", True),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 80))", True),
        ("socket.socket().bind(('', 0))", True),
        ("socket.socket().bind(('127.0.0.1', 0))", False),
        ("s = socket.create_server(('localhost', 0)); socket.create_connection(s.getsockname()).close()", False),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', "
         "'import socket; socket.socket().connect((\"192.0.2.1\", 80))'], check=True)", True),
    ],
)  # fmt: skip
def test_offline_means_this_machine_alone(code: str, is_refused: bool) -> None:
    done = run(f"import socket; {code}", PYTHONPATH=str(OFFLINE))
    assert (done.returncode != 0) == is_refused, done.stderr
    assert ("RuntimeError: offline: " in done.stderr) == is_refused


# The package runs, and everything that it opens to write is looked at

WATCH = """
import os, sys, tempfile
written = set()
def watch(event, given):
    if event == "open" and isinstance(given[0], str) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.add(given[0])
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"):
        written.add(str(given[0]))
    elif event in ("os.rename", "os.link", "os.symlink"):
        written.update(map(str, given[:2]))
sys.dont_write_bytecode = True
sys.addaudithook(watch)
{code}
print(*sorted(os.path.abspath(path) for path in written if path != os.devnull), sep="\\n")
"""
SAMPLE = """
from contextlib import redirect_stdout
from io import StringIO
import torch
from adaln_lab.data import datasets
from adaln_lab.display import plots
from adaln_lab.experiments import sweep
from adaln_lab.training import checkpoint
from adaln_lab.__main__ import main
from adaln_lab.exercises import check, progress, reset_progress
with redirect_stdout(StringIO()):
    torch.set_num_threads(1)
    out = {out!r}
    assert main(["train", "--out", out + "/run", "--steps", "2", "--batch", "8"]) == 0
    assert main(["sample", "--run", out + "/run", "--n", "4", "--out", out + "/a.png"]) == 0
    assert main(["evaluate", "--run", out + "/run", "--n", "20"]) == 0
    checkpoint.shipped_model("scenes"), sweep.stored_scores()
    def modulated(x, shift, scale): return x
    modulated.__module__ = "__main__"
    check("modulated", modulated), progress(), reset_progress()
    plots.new_figure(3, 2)
"""


def watched(code: str, tmp_path: Path) -> list[str]:
    """What the code opened to write, but for the folder it was told, its home, and temporary files."""
    own = [tmp_path / name for name in ("out", "home", "matplotlib", "temporary")]
    own[3].mkdir()
    places = dict(zip(("ADALN_LAB_HOME", "MPLCONFIGDIR", "TMPDIR"), map(str, own[1:]), strict=True))
    places["TORCHINDUCTOR_CACHE_DIR"] = places["TMPDIR"]  # a test that compiled has left its own in the environment
    done = run(WATCH.format(code=code), **places)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert any(path.is_relative_to(tmp_path) for path in paths), "the watch saw nothing"
    return [str(path) for path in paths if not any(path == place or path.is_relative_to(place) for place in own)]


@pytest.mark.slow
def test_the_package_writes_where_it_is_told_and_in_its_home(tmp_path: Path) -> None:
    assert watched(SAMPLE.format(out=str(tmp_path / "out")), tmp_path) == []


@pytest.mark.parametrize("act", ["open({path!r}, 'w')", "os.mkdir({path!r})", "os.open({path!r}, os.O_CREAT)"])
def test_the_watch_sees_what_lies_elsewhere(act: str, tmp_path: Path) -> None:
    path = str(tmp_path / "elsewhere")
    assert watched(act.format(path=path), tmp_path) == [path]
