#!/usr/bin/env bash
# What training on this GPU is like, in one command that ends within nine minutes whatever happens.
#
#   tools/benchmarks/gpu.sh [FOLDER]
#
# FOLDER (default build/gpu) gets results.jsonl, a line a figure, written as they come, profile/ for TensorBoard, a compile
# cache of XLA, and a log of each process. Each setting is a process of its own with its own time limit; a line with a
# "status" says how it ended: 0, 124 when its time was over, "skipped" when that of the whole was. The best questions come
# first. GPU_SECONDS (default 530) limits the whole, GPU_SMALL=1 takes tiny sizes, to try the script on a processor; the
# project runs by .venv (made by `make`) or by $PYTHON, the same step in PyTorch, where there is one, by $TORCH_PYTHON or else
# the same. To compare two versions run it in both checkouts, in turn.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-build/gpu}
python=${PYTHON:-.venv/bin/python}
torch_python=${TORCH_PYTHON:-$python}
seconds=${GPU_SECONDS:-530}
mkdir -p "$folder"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TF_CPP_MIN_LOG_LEVEL=2

# A setting, and the seconds that it may take at most; the rest is the command.
run() {
  local name=$1 limit=$2 left=$((seconds - SECONDS)) status=skipped
  shift 2
  if [ "$left" -ge 1 ]; then
    timeout --kill-after=3 "$((left < limit ? left : limit))" "$@" 2>"$folder/$name.log" >>"$folder/results.jsonl"
    status=$?
  fi
  echo "{\"setting\": \"$name\", \"status\": \"$status\", \"after\": $SECONDS}" | tee -a "$folder/results.jsonl"
}

measure() {
  run "$1" "$2" "$python" -m tools.benchmarks.gpu "$1" "$folder"
}

in_torch() {
  local sizes=(resnet50 224 64 4096)
  [ -z "${GPU_SMALL:-}" ] || sizes=(resnet8 32 4 8)
  if [ "$SECONDS" -lt "$seconds" ] && ! "$torch_python" -c 'import torch' 2>/dev/null; then
    echo "{\"setting\": \"torch-$1\", \"status\": \"no PyTorch\", \"after\": $SECONDS}" | tee -a "$folder/results.jsonl"
  else
    run "torch-$1" 60 "$torch_python" tools/benchmarks/torch_step.py "${sizes[@]}" "$1"
  fi
}

tests() {
  # As in the Makefile: float32 without TF32, sums in a fixed order, and a card that several processes share.
  run tests 300 env NVIDIA_TF32_OVERRIDE=0 TF_DETERMINISTIC_OPS=1 TF_FORCE_GPU_ALLOW_GROWTH=true "$python" -c '
import json, os, sys, pytest
sys.stdout, replies = sys.stderr, sys.stdout
small = os.environ.get("GPU_SMALL")
files = ["layers", "key_queue", "guarded_model", "pretrainer"][: 1 if small else 4]
chosen = ["-k", "an_average_moves"] if small else []
status = pytest.main(["-q", "--numprocesses=0", *chosen, *(f"tests/models/{each}_test.py" for each in files)])
print(json.dumps({"setting": "tests", "figure": "exit status of pytest", "values": [int(status)]}), file=replies)
'
}

measure product 45
measure bfloat16 75
measure float16 75
measure float32 75
TF_XLA_FLAGS="--tf_xla_persistent_cache_directory=$folder/xla" measure xla-bfloat16 150
measure blocks 45
measure blocks-of-4096 45
measure bfloat16-channels-first 60
measure profile 60
in_torch bfloat16
in_torch float32
tests
