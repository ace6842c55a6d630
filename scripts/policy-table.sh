#!/bin/sh
# Measures policies in each language, and a middleware, and writes the tables of docs/policies.md:
#
#   scripts/policy-table.sh PORTCULLIS
#
# It needs what `make setup-tests` installs. The machine should have nothing else to do.
set -eu

portcullis=$(realpath "$1")
tools=$(realpath "${CARGO_TARGET_DIR:-target}/tools")
root=$(pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PORTCULLIS="$portcullis" CARGO_NET_OFFLINE=true XDG_CACHE_HOME="$folder/cache"
unset CARGO_TARGET_DIR MAKEFLAGS
PATH=$tools/haraka/node/bin:$tools/haraka/package/node_modules/.bin:$PATH
contexts=10000
context='{"direction":"inbound","client-ip":"203.0.113.7","mail-from":"alice@example.org","rcpt-to":"bob@contoso.com"}'
yes "$context" | head -n $contexts >"$folder/contexts"
echo "$context" >"$folder/context"

calculate() {
    awk "BEGIN { print $1 }"
}

# Seconds that a command takes.
seconds() {
    start=$(date +%s.%N)
    "$@" >/dev/null 2>"$folder/told" || { cat "$folder/told" >&2; exit 1; }
    calculate "$(date +%s.%N) - $start"
}

# Asks a policy the contexts of a file.
ask() {
    "$portcullis" evaluate --time-limit 10000 "$1" <"$2"
}

# What `evaluate` takes with a policy: for the first time, when the compiled code is there, and for a context more.
measure() {
    size=$(wc -c <"$1")
    rm -rf "$folder/cache"
    first=$(seconds ask "$1" "$folder/context")
    start=$(seconds ask "$1" "$folder/context")
    all=$(seconds ask "$1" "$folder/contexts")
    call=$(calculate "($all - $start) * 1000000 / $contexts")
}

row() {
    language=$1 needs=$2
    shift 2
    "$portcullis" new policy --language "$language" "$folder/policy" 2>/dev/null
    [ "$language" != javascript ] || ln -s "$tools/haraka/package/node_modules" "$folder/policy/node_modules"
    [ "$language" != python ] || export COMPONENTIZE="$tools/componentize-py/bin/componentize-py"
    build=$(seconds make -C "$folder/policy")
    rm "$folder/policy/policy.wasm"
    # Of cargo the policy alone is compiled again.
    [ "$language" != rust ] || touch "$folder/policy/src/lib.rs"
    again=$(seconds make -C "$folder/policy")
    measure "$folder/policy/policy.wasm"
    printf '| `%s` | %s | %d kB | %.1f s, %.1f s | %.2f s, %.2f s | %.0f µs |\n' \
        "$language" "$needs" $((size / 1000)) "$build" "$again" "$first" "$start" "$call"
    rm -rf "$folder/policy"
}

languages() {
    echo '| language | needs | size | build, again | start, again | a call |'
    echo '|---|---|---|---|---|---|'
    row rust 'rustup'
    row javascript 'Node 20'
    row python 'Python 3.10'
    row c 'clang, lld'
}

middleware() {
    cp -rL "$root/bindings" "$root/examples" "$folder/"
    make -C "$folder/examples/middleware" >/dev/null 2>&1
    echo '| policy | size | start, again | a call |'
    echo '|---|---|---|---|'
    rules=$folder/examples/middleware/rules.json
    "$portcullis" build "$rules" -o "$folder/rules.wasm" 2>/dev/null
    for policy in "rules, as a component:$folder/rules.wasm" \
        "the middleware around them:$folder/examples/middleware/policy.wasm"; do
        measure "${policy#*:}"
        printf '| %s | %d kB | %.2f s, %.2f s | %.0f µs |\n' "${policy%%:*}" $((size / 1000)) "$first" "$start" "$call"
    done
}

# Puts a table between two lines of the document.
put() {
    awk -v begin="$1" -v table="$2" '
        index($0, begin) == 1 { print; while ((getline line < table) > 0) print line; skipping = 1; next }
        skipping && $0 == "<!-- end -->" { skipping = 0 }
        !skipping { print }
    ' docs/policies.md >"$folder/document"
    cat "$folder/document" >docs/policies.md
}

languages >"$folder/languages"
middleware >"$folder/middleware"
put '<!-- The table is written by a script' "$folder/languages"
put '<!-- middleware' "$folder/middleware"
