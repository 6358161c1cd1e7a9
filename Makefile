# Every verb sets up ./.venv by itself. Needs make and Python >= 3.11 with venv; with cargo and a C compiler the native front
# end is built too, unless NATIVE=no.
# ARGS goes to the program behind a verb: make demo ARGS="--json demo.json", make test ARGS="-k gate".

BIN := .venv/bin
READY := .venv/.stamp-dev
NATIVE_READY := .venv/.stamp-ingress
CRATE := $(shell find service/ingress -name target -prune -o -type f ! -name '*.md' -print)
export NATIVE
TRAINABLE := $(BIN)/python -c 'from importlib.util import find_spec; raise SystemExit(not all(map(find_spec, ("matplotlib", "modelopt", "onnx", "sklearn", "torch", "xgboost"))))'
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make requirements"

.PHONY: help setup demo test test-slow test-rtx test-train test-ops check bench simulate protos ops train compare search requirements

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r verb does; do printf 'make %-14s%s\n' "$$verb" "$$does"; done

$(READY): pyproject.toml requirements-dev.txt
	@sh .ci/venv

# No stamp without a toolchain: then every verb says so, and builds once there is one.
$(NATIVE_READY): $(CRATE) .ci/ingress | $(READY)
	@sh .ci/ingress build

setup: $(READY) $(NATIVE_READY) ## make ./.venv with the fraudgate command, and nothing else

demo: $(READY) $(NATIVE_READY) ## score a real week of card transactions over gRPC and print what it took
	@$(BIN)/fraudgate demo $(ARGS)

test: $(READY) $(NATIVE_READY) ## the test suite, under 5 minutes
	@sh .ci/ingress test
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-slow: $(READY) $(NATIVE_READY) ## the suites that take minutes
	@$(BIN)/pytest -m slow $(ARGS)

test-rtx: $(READY) ## compile the published models with TensorRT for RTX (240 MB into .venv-rtx); needs no GPU
	@sh .ci/rtx $(ARGS)

test-ops: $(READY) ## check the Prometheus rules in ops/ with promtool (19 MB from Debian into .venv-promtool)
	@sh .ci/promtool $(ARGS)

ops: $(READY) ## make the Prometheus rules and the Grafana dashboard in ops/ from ops/slo.toml
	@$(BIN)/fraudgate ops alerts $(ARGS)
	@$(BIN)/fraudgate ops dashboard $(ARGS)

test-train: $(READY) ## the training recipe on a small sample, where [train] is installed
	@if $(TRAINABLE); then $(BIN)/pytest tests/unit/test_pareto.py tests/unit/test_training.py \
	&& $(BIN)/python -m models.train --dataset simulated --sample $(ARGS); \
	else echo "test-train: skipped, the [train] extra is not installed in .venv (make train installs it)"; fi

check: $(READY) ## format, lint, types, Dockerfile, protos up to date, tidy test
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/hadolint Dockerfile
	@sh .ci/ingress check
	@$(BIN)/pytest tests/test_crate.py tests/test_protos.py tests/test_repository.py tests/test_tidy.py

bench: $(READY) $(NATIVE_READY) ## the benchmarks, under 8 minutes; writes benchmarks/results/latest.json
	@$(BIN)/python -m benchmarks $(ARGS)

bench-%: $(READY) $(NATIVE_READY)
	@$(BIN)/python -m benchmarks $* $(ARGS)

simulate: $(READY) $(NATIVE_READY) ## the whole service on a fake clock, a million calls with faults; SEED=7 picks the run
	@$(BIN)/fraudgate simulate --seed $(or $(SEED),1) $(ARGS)

protos: $(READY) ## regenerate the stubs in service/fraudgate/v1 and inference
	@$(BIN)/python -m protos.generate

train: $(READY) ## install [train] (several GB) into .venv, then train both models; python -m models.publish puts a draft into the repository
	@$(TRAINABLE) || { echo "installing the [train] extra into .venv: several GB" && $(BIN)/python -m pip install --quiet -e '.[cpu,train]'; }
	@$(BIN)/python -m models.train --dataset handbook $(ARGS)
	@$(BIN)/python -m models.train --dataset simulated $(ARGS)

compare: $(READY) ## recipes side by side on the validation folds, where [train] is installed; writes models/tried.json
	@$(BIN)/python -m models.compare --dataset handbook $(ARGS)

search: $(READY) ## width and depth of the network against its time, where [train] is installed; writes models/pareto.*
	@$(BIN)/python -m models.search --dataset handbook $(ARGS)

requirements: $(READY) ## pin what pyproject.toml asks for, with hashes; ARGS=--upgrade takes newer releases
	@$(COMPILE) pyproject.toml $(ARGS) --extra cpu --extra dev --output-file requirements-dev.txt
	@$(COMPILE) pyproject.toml $(ARGS) --extra cpu --constraint requirements-dev.txt --output-file requirements.txt
	@printf '%s\n' tensorrt-rtx-cu13 tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs | \
		$(COMPILE) - $(ARGS) --no-deps --output-file requirements-rtx.txt
