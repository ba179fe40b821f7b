# Two commands on a fresh machine: `make demo` (the whole road, no GPU) and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.PHONY: demo test lint clean

demo: $(VENV)/ready
	$(BIN)/python demo/run.py

test: $(VENV)/ready
	$(BIN)/python -m pytest $(if $(BROWSER),,-m "not browser")
ifeq ($(BROWSER),)
	@echo "no Chromium found: the tests marked 'browser' were left out; install chromium to run them"
endif

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy jetson_runtime engine_builder calibration realignment refusal_suite benchmarks demo

# torch first: the pinned version, so that no other package pulls in another build of it.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --group dev -e ".[cpu,build,rtx,realign,report,gate,fleet]"
	touch $@

clean:
	rm -rf $(VENV) build
