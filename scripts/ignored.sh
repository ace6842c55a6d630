#!/bin/sh
# Reads what `cargo test` writes, passes it on, and fails if a test was ignored that is not in this list. Each of them
# waits for others; its reason stands beside its `#[ignore]`.
set -eu

PERMITTED='
certificates::handshakes::a_certificate_of_a_hundred_thousand_octets_completes_the_handshake
certificates::handshakes::a_server_with_an_rsa_pss_key_and_tls_1_2_completes_the_handshake
'

log=$(mktemp)
trap 'rm -f "$log"' EXIT
tee "$log"
awk -v permitted="$PERMITTED" '
    BEGIN { count = split(permitted, names); for (i = 1; i <= count; i++) allowed[names[i]] }
    /^test .* \.\.\. ignored(, .*)?$/ {
        name = substr($0, length("test ") + 1)
        sub(/ \.\.\. ignored.*/, "", name)
        named++
        if (!(name in allowed)) unexpected = unexpected "\n  " name
    }
    # Names may be lost where a test writes between them, numbers are not.
    /^test result: / { for (i = 2; i <= NF; i++) if ($i ~ /^ignored;/) { total += $(i - 1); results++ } }
    END {
        if (unexpected) message = "these tests were ignored:" unexpected
        else if (!results) message = "no tests were run"
        else if (total != named) message = total " tests were ignored, and " named + 0 " of them are named above"
        if (message) { print "ignored: " message > "/dev/stderr"; exit 1 }
    }
' "$log"
