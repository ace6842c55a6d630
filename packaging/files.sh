#!/bin/sh
# What goes with the program: files.sh PROGRAM FOLDER makes manual pages and completions there.
set -eu
program=$1
folder=$2
"$program" generate man "$folder/man"
gzip -9n "$folder"/man/*.1
mkdir -p "$folder/completions"
"$program" generate completions bash >"$folder/completions/portcullis"
"$program" generate completions zsh >"$folder/completions/_portcullis"
"$program" generate completions fish >"$folder/completions/portcullis.fish"
