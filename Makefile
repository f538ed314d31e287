# `make demo` and `make test` are all a newcomer needs; each makes .venv first where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The package as one tree, for tools that read files and not the installed package.
TREE := build/tree/exportable_losses

.PHONY: demo test test-all fuzz lint bench rows record docs wheel venv clean tree

venv: $(VENV)/dev

# An extra of pyproject.toml, installed; `dev` has all that `demo` has.
$(VENV)/dev $(VENV)/demo $(VENV)/wheel: $(VENV)/%: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	# Python compiles what is imported; that rapidocr has not all it asks for, from an earlier make, is meant
	$(BIN)/python -m pip install --quiet --no-compile --no-warn-conflicts -c constraints.txt -e '.[$*]'
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt --no-deps rapidocr-onnxruntime
	touch $@

demo: $(firstword $(wildcard $(VENV)/dev) $(VENV)/demo)
	$(BIN)/python examples/demo.py

test: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not thorough"

test-all: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal

# random calls of every row, and a tenth as many mutated files: `make fuzz N=1000000`
N ?= 100000
fuzz: venv
	$(BIN)/python tests/fuzz/calls.py --number $(N)
	$(BIN)/python tests/fuzz/files.py --number $$(( $(N) / 10 ))

lint: venv tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

bench: venv
	$(BIN)/exportable-losses bench

rows: venv
	$(BIN)/python docs/rows.py

# all rows on all runtimes, or some: `make record ROWS="ctc_loss CTCAlign"`
record: venv
	$(BIN)/python docs/record.py $(ROWS)

# for an index: the source, and a wheel that any Linux of glibc 2.28 or later takes; elsewhere this platform's
wheel: $(VENV)/wheel
	rm -rf build/wheel dist
	$(BIN)/python -m build --outdir build/wheel
	mkdir dist && cp build/wheel/*.tar.gz dist/
	if [ "$$(uname)" = Linux ]; then \
	    PATH=$(BIN):$$PATH $(BIN)/auditwheel repair --only-plat --plat manylinux_2_28_$$(uname -m) -w dist build/wheel/*.whl; \
	else cp build/wheel/*.whl dist/; fi
	$(BIN)/twine check --strict dist/*

# the documentation as a site in build/site, where what MkDocs warns of is an error
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tree:
	rm -rf build/tree && mkdir -p $(TREE)
	ln -s $(CURDIR)/exportable_losses/* $(CURDIR)/export $(CURDIR)/runtime $(TREE)/

clean:
	rm -rf $(VENV) build dist losses demo
