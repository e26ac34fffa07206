CARGO ?= cargo
# Flags for every native cargo command.
CARGO_FLAGS ?= --locked
# The version of Envoy that the demo runs, and those that the end-to-end tests run with.
ENVOY_VERSION ?= 1.40.0
ENVOY_VERSIONS ?= 1.40.0 1.36.4
TOOLS := tests/tools
WASM := target/meshweft.wasm
CLI := target/meshweft
NATIVE_DIR = $(or $(CARGO_TARGET_DIR),target)

export CARGO ENVOY_VERSION

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One thing after the other: each of them uses all processors.
.NOTPARALLEL:

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(WASM) $(CLI) ## The module target/meshweft.wasm and the native tool target/meshweft

# Folders are among the prerequisites: they change when a file goes.
$(WASM): Cargo.toml Cargo.lock filter/Cargo.toml $(shell find filter/src filter/core) $(wildcard $(TOOLS)/*.sh)
	@$(TOOLS)/wasm-build.sh $@

# What the benchmark compares with: a filter that does nothing, and one that crosses and does nothing else.
target/empty.wasm target/crossings.wasm: target/%.wasm: Cargo.toml Cargo.lock $(shell find tests/empty tests/crossings) $(wildcard $(TOOLS)/*.sh)
	@$(TOOLS)/wasm-build.sh $@ meshweft-$*

$(CLI): Cargo.toml Cargo.lock $(shell find filter/cli filter/core)
	$(CARGO) build $(CARGO_FLAGS) --release -p meshweft-cli
	@mkdir -p target && cp $(NATIVE_DIR)/release/meshweft $@.new && mv $@.new $@

.PHONY: image
image: $(WASM) ## The module as OCI images, with a bill of materials, into target/image
	@$(TOOLS)/image.sh

.PHONY: demo
demo: ## A small mesh on this machine, and its traces as trees
	@$(TOOLS)/demo.sh

.PHONY: test
test: doctor test-unit test-wasm test-host test-e2e ## All tests; fetches what they need

.PHONY: test-unit
test-unit: ## Tests of the core and the tool, natively
	$(CARGO) test $(CARGO_FLAGS) --no-fail-fast

.PHONY: test-wasm
test-wasm: ## The core's tests again, as wasm in Node
	@$(TOOLS)/wasm-test.sh

.PHONY: test-host
test-host: $(WASM) ## The module in an emulated host
	$(CARGO) test $(CARGO_FLAGS) --no-fail-fast -p meshweft-host-tests

.PHONY: budget
budget: $(WASM) ## Writes what a request costs anew, into tests/host/tests/testdata
	MESHWEFT_BUDGET_WRITE=1 $(CARGO) test $(CARGO_FLAGS) -p meshweft-host-tests --test figures

.PHONY: test-e2e
test-e2e: $(WASM) $(CLI) target/crossings.wasm ## The module in real Envoys, each of ENVOY_VERSIONS
	@$(TOOLS)/e2e.sh $(ENVOY_VERSIONS)

.PHONY: fuzz
fuzz: ## Fuzzes the core, FUZZ_SECONDS (30) for each target
	@$(TOOLS)/fuzz.sh

.PHONY: test-backends
test-backends: $(WASM) ## The module before real trace backends; builds them once
	@$(TOOLS)/backends.sh

.PHONY: test-istio
test-istio: $(WASM) ## The module in a mesh under real istiods; builds them once
	@$(TOOLS)/istio.sh

.PHONY: bench
bench: $(WASM) target/empty.wasm target/crossings.wasm ## What tracing costs, side by side; ARGS=--quick: about a minute
	@$(TOOLS)/bench.sh $(ARGS)

.PHONY: bench-correlation
bench-correlation: $(WASM) ## How many calls of applications that forward nothing are joined rightly
	MESHWEFT_ENVOY=$$($(TOOLS)/fetch-envoy.sh $(ENVOY_VERSION)) $(CARGO) run $(CARGO_FLAGS) --release -p meshweft-lab --bin bench_correlation

.PHONY: simulate-correlation
simulate-correlation: ## The same of simulated applications, without a proxy
	MESHWEFT_SIMULATION="a a3 a1 b p c d e f g h n m a/k b/k c/k" $(CARGO) test $(CARGO_FLAGS) --release -p meshweft-core --test inference by_load -- --nocapture

.PHONY: lint
lint: ## Formatting, clippy and documentation, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --exclude meshweft --exclude meshweft-empty --exclude meshweft-crossings --all-targets -- -D warnings
	@$(TOOLS)/wasm-lint.sh
	@$(MAKE) --no-print-directory doc

.PHONY: deny
deny: ## Licences and sources of the dependencies
	@$(TOOLS)/deny.sh

.PHONY: fmt
fmt: ## Formats the code
	$(CARGO) fmt --all

.PHONY: doc
doc: ## Documentation of the crates, into target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(CARGO_FLAGS) --workspace --lib --no-deps

.PHONY: envoy
envoy: ## Fetches Envoy and prints where it is
	@$(TOOLS)/fetch-envoy.sh $(ENVOY_VERSION)

.PHONY: doctor
doctor: ## Says which programs are missing on this machine
	@$(TOOLS)/doctor.sh

.PHONY: ci
ci: ## What CI runs: test, test-backends, test-istio, fuzz, lint, deny
	@bash .ci/run

.PHONY: clean
clean: ## Removes what was built; what was fetched stays in the cache
	$(CARGO) clean
	@rm -rf target
