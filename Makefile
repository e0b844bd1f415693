# Everything runs through .venv/bin/python -m ..., with relative paths: scripts with a "#!" line, and make's own lists,
# do not survive a folder with a space in its name.
PY := .venv/bin/python
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=120 --nbval-sanitize-with tests/notebooks/sanitize.cfg
ROOT := $(shell [ "$$(id -u)" != 0 ] || printf %s --allow-root)

# The method, the recipe, the objective and the exercises.
QUICK := $(patsubst %,tests/test_%.py,attention penalties identities baselines remedies recipe objective own_penalty \
    exercises)

# Two streams at a time; where make can, each one's output is kept together.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: help lab app setup setup-test test lint quick unit browser nbval notebooks results bench latency pictures audit clean

help:
	@echo 'make lab        open JupyterLab at notebooks/00_start_here.ipynb (installs what is missing)'
	@echo 'make app        serve the exploration notebook as a classroom page (or APP=notebooks/01_feature_maps.ipynb)'
	@echo 'make setup      only make .venv and install'
	@echo 'make test       lint, types, unit, browser and notebook tests (installs what is missing)'
	@echo 'make quick      test the equations, recipes, objective and exercises in under a minute'
	@echo 'make unit       run all unit tests; likewise make browser, make nbval'
	@echo 'make lint       check with ruff, mypy, the order of imports and the rules of prose'
	@echo 'make notebooks  execute every notebook in place (or NOTEBOOKS=notebooks/03_ast_and_act.ipynb)'
	@echo 'make bench      measure the time of a training step by method and speed option'
	@echo 'make latency    measure the time from a slider to the new figure, in a browser'
	@echo 'make pictures   take the screenshots of the explorers, in a browser'
	@echo 'make results    measure what the README reports'
	@echo 'make audit      ask for known vulnerabilities of the pinned packages (needs a network)'
	@echo 'make clean      remove caches and build output (.venv and runs/ stay)'

lab: setup
	$(PY) -m tools.lab $(ROOT) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

app: setup
	$(PY) -m tools.app $(APP)

setup:
	@sh tools/setup.sh

setup-test:
	@sh tools/setup.sh test
	@$(PY) -m tools.chromium --install

test: lint
	@$(MAKE) -j2 $(SYNC) browser unit nbval

lint: setup-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m tools.prose
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-cache

# Did I break an equation? Needs no browser, and takes no test marked slow.
quick: setup-test
	$(PY) -m pytest -q -m 'not slow' $(QUICK)

unit: setup-test
	$(PY) -m pytest -q --doctest-modules spgca_lab
	$(PY) -m pytest tests --ignore=tests/browser

browser: setup-test
	$(PY) -m pytest tests/browser

# Stored numbers come from two threads of a CPU: other sums of floats would round otherwise, and a GPU's more so.
nbval notebooks: export OMP_NUM_THREADS = 2
# Threads that spin while they wait make a busy machine ten times slower; the numbers stay the same.
quick unit browser nbval notebooks: export OMP_WAIT_POLICY = PASSIVE
nbval notebooks: export CUDA_VISIBLE_DEVICES =

# In a fresh folder: beside a reader's notebooks/runs/, fit would answer with runs that older code trained.
nbval: setup-test
	rm -rf .nbval
	mkdir .nbval
	cp notebooks/*.ipynb .nbval
	$(PY) -m pytest -p tests.notebooks.report $(NBVAL) .nbval

notebooks: setup-test
	$(PY) -m tools.run_notebooks $(NOTEBOOKS)

# Two threads, as on the two cores that the page's numbers are for.
bench latency: export OMP_NUM_THREADS = 2
bench: setup
	$(PY) benchmarks/step.py --ablation spa gca

latency: setup-test
	$(PY) -m benchmarks.latency

pictures: setup-test
	$(PY) -m benchmarks.make_pictures

results: setup
	$(PY) benchmarks/results.py

# In an environment of its own, so that what asks does not change what is asked about. Without an answer it fails.
audit: setup
	$(PY) -m venv .audit
	.audit/bin/python -m pip install --quiet pip-audit
	.audit/bin/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf build dist .audit .nbval .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name node_modules -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	    -prune -exec rm -rf {} +
