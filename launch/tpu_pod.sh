#!/usr/bin/env bash
# One run on a Cloud TPU slice: requests it, waits, installs the committed state of this folder on every worker, trains,
# fetches the work directory and deletes the TPU. Preempted, it requests another and the run goes on from the checkpoint
# on the share. However this script ends, short of SIGKILL and a machine that loses its power, the TPU is deleted.
#
# Not run on a real TPU so far. The commands follow
#   https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create   and delete, describe, list
#   https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm/ssh                and scp
#   https://docs.cloud.google.com/tpu/docs/queued-resources                              the states of a request
#   https://docs.cloud.google.com/tpu/docs/jax-pods                                      versions; OS Login for a share
set -euo pipefail
[ -f lra_tasks/train.py ] || { echo "error: start it in the project's folder: launch/tpu_pod.sh" >&2; exit 2; }
# shellcheck source=launch/common.sh
. launch/common.sh

usage() {
  cat <<'END'
launch/tpu_pod.sh --name NAME --zone ZONE --type TYPE --config CONFIG --share SERVER:/PATH|none [OPTIONS]
                  [-- FLAGS OF lra_tasks.train]

  --name NAME      of the TPU, and of the work directory: runs/NAME, here and on the share
  --zone ZONE      such as europe-west4-b
  --type TYPE      accelerator, such as v5litepod-16 or v6e-8; more than 8 means several hosts
  --config CONFIG  such as configs/text.py:luna16
  --share          NFS share (Filestore) in the TPU's network, for data and checkpoints; several hosts need one, and
                   --spot does. none: one host, on demand; its work directory is fetched at the end
  --prepare TASK   prepare this task's data on the share first (listops, text, ...)
  --spot           a Spot TPU: cheaper, and preempted at any time
  --project ID     Google Cloud project; by default gcloud's own
  --runtime NAME   software version of the TPU; by default that of its type
  --wait DURATION  how long the request may stay in the queue (6h)
  --restarts N     preemptions and stops that are survived (20)
  --leave-changes  train the committed state although there are changes, which stay here
  --dry-run        print the commands and run nothing

Environment: TRAIN_FLAGS (more flags of lra_tasks.train), POLL_SECONDS (30), PYTHON (python3, which opens the config
before anything is paid for, where it can). A limit on time and cost:
timeout --signal=TERM 10h launch/tpu_pod.sh ... saves, fetches and deletes after ten hours. Ctrl-C does so at once.
Exit codes: 0 finished, 1 failed, 2 a mistake to mend, 75 stopped with everything saved; else that of the run.
END
}

NAME='' ZONE='' TYPE='' CONFIG='' SHARE='' PREPARE='' SPOT='' PROJECT='' RUNTIME='' WAIT=6h RESTARTS=20 DRY_RUN=''
LEAVE_CHANGES=''
POLL_SECONDS=${POLL_SECONDS:-30}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=yes ;;
    --spot) SPOT=yes ;;
    --leave-changes) LEAVE_CHANGES=yes ;;
    --name) value "$@"; NAME=$2; shift ;;
    --zone) value "$@"; ZONE=$2; shift ;;
    --type) value "$@"; TYPE=$2; shift ;;
    --config) value "$@"; CONFIG=$2; shift ;;
    --share) value "$@"; SHARE=$2; shift ;;
    --prepare) value "$@"; PREPARE=$2; shift ;;
    --project) value "$@"; PROJECT=$2; shift ;;
    --runtime) value "$@"; RUNTIME=$2; shift ;;
    --wait) value "$@"; WAIT=$2; shift ;;
    --restarts) value "$@"; RESTARTS=$2; shift ;;
    --) shift; break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    *) fail "unknown option $1; launch/tpu_pod.sh --help lists them" ;;
  esac
  shift
done
for option in name:"$NAME" zone:"$ZONE" type:"$TYPE" config:"$CONFIG" share:"$SHARE"; do
  [ -n "${option#*:}" ] || fail "--${option%%:*} is missing; launch/tpu_pod.sh --help explains it"
