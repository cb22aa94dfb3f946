#!/usr/bin/env bash
# What each known difference between Luna's paper, README and code is worth on one task: trains the recipe and every
# variant of it, one item at a time, then prints the table. The same command again goes on where it stopped.
set -eu
[ -f lra_tasks/train.py ] || { echo "error: start it in the project's folder: launch/drift.sh" >&2; exit 2; }
# shellcheck source=launch/common.sh
. launch/common.sh

usage() {
  cat <<'END'
launch/drift.sh [--dry-run] [--only NAME,NAME] TASK [PRESET] [SEEDS] [-- FLAGS OF lra_tasks.train]

  TASK     listops, text, retrieval, image or pathfinder
  PRESET   authors (the full recipe; the default), paper or cpu
  SEEDS    such as "0 1 2"; by default 0
  --only   these switches alone (python -m lra_tasks.drift --task TASK --preset PRESET lists them), and the baseline
  --dry-run   print the commands and run nothing

Environment: PYTHON (python3), WORK (runs/drift), DATA (data), ROW (luna16).
Exit codes: 0 all finished, 1 some run failed, 2 a mistake to mend, 75 stopped with everything saved.
END
}

DRY_RUN='' ONLY='' TASK='' PRESET='' SEEDS=''
PYTHON=${PYTHON:-python3} WORK=${WORK:-runs/drift} DATA=${DATA:-data} ROW=${ROW:-luna16}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=yes ;;
    --only) [ $# -ge 2 ] || fail "--only needs names of switches"; ONLY=$2; shift ;;
    --only=*) ONLY=${1#--only=} ;;
    --) shift; break ;;
    -*) fail "unknown option $1; launch/drift.sh --help lists them" ;;
    *)
      if [ -z "$TASK" ]; then TASK=$1
      elif [ -z "$PRESET" ]; then PRESET=${1:-authors}
      elif [ -z "$SEEDS" ]; then SEEDS=$1
      else fail "unexpected argument $1; give seeds as one argument: \"0 1 2\""
      fi ;;
  esac
  shift
done
[ -n "$TASK" ] || { usage >&2; exit 2; }
PRESET=${PRESET:-authors}
SEEDS=$(echo "${SEEDS:-0}" | tr ',' ' ')

listed=$("$PYTHON" -m lra_tasks.drift --task "$TASK" --preset "$PRESET" --row "$ROW") || exit 2
known=$(echo "$listed" | cut -f1)
variants=$known
if [ -n "$ONLY" ]; then
  variants=$(echo "$ONLY" | tr ',' '\n')
  for name in $variants; do
    echo "$known" | grep -qx -- "$name" ||
      fail "--only $name: not a switch that changes $TASK under $PRESET; choices: $(echo "$known" | tr '\n' ' ')"
  done
fi

# train SWITCH SEED [FLAGS]: "baseline" is the recipe itself
failed=''
train() {
  switch=$1 seed=$2
  shift 2
  preset=$PRESET
  [ "$PRESET" != authors ] || preset=''
  argument="$ROW${preset:+:$preset}" folder=$PRESET
  if [ "$switch" != baseline ]; then
    argument="$ROW:$preset+$switch" folder="$PRESET+$switch"
  fi
  workdir="$WORK/$TASK/$ROW/$folder/seed$seed"
  set -- "$PYTHON" -m lra_tasks.train --config "configs/$TASK.py:$argument" --workdir "$workdir" --data_dir "$DATA" \
    "--config.train.seed=$seed" "$@"
  if [ -n "$DRY_RUN" ]; then
    quote "$@"
    return
  fi
  if [ -e "$workdir/record.json" ]; then
    echo "finished: $workdir"
    return
  fi
  echo "== $folder, seed $seed"
  code=0
  "$@" || code=$?
  case $code in
    0) ;;
    75 | 130 | 143) exit "$code" ;;
    *) failed="$failed $workdir"; echo "failed with exit code $code: $workdir" >&2 ;;
  esac
}

for seed in $SEEDS; do
  for switch in baseline $variants; do
    train "$switch" "$seed" "$@"
  done
done

[ -z "$DRY_RUN" ] || { quote "$PYTHON" -m lra_tasks.drift "$WORK/$TASK/$ROW"; exit 0; }
"$PYTHON" -m lra_tasks.drift "$WORK/$TASK/$ROW" || failed="$failed table"
[ -z "$failed" ] || { echo "error: failed:$failed" >&2; exit 1; }
