# The two commands of the README are `make run` and `make test`; both set up what they need.

CARGO ?= cargo
# One profile for everything: wasmtime is compiled once.
PROFILE := --release
BINARY := $(abspath $(or $(CARGO_TARGET_DIR),target))/release/portcullis

.PHONY: run test bench lint audit fuzz setup setup-tests

run: setup
	$(CARGO) run $(PROFILE) --locked --package portcullis -- run

# Built with all targets at once: with another selection cargo would choose other features of shared
# dependencies, and compile wasmtime again.
test: setup-tests
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets
	PORTCULLIS_BIN=$(BINARY) $(CARGO) test $(PROFILE) --locked --workspace

# Quick ones; docs/performance.md has those that take longer. CONNECTORS chooses the sizes.
bench: setup
	$(CARGO) bench --locked --package portcullis --bench evaluate -- --warm-up-time 1 --measurement-time 2
	$(CARGO) build $(PROFILE) --locked --package portcullis --package portcullis-benches
	$(dir $(BINARY))session-bench compare --rounds 2 --seconds 1 --peers

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(PROFILE) --locked --workspace --no-deps

# Licences, sources and advisories of all dependencies (needs `cargo install cargo-deny`).
audit:
	$(CARGO) deny check

# Each target for SECONDS, or those in TARGETS (needs a nightly toolchain and `cargo install cargo-fuzz`).
SECONDS ?= 60
TARGETS ?= $$($(CARGO) +nightly fuzz list)
fuzz: setup
	cd fuzz && export PORTCULLIS_EVALUATOR_TOOLCHAIN=$$(rustup show active-toolchain | cut -d" " -f1) && for target in $(TARGETS); do \
		mkdir -p corpus/$$target && \
		$(CARGO) +nightly fuzz run $$target corpus/$$target seeds/$$target -- -max_total_time=$(SECONDS) || exit 1; \
	done

setup:
	scripts/setup.sh

setup-tests:
	scripts/setup.sh tests
