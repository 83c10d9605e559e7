#!/bin/sh
# Run the README's two commands from a fresh clone of HEAD, as a newcomer has them: with the pip that
# comes with the interpreter, an empty cache of downloads, and a path with a space and an accent.
#
#     sh scripts/fresh_clone.sh PYTHON...
#
# What PYTEST_ADDOPTS holds narrows the tests.
set -eu
repository=$(cd -- "$(dirname -- "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for python in "$@"; do
    rm -rf "$folder/"*
    git clone --quiet "$repository" "$folder/a fresh clône"
    printf '\n=== %s, in a fresh clone: make demo\n' "$("$python" --version)"
    export PIP_CACHE_DIR="$folder/no downloads yet"
    (cd "$folder/a fresh clône" && make demo PYTHON="$python")
    printf '\n=== %s, in a fresh clone: make test\n' "$("$python" --version)"
    (cd "$folder/a fresh clône" && make test PYTHON="$python")
done
