#!/bin/sh
# Compares the library's public items with those of the newest release: a change that breaks callers needs a version
# that says so. The first release has nothing to be compared with.
set -eu
cd "$(dirname "$0")/.."

release=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null) || release=
if [ -z "$release" ]; then
    echo "semver: there is no release tag (v*) to compare with" >&2
    exit 0
fi
scripts/setup.sh semver
echo "semver: comparing with $release" >&2
cargo semver-checks --baseline-rev "$release" --package portcullis --package portcullis-types
