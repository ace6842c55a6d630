#!/bin/sh
# Holds licences, sources and known vulnerabilities of all dependencies against deny.toml. Without a network
# the advisories are those that were fetched last, or none.
set -eu

cargo deny check bans licenses sources
if timeout 120 cargo deny fetch db; then
    cargo deny check advisories
elif [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
    echo "audit: the advisories cannot be fetched; those of the last time are used" >&2
    cargo deny --offline check advisories
else
    echo "audit: the advisories cannot be fetched, so nothing is held against them" >&2
fi
