"""The set-up: bootstrap says what to do instead of failing, installs once, and what is said in two places agrees."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
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


def test_bootstrap_names_the_remedy_where_one_is_needed(bootstrap: ModuleType) -> None:
    with pytest.raises(bootstrap.Stop, match=r"Python 3\.10 .* make lab PYTHON="):
        bootstrap.check_python((3, 10))
    with pytest.raises(bootstrap.Stop, match="apt install python3-venv"):
        bootstrap.check_ensurepip(False)
    with pytest.raises(bootstrap.Stop, match=r"1\.5 GB are free .* about 9 GB.*whl/cpu"):
        bootstrap.check_disk(free_gb=1.5, needed_gb=9)
    bootstrap.check_python((3, 11))
    bootstrap.check_ensurepip(True)
    bootstrap.check_disk(free_gb=9, needed_gb=9)


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
    """A range, so that every machine gets a matched set."""
    assert {specifier.operator for r in requirements().values() for specifier in r.specifier} == {">="}


def test_citation_has_the_version_of_the_package() -> None:
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == adaln_lab.__version__


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "adaln_lab/assets/README.md")]
PAGES += [ROOT / name for name in (".ci/run", ".pre-commit-config.yaml", ".devcontainer/devcontainer.json")]
PAGES += sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PATH = re.compile(r"(?<![\w/.-])(?:\.ci|\.github|notebooks|tests|adaln_lab|benchmarks|site)(?:/[\w.-]*\w)+")
TARGET = re.compile(r"(?:`|run: |&& |^ *)make ([a-z-]+)", re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    """Files of the repository, links to what lies beside the page, targets of make. NAME and NN stand for any name."""
    text = page.read_text(encoding="utf8").replace("\\", "")
    missing = [path for path in PATH.findall(text) if not re.search("NN|NAME", path) and not (ROOT / path).exists()]
    missing += [link for link in re.findall(r"\]\(([\w./-]+)\)", text) if not (page.parent / link).exists()]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.M)
    assert missing + [target for target in TARGET.findall(text) if target not in targets] == []


# Links to the repository appear with its address


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """What `make address` reads and writes, in a copy."""
    for name in ("pyproject.toml", "README.md", ".ci", "notebooks"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def contents(course: Path) -> dict[str, str]:
    """Relative path -> text, of all that holds a link."""
    paths = [course / "pyproject.toml", course / "README.md", *sorted((course / "notebooks").glob("*.ipynb"))]
    return {str(path.relative_to(course)): path.read_text(encoding="utf8") for path in paths}


def address(course: Path, *repo: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(course / ".ci" / "address.py"), *repo]
    return subprocess.run(command, capture_output=True, text=True)


def test_no_link_without_an_address_and_no_placeholder() -> None:
    """As committed, or as a fork has it that knows its own: never an address that leads nowhere."""
    texts = contents(ROOT)
    if "[project.urls]" not in texts["pyproject.toml"]:
        assert [name for name, text in texts.items() if "colab.research.google.com" in text] == []
    assert [name for name, text in texts.items() if re.search(r"github(\.com)?/OWNER", text)] == []


def test_address_reaches_every_link_changes_and_goes(course: Path) -> None:
    before = contents(course)
    assert address(course, "ada/gates").returncode == 0
    written = contents(course)
    assert [name for name, text in written.items() if "ada/gates" not in text] == []
    assert tomllib.loads(written["pyproject.toml"])["project"]["urls"] == {"Repository": "https://github.com/ada/gates"}
    address(course, "ada/gates")
    assert contents(course) == written, "a second time changes nothing"
    address(course, "bob/norms")
    names = (("ada/gates", "bob/norms"), ("ada.github.io/gates", "bob.github.io/norms"))
    for old, new in names:
        written = {name: text.replace(old, new) for name, text in written.items()}
    assert contents(course) == written
    code = "import sys; sys.path.insert(0, '.ci'); import address; address.write(None)"
    subprocess.run([sys.executable, "-c", code], cwd=course, check=True)
    assert contents(course) == before or "[project.urls]" in before["pyproject.toml"], "what is committed is as written"


def test_address_is_owner_and_name(course: Path) -> None:
    before, refused = contents(course), address(course, "https://github.com/ada/gates")
    assert refused.returncode and "make address REPO=owner/name" in refused.stderr
    assert contents(course) == before
