"""The container and the workflows: what can be said of them without GitHub and without a container.

They were read, not run. A file that they name exists, what they install is what requirements.txt allows, no GPU is
asked for, and a workflow may only read.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # jupyterlab brings it
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
WORKFLOWS = {path.name: path.read_text(encoding="utf8") for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
CONTAINER = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf8")
LEAST_PYTHON = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf8"))[1]
LINES = [line.partition("#")[0] for line in (ROOT / "requirements.txt").read_text(encoding="utf8").splitlines()]
LEAST = {r.name: str(r.specifier).removeprefix(">=") for r in map(Requirement, filter(None, map(str.strip, LINES)))}


def without_comments(text: str) -> Any:
    """JSON as VS Code reads it: // begins a comment, at the start of a line or after a blank."""
    return json.loads(re.sub(r"(^|\s)//.*", "", text))


def container_asks_for_a_gpu(text: str) -> bool:
    return bool(re.search(r"gpu|cuda|nvidia", re.sub(r"(^|\s)//.*", "", text), re.I))


def missing(text: str) -> list[str]:
    """What a text names of ours that is not there: make targets, files and folders of the repository."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.M))
    named = set(re.findall(r"(?<![\w/.-])(?:\.ci|notebooks|tests|adaln_lab)(?:/[\w.-]+)*|\brequirements\.txt", text))
    return [f"make {name}" for name in set(re.findall(r"\bmake ([a-z-]+)", text)) - targets] + [
        name for name in sorted(named) if not (ROOT / name).exists()
    ]


def torch_pairs(workflow: dict[str, Any]) -> list[dict[str, str]]:
    """The versions of torch and torchvision that the units are also run with, {} for the newest."""
    matrix = workflow["jobs"]["units"]["strategy"]["matrix"]
    texts = matrix["torch"] + [row["torch"] for row in matrix["include"]]
    return [dict(re.findall(r"(\w+)==([\d.]+)\.\*", text)) for text in texts]


def test_the_container_is_ours_and_asks_for_no_gpu() -> None:
    container = without_comments(CONTAINER)
    assert not container_asks_for_a_gpu(CONTAINER)
    assert missing(CONTAINER) == [] and "whl/cpu" in container["postCreateCommand"]
    assert 8888 in container["forwardPorts"]
    version = re.search(r"python:(?:\d+-)?([\d.]+)", container["image"])[1]
    assert [*map(int, version.split("."))] >= [*map(int, LEAST_PYTHON.split("."))]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read(name: str) -> None:
    workflow = yaml.safe_load(WORKFLOWS[name])
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in WORKFLOWS[name]
    for job in workflow["jobs"].values():
        assert "permissions" not in job and job["timeout-minutes"] <= 60
        checkout = next(step for step in job["steps"] if "checkout" in step.get("uses", ""))
        assert checkout["with"] == {"persist-credentials": False}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_workflow_names_exists(name: str) -> None:
    steps = [step for job in yaml.safe_load(WORKFLOWS[name])["jobs"].values() for step in job["steps"]]
    assert missing("\n".join(step["run"] for step in steps if "run" in step)) == []


def test_the_units_run_on_three_systems_with_the_oldest_and_the_newest() -> None:
    workflow = yaml.safe_load(WORKFLOWS["ci.yml"])
    matrix = workflow["jobs"]["units"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"][0] == LEAST_PYTHON and len(matrix["python"]) > 1
    assert {} in torch_pairs(workflow)
    assert {"torch": LEAST["torch"], "torchvision": LEAST["torchvision"]} in torch_pairs(workflow)
    runs = [step.get("run", "") for step in workflow["jobs"]["units"]["steps"]]
    assert not any("make" in run or ".ci" in run for run in runs), "Windows has no make"
    everything = workflow["jobs"]["everything"]
    assert everything["strategy"]["matrix"]["python"][0] == LEAST_PYTHON
    assert ".ci/run" in [step.get("run") for step in everything["steps"]]


def test_the_weekly_run_takes_the_newest_of_everything() -> None:
    workflow = yaml.safe_load(WORKFLOWS["weekly.yml"])
    assert "cron" in workflow[True]["schedule"][0]  # "on" is true in YAML 1.1
    runs = "\n".join(step.get("run", "") for step in workflow["jobs"]["newest"]["steps"])
    assert "--upgrade-strategy eager" in runs and "--nbval " in runs
    assert any("--pre" in how for how in workflow["jobs"]["newest"]["strategy"]["matrix"]["install"])


def test_these_checks_can_refuse() -> None:
    assert container_asks_for_a_gpu(CONTAINER.replace('"name"', '"runArgs": ["--gpus", "all"], "name"'))
    assert container_asks_for_a_gpu(CONTAINER.replace('"name"', '"hostRequirements": {"gpu": true}, "name"'))
    with pytest.raises(json.JSONDecodeError):
        without_comments(CONTAINER.replace("[8888],", "[8888]"))
    assert missing("make fly; python notebooks/99_nowhere.ipynb") == ["make fly", "notebooks/99_nowhere.ipynb"]
    older = yaml.safe_load(WORKFLOWS["ci.yml"].replace("torch==2.", "torch==1."))
    assert {"torch": LEAST["torch"], "torchvision": LEAST["torchvision"]} not in torch_pairs(older)
