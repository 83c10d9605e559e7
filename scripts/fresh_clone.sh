#!/bin/sh
# Run the README's commands from a fresh clone of HEAD, as a newcomer has them: with the pip that
# comes with the interpreter, an empty cache of downloads, and a path with a space and an accent.
#
#     sh scripts/fresh_clone.sh FOLDER PYTHON [VERB...]
#
# FOLDER     gets the clone, which stays there; a second call goes on in it
# PYTHON     an interpreter
# VERB       of `make`; without any, the README's two: demo, test
#
# What PYTEST_ADDOPTS holds narrows the tests.
set -eu
folder=$1 python=$2
shift 2
[ $# -gt 0 ] || set -- demo test
clone="$folder/a fresh clône"
repository=$(cd -- "$(dirname -- "$0")/.." && pwd)
[ -d "$clone" ] || git clone --quiet "$repository" "$clone"
export PIP_CACHE_DIR="$folder/no downloads yet"
for verb in "$@"; do
    printf '\n=== %s, in a fresh clone: make %s\n' "$("$python" --version)" "$verb"
    (cd "$clone" && make "$verb" PYTHON="$python")
done
