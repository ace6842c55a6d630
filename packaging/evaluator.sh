#!/bin/sh
# The components that the program is built with, and their digests: evaluator.sh OUT BUILD VERSION. With them,
# `PORTCULLIS_COMPONENTS=FOLDER cargo install --path host` needs no target for WebAssembly.
set -eu
out=$1
build=$2
version=$3
name=portcullis-evaluator-$version
folder=$PWD/target/package-work/$name
rm -rf "$folder"
mkdir -p "$folder"
for component in evaluator packed-policy http; do
    found=$(find "$build" -path "*/out/$component.wasm" -printf '%T@ %p\n' | sort -rn | head -1 | cut -d' ' -f2-)
    install -m 644 "$found" "$folder/$component.wasm"
done
(cd "$folder" && sha256sum ./*.wasm >SHA256SUMS)
install -m 644 wit/policy.wit LICENSE-APACHE LICENSE-MIT "$folder"
tar --directory "$folder/.." --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --format=ustar -cf - "$name" | zstd --quiet -19 -T1 -o "$out/$name.tar.zst"
