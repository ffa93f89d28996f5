# `make demo` and `make test` set up what they need in .venv, then do their job.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup demo test lint docs commands site clean

setup: .venv/installed

# The installation compiles these.
KERNELS := $(addprefix mobilenas/nn/kernels/,bottleneck.cpp loops.h norms.h build.py)

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

# The command reference, and the site in build/site.
docs: setup commands site

commands:
	$(BIN)/python -m typer mobilenas.cli utils docs --name mobilenas --title Commands \
	  --output docs/reference/commands.md

# Pages link to files outside of docs/, so the site is built of a copy in which these lie as here.
# Every warning is an error: a link or a heading that is not there, a name that the code has not.
site:
	rm -rf build/pages build/site
	mkdir -p build/pages
	cp -r README.md CHANGELOG.md LICENSE docs export examples latency_tables build/pages
	$(BIN)/zensical build --strict --clean
	@echo 'To read, with search: $(BIN)/python -m http.server --directory build/site'

clean:
	rm -rf .venv build dist runs
