# make run       install into .venv and continue a text with the bundled model; PROMPT= and ARGS= change both
# make test      run the linter and the tests
# make bench     compare the speed with transformers, llama.cpp and CTranslate2 (.venv-bench); ARGS=--quick: minutes
# make install   only install into .venv
# make clean     remove both environments
# PYTHON=python3.12 selects another Python for .venv.
PYTHON ?= python3
PROMPT ?= Once upon a time, there was a princess who lived in a big castle.

# The prompt reaches Python through the environment, so that make and the shell do not interpret quotes and dollars.
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: run test bench install clean

run: ARGS ?= --temperature 0.7
run: .venv/installed
	@.venv/bin/python gpt2.py "$$PROMPT" --model_size tiny --n_tokens_to_generate 300 --echo $(ARGS) < /dev/null

test: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/python -m pytest

bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/bench.py $(ARGS)

install: .venv/installed

clean:
	rm -rf .venv .venv-bench

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) or \
	  sys.exit("Python %d.%d is not supported: TensorFlow needs 3.10 to 3.13. Try: make run PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv-bench/installed: benchmarks/requirements.txt requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@
