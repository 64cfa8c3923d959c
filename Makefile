# make run       install into .venv and continue a text with the bundled model; PROMPT= and ARGS= change both
# make test      run the linter and the tests
# make page      write page.html, an interactive page that contains the bundled model; ARGS=--lesson adds a lesson
# make bench     compare the speed with transformers, llama.cpp and CTranslate2 (.venv-bench); ARGS=--quick: minutes
# make exercises install what exercises.md needs
# make install   only install into .venv; make install-all adds TensorFlow and the packages of the tests
# make clean     remove both environments
# PYTHON=python3.12 selects another Python for .venv.
PYTHON ?= python3
PROMPT ?= Once upon a time, there was a little dog named Max.

# The prompt reaches Python through the environment, so that make and the shell do not interpret quotes and dollars.
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: run test page bench exercises install install-all clean

run: ARGS ?= --temperature 0.5 --repetition_penalty 1.1
run: .venv/installed
	@.venv/bin/python gpt2.py "$$PROMPT" --model_size tiny --n_tokens_to_generate 300 --echo $(ARGS) < /dev/null

test: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/python -m pytest

page: .venv/installed
	@.venv/bin/python explore.py page --output page.html $(ARGS) < /dev/null
	@echo "Wrote page.html. Open it in a browser."

bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/bench.py $(ARGS)

exercises: .venv/installed
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check "pytest>=8,<10"
	@echo "Ready. Activate the environment with: . .venv/bin/activate"

install: .venv/installed

install-all: .venv/installed-dev

clean:
	rm -rf .venv .venv-bench

.venv/installed: requirements-run.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or \
	  sys.exit("Python %d.%d is too old: 3.10 or later is needed. Try: make run PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Installing eight packages into .venv (about 110 MB): numpy, regex, fire, tqdm, requests, safetensors,"
	@echo "google-crc32c, platformdirs"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-run.txt
	@touch $@
	@echo "Installed. Next time the command starts at once."

.venv/installed-dev: requirements.txt requirements-dev.txt .venv/installed
	@echo "Installing the packages of the tests into .venv (TensorFlow among them, about 1.6 GB)"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

.venv-bench/installed: benchmarks/requirements.txt requirements.txt requirements-run.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@
