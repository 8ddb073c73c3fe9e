# Everything in a virtual environment of its own, .venv, made when it is needed.
PYTHON ?= python3
VENV ?= .venv

.PHONY: quickstart test clean

quickstart: $(VENV)/.installed
	$(VENV)/bin/python tools/quickstart.py

test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest

# MMCV_WITH_OPS=0: MMCV without its compiled operators, which nothing here needs.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	MMCV_WITH_OPS=0 $(VENV)/bin/pip install -c constraints.txt -e '.[onedl,tests]'
	touch $@

clean:
	rm -rf $(VENV) work_dirs
