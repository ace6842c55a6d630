#!/usr/bin/env bash
# Makes what is handed out, in <target>/package: a Debian package, an RPM package, a tarball with a static program, an
# image, the evaluator as a crate, a list of all that is in them (SBOM), and digests. The same sources and tools give
# the same octets, in whatever folder.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
# What the descriptions of packages name.
work=$root/target/package-work
out=$target/package
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
musl=x86_64-unknown-linux-musl

# Times are that of the newest commit; of sources without a history, that of the list of dependencies.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

# Nothing that is built has the paths of this machine in it. Compilers of C are told by a wrapper: OpenSSL writes the
# arguments of its compiler into its library.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export CARGO_TARGET_DIR=$target/package-build
export PORTCULLIS_CC_PATHS="$CARGO_TARGET_DIR=/build:$root=/portcullis:$cargo_home=/cargo"
flags="--remap-path-prefix=$CARGO_TARGET_DIR=/build --remap-path-prefix=$root=/portcullis --remap-path-prefix=$cargo_home=/cargo"
flags="$flags --remap-path-prefix=$(rustc --print sysroot)=/rust"
mkdir -p "$work/bin"
for compiler in cc musl-gcc; do
    ln -sf "$root/packaging/cc" "$work/bin/portcullis-$compiler"
done
PATH=$work/bin:$PATH

echo "package: building for $musl" >&2
CC_x86_64_unknown_linux_musl=portcullis-musl-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS="$flags" \
    cargo build --release --locked --package portcullis-server --features static --target $musl
echo "package: building for this system" >&2
host=$(rustc --print host-tuple)
CC=portcullis-cc RUSTFLAGS="$flags -Clink-arg=-Wl,--build-id=sha1" \
    cargo build --release --locked --package portcullis-server --target "$host"
native=$CARGO_TARGET_DIR/$host/release
static=$CARGO_TARGET_DIR/$musl/release

rm -rf "$out" "$work/files"
mkdir -p "$out" "$work/files"
files=$work/files
strip --strip-all -o "$files/portcullis" "$native/portcullis"
strip --strip-all -o "$files/portcullis-static" "$static/portcullis"
packaging/files.sh "$native/portcullis" "$files"
cat >"$files/changelog" <<END
portcullis ($version-1) unstable; urgency=medium

  * What is new is in CHANGELOG.md.

 -- $(sed -n 's/^maintainer = "\(.*\)"/\1/p' host/Cargo.toml)  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

echo "package: Debian" >&2
# cargo-deb looks for what was built in the folder of the host.
cargo deb --quiet --no-build --no-strip --package portcullis-server --deb-revision 1 \
    --target "$host" --output "$out/portcullis_${version}-1_$(dpkg --print-architecture).deb"

echo "package: RPM" >&2
cargo generate-rpm --package host --target $musl --target-dir "$CARGO_TARGET_DIR" \
    --source-date "$SOURCE_DATE_EPOCH" --output "$out/portcullis-$version-1.x86_64.rpm"

echo "package: tarball" >&2
name=portcullis-$version-x86_64-linux-musl
tree=$work/$name
rm -rf "$tree"
make --no-print-directory install-files BINARY="$files/portcullis-static" FILES="$files" DESTDIR="$tree" PREFIX=/usr >&2
tar --directory "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --format=ustar -cf - "$name" | zstd --quiet -19 -T1 -o "$out/$name.tar.zst"

echo "package: image" >&2
image=$work/image
rm -rf "$image"
mkdir -p "$image"/{usr/bin,etc/portcullis,etc/ssl/certs,usr/share/portcullis,var/lib/portcullis,var/cache/portcullis,tmp}
install -m 755 "$files/portcullis-static" "$image/usr/bin/portcullis"
install -m 644 examples/rules.json "$image/var/lib/portcullis/rules.json"
sed 's/127\.0\.0\.1:2525"$/0.0.0.0:2525"/' packaging/portcullis.toml >"$image/etc/portcullis/portcullis.toml"
printf 'root:x:0:0::/:/\nportcullis:x:65532:65532::/var/lib/portcullis:/\n' >"$image/etc/passwd"
printf 'root:x:0:\nportcullis:x:65532:\n' >"$image/etc/group"
# Whose certificates are trusted, as this system has it.
install -m 644 /etc/ssl/certs/ca-certificates.crt "$image/etc/ssl/certs/ca-certificates.crt"
packaging/oci.py "$image" "$out/portcullis-$version-oci" amd64 "$version"

echo "package: evaluator" >&2
packaging/evaluator.sh "$out" "$CARGO_TARGET_DIR/$host" "$version"

echo "package: SBOM" >&2
packaging/sbom.sh "$out/portcullis-$version.cdx.json"

(cd "$out" && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs sha256sum >SHA256SUMS)
echo "package: all is in $out" >&2
