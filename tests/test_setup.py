"""The set-up: bootstrap says what to do instead of failing, installs once, and what is said in two places agrees."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import adaln_lab

ROOT = Path(__file__).parents[1]
BOOTSTRAP = ROOT / ".ci" / "bootstrap.py"


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", BOOTSTRAP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What bootstrap refuses


def test_bootstrap_names_the_remedy(bootstrap: ModuleType) -> None:
    with pytest.raises(bootstrap.Stop, match=r"Python 3\.10 .* make lab PYTHON="):
        bootstrap.check_python((3, 10))
    with pytest.raises(bootstrap.Stop, match="apt install python3-venv"):
        bootstrap.check_ensurepip(False)
    with pytest.raises(bootstrap.Stop, match=r"1\.5 GB are free .* about 9 GB.*whl/cpu"):
        bootstrap.check_disk(free_gb=1.5, needed_gb=9)


def test_bootstrap_accepts_what_is_enough(bootstrap: ModuleType) -> None:
    bootstrap.check_python((3, 11))
    bootstrap.check_ensurepip(True)
    bootstrap.check_disk(free_gb=9, needed_gb=9)


def test_bootstrap_parses_under_old_pythons() -> None:
    """Where no old Python is at hand, this stands in for it: what came after 2.7 must not be in the source."""
    text = BOOTSTRAP.read_text()
    assert text.isascii()
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.Starred, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, newer), f"line {node.lineno}"
        assert not (isinstance(node, ast.FunctionDef) and (node.returns or node.args.kwonlyargs)), f"line {node.lineno}"
        assert not (isinstance(node, ast.arg) and node.annotation), f"line {node.lineno}"
        assert not (isinstance(node, ast.Raise) and node.cause), f"line {node.lineno}"


def old_pythons() -> Iterator[str]:
    named = [shutil.which(name) for name in ("python2.7", "python3.6", "python3.8", "python3.9", "python3.10")]
    for python in [*filter(None, named), *map(str, Path.home().glob(".pyenv/versions/*/bin/python"))]:
        probe = subprocess.run([python, "-c", "import sys; print(sys.version_info < (3, 11))"], capture_output=True)
        if probe.stdout.strip() == b"True":
            yield python


def test_old_python_gets_one_line() -> None:
    found = list(old_pythons())
    if not found:
        pytest.skip("no Python older than 3.11 on this machine")
    for python in found:
        done = subprocess.run([python, str(BOOTSTRAP)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, ""), python
        assert re.fullmatch(r"bootstrap: this is Python .*\n", done.stderr), python


# What bootstrap installs


@pytest.fixture
def installs(bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Bootstrap in an empty folder, with pip replaced by a list of what it was asked for."""
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    commands: list[list[str]] = []

    def run(command: list[str], remedy: str) -> None:
        if "venv" in command:
            (tmp_path / ".venv" / "bin").mkdir(parents=True)
            (tmp_path / ".venv" / "bin" / "python").touch()
        else:
            commands.append(command)

    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(bootstrap, "run", run)
    monkeypatch.setattr(bootstrap, "can_import", lambda module, python=sys.executable: os.path.exists(python))
    monkeypatch.setattr(bootstrap, "check_disk", lambda free_gb, needed_gb: None)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    return commands


def test_second_call_installs_nothing(bootstrap: ModuleType, installs: list[list[str]]) -> None:
    assert [bootstrap.main([]), bootstrap.main([])] == [0, 0]
    assert len(installs) == 1
    assert [bootstrap.main(["--extra", "test"]), bootstrap.main([]), bootstrap.main(["--extra", "test"])] == [0, 0, 0]
    assert [command[-1] for command in installs] == [".", ".[test]"]


def test_new_requirement_or_lost_python_installs_again(
    bootstrap: ModuleType, installs: list[list[str]], tmp_path: Path
) -> None:
    bootstrap.main([])
    with open(tmp_path / "requirements.txt", "a") as file:
        file.write("einops>=0.8\n")
    bootstrap.main([])
    assert len(installs) == 2
    (tmp_path / ".venv" / "bin" / "python").unlink()
    bootstrap.main([])
    assert len(installs) == 3


def test_interrupted_install_is_done_again(
    bootstrap: ModuleType,
    installs: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bootstrap.main([]) == 0

    def cut_short(command: list[str], remedy: str) -> None:
        raise bootstrap.Stop(remedy)

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "run", cut_short)
        assert bootstrap.main(["--extra", "test"]) == 2
    assert re.fullmatch(r"bootstrap: the install failed, .*\n", capsys.readouterr().err)
    assert bootstrap.main([]) == 0
    assert len(installs) == 2, "a stamp was left over from before the install that failed"


def test_child_errors_leave_stderr_to_bootstrap(bootstrap: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(bootstrap.Stop, match="remedy"):
        bootstrap.run([sys.executable, "-c", "import sys; sys.exit('pip is unhappy')"], "remedy")
    out, err = capfd.readouterr()
    assert ("pip is unhappy" in out, err) == (True, "")


def test_linux_asks_for_room_for_cuda_unless_torch_is_pinned(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path))
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    assert bootstrap.needed_gb(uv=None) == bootstrap.needed_gb(uv="uv") == 9
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    assert (bootstrap.needed_gb(uv=None), bootstrap.needed_gb(uv="uv")) == (9, 3)
    (tmp_path / "lib" / "python3.12" / "site-packages" / "torch").mkdir(parents=True)
    assert bootstrap.needed_gb(uv=None) == 1


# What is said in two places says the same


def requirements() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return {requirement.name: requirement for requirement in map(Requirement, filter(None, lines))}


def test_requirements_are_lower_bounds() -> None:
    assert "torch" in requirements()
    assert {r.name: [s.operator for s in r.specifier] for r in requirements().values()} == {
        name: [">="] for name in requirements()
    }


def test_citation_has_the_version_of_the_package() -> None:
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == adaln_lab.__version__


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_commands_of_the_pages_exist(page: str) -> None:
    if not (ROOT / page).exists():
        pytest.skip(f"no {page}")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|^ *\$? *)make ([a-z]+)", (ROOT / page).read_text(), re.M))
    assert named, f"{page} names no make target"
    assert named <= targets


def test_address_is_written_into_every_link(tmp_path: Path) -> None:
    for name in (".ci/address.py", "pyproject.toml", "README.md", "notebooks/00_start_here.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    old = re.search(r'^Repository = "https://github.com/(.+?)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]

    def write(*repo: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, tmp_path / ".ci/address.py", *repo], capture_output=True, text=True)

    refused = write()
    assert refused.returncode and "make address REPO=owner/name" in refused.stderr
    assert write("ada/gates").returncode == 0
    for name in ("pyproject.toml", "README.md", "notebooks/00_start_here.ipynb"):
        text = (tmp_path / name).read_text()
        assert "ada/gates" in text and old not in text
    assert write(old).returncode == 0
    assert (tmp_path / "README.md").read_bytes() == (ROOT / "README.md").read_bytes(), "there and back"
