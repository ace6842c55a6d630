#!/bin/sh
# The list of all crates that are in the program (CycloneDX 1.5): sbom.sh FILE
set -eu
cargo cyclonedx --quiet --format json --spec-version 1.5 --manifest-path host/Cargo.toml --target x86_64-unknown-linux-musl \
    --features static --no-build-deps --override-filename portcullis-sbom
# Where the sources are on this machine says nothing to others.
python3 - host/portcullis-sbom.json "$1" <<'END'
import json
import os
import re
import sys

source, to = sys.argv[1:]
root = os.getcwd()
with open(source) as file:
    text = file.read().replace(f"file://{root}", "file:///portcullis").replace(root, "/portcullis")
bom = json.loads(text)
bom.pop("serialNumber", None)
with open(to, "w") as file:
    json.dump(bom, file, indent=1, sort_keys=True)
    file.write("\n")
assert bom["components"] and not re.search(r"file:///(?!portcullis)", text)
END
# One is written beside each package of the workspace.
find . -name portcullis-sbom.json -not -path './target/*' -delete
