#!/bin/sh
# Makes a virtual environment with the oldest or the newest releases that pyproject.toml allows.
#   scripts/versions_environment.sh oldest|newest FOLDER
set -eu
cd "$(dirname "$0")/.."
case $1 in oldest) how=lowest-direct ;; newest) how=highest ;; *) sed -n 2,3p "$0"; exit 2 ;; esac
"${PYTHON:-python3}" -m venv "$2"
"$2/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$2/bin/uv" pip install --quiet --python "$2/bin/python" --resolution "$how" --editable .
"$2/bin/uv" pip install --quiet --python "$2/bin/python" hypothesis markdown-it-py pytest pytest-xdist
