#!/usr/bin/env bash
# What is worth knowing of this code on a machine with a GPU, in under 9 minutes: a table, printed and
# written to a dated file. A part that fails or takes too long is a row of the table, not the end.
#
#   bash benchmarks/gpu_check.sh                       # with what `python3` has
#   bash benchmarks/gpu_check.sh --wheels DIR          # what it lacks comes from DIR; no network needed
#   bash benchmarks/gpu_check.sh --cpu                 # tiny sizes on a CPU: does the script work?
#   bash benchmarks/gpu_check.sh --collect DIR [3.12]  # fill DIR, where there is a network, with wheels
#                                                      # for that version of Python on Linux (x86-64)
# Further arguments go to benchmarks/gpu_check.py: --output FILE, --minutes N, --parts NAME ...
#
# The machine with the GPU is to have torch, its CUDA and numpy, as images for GPUs do: they are larger
# than what is easily carried. The wheels are what such an image lacks; one that it has is left out.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
packages=(accelerate datasets dill multiprocess xxhash evaluate hydra-core omegaconf PyYAML rich
  markdown-it-py mdurl Pygments huggingface_hub hf-xet httpx2 httpcore2 h11 anyio truststore click
  tokenizers safetensors Jinja2 MarkupSafe scikit-learn threadpoolctl joblib cloudpickle narwhals
  scipy pandas pyarrow python-dateutil tzdata fsspec filelock packaging tqdm requests certifi
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
  # it is published as source alone, in pure Python
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
  # Only what is missing: an image's own packages fit its torch and its transformers.
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
      echo "some wheels could not be installed; going on" >&2
    export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
  fi
fi

cd "$root"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
"$python" benchmarks/gpu_check.py ${arguments[@]+"${arguments[@]}"}
