#!/bin/sh
# Puts the headers and the shared library of wasmtime's C API into a folder (DIR/include, DIR/lib), without building
# anything: the headers are those of the crate wasmtime-c-api-impl, the library is the one in the package for Python.
#
#   ./get-wasmtime.sh DIR
#
# It needs cargo 1.82 or later, and a Python with pip (PYTHON). The archive wasmtime-v50.0.1-*-c-api.tar.xz of a release
# has the same.
set -eu

version=50.0.1
wheel=sha256:cc14c3a17654e0394e0225b11813532ef0cd7bd1e222a0c5494cdedaabeddac4 # of manylinux1_x86_64
folder=$1
[ "$(uname -sm)" = "Linux x86_64" ] || {
    echo "$0: the library is for Linux on x86-64 only: take the archive wasmtime-v$version-*-c-api.tar.xz of wasmtime's releases" >&2
    exit 1
}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
mkdir -p "$folder/include" "$folder/lib"

# `cargo info` downloads the crate and checks it against the index; nothing that it depends on is needed.
(cd "$temporary" && cargo --quiet info "wasmtime-c-api-impl@$version" >/dev/null)
for crate in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"wasmtime-c-api-impl-$version"; do
    break
done
cp -R "$crate/include/." "$folder/include/"
# CMake would write this file: the library is built with all features but these two.
sed -e '/DISABLE_LOGGING/d' -e '/ALL_ARCH/d' -e 's/^#cmakedefine/#define/' \
    "$crate/include/wasmtime/conf.h.in" >"$folder/include/wasmtime/conf.h"

echo "wasmtime==$version --hash=$wheel" >"$temporary/requirements.txt"
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --dest "$temporary" --requirement "$temporary/requirements.txt"
"${PYTHON:-python3}" -m zipfile -e "$temporary"/*.whl "$temporary/wheel"
cp "$temporary"/wheel/wasmtime/linux-x86_64/_libwasmtime.so "$folder/lib/libwasmtime.so"
