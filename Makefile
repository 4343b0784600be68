# Everything there is to do here. GNU Make 3.81 (macOS) is enough.
PYTHON ?= python3
JUPYTER_ARGS ?=
ONLY ?=
REPO ?= $(GITHUB_REPOSITORY)

VENV := .venv/bin/python

# The same tests on every machine: no GPU, no network, one thread a process, nothing read from or left in your home.
HERMETIC := ADALN_LAB_DEVICE=cpu CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 PYTHONPATH="$(CURDIR)/tests/offline" PYTHONHASHSEED=0 \
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 VECLIB_MAXIMUM_THREADS=1

.PHONY: help lab test lint format notebooks gpu site address clean setup setup-test

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

lab: setup  ## set up, then open your own copy in JupyterLab, at your next step (JUPYTER_ARGS=--no-browser)
	@$(VENV) -m adaln_lab progress --own my_course
	$(VENV) -m jupyterlab --ServerApp.ip=127.0.0.1 --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
		--LabApp.default_url=/lab/tree/my_course/welcome.ipynb $(JUPYTER_ARGS)

test: setup-test  ## all tests, quick ones first, then every notebook against its stored outputs
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT INT TERM && \
	export $(HERMETIC) ADALN_LAB_HOME="$$home" && \
	export IPYTHONDIR="$$home/ipython" JUPYTER_CONFIG_DIR="$$home/config" JUPYTER_DATA_DIR="$$home/data" && \
	$(VENV) -m pytest -n 2 --dist worksteal && \
	$(VENV) -m pytest -p tests.kernels --nbval --nbval-current-env --nbval-cell-timeout 300 -n 2 --dist loadfile notebooks

lint: setup-test  ## check form, common mistakes and which file imports which, in notebooks too
	$(VENV) -m ruff format --check .
	$(VENV) -m ruff check .
	$(dir $(VENV))lint-imports --no-logo

format: setup-test  ## mend what lint can mend
	$(VENV) -m ruff check --fix .
	$(VENV) -m ruff format .

notebooks: setup-test  ## run notebooks, store their outputs (ONLY=05 for one) and the page of equations
	$(VENV) tests/run_notebooks.py $(ONLY)
	$(VENV) tests/ledger.py

gpu:  ## measure everything on this machine's GPU in eight minutes (needs only torch and a few packages)
	$(if $(wildcard $(VENV)),$(VENV),$(PYTHON)) -m benchmarks.gpu --budget 480 --out runs/gpu

site:  ## write the course as pages into build/site, with moving sliders, to be read without network or kernel
	@$(PYTHON) .ci/bootstrap.py --extra site
	$(VENV) site/pages.py

address:  ## add the links that need the repository's place on GitHub (REPO=owner/name)
	@$(PYTHON) .ci/address.py $(REPO)

clean:  ## remove caches and build products; .venv and runs stay
	rm -rf build dist adaln_lab.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find .ci adaln_lab benchmarks notebooks site tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

setup:
	@$(PYTHON) .ci/bootstrap.py

setup-test:
	@$(PYTHON) .ci/bootstrap.py --extra test
