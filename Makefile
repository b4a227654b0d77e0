# `make demo` and `make test` set up everything they need in .venv; second runs are fast.
# `make help` lists all targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# ROS=kilted: the tests in an environment of their own, with Kilted's wheels instead of Jazzy's.
ROS ?= jazzy
VENV := $(if $(filter-out jazzy,$(ROS)),.venv-$(ROS),.venv)
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
OUT ?= out

# A sourced ROS 2 is used as it is; without one, ROS 2 comes as wheels: Jazzy's, or ROS=kilted.
ifneq ($(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)),)
MODE := ros-$(ROS_DISTRO)
RUN_REQUIREMENTS := requirements/ros-sourced.txt
VENV_OPTIONS := --system-site-packages
else
MODE := wheels
RUN_REQUIREMENTS := requirements/run.txt requirements/ros-wheels-$(ROS).txt
VENV_OPTIONS :=
endif
# shipped_model reads datasets that cannot be downloaded freely; verify_gpu is `make verify-gpu`;
# recipe (an hour and a half of training) and decisions are run by hand.
DATA := $(or $(SEG_PERCEPTION_DATA),../shared/data)
BENCHMARKS ?= image_codec damaged_jpegs node_latency node_overhead host_steps first_contact stop_anytime usual_node view_cost meters training engines networks family confidence $(if $(wildcard $(DATA)),shipped_model)
TEST_REQUIREMENTS := requirements/train.txt requirements/test.txt
CONSTRAINTS := $(if $(filter wheels,$(MODE)),requirements/constraints.txt requirements/constraints-$(ROS).txt)

PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$python; break; }; done)
# Nothing is installed for train-gpu: where there is no .venv, the machine's own Python and PyTorch serve.
PYTHON_OF_GPU = $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input $(CONSTRAINTS:%=--constraint %)

# Nothing here talks to other machines, or to another robot program on this one.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
ifndef ROS_DOMAIN_ID
export ROS_DOMAIN_ID := $(shell shuf -i 1-49 -n 1)
endif
export PYTHONUNBUFFERED := 1
export PIP_ROOT_USER_ACTION := ignore

##@ Everyday

.PHONY: demo
demo: $(STAMPS)/run ## Drive, segment, record. Own material: BAG=drive.mcap or IMAGES=folder [LABELS=folder MAPPING=file.yaml]
	$(BIN)/seg-perception demo --out "$(OUT)" $(if $(BAG),--bag "$(BAG)") $(if $(IMAGES),--images "$(IMAGES)") \
		$(if $(LABELS),--labels "$(LABELS)") $(if $(MAPPING),--mapping "$(MAPPING)") $(DEMO_ARGS)

# What keeps time with other processes, or kills its own children, runs in one process; all else beside it in two
# that yield to it, in another ROS domain, and is shown when the first is done. A hang in a library's code, which
# pytest cannot interrupt, ends after 40 minutes; its stacks are printed after 5.
ALONE := test/launch test/network test/ros test/view test/training/test_train.py test/training/test_data.py
PYTEST = timeout --foreground --kill-after 30 2400 $(BIN)/python -m pytest -m "not slow"
BESIDE = $(STAMPS)/beside.log

.PHONY: test
test: lint ## All checks and tests that must be green; some of them with PYTEST_ARGS="test/core -k name"
ifdef PYTEST_ARGS
	$(PYTEST) $(PYTEST_ARGS)
else
	@status=0; \
	ROS_DOMAIN_ID=$$((ROS_DOMAIN_ID % 50 + 50)) COVERAGE_FILE=.coverage.beside nice env --default-signal=INT $(PYTEST) $(COV) -n 2 \
		--dist loadfile --no-loadscope-reorder $(ALONE:%=--ignore=%) test > $(BESIDE) 2>&1 & beside=$$!; trap "kill $$beside 2> /dev/null || true" EXIT; \
	COVERAGE_FILE=.coverage.alone $(PYTEST) $(COV) $(ALONE) || status=$$?; \
	tail -n +1 -f --pid=$$beside $(BESIDE); wait $$beside || status=$$?; exit $$status
endif

.PHONY: coverage
coverage: ## The same, and how much of the package it runs (a quarter longer)
	@rm -f .coverage .coverage.*
	@status=0; $(MAKE) test COV="--cov=seg_perception --cov-report=" || status=$$?; \
	$(BIN)/coverage combine -q; $(BIN)/coverage report --skip-covered; exit $$status

.PHONY: lint
lint: $(STAMPS)/test ## Style, format, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers auto || { [ $$? -eq 2 ] && $(BIN)/mypy; } # a busy machine starts no worker in its 3 s
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMPS)/test ## Rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

##@ Slow proofs

.PHONY: verify
verify: verify-slow verify-colcon ## Everything that takes minutes

.PHONY: verify-slow
verify-slow: $(STAMPS)/verify ## The tests marked slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

.PHONY: verify-launch
verify-launch: $(STAMPS)/test ## The launch files, by the real launch: LAUNCH_SOURCES=folder, see CONTRIBUTING.md
	@path=""; for package in $(if $(LAUNCH_SOURCES),launch launch_ros osrf_pycommon composition_interfaces); do \
		for file in $$(find "$(LAUNCH_SOURCES)" -path "*/$$package/__init__.py"); do \
			path="$$path$$(dirname "$$(dirname "$$file")"):"; done; done; \
		PYTHONPATH="$$path$${PYTHONPATH:-}" SEG_PERCEPTION_DEMAND_LAUNCH=1 \
			$(BIN)/python -m pytest test/launch $(PYTEST_ARGS)

