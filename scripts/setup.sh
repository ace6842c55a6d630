#!/bin/sh
# Gets a machine ready to build Portcullis; with `tests` also to test it, with `audit` also to audit its
# dependencies, with `tls` also to have its TLS settings judged. Does nothing where all is there already.
set -eu

TARGET=wasm32-wasip2

fail() {
    echo "setup: $*" >&2
    exit 1
}

# install PACKAGE... : Debian packages, where that can be done.
install() {
    command -v apt-get >/dev/null || fail "please install: $*"
    [ "$(id -u)" = 0 ] || fail "please install: sudo apt-get install $*"
    echo "setup: installing $*" >&2
    export DEBIAN_FRONTEND=noninteractive
    # Of Postfix only the test tools are wanted, not a mail server.
    if command -v debconf-set-selections >/dev/null; then
        echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_rust() {
    command -v cargo >/dev/null || fail "Rust is missing; see https://rustup.rs"
    command -v cc >/dev/null || install gcc libc6-dev
}

need_target() {
    libraries=$(rustc --print target-libdir --target "$TARGET" 2>/dev/null) || libraries=
    [ -n "$libraries" ] && [ -d "$libraries" ] && return
    command -v rustup >/dev/null ||
        fail "the Rust target $TARGET is missing, and there is no rustup to add it with"
    echo "setup: adding the Rust target $TARGET" >&2
    timeout 300 rustup target add "$TARGET" ||
        fail "the Rust target $TARGET cannot be had (is there a network?); then: rustup target add $TARGET"
}

need_clients() {
    missing=
    command -v swaks >/dev/null || missing="$missing swaks libnet-ssleay-perl"
    command -v openssl >/dev/null || missing="$missing openssl"
    set -- /usr/lib/*/faketime/libfaketimeMT.so.1
    [ -e "$1" ] || missing="$missing libfaketime"
    [ -x /usr/sbin/smtp-sink ] || missing="$missing postfix"
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install $missing
}

# Exim is a next hop in some tests. Its package would put Postfix's out, so it is only unpacked. Where that
# cannot be done those tests say so, and pass.
need_exim() {
    tools=${CARGO_TARGET_DIR:-target}/tools
    [ ! -x "$tools/exim/usr/sbin/exim4" ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 0
    echo "setup: unpacking exim4-daemon-light" >&2
    mkdir -p "$tools/packages"
    libraries=$(apt-cache depends exim4-daemon-light | sed -n 's/^ *Depends: \(lib[^<>]*\)$/\1/p')
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $libraries >/dev/null &&
        (cd "$tools/packages" && apt-get download -qq -o APT::Sandbox::User=root exim4-daemon-light) &&
        dpkg -x "$tools"/packages/exim4-daemon-light_*.deb "$tools/exim" ||
        echo "setup: there will be no tests with Exim" >&2
}

need_deny() {
    cargo deny --version >/dev/null 2>&1 && return
    echo "setup: installing cargo-deny, which takes some minutes" >&2
    cargo install --quiet --locked cargo-deny || fail "cargo-deny cannot be installed"
}

need_rust
need_target
case ${1-} in
tests)
    need_clients
    need_exim
    ;;
audit) need_deny ;;
tls) command -v testssl >/dev/null || install testssl.sh ;;
esac
