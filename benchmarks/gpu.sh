#!/bin/sh
# Proves the course on a CUDA GPU, in under four minutes: tests, schemes, notebooks, benchmarks.
#
#   [PYTHON=python3] [KDCOURSE_DATA=folder] benchmarks/gpu.sh [--out folder] [--seconds 220]
#   benchmarks/gpu.sh --rehearse      a little of it, on the CPU
#
# It needs torch, torchvision, numpy, scipy, scikit-learn, matplotlib, pytest, hypothesis, tqdm and
# safetensors, and no network. What was found lies in the folder: gpu-results/bench-gpu.json.
set -eu
clone=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$clone${PYTHONPATH:+:$PYTHONPATH}"
module=kdcourse.course.bench.gpu
if [ "${1:-}" = --rehearse ]; then
  shift
  module=$module.bare
fi
exec "${PYTHON:-python3}" -m "$module" "$@"
