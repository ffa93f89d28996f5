# `make demo` and `make test` set up what they need in .venv, then do their job.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup demo test lint clean

setup: .venv/installed

# The installation compiles these.
KERNELS := $(addprefix mobilenas/nn/kernels/,bottleneck.cpp loops.h build.py)

.venv/installed: pyproject.toml hatch_build.py $(KERNELS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/mobilenas quickstart --out runs/demo
	$(BIN)/mobilenas detect train retinanet_digits --weights runs/demo/train/network \
	  --set train_cfg.max_epochs=4 --out runs/demo/detect \
	  $$(test ! -e runs/demo/detect/run.json || echo --resume)
	$(BIN)/mobilenas detect predict runs/demo/detect \
	  runs/demo/detect/digits/val/000[1-4].jpg --min-score 0.4
	$(BIN)/mobilenas report runs/demo --out runs/demo/report.html
	@echo 'Worth a look: runs/demo/report.html, which has the front and the four scenes'

# Two processes of one thread each: most tests are too small for more threads.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist runs
