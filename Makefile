# The two commands of the README are `make run` and `make test`; both set up what they need.

CARGO ?= cargo
# One profile for everything: wasmtime is compiled once.
PROFILE := --release
BINARY := $(abspath $(or $(CARGO_TARGET_DIR),target))/release/portcullis

.PHONY: run demo install install-files package package-test check test bench lint audit semver fuzz faults upgrades soak tls setup setup-tests setup-package setup-audit

run: setup
	$(CARGO) run $(PROFILE) --locked --package portcullis-server -- run

# The page without a server, in the folder FOLDER.
FOLDER ?= demo
demo: setup
	$(CARGO) run $(PROFILE) --locked --package portcullis-server -- demo $(FOLDER)

# The program without symbols, manual pages, completions, the units and the documentation; not the configuration.
PREFIX ?= /usr/local
FILES ?= $(dir $(BINARY))install-files
install: setup
	$(CARGO) build $(PROFILE) --locked --package portcullis-server
	rm -rf $(FILES)
	packaging/files.sh $(BINARY) $(FILES)
	$(MAKE) --no-print-directory install-files

# The same of a program that is there: BINARY, and what packaging/files.sh has made in FILES.
SHARE = $(DESTDIR)$(PREFIX)/share
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
install-files:
	install -D -m 755 -s $(BINARY) $(DESTDIR)$(PREFIX)/bin/portcullis
	install -d $(SHARE)/man/man1 $(SHARE)/doc/portcullis/examples $(SHARE)/portcullis $(UNITS)
	install -m 644 $(FILES)/man/*.1.gz $(SHARE)/man/man1
	install -D -m 644 $(FILES)/completions/portcullis $(SHARE)/bash-completion/completions/portcullis
	install -D -m 644 $(FILES)/completions/_portcullis $(SHARE)/zsh/site-functions/_portcullis
	install -D -m 644 $(FILES)/completions/portcullis.fish $(SHARE)/fish/vendor_completions.d/portcullis.fish
	for unit in service socket; do \
		sed 's|/usr/bin/portcullis|$(PREFIX)/bin/portcullis|; s|/usr/share/|$(PREFIX)/share/|' packaging/portcullis.$$unit >$(UNITS)/portcullis.$$unit && \
		chmod 644 $(UNITS)/portcullis.$$unit || exit 1; \
	done
	install -D -m 644 packaging/portcullis.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/portcullis.conf
	install -d $(DESTDIR)$(PREFIX)/lib/tmpfiles.d
	sed 's|/usr/share/|$(PREFIX)/share/|' packaging/portcullis.tmpfiles >$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/portcullis.conf
	chmod 644 $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/portcullis.conf
	install -m 644 examples/rules.json $(SHARE)/portcullis/rules.json
	install -m 644 packaging/portcullis.toml $(SHARE)/doc/portcullis/examples/packaged.toml
	install -m 644 examples/portcullis.toml examples/rules.json $(SHARE)/doc/portcullis/examples
	install -m 644 README.md CHANGELOG.md LICENSE-* docs/*.md $(SHARE)/doc/portcullis

# What is handed out, in target/package, and a trial of each in a system of its own.
package: setup-package
	scripts/package.sh
package-test: setup-package
	scripts/package-test.sh

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

UPGRADES ?= 1000
upgrades: setup-tests
	$(CARGO) build $(PROFILE) --locked --workspace --all-targets
	PORTCULLIS_BIN=$(BINARY) PORTCULLIS_UPGRADES=$(UPGRADES) \
		$(CARGO) test $(PROFILE) --locked --workspace --test long -- --nocapture upgrades::

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

setup-package:
	scripts/setup.sh package

setup-audit:
	scripts/setup.sh audit
