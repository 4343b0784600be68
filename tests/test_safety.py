"""Safe to run: nothing here disables a token, listens, calls out, runs data as code, or writes where nobody asked.

The first half reads every file of the package and every code cell. A rule is a function `rule_*(tree)` that returns its
complaints; DOORS names the rooms that a rule lets through, each with its reason. The second half runs the package and
watches. Every rule and every watch is shown something that it must refuse.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "adaln_lab"
Rule = Callable[[ast.AST], list[str]]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """("np.savez", node) for each call, as it is written."""
    return ((ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def keyword(call: ast.Call, name: str) -> object:
    """The value of a keyword where it is written down, else None."""
    found = next((k.value for k in call.keywords if k.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else None


def among(names: set[str], modules: Iterator[str]) -> list[str]:
    return [f"imports {name}" for name in modules if any(f"{name}.".startswith(f"{n}.") for n in names)]


def rule_no_data_is_run_as_code(tree: ast.AST) -> list[str]:
    found = among({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, imports(tree))
    for name, call in calls(tree):
        last = name.rpartition(".")[2]
        if (
            name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load")
            or (name == "torch.load" and keyword(call, "weights_only") is not True)
            or keyword(call, "allow_pickle")
            or keyword(call, "shell")
            or last in ("read_pickle", "run_line_magic", "system", "getoutput")
        ):
            found.append(name)
    return found


def rule_opens_no_network(tree: ast.AST) -> list[str]:
    found = among(
        {"socket", "ssl", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "websockets", "zmq"}
        | {"huggingface_hub", "torch.hub", "torchvision.models", "torchvision.datasets", "socketserver", "xmlrpc"},
        imports(tree),
    )
    reach = {"from_pretrained", "snapshot_download", "hf_hub_download", "load_state_dict_from_url"}
    reach |= {"urlopen", "urlretrieve", "create_connection"}
    for name, call in calls(tree):
        asks = keyword(call, "download") or keyword(call, "pretrained")
        if asks or name.rpartition(".")[2] in reach or name.startswith("torch.hub."):
            found.append(name)
    return found


def rule_listens_nowhere(tree: ast.AST) -> list[str]:
    found = among({"torch.distributed"}, imports(tree))
    found += [name for name, _ in calls(tree) if re.search(r"\.(bind|listen|create_server|serve_forever)$", name)]
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return found + [repr(text) for text in texts if re.fullmatch(r".*\b0\.0\.0\.0\b.*|MASTER_(ADDR|PORT)", text)]


def rule_starts_no_process(tree: ast.AST) -> list[str]:
    return among({"subprocess", "multiprocessing", "pty", "concurrent.futures.ProcessPoolExecutor"}, imports(tree))


def rule_writes_nothing(tree: ast.AST) -> list[str]:
    """Everything that makes, changes or removes a file; what `files` offers is called by its name and passes."""
    found = among({"shutil"}, imports(tree))
    ours = {"write_text", "write_bytes", "mkdir", "makedirs", "touch", "unlink", "rmdir", "rename", "symlink_to"}
    theirs = {"save", "savez", "savez_compressed", "save_file", "savefig", "imsave", "savetxt", "dump", "mkstemp"}
    theirs |= {"mkdtemp", "to_csv", "export_chrome_trace", "tofile", "memmap"}
    for name, call in calls(tree):
        modes = [a.value for a in call.args[:2] if isinstance(a, ast.Constant)] + [keyword(call, "mode")]
        if (
            name.rpartition(".")[2] in ours | theirs
            or re.fullmatch(r"os\.(replace|remove|open|link|truncate)", name)
            or (name.rpartition(".")[2] == "open" and any(re.fullmatch(r"[rbt]*[wax+].*", str(m)) for m in modes))
        ):
            found.append(name)
    return found


RULES: list[Rule] = [function for name, function in list(globals().items()) if name.startswith("rule_")]
DOORS: dict[tuple[str, Rule], str] = {
    ("datasets", rule_opens_no_network): "MNIST, FashionMNIST, CIFAR-10, when they are asked for by name",
    ("distributed", rule_listens_nowhere): "meets the other ranks where torchrun says",
    ("compare", rule_starts_no_process): "races several cells at a time with --jobs",
    ("bench", rule_starts_no_process): "memory is measured in a process of its own",
    ("10_speed_and_scale", rule_starts_no_process): "torchrun, and a run that is killed, in a temporary folder",
    ("files", rule_writes_nothing): "the one writer: a temporary file, synced, renamed",
    ("__main__", rule_writes_nothing): "fills the file for --out that `files.atomic_write` hands out",
    ("checkpoint", rule_writes_nothing): "the same for a run's folder, where a damaged file is renamed",
    ("record", rule_writes_nothing): "renames progress.json in home() when it is damaged or forgotten",
    ("plots", rule_writes_nothing): "a picture into memory",
    ("widgets", rule_writes_nothing): "a picture into memory",
}


def cells(path: Path) -> str:
    """A notebook's code, with magics and shell lines turned into calls; without the first cell, which on Colab alone
    fetches the course, word for word as test_notebooks.py has it."""
    nb = nbformat.read(path, as_version=4)
    turn = TransformerManager().transform_cell
    return "\n".join([turn(cell.source) for cell in nb.cells if cell.cell_type == "code"][1:])


SOURCES = {path: path.read_text(encoding="utf8") for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES |= {path: cells(path) for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_and_notebooks_keep(rule: Rule) -> None:
    found = {path.stem: rule(ast.parse(text)) for path, text in SOURCES.items() if (path.stem, rule) not in DOORS}
    assert {room: complaints for room, complaints in found.items() if complaints} == {}


@pytest.mark.parametrize(("room", "rule"), DOORS, ids=lambda value: getattr(value, "__name__", value))
def test_a_door_that_nobody_uses_is_closed(room: str, rule: Rule) -> None:
    assert any(rule(ast.parse(text)) for path, text in SOURCES.items() if path.stem == room)


SPOILED: list[tuple[Rule, str]] = [
    (rule_no_data_is_run_as_code, "import pickle"),
    (rule_no_data_is_run_as_code, "from joblib import load"),
    (rule_no_data_is_run_as_code, "eval('1 + 1')"),
    (rule_no_data_is_run_as_code, "exec(text)"),
    (rule_no_data_is_run_as_code, "torch.load(path)"),
    (rule_no_data_is_run_as_code, "torch.load(path, weights_only=False)"),
    (rule_no_data_is_run_as_code, "np.load(path, allow_pickle=True)"),
    (rule_no_data_is_run_as_code, "yaml.load(text)"),
    (rule_no_data_is_run_as_code, "os.system('ls')"),
    (rule_no_data_is_run_as_code, "subprocess.run('ls', shell=True)"),
    (rule_no_data_is_run_as_code, TransformerManager().transform_cell("!pip install x")),
    (rule_no_data_is_run_as_code, TransformerManager().transform_cell("files = !ls")),
    (rule_opens_no_network, "import urllib.request"),
    (rule_opens_no_network, "from urllib import request"),
    (rule_opens_no_network, "import requests as r"),
    (rule_opens_no_network, "from torchvision import datasets"),
    (rule_opens_no_network, "MNIST(root, download=True)"),
    (rule_opens_no_network, "torch.hub.load('a', 'b')"),
    (rule_opens_no_network, "Model.from_pretrained('a/b')"),
    (rule_listens_nowhere, "import torch.distributed as dist"),
    (rule_listens_nowhere, "from torch import distributed"),
    (rule_listens_nowhere, "s.bind(('', 80))"),
    (rule_listens_nowhere, "arguments = ['--ip=" + ".".join("0000") + "']"),
    (rule_listens_nowhere, "os.environ['MASTER_ADDR'] = host"),
    (rule_starts_no_process, "import subprocess"),
    (rule_starts_no_process, "from multiprocessing import Pool"),
    (rule_starts_no_process, "from concurrent.futures import ProcessPoolExecutor"),
    (rule_writes_nothing, "open('x', 'w')"),
    (rule_writes_nothing, "Path('x').open('ab')"),
    (rule_writes_nothing, "open(path, mode='r+')"),
    (rule_writes_nothing, "Path('x').write_text(text)"),
    (rule_writes_nothing, "os.makedirs('x')"),
    (rule_writes_nothing, "os.replace(a, b)"),
    (rule_writes_nothing, "fig.savefig('x.png')"),
    (rule_writes_nothing, "torch.save(model, 'x')"),
    (rule_writes_nothing, "import shutil"),
]
HARMLESS = """
import re, torch
from dataclasses import replace
config = replace(config, steps=3)
pattern, faster = re.compile("a"), torch.compile(f)
weights, text = torch.load(path, weights_only=True), "a:b".replace("a", "b")
with open(path) as file, open(other, "rb") as more: digits = datasets.load("digits")
"""


@pytest.mark.parametrize(("rule", "code"), SPOILED, ids=lambda value: getattr(value, "__name__", None))
def test_rule_refuses(rule: Rule, code: str) -> None:
    assert rule(ast.parse(code))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_what_is_harmless_and_has_something_that_it_refuses(rule: Rule) -> None:
    assert rule(ast.parse(HARMLESS)) == []
    assert rule in [refusing for refusing, _ in SPOILED]


# What no committed file may hold. Of a notebook, the code; its texts and outputs are test_notebooks.py's.

FORBIDDEN = {
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
    for path in (ROOT / name for name in names if name and not name.endswith((".safetensors", ".png"))):
        if path.is_file():
            text = cells(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf8", errors="ignore")
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


def test_make_test_is_offline() -> None:
    """Under `make test` pytest itself is, and a kernel inherits what it has."""
    text = (ROOT / "Makefile").read_text(encoding="utf8")
    assert re.search(r"^HERMETIC := (.*\\\n)*.*PYTHONPATH=\S*tests/offline", text, re.M)
    assert text.count("export $(HERMETIC)") == 1


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
    checkpoint.shipped_model("scenes"), checkpoint.shipped_run("digits"), sweep.stored_scores()
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
