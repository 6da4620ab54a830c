# make setup | demo | test | guide | check | rehearse | rehearse-label-studio | bench | clean
#
# Every target makes the environments that it needs first. Another interpreter: make PYTHON=/path/to/python3.12

SUITABLE := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)
endif
RUN := .venv/bin/python

.PHONY: help setup demo test guide check rehearse rehearse-label-studio bench clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make setup   install everything: .venv for us, .venv-ls for Label Studio"
	@echo "make demo    Label Studio with sample pictures and the ML backend; Ctrl-C stops it"
	@echo "make test    all tests, with a real Label Studio in a real browser"
	@echo "make guide   the pictures of the annotator's guide, taken anew"
	@echo "make check   ruff, the linters of docker/, advisories about installed packages"
	@echo "make rehearse   the steps of docker/Dockerfile, and what comes out of it, without a container engine"
	@echo "make rehearse-label-studio   the same with Label Studio's image, which takes longer"
	@echo "make bench   times of nano and of the server's share on this machine"
	@echo "make clean   remove caches and var/; make distclean: the environments too"

setup: .venv/installed .venv-ls/installed .venv/chromium

demo: .venv/installed .venv-ls/installed
	$(RUN) scripts/demo.py $(if $(DEMO_ONCE),--once)

test: .venv/installed .venv-ls/installed .venv/chromium
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

guide: .venv/installed .venv-ls/installed .venv/chromium
	X2SAM_GUIDE=1 $(RUN) -m pytest tests/browser/test_guide.py

check: .venv/installed
	$(RUN) -m ruff check .
	.venv/bin/hadolint docker/*Dockerfile
	.venv/bin/compose-lint --fail-on high docker/docker-compose.yml
	$(RUN) scripts/audit.py

# Where pip is told of a folder with wheels, PyTorch is taken from there. Exit code 2: this machine does not allow it.
rehearse: .venv/installed
	$(RUN) docker/rehearse.py docker/Dockerfile --target cpu --serve --env X2SAM_ALLOW_OPEN=1 --env X2SAM_MODEL=nano \
		--env PORT=19490 $(if $(PIP_FIND_LINKS),--build-arg TORCH_INDEX=) || [ $$? = 2 ]

rehearse-label-studio: .venv/installed
	$(RUN) docker/rehearse.py docker/label-studio.Dockerfile --target label-studio --serve --patience 600 || [ $$? = 2 ]

bench: .venv/installed
	@mkdir -p var
	$(RUN) -m x2sam bench --size nano --json var/bench.json
	$(RUN) -m backend bench --json var/bench-server.json

.venv/installed: requirements.txt
	$(call install,.venv,requirements.txt)

.venv-ls/installed: requirements-label-studio.txt
	$(call install,.venv-ls,requirements-label-studio.txt)

# Without a browser its tests are skipped, with what to type; on a machine of continuous integration (CI=true) they fail.
.venv/chromium: .venv/installed scripts/chromium.py
	@if $(RUN) scripts/chromium.py; then touch $@; fi

# $(call install,environment,requirements): make or bring up to date; the stamp is written when all went well
define install
@$(or $(PYTHON),false) -c '$(SUITABLE)' 2>/dev/null || { \
	echo "Python 3.11, 3.12 or 3.13 with its venv module is needed; $(or $(PYTHON),$$(python3 --version 2>&1)) is not it."; \
	echo "Debian, Ubuntu: apt install python3 python3-venv. Or name an interpreter: make PYTHON=/path/to/python3.11"; \
	exit 1; }
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --disable-pip-version-check -r $(2)
@touch $@
endef

clean:
	rm -rf var build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-ls
