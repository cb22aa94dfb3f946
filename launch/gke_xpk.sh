#!/usr/bin/env bash
# One run on TPUs of a Google Kubernetes Engine cluster, as a workload of xpk: puts the committed state of this folder
# into an image and submits it. Preempted, or ended with exit code 75 or 134, the workload starts again and goes on from its
# checkpoint, which lies on a storage of the cluster.
#
# Not run on a real cluster so far; xpk 1.16 accepts the command and makes the manifest that it should. Sources:
#   https://github.com/AI-Hypercomputer/xpk/blob/main/docs/usage/workloads.md and storage.md
# xpk runs the command as a child of a shell that hands SIGTERM on, to the python that `exec` puts in its place.
set -euo pipefail
[ -f lra_tasks/train.py ] || { echo "error: start it in the project's folder: launch/gke_xpk.sh" >&2; exit 2; }
# shellcheck source=launch/common.sh
. launch/common.sh

usage() {
  cat <<'END'
launch/gke_xpk.sh --workload NAME --cluster CLUSTER --type TYPE --config CONFIG --storage NAME --mount FOLDER [OPTIONS]
                  [-- FLAGS OF lra_tasks.train]

  --workload NAME   of the workload, and of the work directory: FOLDER/runs/NAME
  --cluster NAME    made before by: xpk cluster create
  --type TYPE       such as v5litepod-16
  --config CONFIG   such as configs/text.py:luna16
  --storage NAME    made before by: xpk storage create NAME --type=gcpfilestore --mount-point=FOLDER ...
  --mount FOLDER    its mount point; prepared data is in FOLDER/data
  --zone ZONE, --project ID   by default gcloud's own
  --slices N        TPU slices (1)
  --image IMAGE     base image with Python 3.12 and git (python:3.12)
  --restarts N      restarts after preemptions and stops (50)
  --leave-changes   train the committed state although there are changes, which stay here
  --dry-run         print the commands and run nothing

Environment: TRAIN_FLAGS (more flags of lra_tasks.train), PYTHON (python3, which opens the config first, where it can).
Exit codes: 0 submitted, 2 a mistake to mend; else that of git or xpk.
END
}

WORKLOAD='' CLUSTER='' TYPE='' CONFIG='' STORAGE='' MOUNT='' ZONE='' PROJECT='' SLICES=1 IMAGE=python:3.12 RESTARTS=50
DRY_RUN='' LEAVE_CHANGES=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=yes ;;
    --leave-changes) LEAVE_CHANGES=yes ;;
    --workload) value "$@"; WORKLOAD=$2; shift ;;
    --cluster) value "$@"; CLUSTER=$2; shift ;;
    --type) value "$@"; TYPE=$2; shift ;;
    --config) value "$@"; CONFIG=$2; shift ;;
    --storage) value "$@"; STORAGE=$2; shift ;;
    --mount) value "$@"; MOUNT=$2; shift ;;
    --zone) value "$@"; ZONE=$2; shift ;;
    --project) value "$@"; PROJECT=$2; shift ;;
    --slices) value "$@"; SLICES=$2; shift ;;
    --image) value "$@"; IMAGE=$2; shift ;;
    --restarts) value "$@"; RESTARTS=$2; shift ;;
    --) shift; break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    *) fail "unknown option $1; launch/gke_xpk.sh --help lists them" ;;
  esac
  shift
done
for option in workload:"$WORKLOAD" cluster:"$CLUSTER" type:"$TYPE" config:"$CONFIG" storage:"$STORAGE" \
  mount:"$MOUNT"; do
  [ -n "${option#*:}" ] || fail "--${option%%:*} is missing; launch/gke_xpk.sh --help explains it"
done
case $MOUNT in /*) ;; *) fail "--mount $MOUNT: give an absolute path" ;; esac
case $WORKLOAD in [!a-z]* | *[!a-z0-9-]*) fail "--workload $WORKLOAD: give lower-case letters, digits and -" ;; esac
whole --slices "$SLICES" 1
whole --restarts "$RESTARTS" 0
refuse "$GIVEN" ${SITE_FLAGS[@]+"${SITE_FLAGS[@]}"} "$@"
open_config "$CONFIG"
if [ -z "$DRY_RUN" ]; then
  need xpk "install it: pip install xpk"
  need gcloud "xpk needs it; install it: https://cloud.google.com/sdk/docs/install, then run: gcloud init"
  require_committed "$CONFIG" "$LEAVE_CHANGES"
fi

WHERE=()
[ -z "$ZONE" ] || WHERE+=(--zone="$ZONE")
[ -z "$PROJECT" ] || WHERE+=(--project="$PROJECT")
SOURCE=${TMPDIR:-/tmp}/luna-jax-$WORKLOAD
train=$(quote python -m lra_tasks.train --config "$CONFIG" --workdir "$MOUNT/runs/$WORKLOAD" --data_dir "$MOUNT/data" \
  --distributed=auto ${SITE_FLAGS[@]+"${SITE_FLAGS[@]}"} "$@")

# act COMMAND...: runs it; in a dry run, prints it
act() {
  if [ -n "$DRY_RUN" ]; then quote "$@"; else "$@"; fi
}

[ -n "$DRY_RUN" ] || trap 'rm -rf "$SOURCE"' EXIT
act rm -rf "$SOURCE"
act git clone --quiet . "$SOURCE"
act xpk workload create --workload="$WORKLOAD" --cluster="$CLUSTER" ${WHERE[@]+"${WHERE[@]}"} --tpu-type="$TYPE" \
  --num-slices="$SLICES" --storage="$STORAGE" --base-docker-image="$IMAGE" --script-dir="$SOURCE" \
  --env=JAX_PLATFORMS=tpu,cpu --max-restarts="$RESTARTS" --restart-on-exit-codes=75,134 \
  --termination-grace-period-seconds=120 \
  --command="python -m pip install --quiet -r requirements.txt 'jax[tpu]' && exec $train"
where=$(quote --cluster="$CLUSTER" ${WHERE[@]+"${WHERE[@]}"})
[ -z "$DRY_RUN" ] || exit 0
say "follow it: xpk workload list $where --wait-for-job-completion=$WORKLOAD"
say "end it: xpk workload delete $where --workload=$WORKLOAD"
