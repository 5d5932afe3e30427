# make demo | make test | make check: each does all the set-up by itself. See CONTRIBUTING.md.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= 2.13.0
EXTRAS ?= viz,serve,data,docs,dev
PIP    := $(VENV)/bin/python -m pip
OS     := $(shell uname -s)
# Without a screen MuJoCo draws through EGL, which only Linux has.
RUN    := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(if $(filter Linux,$(OS)),MUJOCO_GL=egl) $(VENV)/bin/python
# CPU wheels unless an NVIDIA GPU is present: a plain `torch` pulls gigabytes of CUDA onto machines that cannot use it.
GPU    := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
BACKEND ?= $(if $(filter Darwin,$(OS)),default,$(if $(filter-out 0,$(GPU)),cuda,cpu))
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: setup demo test test-slow check format docs zoo bench-gpu bench-simple clean

setup: $(VENV)/.stamp

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
ifeq ($(BACKEND),cpu)
	$(PIP) install -q "torch==$(TORCH)+cpu" || $(PIP) install -q "torch==$(TORCH)+cpu" --index-url $(CPU_INDEX)
else
	$(PIP) install -q "torch==$(TORCH)"
endif
	touch $@

# torch first; its exact version then constrains everything else, so nothing can swap the CPU build for CUDA.
$(VENV)/.stamp: $(VENV)/.torch pyproject.toml constraints.txt Makefile
	$(VENV)/bin/python -c "import importlib.metadata as m; print('torch==' + m.version('torch'))" > $(VENV)/torch.txt
	$(PIP) install -q -c $(VENV)/torch.txt -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

demo: setup
	$(RUN) -m mbrl_gym.cli.main demo

test: setup
	$(RUN) -m pytest -n 2

test-slow: setup
	$(RUN) -m pytest -m slow

# mypy sees mbrl_gym.agents only in an installed tree (package-dir), so it checks a fresh install, not the checkout.
check: setup docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf $(VENV)/typed build
	$(PIP) install -q --no-deps --no-build-isolation --target $(VENV)/typed .
	cd $(VENV)/typed && MYPYPATH=. ../bin/python -m mypy --config-file $(CURDIR)/pyproject.toml -p mbrl_gym

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The site, into site/. Strict: what mkdocs warns of, such as a link to nowhere, is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

zoo: setup
	$(RUN) -m mbrl_gym.zoo.build

# Goes on where it was stopped: make bench-gpu ARGS="--minutes 8". See benchmarks/dreamer_gpu.py.
bench-gpu: setup
	$(PIP) install -q -c $(VENV)/torch.txt -c constraints.txt -e ".[$(EXTRAS),dmc]"
	OMP_NUM_THREADS=1 MUJOCO_GL=disabled $(VENV)/bin/python benchmarks/dreamer_gpu.py $(ARGS)

# The same for SimPLe: make bench-simple ARGS="--minutes 8". See benchmarks/simple_gpu.py.
bench-simple: setup
	OMP_NUM_THREADS=1 MUJOCO_GL=disabled $(VENV)/bin/python benchmarks/simple_gpu.py $(ARGS)

clean:
	rm -rf $(VENV) build dist site *.egg-info runs
