#!/bin/sh
# Builds the components in a folder, with the versions that README.md lists. The stored ones came from these
# commands; they are kept as they are, because they stand for what others have deployed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?give a folder for the components, such as /tmp/policy}
wit=$(cd "$here/../../../wit/released/0.1.0" && pwd)/policy.wit
mkdir -p "$folder"
cd "$folder"

CARGO_TARGET_DIR=$folder/target cargo build --release --locked --target wasm32-wasip2 \
    --manifest-path "$here/rust/Cargo.toml"
cp target/wasm32-wasip2/release/compat_policy.wasm rust.wasm

cp "$here/python/app.py" .
python3 -m venv venv
venv/bin/pip install componentize-py==0.25.1
venv/bin/componentize-py --wit-path "$wit" --world policy componentize --stub-wasi app --output python.wasm

cp "$here/javascript/app.js" .
npm install --no-save @bytecodealliance/componentize-js@0.23.0
npx componentize-js app.js --wit "$wit" --world-name policy \
    --disable stdio random clocks http fetch-event --out javascript.wasm

zstd --force --ultra -22 ./*.wasm
