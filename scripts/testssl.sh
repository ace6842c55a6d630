#!/bin/sh
# Has testssl.sh (Debian package) judge the settings of a running daemon. Fails on a finding above low,
# but for those about the certificate, which is made on the spot.
#
# testssl.sh PROGRAM [OPTION OF testssl.sh]...
set -eu

program=$(realpath "$1")
shift
folder=$(mktemp -d)
cd "$folder"
"$program" run 2>"$folder/log" &
daemon=$!
trap 'kill $daemon; rm -rf "$folder"' EXIT
until grep -q "listening address=" "$folder/log"; do
    kill -0 $daemon || { cat "$folder/log" >&2; exit 1; }
    sleep 0.1
done
testssl --quiet --warnings off --color 0 --jsonfile "$folder/findings.json" "$@" -t smtp 127.0.0.1:2525 || true
echo "Findings:"
# A finding a line: its name, how severe it is, what was found.
tr -d '\n' <"$folder/findings.json" | sed 's/},/}\n/g' |
    sed -n 's/.*"id" *: *"\([^"]*\)".*"severity" *: *"\([^"]*\)".*"finding" *: *"\([^"]*\)".*/\1 \2 \3/p' \
    >"$folder/findings"
grep -E '^[^ ]+ (LOW|MEDIUM|HIGH|CRITICAL|FATAL|WARN) ' "$folder/findings" || true
grep -q '^TLS1_3 ' "$folder/findings" || {
    echo "testssl.sh has not come to the protocols" >&2
    exit 1
}
! grep -E '^[^ ]+ (MEDIUM|HIGH|CRITICAL|FATAL) ' "$folder/findings" |
    grep -Ev '^(cert_|DNS_CAArecord|overall_grade|grade_cap_reason)'
