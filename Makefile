# The two commands of the README are `make run` and `make test`; both set up what they need.

CARGO ?= cargo
# One profile for everything: wasmtime is compiled once.
PROFILE := --release
BINARY := $(abspath $(or $(CARGO_TARGET_DIR),target))/release/portcullis

.PHONY: run demo check test bench lint audit semver fuzz faults soak tls setup setup-tests setup-audit

run: setup
	$(CARGO) run $(PROFILE) --locked --package portcullis-server -- run

# The page without a server, in the folder FOLDER.
FOLDER ?= demo
demo: setup
	$(CARGO) run $(PROFILE) --locked --package portcullis-server -- demo $(FOLDER)

# The loop while one works: the tests that start no server.
check: lint
	$(CARGO) test $(PROFILE) --locked --workspace --lib --bins --test evaluator

test: setup-tests
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets
	PORTCULLIS_BIN=$(BINARY) $(CARGO) test $(PROFILE) --locked --workspace --no-fail-fast

# Quick ones; docs/performance.md has those that take longer. CONNECTORS chooses the sizes.
bench: setup
	$(CARGO) bench --locked --package portcullis --bench evaluate -- --warm-up-time 1 --measurement-time 2
	$(CARGO) build $(PROFILE) --locked --package portcullis-server --package portcullis-benches
	$(dir $(BINARY))session-bench compare --rounds 2 --seconds 1 --peers

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path examples/embedding/Cargo.toml
	$(CARGO) clippy $(PROFILE) --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(PROFILE) --locked --workspace --no-deps

# Licences, sources and advisories of all dependencies.
audit: setup-audit
	scripts/audit.sh

# The library's public items against those of the newest release.
semver:
	scripts/semver.sh

# Each target for SECONDS, or those in TARGETS (needs a nightly toolchain and `cargo install cargo-fuzz`).
SECONDS ?= 60
TARGETS ?= $$($(CARGO) +nightly fuzz list)
# The sandbox handles its own traps, and reserves address space; threads that serve are no leaks.
ENGINE := -handle_segv=0 -rss_limit_mb=6000
fuzz: setup
	cd fuzz && export PORTCULLIS_EVALUATOR_TOOLCHAIN=$$(rustup show active-toolchain | cut -d" " -f1) && for target in $(TARGETS); do \
		mkdir -p corpus/$$target && \
		case $$target in session | modules) options="$(ENGINE)" ;; *) options= ;; esac && \
		ASAN_OPTIONS=detect_leaks=0 $(CARGO) +nightly fuzz run $$target corpus/$$target seeds/$$target -- \
			-max_total_time=$(SECONDS) -print_final_stats=1 $$options || exit 1; \
	done

# Ten times as many faults as the tests have, and two hours of mail, faults and attacks.
FAULTS ?= 600
faults: setup-tests
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets
	PORTCULLIS_BIN=$(BINARY) PORTCULLIS_FAULTS=$(FAULTS) \
		$(CARGO) test $(PROFILE) --locked --workspace --test long -- --nocapture faults::

SOAK ?= 7200
soak: setup-tests
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets
	PORTCULLIS_BIN=$(BINARY) PORTCULLIS_SOAK=$(SOAK) \
		$(CARGO) test $(PROFILE) --locked --workspace --test long -- --nocapture soak::

# What testssl.sh has to say; TESTSSL chooses a part of it.
tls:
	scripts/setup.sh tls
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets
	scripts/testssl.sh $(BINARY) $(TESTSSL)

setup:
	scripts/setup.sh

setup-tests:
	scripts/setup.sh tests

setup-audit:
	scripts/setup.sh audit
