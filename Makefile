# Two commands do everything: `make demo` and `make test`. Both make the environment they need in .venv.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN = .venv/bin/psychocounsel
# what benchmarks are made of, a search that is run by hand, and those of `bench-training`
PARTS = accuracy_data accuracy_sides measurement training_data training_models trl_peer our_peer trl_settings tune_trl \
  side_by_side comparison flops tables wording train_vs_trl scoring generation training_profile
BENCHMARKS = $(filter-out $(PARTS:%=benchmarks/%.py), $(wildcard benchmarks/*.py))

.PHONY: setup demo format check test docs bench bench-training clean

.venv/train: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[train]'
	@touch $@

.venv/dev: .venv/train
	$(PIP) -e '.[dev]'
	@touch $@

setup: .venv/dev  ## the full development environment

demo: .venv/train  ## the whole pipeline on the embedded texts; a second call finds everything done
	$(RUN) run recipes/quickstart.toml

format: .venv/dev
	.venv/bin/ruff format src tests benchmarks examples
	.venv/bin/ruff check --fix src tests benchmarks examples

check: .venv/dev  ## style and types
	.venv/bin/ruff format --check src tests benchmarks examples
	.venv/bin/ruff check src tests benchmarks examples
	.venv/bin/mypy

test: check  ## style, types, all tests offline, coverage of at least 90 %
	.venv/bin/python -m coverage erase
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv/bin/python -m coverage run -m pytest -n auto --dist loadfile
	.venv/bin/python -m coverage combine --quiet
	.venv/bin/python -m coverage report

docs: .venv/dev  ## check that the README's table stands in the results and that no link in the docs is dead
	.venv/bin/python -m pytest -q tests/test_docs.py

bench: .venv/dev  ## every benchmark; each prints one JSON object as its last line
	for file in $(BENCHMARKS); do OMP_NUM_THREADS=2 .venv/bin/python $$file || exit 1; done

bench-training: .venv/dev  ## beside TRL, for hours; continues where it stopped; goals that are not met do not stop it
	-.venv/bin/python benchmarks/train_vs_trl.py --save
	-.venv/bin/python benchmarks/scoring.py --save
	-.venv/bin/python benchmarks/generation.py --save
	.venv/bin/python benchmarks/tables.py --write

clean:
	rm -rf .venv build dist .coverage* .pytest_cache .mypy_cache .ruff_cache
