#!/bin/sh
# Trains a recipe of the literature, and its teacher before it, in as many runs as it takes: the same
# command goes on where the last one was cut off.
#
#   [PYTHON=python3] [KDCOURSE_DATA=folder] benchmarks/recipe.sh resnet56-resnet20 kd [OPTION ...]
#
# The options are those of `python -m kdcourse train`, and hold for the teacher, too (--seed 1, say).
# What comes out lies in recipe-runs/resnet56-resnet20/kd: result.json has the test accuracy after the
# last epoch, the device, the version of torch and the seconds, options.toml all settings and the seed.
set -eu
if [ $# -lt 2 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 2
fi
pair=$1 method=$2
shift 2
clone=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$clone${PYTHONPATH:+:$PYTHONPATH}"
runs=${RECIPE_RUNS:-recipe-runs}/$pair

train() {
  name=$1
  shift
  "${PYTHON:-python3}" -m kdcourse train "$pair" --method "$name" --out "$runs/$name" "$@"
}

case $method in
  teacher | alone) train "$method" "$@" ;;
  *)
    train teacher "$@"
    train "$method" --teacher-weights "$runs/teacher/student.safetensors" "$@"
    ;;
esac
