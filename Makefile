# Each target sets up what it needs (once: .venv/.ready is newer than the lock) and then does its job.
#   make reproduce [PROFILE=smoke]   make figures   make test   make lab   make bench
PROFILE ?= laptop
PORT ?= 8888
NOTEBOOKS := $(wildcard notebooks/*.ipynb notebooks/*/*.ipynb)
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"
# As the runner has it (`lib/matchbook/lab/runner.py` says why).
KEEP_MEMORY := MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184
REPLAY := MATCHBOOK_SESSION='{"replay": ["published"], "recorded": true, "runs": "$(CURDIR)/runs/nbval", "batch": true}'

.PHONY: setup more test lint types unit notebooks reproduce figures lab bench lock clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,2p' Makefile

setup: .venv/.ready
# With EXTRAS, such as EXTRAS=envpool, also where all the rest is there.
.venv/.ready: uv.lock pyproject.toml .python-version env/setup.sh $(if $(EXTRAS),more)
	@env/setup.sh
more:

test: lint types unit notebooks

lint: setup
	@$(RUN) ruff check . && $(RUN) ruff format --check .

types: setup
	@$(RUN) ty check lib

unit: setup
	@$(RUN) pytest -n 2 --dist worksteal tests

# Every committed pair, replayed from published records: outputs compared cell by cell, and what it
# draws up to rounding.
notebooks: setup
	@rm -rf runs/nbval/figures
	@$(RUN) $(REPLAY) pytest -n 2 --dist loadfile --nbval --nbval-cell-timeout=300 \
		--nbval-sanitize-with env/nbval_sanitize.cfg $(NOTEBOOKS)
	@$(RUN) python env/same_figures.py runs/nbval/figures/laptop figures/laptop

reproduce: setup
	@$(RUN) matchbook reproduce --profile $(PROFILE)

figures: setup
	@$(RUN) matchbook figures

lab: setup
	@$(KEEP_MEMORY) $(RUN) jupyter lab --port $(PORT) notebooks

bench: setup
	@$(KEEP_MEMORY) $(RUN) python -m bench

# After a change of dependencies: lock again, export the requirement files from the lock, then sync.
lock:
	@uv=$$(cat .venv/.ready 2>/dev/null || command -v uv) && $$uv lock && for p in cpu cuda13 tpu; do \
		$$uv export --quiet --frozen --no-dev --no-emit-project --no-hashes --no-header --no-annotate \
			$$( [ $$p = cpu ] || echo --extra $$p ) --output-file env/requirements-$$p.txt >/dev/null; done
	@env/setup.sh

clean:
	rm -rf runs .venv .tools .pytest_cache .ruff_cache .snakemake
