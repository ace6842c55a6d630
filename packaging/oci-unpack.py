#!/usr/bin/env python3
"""Unpacks an image as a container engine would: oci-unpack.py LAYOUT FOLDER; prints the command, a word a line."""

import hashlib
import json
import pathlib
import sys
import tarfile

layout, folder = map(pathlib.Path, sys.argv[1:])


def blob(descriptor: dict) -> pathlib.Path:
    algorithm, digest = descriptor["digest"].split(":")
    path = layout / "blobs" / algorithm / digest
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest and len(content) == descriptor["size"], path
    return path


index = json.loads((layout / "index.json").read_text())
manifest = json.loads(blob(index["manifests"][0]).read_text())
for it in manifest["layers"]:
    with tarfile.open(blob(it)) as tar:
        tar.extractall(folder, filter="fully_trusted") if hasattr(tarfile, "fully_trusted_filter") else tar.extractall(folder)
config = json.loads(blob(manifest["config"]).read_text())["config"]
print("\n".join(config["Entrypoint"] + config["Cmd"]))