done
case $NAME in [!a-z]* | *[!a-z0-9-]*) fail "--name $NAME: give lower-case letters, digits and -" ;; esac
case $SHARE in
  none) [ -z "$SPOT" ] || fail "--spot needs a --share: without one a preemption loses the run" ;;
  *[!A-Za-z0-9_.:/-]* | :* | /*) fail "--share $SHARE: give SERVER:/PATH, or none" ;;
  *:/*) ;;
  *) fail "--share $SHARE: give SERVER:/PATH, or none" ;;
esac
case $TYPE in *-*[!0-9]* | *- | *[!A-Za-z0-9-]*) fail "--type $TYPE: give it with its size, as v5litepod-16" ;; *-*) ;;
  *) fail "--type $TYPE: give it with its size, as v5litepod-16" ;;
esac
case $SHARE:${TYPE##*-} in
  none:[1-8]) ;;
  none:*) fail "--share none: a $TYPE has several hosts, which need one folder for data and checkpoints" ;;
esac
whole --restarts "$RESTARTS" 0
whole POLL_SECONDS "$POLL_SECONDS" 0
refuse "$GIVEN" ${SITE_FLAGS[@]+"${SITE_FLAGS[@]}"} "$@"
open_config "$CONFIG"
if [ -z "$RUNTIME" ]; then
  case $TYPE in
    v5litepod-*) RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p-*) RUNTIME=v2-alpha-tpuv5 ;;
    v6e-*) RUNTIME=v2-alpha-tpuv6e ;;
    *) RUNTIME=tpu-ubuntu2204-base ;;
  esac
fi
if [ -z "$DRY_RUN" ]; then
  need gcloud "install it: https://cloud.google.com/sdk/docs/install, then run: gcloud init"
  require_committed "$CONFIG" "$LEAVE_CHANGES"
fi

# shellcheck disable=SC2034 # tpu_slice.sh uses it
FLAGS=(${SITE_FLAGS[@]+"${SITE_FLAGS[@]}"} "$@")
# shellcheck source=launch/tpu_slice.sh
. launch/tpu_slice.sh

# shellcheck disable=SC2329 # a trap
clean_up() {
  local code=$?
  trap '' INT TERM HUP QUIT PIPE
  rm -f "$BUNDLE" || true
  [ -z "$requested" ] || delete || code=1
  exit "$code"
}

training='' # set while a worker may be training
# shellcheck disable=SC2329 # a trap
save_and_leave() {
  trap '' INT TERM HUP QUIT PIPE
  local running=$child
  say "stopping: ${training:+the run saves, then }the TPU is deleted; this cannot be hurried" || true
  [ -z "$creating" ] || wait "$running" || true # what is half requested cannot be deleted yet
  [ -z "$training" ] || on_workers all "$stop" || say "note: the run could not be stopped; its last checkpoint counts"
  [ -z "$running" ] || kill -TERM -- "-$running" 2> /dev/null || true
  [ -z "$training" ] || fetch || true
  exit 75
}

if [ -n "$DRY_RUN" ]; then
  list_names
  bundle
  request
  describe
  install_all
  train 0
  fetch
  delete
  exit 0
fi

code=0
is_there || code=$?
[ "$code" != 0 ] || fail "there is a TPU $NAME already; take another --name, or delete that one"
[ "$code" = 1 ] || fail "gcloud cannot list the TPUs of $ZONE; run: gcloud auth login, and check --zone and --project"
trap clean_up EXIT
trap save_and_leave INT TERM HUP QUIT PIPE
bundle || fail "git cannot bundle this folder; see above"

installed=''
for attempt in $(seq 0 "$RESTARTS"); do
  [ "$attempt" = 0 ] || say "restart $attempt: the run goes on from its checkpoint"
  if [ -z "$requested" ]; then
    request || { say "error: the request failed"; exit 1; }
    installed=''
  fi
  code=0
  if ! wait_until_active; then
    [ "$attempt" != 0 ] || [ "$state" != FAILED ] || { say "error: no TPU within $WAIT, or a wrong request"; exit 1; }
    code=75
  elif [ -z "$installed" ]; then
    install_all || code=$?
  fi
  if [ "$code" = 0 ]; then
    installed=yes training=yes
    train "$attempt" || code=$?
    if [ "$code" = 0 ]; then fetch && exit 0 || exit 1; fi
  fi
  settle "$code"
  case $code:$state in
    75:ACTIVE | 134:ACTIVE | 255:ACTIVE) ;; # saved by a signal, a host died, or the connection broke: again on this TPU
    *:ACTIVE)
      [ -z "$training" ] || fetch || true
      exit "$code" ;;
    *)
      say "$NAME was taken away: $state"
      training=''
      [ "$SHARE" != none ] || { say "error: the run lay on its disk and is lost; give it a --share"; exit 1; }
      delete || exit 1 ;;
  esac
done
say "stopped $((RESTARTS + 1)) times; the same command goes on from the checkpoint"
exit 75
