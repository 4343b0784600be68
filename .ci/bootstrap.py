"""Make .venv and install the course into it; a second call returns at once. The Makefile calls this.

    python3 .ci/bootstrap.py [--extra test]

Uses uv where it is on PATH, else pip; both read their usual settings (PIP_CONSTRAINT, UV_TORCH_BACKEND, ...).
An expected failure is one line on stderr that says what to do, and exit status 2. To tell an old Python that it is
too old, this file must parse there: no f-strings, no annotations, ASCII only.
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
NEEDED_PYTHON = (3, 11)


class Stop(Exception):
    """An expected failure; its text is the remedy."""


def check_python(version):
    if version < NEEDED_PYTHON:
        raise Stop(
            "this is Python %d.%d and the course needs %d.%d or newer: install one from python.org, "
            "then name it, as in: make lab PYTHON=python3.12" % (version + NEEDED_PYTHON)
        )


def check_ensurepip(found):
    if not found:
        raise Stop(
            "this Python cannot make a virtual environment with pip in it: sudo apt install python3-venv "
            "(Debian, Ubuntu), or install uv or a Python from python.org"
        )


def check_disk(free_gb, needed_gb):
    if free_gb < needed_gb:
        raise Stop(
            "%.1f GB are free here and the install takes about %d GB: free some, or start with the small CPU build: "
            "python3 -m venv .venv && .venv/bin/pip install torch torchvision "
            "--index-url https://download.pytorch.org/whl/cpu" % (free_gb, needed_gb)
        )


def can_import(module, python=sys.executable):
    """Does this interpreter start, is it of our version, and has it the module?"""
    probe = "import sys, %s; sys.exit(sys.version_info[:2] != %r)" % (module, tuple(sys.version_info[:2]))
    try:
        return subprocess.call([python, "-c", probe], stderr=subprocess.DEVNULL) == 0
    except OSError:  # .venv/bin/python is missing, or a link to a Python that is gone
        return False


def digest():
    """What a finished install rests on: the requirements, the Python, and the folder, which may be moved or copied."""
    state = hashlib.sha256(("%d.%d %s" % (sys.version_info[:2] + (ROOT,))).encode())
    for name in ("requirements.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            state.update(file.read())
    return state.hexdigest()


def needed_gb(uv):
    """Disk at the peak of the install, wheels and all: on Linux, PyPI has torch with CUDA, 6 GB when all is done."""
    if glob.glob(os.path.join(VENV, "lib", "*", "site-packages", "torch")):
        return 1
    pinned = os.environ.get("UV_TORCH_BACKEND") == "cpu" if uv else "PIP_CONSTRAINT" in os.environ
    return 9 if sys.platform.startswith("linux") and not pinned else 3


def run(command, remedy):
    """Run it with its errors on our stdout, so that stderr holds our one line and nothing else."""
    sys.stdout.flush()
    if subprocess.call(command, cwd=ROOT, stderr=subprocess.STDOUT) != 0:
        raise Stop(remedy)


def set_up(extra):
    python = os.path.join(VENV, "bin", "python")
    stamp = os.path.join(VENV, "installed")  # the digest, then the extras of the last install that came to its end
    done = []
    if os.path.exists(python) and os.path.exists(stamp):
        with open(stamp) as file:
            done = file.read().split()
    fresh = done[:1] == [digest()]
    if fresh and (extra is None or extra in done):
        return

    uv = shutil.which("uv")
    check_disk(shutil.disk_usage(ROOT).free / 1e9, needed_gb(uv))
    if not can_import("sys" if uv else "pip", python):
        with_pip = can_import("ensurepip")
        check_ensurepip(with_pip or uv)
        shutil.rmtree(VENV, ignore_errors=True)
        print("Making .venv with %s" % sys.executable)
        base = getattr(sys, "_base_executable", sys.executable)  # we may be running inside the .venv just removed
        run([base, "-m", "venv", VENV] + ([] if with_pip else ["--without-pip"]), "could not make .venv, see above")

    if os.path.exists(stamp):
        os.remove(stamp)  # an install cut short from here on is done again by the next call
    extras = sorted(set(done[1:] if fresh else []) | set([extra] if extra else []))
    package = ".[%s]" % ",".join(extras) if extras else "."
    tool = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    print("Installing the course into .venv: once, a few minutes")
    # The package depends on all of requirements.txt; it is named as well because uv would miss a change in there.
    run(
        tool + ["--requirement", "requirements.txt", "--editable", package],
        "the install failed, see above: check network, disk and PIP_INDEX_URL, then run the same command again",
    )
    with open(stamp, "w") as file:
        file.write("\n".join([digest()] + extras) + "\n")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", help="an extra of pyproject.toml to install as well, e.g. test")
    try:
        check_python(tuple(sys.version_info[:2]))
        set_up(parser.parse_args(arguments).extra)
    except KeyboardInterrupt:
        sys.stderr.write("bootstrap: interrupted; run the same command again and it goes on\n")
        return 2
    except (Stop, OSError) as why:
        sys.stderr.write("bootstrap: %s\n" % why)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
