#!/bin/sh
# Make .venv, or add to it, and install a lock file and this package into it.
#
#     sh scripts/setup.sh PYTHON LOCKFILE
#
# PYTHON     an interpreter, 3.10 or newer: a name on PATH or a path
# LOCKFILE   relative to the repository's root; pins and hashes all that is to be installed, with
#            pip, hatchling and editables among it, since pip resolves and builds nothing by itself
#
# A second call with another lock file adds to the same .venv. The file .venv/setup says which
# interpreter and folder a finished .venv is for. One that is unfinished, was moved or has another
# interpreter is made anew. One that the user made before is used as it is, and never made anew.
# Exit status 0: installed. 1: one line on stderr says what is missing and what to do; what pip said
# is in .venv/setup.log. The Makefile decides whether there is anything to do.
set -eu

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

[ $# = 2 ] || fail "usage: sh scripts/setup.sh PYTHON LOCKFILE"
python=$1 lock=$2
unset CDPATH PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX  # would lead out of .venv
cd -- "$(dirname -- "$0")/.."
bin=.venv/bin log=.venv/setup.log mark=.venv/setup own="made by the user"

another="install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3.12 ..."
command -v "$python" >/dev/null || fail "there is no interpreter '$python': $another"
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>&1) &&
    [ -n "$version" ] ||
    fail "the interpreter '$python' does not run ($(printf '%s\n' "$version" | head -n 1)): $another"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "'$python' is Python $version, which is too old: $another"
short=${version%.*}
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' lacks the module venv or ensurepip: install it (Debian, Ubuntu: apt-get install python$short-venv), or $another"
[ -r "$lock" ] || fail "the lock file '$lock' is missing: restore it (git checkout -- '$lock')"

# An activated .venv may be the very interpreter that is asked to make it anew.
base=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')
identity=$("$base" -c 'import sys; print(sys.version, sys.base_prefix)' | tr '\n' ' ')$(pwd)

rmdir .venv 2>/dev/null || true # an empty one is nobody's
if [ ! -e .venv ]; then
    mkdir .venv 2>/dev/null || fail "the folder '$(pwd)' is not writable: clone into one that is"
elif [ ! -e "$mark" ] || [ "$(cat "$mark")" = "$own" ]; then
    "$bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        fail "'$(pwd)/.venv' is not a virtual environment with pip and Python 3.10 or newer: move it away or remove it, and try again"
    identity=$own
fi
[ -w .venv ] || fail "'$(pwd)/.venv' is not writable: remove it, or use the account that made it"
if [ "$identity" = "$own" ]; then
    echo "$own" >"$mark"
elif [ "$(cat "$mark" 2>/dev/null)" != "$identity" ]; then
    echo unfinished >"$mark"
    find .venv -mindepth 1 -maxdepth 1 ! -name setup -exec rm -rf {} +
    "$base" -m venv .venv >"$log" 2>&1 ||
        fail "'$python' cannot make a virtual environment: $(grep . "$log" | tail -n 1)"
fi

cache=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-.}/.cache}/pip}
while [ ! -e "$cache" ]; do cache=$(dirname -- "$cache"); done
if [ ! -w "$cache" ]; then
    export PIP_NO_CACHE_DIR=1
    echo "setup: '$cache' is not writable, so downloads are not kept: set PIP_CACHE_DIR to a folder that is" >&2
fi

# Say in one line why pip failed.
explain() {
    if grep -qE 'Retrying \(Retry|ConnectionError|NewConnectionError|Timeout|ProxyError|SSLError|Client Error|Server Error' "$log"; then
        reason=$(grep -oE '\[Errno [-0-9]+\] [^")'\'']+|Tunnel connection failed: [^")'\'']+|CERTIFICATE_VERIFY_FAILED|[Tt]imed out|[45][0-9][0-9] (Client|Server) Error: [A-Za-z ]+' "$log" | head -n 1)
        fail "pip cannot reach the package index${reason:+ ($reason)}: check the network and HTTPS_PROXY, or set PIP_INDEX_URL to an index that can be reached"
    fi
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        fail "a downloaded file is not the one that '$lock' names: check the index or proxy that served it (all of it: $log)"
    fi
    wanted=$(sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p' "$log" | tail -n 1)
    if [ -n "$wanted" ]; then
        fail "the package index has no $wanted for Python $short on $(uname -sm), or cannot be reached: see docs/support.md, check the network, or set PIP_INDEX_URL to another index"
    fi
    reason=$(sed -n 's/^ *ERROR: //p' "$log" | tail -n 1)
    fail "pip failed: ${reason:-$(grep -vE '^(hint|note|$)' "$log" | tail -n 1)} (all of it: $log)"
}

install() {
    "$bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps "$@" >>"$log" 2>&1 ||
        explain
}

[ "$identity" = "$own" ] || echo unfinished >"$mark"
echo "installing $lock into .venv (Python $version)"
: >"$log"
install --require-hashes --only-binary=:all: --requirement "$lock"
install --no-build-isolation --editable .
printf '%s\n' "$identity" >"$mark"
