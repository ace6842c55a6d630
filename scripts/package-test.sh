#!/usr/bin/env bash
# Tries what `make package` has made: each is judged, installed into a system of its own, started with its own
# configuration, asked by a mail client, replaced while it runs, removed and purged. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${CARGO_TARGET_DIR:-$PWD/target}/package
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
[ "$(id -u)" = 0 ] || { echo "package-test: needs root, for systems of its own" >&2; exit 1; }
command -v swaks >/dev/null || { echo "package-test: swaks is missing: run make setup-tests" >&2; exit 1; }

work=$(mktemp -d)
running=
end() {
    [ -z "$running" ] || kill "$running" 2>/dev/null || true
    successor 2>/dev/null | xargs --no-run-if-empty kill 2>/dev/null || true
    for mounted in "$work"/*/proc; do umount "$mounted" 2>/dev/null || true; done
    rm -rf "$work"
}
trap end EXIT

say() { echo "package-test: $*" >&2; }
fail() { say "$*"; exit 1; }

# The process that has taken over, by the log.
successor() { sed -n 's/.*another process has taken over process=\([0-9]*\).*/\1/p' "$work/log"; }

# until_listening PROCESS : a process that ends does not listen.
until_listening() {
    local last=$((SECONDS + 60))
    until (exec 3<>/dev/tcp/127.0.0.1/2525) 2>/dev/null; do
        kill -0 "$1" 2>/dev/null || fail "it has ended: $(cat "$work/log")"
        [ "$SECONDS" -lt "$last" ] || fail "it does not listen: $(cat "$work/log")"
    done
}

# asks : the example rules refuse the one and take the other.
asks() {
    if swaks --server 127.0.0.1:2525 --from a@contosobank.com --to bob@contoso.com --quit-after RCPT >"$work/refused"; then
        fail "mail that must be refused is not: $(cat "$work/refused")"
    fi
    grep -q '550 5.7.1' "$work/refused" || fail "$(cat "$work/refused")"
    swaks --server 127.0.0.1:2525 --from a@example.org --to bob@contoso.com >"$work/taken" || fail "$(cat "$work/taken")"
}

# start COMMAND... : runs it until `stop`.
start() {
    "$@" 2>"$work/log" &
    running=$!
    until_listening "$running"
}

stop() {
    kill "$running"
    wait "$running" || fail "it did not end well: $(tail -5 "$work/log")"
    running=
}

as_service=(setpriv --reuid portcullis --regid portcullis --clear-groups
    env RUNTIME_DIRECTORY=/run/portcullis STATE_DIRECTORY=/var/lib/portcullis CACHE_DIRECTORY=/var/cache/portcullis
    portcullis run --config /etc/portcullis/portcullis.toml)

# prepare ROOT : what systemd does before it starts the service.
prepare() {
    mountpoint -q "$1/proc" || mount -t proc proc "$1/proc"
    chroot "$1" install -d -o portcullis -g portcullis -m 755 /run/portcullis
    chroot "$1" install -d -o portcullis -g portcullis -m 700 /var/cache/portcullis
}

say "digests"
(cd "$out" && sha256sum --quiet --check SHA256SUMS)

say "judging"
deb=$(echo "$out"/portcullis_"$version"-1_*.deb)
lintian --fail-on error --suppress-tags-from-file packaging/lintian-suppressed "$deb"
mkdir "$work/man"
dpkg-deb --fsys-tarfile "$deb" | tar -xC "$work/man" ./usr/share/man ./usr/lib/systemd
gunzip "$work"/man/usr/share/man/man1/*.gz
mandoc -Tlint -Werror "$work"/man/usr/share/man/man1/*.1
sed -i 's|^ExecStart=/usr/bin/portcullis|ExecStart=/bin/true|' "$work/man/usr/lib/systemd/system/portcullis.service"
systemd-analyze verify --man=no "$work/man/usr/lib/systemd/system/portcullis.service" "$work/man/usr/lib/systemd/system/portcullis.socket"
rpm -qp --requires "$out"/*.rpm >/dev/null

say "a system of Debian"
root=$work/debian
# From where this system has its packages.
mapfile -t sources < <(find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -size +0 -o -name '*.sources' 2>/dev/null)
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mmdebstrap --quiet --variant=minbase --include=ca-certificates "$codename" "$root" "${sources[@]}"
cp "$deb" "$root/new.deb"
# The version before: the same, but for its number.
dpkg-deb --raw-extract "$deb" "$work/old"
sed -i "s/^Version: .*/Version: 0.0.9-1/" "$work/old/DEBIAN/control"
dpkg-deb --build --root-owner-group -Znone "$work/old" "$root/old.deb" >/dev/null
mount -t proc proc "$root/proc"
in_root() { chroot "$root" env DEBIAN_FRONTEND=noninteractive "$@"; }
in_root apt-get update -qq
in_root apt-get install -y -qq ./old.deb >/dev/null
umount "$root/proc"
! (exec 3<>/dev/tcp/127.0.0.1/2525) 2>/dev/null || fail "something was started by the installation"
prepare "$root"
in_root portcullis run --check-config --config /etc/portcullis/portcullis.toml
start chroot "$root" "${as_service[@]}"
asks

say "an upgrade while it runs"
echo '# mine' >>"$root/etc/portcullis/portcullis.toml"
in_root apt-get install -y -qq ./new.deb >/dev/null
grep -q '# mine' "$root/etc/portcullis/portcullis.toml" || fail "the configuration was lost"
old=$running
kill -USR2 "$old"
wait "$old" || fail "the old process did not end well: $(tail -5 "$work/log")"
running=$(successor)
asks
kill "$running"
tail --pid="$running" --follow /dev/null
running=

say "removing and purging"
mkdir -p "$root"/var/lib/portcullis/other/box/{cur,new,tmp}
in_root apt-get remove -y -qq portcullis >/dev/null
[ -e "$root/etc/portcullis/portcullis.toml" ] || fail "the configuration is gone"
[ -d "$root/var/lib/portcullis" ] || fail "the state is gone"
[ ! -e "$root/usr/bin/portcullis" ] || fail "the program is still there"
in_root apt-get purge -y -qq portcullis >/dev/null
for gone in /etc/portcullis /var/cache/portcullis /var/lib/portcullis/rules.json; do
    [ ! -e "$root$gone" ] || fail "$gone is still there"
done
[ -n "$(ls -A "$root/var/lib/portcullis/mail/new")" ] || fail "mail was removed"
[ -d "$root/var/lib/portcullis/other/box/new" ] || fail "another Maildir was removed"
rm -rf "$root/var/lib/portcullis"

say "RPM, in the same system"
rpm --root "$root" --initdb
rpm --root "$root" --nodeps --install "$out/portcullis-$version-1.x86_64.rpm"
prepare "$root"
start chroot "$root" "${as_service[@]}"
asks
stop
rpm --root "$root" --nodeps --erase portcullis
[ ! -e "$root/usr/bin/portcullis" ] || fail "the program is still there"
umount "$root/proc"

say "the tarball, in a system with nothing else"
root=$work/nothing
mkdir "$root"
tar -xf "$out/portcullis-$version-x86_64-linux-musl.tar.zst" -C "$root" --strip-components=1
mkdir "$root/tmp" "$root/var"
chroot "$root" /usr/bin/portcullis --version
start chroot "$root" /usr/bin/portcullis run
asks
stop

say "the image"
root=$work/image
mkdir "$root"
packaging/oci-unpack.py "$out/portcullis-$version-oci" "$root" >"$work/command"
mapfile -t command <"$work/command"
start env -i XDG_CACHE_HOME=/var/cache XDG_STATE_HOME=/var/lib "$(command -v chroot)" --userspec=65532:65532 "$root" "${command[@]}"
asks
stop

say "the digests of the components"
mkdir "$work/components"
tar -xf "$out/portcullis-evaluator-$version.tar.zst" -C "$work/components" --strip-components=1
(cd "$work/components" && sha256sum --quiet --check SHA256SUMS)
say "all is well; sizes:"
du -ah --max-depth=1 "$out" | sort -k2 >&2
