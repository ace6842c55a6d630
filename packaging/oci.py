#!/usr/bin/env python3
"""Makes an image of one static program, as an OCI layout (image-spec 1.1): oci.py ROOT LAYOUT ARCHITECTURE VERSION

ROOT is what the image contains. The same input gives the same octets; times are $SOURCE_DATE_EPOCH.
"""

import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
USER = 65532


def layer(root: pathlib.Path) -> bytes:
    """The files of a folder as a tar archive. Nothing in it depends on this machine."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            entry = tarfile.TarInfo(name)
            entry.mtime = EPOCH
            # What the program writes is its user's.
            owner = USER if name.startswith("var/") else 0
            entry.uid = entry.gid = owner
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o700 if owner else 0o755
                tar.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size = len(content)
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


class Layout:
    """A folder of blobs, named by their digests."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "blobs/sha256").mkdir(parents=True)

    def blob(self, content: bytes, media_type: str) -> dict:
        """Writes a blob, and gives its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def json(self, content: dict, media_type: str) -> dict:
        return self.blob(canonical(content), media_type)


def canonical(content: dict) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def main() -> None:
    root, folder, architecture, version = sys.argv[1:]
    files = layer(pathlib.Path(root))
    layout = Layout(pathlib.Path(folder))
    packed = gzip.compress(files, compresslevel=9, mtime=0)
    created = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc)
    created = created.strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {
        "org.opencontainers.image.title": "Portcullis",
        "org.opencontainers.image.description": "Partner connectors for secure mail flow",
        "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
        "org.opencontainers.image.version": version,
    }
    image = "application/vnd.oci.image"
    config = layout.json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": created,
            "config": {
                "User": f"{USER}:{USER}",
                "Entrypoint": ["/usr/bin/portcullis"],
                "Cmd": ["run", "--config", "/etc/portcullis/portcullis.toml"],
                "Env": ["XDG_CACHE_HOME=/var/cache", "XDG_STATE_HOME=/var/lib"],
                "ExposedPorts": {"2525/tcp": {}},
                "Labels": labels,
                "StopSignal": "SIGTERM",
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(files).hexdigest()]},
            "history": [{"created": created, "created_by": "make package"}],
        },
        f"{image}.config.v1+json",
    )
    manifest = layout.json(
        {
            "schemaVersion": 2,
            "mediaType": f"{image}.manifest.v1+json",
            "config": config,
            "layers": [layout.blob(packed, f"{image}.layer.v1.tar+gzip")],
            "annotations": labels,
        },
        f"{image}.manifest.v1+json",
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": version}
    manifest["platform"] = {"architecture": architecture, "os": "linux"}
    index = {
        "schemaVersion": 2,
        "mediaType": f"{image}.index.v1+json",
        "manifests": [manifest],
    }
    (layout.folder / "index.json").write_bytes(canonical(index))
    (layout.folder / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')


main()
