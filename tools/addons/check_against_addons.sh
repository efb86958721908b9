#!/usr/bin/env bash
# Compares what users took from TensorFlow Addons (F1Score, HammingLoss, LAMB, AdamW) with what this project uses now.
#
#   tools/addons/check_against_addons.sh [FOLDER]
#
# FOLDER (default build/addons, about 1.5 GB) gets the last environment in which tensorflow-addons 0.23 runs:
# TensorFlow 2.15, Python 3.9 to 3.11 as python3.11 or $ADDONS_PYTHON. The project runs by .venv (made by `make`) or by
# $PYTHON. Exit status 1 when a difference is larger than rounding explains.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-build/addons}
project_python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"

if [ ! -e "$folder/installed" ]; then
  echo "== building the environment of tensorflow-addons in $folder" >&2
  "${ADDONS_PYTHON:-python3.11}" -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'tensorflow-cpu==2.15.*' 'tensorflow-addons==0.23.0' 'numpy<2' >"$folder/install.log" 2>&1 ||
    { tail -n 20 "$folder/install.log" >&2; exit 1; }
  touch "$folder/installed"
fi

"$folder/venv/bin/python" -W ignore tools/addons/check_against_addons.py addons "$folder/addons.npz" 2>"$folder/addons.log" ||
  { tail -n 20 "$folder/addons.log" >&2; exit 1; }
PYTHONPATH=. "$project_python" tools/addons/check_against_addons.py project "$folder/project.npz" 2>"$folder/project.log" ||
  { tail -n 20 "$folder/project.log" >&2; exit 1; }
"$project_python" tools/addons/check_against_addons.py compare "$folder/addons.npz" "$folder/project.npz"