.PHONY: verify-colcon
verify-colcon: $(STAMPS)/colcon ## colcon build and test, as on a robot
	.ci/colcon $(VENV) $(OUT)/colcon

.PHONY: verify-gpu
verify-gpu: $(STAMPS)/test ## Build, run, compare and time TensorRT engines; needs an NVIDIA GPU
	$(BIN)/python benchmarks/verify_gpu.py --require-gpu $(VERIFY_ARGS)

.PHONY: benchmark
benchmark: $(STAMPS)/test ## The measurements in benchmarks/ that need no GPU: each prints a table and writes JSON
	@mkdir -p $(OUT); failed=""; for name in $(BENCHMARKS); do echo "== benchmarks/$$name.py"; \
		$(BIN)/python "benchmarks/$$name.py" || failed="$$failed $$name"; done; \
		[ -z "$$failed" ] || { echo "not passed:$$failed" >&2; exit 1; }

##@ Training

MINUTES ?= 6
.PHONY: train-gpu
train-gpu: ## Pack the data and train for MINUTES (6) on this machine's GPU: weights, curves and a report in out/gpu
	PYTHONPATH=. $(PYTHON_OF_GPU) benchmarks/train_gpu.py pack --data "$(DATA)" --out "$(OUT)/parts"
	PYTHONPATH=. $(PYTHON_OF_GPU) benchmarks/train_gpu.py run --parts "$(OUT)/parts" --minutes $(MINUTES) --out "$(OUT)/gpu" $(TRAIN_ARGS)

.PHONY: loop
loop: $(STAMPS)/test ## From a bag to better weights: choose frames, label (by the truth), train, score, report. BAG=drive.mcap
	$(BIN)/python benchmarks/loop.py --out "$(OUT)/loop" $(if $(BAG),--bag "$(BAG)") $(LOOP_ARGS)

##@ Pages

.PHONY: web
web: $(STAMPS)/run ## The model in a page of its own, in out/web: everything stays with the visitor (needs npm)
	@command -v npm >/dev/null || { echo "npm is needed: on Debian and Ubuntu, apt install npm" >&2; exit 1; }
	@npm ci --prefix web --ignore-scripts --no-audit --no-fund --silent
	$(BIN)/python web/build.py --out "$(OUT)/web"

##@ Environment

.PHONY: setup
setup: $(STAMPS)/run ## What demo and node need (no torch)

.PHONY: setup-dev
setup-dev: $(STAMPS)/test $(STAMPS)/colcon ## What training, tests and checks need

.PHONY: clean
clean: ## Remove what demo, tests and builds wrote (keeps .venv and runs/)
	rm -rf build install log dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

.PHONY: clean-venv
clean-venv: ## Remove .venv
	rm -rf $(VENV)

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One stamp for each layer of the environment; a changed requirement redoes its layer only.

$(STAMPS)/venv-$(MODE):
	@[ -n "$(PYTHON)" ] || { echo "Python 3.10, 3.11 or 3.12 is needed and none was found; name one with PYTHON=..." >&2; exit 1; }
	@other=$$(cd $(STAMPS) 2>/dev/null && ls -d venv-* 2>/dev/null || true); [ -z "$$other" ] || { \
		echo "$(VENV) was made for '$${other#venv-}' and this shell has '$(MODE)': run 'make clean-venv' first" >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "Creating $(VENV) ($(MODE)) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot create virtual environments: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }; }
	@touch $(VENV)/COLCON_IGNORE
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: $(STAMPS)/venv-$(MODE) $(RUN_REQUIREMENTS) $(CONSTRAINTS) setup.py setup.cfg
	@echo "Installing what demo and node need ($(MODE)) into $(VENV): $(RUN_REQUIREMENTS)$(if $(CONSTRAINTS),; 0.8 GB on disk)"
	@$(PIP) $(RUN_REQUIREMENTS:%=-r %)
	@$(PIP) --no-deps --no-build-isolation --editable .
	@echo "Installed: $(VENV) has $$(du -sh $(VENV) | cut -f1) now; 'source $(BIN)/activate' puts seg-perception into your path"
	@touch $@

$(STAMPS)/test: $(STAMPS)/run $(TEST_REQUIREMENTS) requirements/tensorrt.txt requirements/openvino.txt
	@echo "Installing what training, tests and checks need: torch, TensorRT-RTX, OpenVINO, checkers; 1.8 GB more on disk"
	@echo "with a torch for the CPU, some GB more with PyPI's, which brings CUDA; minutes the first time"
	@$(PIP) $(TEST_REQUIREMENTS:%=-r %)
	@$(PIP) --no-deps -r requirements/tensorrt.txt -r requirements/openvino.txt
	@echo "Installed: $(VENV) has $$(du -sh $(VENV) | cut -f1) now"
	@touch $@

$(STAMPS)/verify: $(STAMPS)/test requirements/verify.txt
	@echo "Installing what slow proofs need"
	@$(PIP) -r requirements/verify.txt
	@touch $@

$(STAMPS)/colcon: $(STAMPS)/test requirements/colcon.txt
	@echo "Installing colcon"
	@$(PIP) $(TEST_REQUIREMENTS:%=-r %) -r requirements/colcon.txt
	@touch $@
