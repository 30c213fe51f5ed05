# Every target sets up what it needs, once, in .venv; an interrupted set-up goes on with the same command.
#
#   make reproduce [PROFILE=smoke|small|random-start|systems|transfer|ablations|paper|paper-tiny] [DATA=/folder/of/data/sets] [JOBS=2]
#   make test [DATA=...]      make setup      make lab      make report PROFILE=small
#   make rehearse                      every stage of `paper` on generated images of 12 x 16 pixels, hours
#   make shape                         lines, files and imports beside their limits
#   make gallery                       runs the notebooks that have changed, at their defaults, for results/gallery/
#   make badges REPOSITORY=owner/name  writes your repository's address into the notebooks that open on Colab and Binder
#   make report-pdf PROFILE=small      prints the report.html that is there, with chromium

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROFILE ?=
DATA ?= $(UNSEG_DATA)
JOBS ?=

ifneq ($(strip $(DATA)),)
# not by abspath, which takes a folder with a space in its name for two
export UNSEG_DATA := $(if $(filter /%,$(firstword $(DATA))),,$(CURDIR)/)$(DATA)
endif

.PHONY: setup test shape reproduce rehearse lab gallery badges report report-pdf
.DEFAULT_GOAL := setup

setup: $(STAMP)

# Debian without python3-venv has no ensurepip: there the pip beside PYTHON puts a pip into the environment.
# The stamp comes last, so what was interrupted counts as not done; pip skips what is there already.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
	    "Expected Python 3.11 or 3.12, found " + sys.version.split()[0] + "; name one: make PYTHON=python3.11")'
	@echo "Setting up $(VENV), once: some minutes, about 2 GB"
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

shape:
	@$(PYTHON) tests/shape.py

reproduce: $(STAMP)
	$(BIN)/unseg reproduce $(if $(PROFILE),--profile $(PROFILE)) $(if $(JOBS),--jobs $(JOBS))

rehearse: $(STAMP)
	$(BIN)/python tests/tiny_sets.py data/tiny
	$(BIN)/unseg reproduce --profile paper-tiny --data data/tiny $(if $(JOBS),--jobs $(JOBS))

lab: $(STAMP)
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --notebook-dir . notebooks/00_quickstart.ipynb

gallery: $(STAMP)
	$(BIN)/unseg gallery

badges:
	@echo '$(REPOSITORY)' | grep -q '^[A-Za-z0-9_.-]*/[A-Za-z0-9_.-]*$$' || { echo 'Expected REPOSITORY=owner/name'; exit 2; }
	sed -i -E '/colab|mybinder|clone/ s#(github\.com|github|gh)/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+([/"\])#\1/$(REPOSITORY)\2#g' \
	    notebooks/00_*.ipynb notebooks/01_*.ipynb notebooks/10_*.ipynb

report: $(STAMP)
	$(BIN)/unseg report results/$(or $(PROFILE),small)
	$(if $(filter-out small,$(PROFILE)),,$(BIN)/python docs/tables.py)

report-pdf: $(STAMP)
	$(BIN)/unseg pdf results/$(or $(PROFILE),small)
