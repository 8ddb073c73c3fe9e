# Everything in a virtual environment of its own, made when it is needed: .venv, or with
# STACK=mmlab, for upstream's OpenMMLab packages in place of onedl's, .venv_mmlab.
PYTHON ?= python3
STACK ?= onedl
# How many processes share the tests, a file at a time; each takes 2 GB of memory.
WORKERS ?= 2
VENV ?= $(if $(filter mmlab,$(STACK)),.venv_mmlab,.venv)
PIP = $(VENV)/bin/pip install -c constraints.txt

.PHONY: quickstart test docs install clean

quickstart: install
	$(VENV)/bin/python tools/quickstart.py

test: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile

docs: install
	$(VENV)/bin/python -m sphinx -q -W --keep-going docs build/docs

install: $(VENV)/.installed

# Nothing here needs MMCV's compiled operators. onedl's MMCV does without; upstream's has
# to be compiled, since MMSegmentation imports them: beside PyTorch and an older
# setuptools, for CPUs alone, and not optimised, which would take about twice as long.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
ifeq ($(STACK),mmlab)
	$(PIP) torch torchvision 'setuptools<81' wheel ninja
	CUDA_VISIBLE_DEVICES= CFLAGS='-O0 -g0' $(PIP) --no-build-isolation mmcv
endif
	MMCV_WITH_OPS=0 $(PIP) -e '.[$(STACK),nouns,data,demo,tensorboard,tests,docs]'
	touch $@

clean:
	rm -rf .venv .venv_mmlab work_dirs build/docs
