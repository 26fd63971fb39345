#!/bin/sh
# Make both lock files anew, from what pyproject.toml asks for, with the newest that fits. Needs uv (PyPI).
#
# requirements.lock  what proxyd needs to run; build.lock  what makes its wheel, and is in no image.
# Every file of every release has its hash there, so that any architecture can be built from them. Read the diff before
# you commit it: each line is code inside a security boundary.
set -eu
cd "$(dirname "$0")/../.."

lock() {
    echo "# Made by deploy/container/lock.sh; not to be edited. $1"
    uv pip compile --no-config --quiet --upgrade --python-version 3.13 --python-platform linux \
        --generate-hashes --no-emit-index-url --no-header --no-annotate "$2"
}

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
lock "What proxyd needs to run." pyproject.toml >"$folder/requirements.lock"
sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml >"$folder/build.in"
lock "What makes its wheel." "$folder/build.in" >"$folder/build.lock"
mv "$folder/requirements.lock" "$folder/build.lock" deploy/container/
