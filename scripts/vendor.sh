#!/bin/sh
# Makes host/src/admin/page/vendor/ anew: Preact, its signals and htm as one module, and their licences. Needs npm; the
# server's build does not. Change the versions here, and see what has changed with git diff.
set -eu

PREACT=11.2.0
SIGNALS=2.11.4
HTM=3.1.1
ESBUILD=0.28.2

folder=$(cd "$(dirname "$0")/../host/src/admin/page/vendor" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --silent "preact@$PREACT" "@preact/signals@$SIGNALS" "htm@$HTM" "esbuild@$ESBUILD"
cat >page.js <<'END'
export { h, render, Fragment } from "preact";
export { signal, computed, effect, batch, useSignal, useComputed, useSignalEffect } from "@preact/signals";
import { h } from "preact";
import htm from "htm";
export const html = htm.bind(h);
END
npx esbuild page.js --bundle --format=esm --minify --target=es2022 --outfile=bundle.js
{
    echo "// Preact $PREACT (MIT), @preact/signals $SIGNALS (MIT), htm $HTM (Apache-2.0), bundled by scripts/vendor.sh; see LICENSES.txt"
    cat bundle.js
} >"$folder/preact.js"
for name in preact @preact/signals htm; do
    echo "== $name $(node -p "require('./node_modules/$name/package.json').version")"
    cat "node_modules/$name/LICENSE"
    echo
done >"$folder/LICENSES.txt"
sha256sum "$folder/preact.js"
