#!/usr/bin/env bash
# One machine with several NVIDIA GPUs: one run on all of them, or a suite of runs with a GPU each.
set -euo pipefail
[ -f lra_tasks/train.py ] || { echo "error: start it in the project's folder: launch/gpu.sh" >&2; exit 2; }
# shellcheck source=launch/common.sh
. launch/common.sh

usage() {
  cat <<'END'
launch/gpu.sh [--dry-run] [--gpus 0,1] one --config CONFIG --workdir W [--data_dir D] [FLAGS OF lra_tasks.train]
launch/gpu.sh [--dry-run] [--gpus 0,1] each --tasks T,... --rows R,... --seeds 0,1,2 [OPTIONS OF launch/suite.py]

  one          one run, one process, on all GPUs: the batch is split over them, or as --config.machine says
  each         tasks x rows x seeds, a run a GPU, by launch/suite.py; the same command again goes on where it stopped
  --gpus       numbers as nvidia-smi shows them, or their names; by default $CUDA_VISIBLE_DEVICES, else all
  --dry-run    print the commands and run nothing

Environment: PYTHON (python3), TRAIN_FLAGS (more flags of lra_tasks.train).
Exit codes are those of the run or the suite.
END
}

GPUS=${CUDA_VISIBLE_DEVICES:-} DRY_RUN='' PYTHON=${PYTHON:-python3} MODE=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=yes ;;
    --gpus) value "$@"; GPUS=$2; shift ;;
    one | each) MODE=$1; shift; break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    *) fail "unknown argument $1; launch/gpu.sh --help explains one and each" ;;
  esac
  shift
done
[ -n "$MODE" ] || { usage >&2; exit 2; }
if [ -z "$GPUS" ]; then
  need nvidia-smi "install NVIDIA's driver, or name the GPUs yourself: --gpus 0,1"
  found=$(nvidia-smi --query-gpu=index --format=csv,noheader) || fail "nvidia-smi sees no GPU: $found"
  GPUS=$(printf '%s\n' "$found" | tr -d ' ' | paste -s -d , -)
  [ -n "$GPUS" ] || fail "nvidia-smi sees no GPU"
fi
case $GPUS in '' | *[!0-9A-Za-z,/-]* | ,* | *, | *,,*) fail "--gpus $GPUS: give numbers, as 0,1" ;; esac
twice=$(printf '%s\n' "$GPUS" | tr , '\n' | sort | uniq -d)
[ -z "$twice" ] || fail "--gpus $GPUS: names a GPU twice"
[ -n "$DRY_RUN" ] || need "$PYTHON" "name the Python that has the project's libraries: PYTHON=.venv/bin/python"

# nvidia-smi's order of GPUs; and where none works the run ends, instead of training on the CPU
settings=("CUDA_DEVICE_ORDER=${CUDA_DEVICE_ORDER:-PCI_BUS_ID}" "JAX_PLATFORMS=cuda,cpu")
if [ "$MODE" = one ]; then
  settings+=("CUDA_VISIBLE_DEVICES=$GPUS")
  command=("$PYTHON" -m lra_tasks.train ${SITE_FLAGS[@]+"${SITE_FLAGS[@]}"} "$@")
else
  command=("$PYTHON" launch/suite.py --gpus "$GPUS" "$@") # which reads TRAIN_FLAGS itself
fi
if [ -z "$DRY_RUN" ]; then exec env "${settings[@]}" "${command[@]}"; fi
quote env "${settings[@]}" "${command[@]}"
if [ "$MODE" = each ]; then exec "$PYTHON" launch/suite.py --dry-run --gpus "$GPUS" "$@"; fi
