# Every command sets up .venv on first use. The README gives the plain form of each.
PYTHON ?= python3
NOTEBOOKS = $(wildcard ch*/*.ipynb appendix_*/*.ipynb)
NBVAL = --nbval --nbval-current-env --nbval-cell-timeout=600 --nbval-sanitize-with=tests/nbval_sanitize.cfg

.PHONY: lab test run chat book test-browser
lab: .venv/ready
	.venv/bin/jupyter lab $(ARGS)

test: .venv/ready
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/python -m pytest tests
	$(if $(NOTEBOOKS),.venv/bin/python -m pytest $(NBVAL) $(NOTEBOOKS))

run: .venv/ready
	$(if $(NOTEBOOKS),.venv/bin/jupyter nbconvert --to notebook --execute --inplace $(NOTEBOOKS))

chat: .venv/ready
	@.venv/bin/python -m ch06_alignment.chat $(ARGS)

book: book/.venv/ready
	book/.venv/bin/python book/build.py

test-browser: .venv/ready book
	book/.venv/bin/python -m pytest book/tests $(ARGS)

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -r requirements.txt
	touch .venv/ready

book/.venv/ready: book/requirements.txt
	$(PYTHON) -m venv book/.venv
	book/.venv/bin/python -m pip install -r book/requirements.txt
	touch book/.venv/ready
