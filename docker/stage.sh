#!/usr/bin/env bash
# Makes a build context: the Dockerfiles and the wheel, in a directory of its own.
# usage: docker/stage.sh CONTEXT        (PYTHON names the interpreter that has 'build' and 'hatchling'; python3 if unset)
set -euo pipefail

if [ $# -ne 1 ]; then
  sed -n 's/^# //; 2,3p' "$0" >&2
  exit 2
fi
root="$(cd "$(dirname "$0")/.." && pwd)"
mkdir -p "$1/wheels"
rm -f "$1"/wheels/holdfast-*.whl  # two of them, and pip would not know which to take
"${PYTHON:-python3}" -m build --wheel --no-isolation --outdir "$1/wheels" "$root"
cp "$root"/docker/*.Dockerfile "$1"
