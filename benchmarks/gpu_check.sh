#!/usr/bin/env bash
# Checks numbers, speed and memory on a machine with a GPU, in under 9 minutes. Prints a table, and
# writes it to a dated file. A part that fails or takes too long is a row of the table; the others run.
#
#   bash benchmarks/gpu_check.sh                       # with the packages of `python3`
#   bash benchmarks/gpu_check.sh --wheels DIR          # installs missing packages from DIR, offline
#   bash benchmarks/gpu_check.sh --cpu                 # tiny sizes on a CPU, to test the script
#   bash benchmarks/gpu_check.sh --collect DIR [3.12]  # downloads the wheels to DIR, for this version
#                                                      # of Python on Linux (x86-64)
# Further arguments are passed to benchmarks/gpu_check.py: --output FILE, --minutes N, --parts NAME ...
#
# The machine with the GPU must have torch with CUDA and numpy, as images for GPUs do; these are too
# large to copy. Only packages that the image does not have are installed from the wheels.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
packages=(accelerate datasets dill multiprocess xxhash evaluate hydra-core omegaconf PyYAML rich
  markdown-it-py mdurl Pygments huggingface_hub hf-xet httpx2 httpcore2 h11 anyio truststore click
  tokenizers safetensors Jinja2 MarkupSafe scikit-learn threadpoolctl joblib cloudpickle narwhals
  scipy pandas pyarrow python-dateutil six fsspec filelock packaging tqdm requests certifi
  charset-normalizer idna urllib3 psutil typing_extensions hypothesis sortedcontainers pytest
  pluggy iniconfig transformers peft regex typer shellingham annotated-doc pydantic pydantic_core
  annotated-types typing-inspection)

if [ "${1:-}" = --collect ]; then
  folder=$2
  platforms=()
  for name in manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64; do
    platforms+=(--platform "$name")
  done
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${3:-3.12}" \
    --implementation cp "${platforms[@]}" -c "$root/constraints.txt" -d "$folder" "${packages[@]}"
  # this package is pure Python and has no wheels
  "$python" -m pip wheel --quiet --no-deps -c "$root/constraints.txt" -w "$folder" \
    antlr4-python3-runtime
  du -sh "$folder"
  exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
arguments=()
while [ $# -gt 0 ]; do
  if [ "$1" = --wheels ]; then
    [ -d "$2" ] || { echo "--wheels: no folder $2" >&2; exit 2; }
    wheels=$2
    shift 2
  else
    arguments+=("$1")
    shift
  fi
done

if [ -n "${wheels:-}" ]; then
  # Install only missing packages: those of the image fit its torch and its transformers.
  mapfile -t missing < <("$python" - "$wheels" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
    try:
        version(wheel.name.split("-")[0].replace("_", "-"))
    except PackageNotFoundError:
        print(wheel)
PYTHON
  )
  if [ ${#missing[@]} -gt 0 ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
      --target "$work/site" "${missing[@]}" ||
      echo "some wheels could not be installed; the check continues" >&2
    export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
  fi
fi

cd "$root"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
"$python" benchmarks/gpu_check.py ${arguments[@]+"${arguments[@]}"}
