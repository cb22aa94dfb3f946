#!/usr/bin/env bash
# One run on a Cloud TPU slice: requests it, waits, installs the committed state of this folder on every worker, trains,
# fetches the work directory and deletes the TPU. Preempted, it requests another and the run goes on from the checkpoint
# on the share. However this script ends, short of SIGKILL, the TPU is deleted.
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
  --type TYPE      accelerator, such as v5litepod-16 or v6e-8
  --config CONFIG  such as configs/text.py:luna16
  --share          NFS share (Filestore) in the TPU's network, for data and checkpoints; several hosts need one, and
                   --spot does. none: one host, on demand; its work directory is fetched at the end
  --prepare TASK   prepare this task's data on the share first (listops, text, ...)
  --spot           a Spot TPU: cheaper, and preempted at any time
  --project ID     Google Cloud project; by default gcloud's own
  --runtime NAME   software version of the TPU; by default that of its type
  --wait DURATION  how long the request may stay in the queue (6h)
  --restarts N     preemptions and stops that are survived (20)
  --dry-run        print the commands and run nothing

Environment: TRAIN_FLAGS (more flags of lra_tasks.train), POLL_SECONDS (30). A limit on time and cost:
timeout --signal=TERM 10h launch/tpu_pod.sh ... saves, fetches and deletes after ten hours.
Exit codes: 0 finished, 1 failed, 2 a mistake to mend, 75 stopped with everything saved; else that of the run.
END
}

NAME='' ZONE='' TYPE='' CONFIG='' SHARE='' PREPARE='' SPOT='' PROJECT='' RUNTIME='' WAIT=6h RESTARTS=20 DRY_RUN=''
POLL_SECONDS=${POLL_SECONDS:-30}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) DRY_RUN=yes ;;
    --spot) SPOT=yes ;;
    --name) value "$1" $#; NAME=$2; shift ;;
    --zone) value "$1" $#; ZONE=$2; shift ;;
    --type) value "$1" $#; TYPE=$2; shift ;;
    --config) value "$1" $#; CONFIG=$2; shift ;;
    --share) value "$1" $#; SHARE=$2; shift ;;
    --prepare) value "$1" $#; PREPARE=$2; shift ;;
    --project) value "$1" $#; PROJECT=$2; shift ;;
    --runtime) value "$1" $#; RUNTIME=$2; shift ;;
    --wait) value "$1" $#; WAIT=$2; shift ;;
    --restarts) value "$1" $#; RESTARTS=$2; shift ;;
    --) shift; break ;;
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
case $RESTARTS in '' | *[!0-9]*) fail "--restarts $RESTARTS: give a number" ;; esac
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
  need git "install git: the committed state of this folder is what is trained"
fi
changes=$(git status --porcelain --untracked-files=no 2> /dev/null || true)
[ -z "$changes" ] || say "note: changes that are not committed stay here"

WHERE=(--zone="$ZONE")
[ -z "$PROJECT" ] || WHERE+=(--project="$PROJECT")
TPU=(gcloud compute tpus tpu-vm)
QUEUE=(gcloud compute tpus queued-resources)
BUNDLE=${TMPDIR:-/tmp}/luna-jax-$NAME.bundle
BASE=\$HOME/luna # for the shell of a worker
[ "$SHARE" = none ] || BASE=/mnt/luna

# what the workers run, each in one line
folders="mkdir -p $BASE/runs $BASE/data"
[ "$SHARE" = none ] || folders="sudo mkdir -p /mnt/luna; if ! mountpoint -q /mnt/luna; then \
sudo apt-get -o DPkg::Lock::Timeout=300 update; sudo apt-get -o DPkg::Lock::Timeout=300 install -y nfs-common; \
sudo mount -t nfs $SHARE /mnt/luna; fi; sudo mkdir -p /mnt/luna/runs /mnt/luna/data; \
sudo chown \$(id -u) /mnt/luna/runs /mnt/luna/data"
# their Python may be older than 3.11, so uv brings one
install="set -e; $folders; rm -rf luna-jax luna-venv; git clone -q luna-jax.bundle luna-jax; \
python3 -m pip install --quiet --user uv; python3 -m uv venv --quiet --python 3.12 luna-venv; \
python3 -m uv pip install --quiet --python luna-venv/bin/python -r luna-jax/requirements.txt 'jax[tpu]'"
prepare="cd luna-jax && ../luna-venv/bin/python -m lra_tasks.prepare $(quote "$PREPARE") --data_dir $BASE/data"
# A run whose connection broke may still be at work: it is told to save, for which four minutes are plenty.
stop="if [ -e luna-run.pid ] && kill -TERM \$(cat luna-run.pid) 2> /dev/null; then for _ in \$(seq 240); do \
kill -0 \$(cat luna-run.pid) 2> /dev/null || break; sleep 1; done; fi; rm -f luna-run.pid"
train="$stop; echo \$\$ > luna-run.pid; cd luna-jax && exec env JAX_PLATFORMS=tpu,cpu ../luna-venv/bin/python \
-m lra_tasks.train --config $(quote "$CONFIG") --workdir $BASE/runs/$NAME --data_dir $BASE/data"
for word in ${SITE_FLAGS[@]+"${SITE_FLAGS[@]}"} "$@"; do train="$train $(quote "$word")"; done

# act COMMAND...: in the background, so that a signal is handled at once, and in a process group of its own, so that
# Ctrl-C and timeout do not cut the connection over which the run writes before it has saved. In a dry run: prints it.
child=''
act() {
  if [ -n "$DRY_RUN" ]; then
    quote "$@"
    return
  fi
  local code=0
  set -m
  "$@" < /dev/null &
  child=$!
  set +m
  wait "$child" || code=$?
  child=''
  return "$code"
}

pause() { act sleep "$POLL_SECONDS"; }

on_workers() { act "${TPU[@]}" ssh "$NAME" "${WHERE[@]}" --worker="$1" --command="$2"; }

list_names() { act "${QUEUE[@]}" list "${WHERE[@]}" --format='value(name)'; }

describe() { act "${QUEUE[@]}" describe "$NAME" "${WHERE[@]}" --format='value(state.state)'; }

# is_there: 0 yes, 1 no; 2 when gcloud cannot say
is_there() {
  local names
  names=$(list_names) || return 2
  printf '%s\n' "$names" | sed 's|.*/||' | grep -x -- "$NAME" > /dev/null
}

# find_state: sets $state; UNKNOWN when gcloud cannot say five times in a row
state=''
find_state() {
  for _ in 1 2 3 4 5; do
    state=$(describe) && [ -n "$state" ] && return
    pause
  done
  state=UNKNOWN
}

requested='' # set as soon as there may be something to delete
request() {
  local more=(--valid-until-duration="$WAIT")
  [ "$SHARE" = none ] || more+=(--metadata=enable-oslogin=TRUE) # one user id on all hosts, which a share needs
  [ -z "$SPOT" ] || more+=(--spot)
  requested=yes
  act "${QUEUE[@]}" create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
    "${WHERE[@]}" "${more[@]}"
}

# wait_until_active: 0 when it is, 1 when it will not be
wait_until_active() {
  local before=''
  while :; do
    find_state
    [ "$state" = "$before" ] || say "$NAME: $state"
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | UNKNOWN) return 1 ;;
    esac
    before=$state
    pause
  done
}

install_all() {
  act git bundle create --quiet "$BUNDLE" HEAD || return
  act "${TPU[@]}" scp "$BUNDLE" "$NAME:luna-jax.bundle" "${WHERE[@]}" --worker=all || return
  on_workers all "$install" || return
  [ -z "$PREPARE" ] || on_workers 0 "$prepare"
}

fetch() {
  local from=/mnt/luna/runs/$NAME
  [ "$SHARE" != none ] || from=luna/runs/$NAME # below the home folder, where scp starts
  act mkdir -p runs
  for _ in 1 2 3; do
    ! act "${TPU[@]}" scp --recurse "$NAME:$from" runs/ "${WHERE[@]}" --worker=0 || return 0
    pause
  done
  say "error: $from could not be fetched"
  return 1
}

delete() {
  local command=("${QUEUE[@]}" delete "$NAME" "${WHERE[@]}" --force --quiet) code
  for _ in 1 2 3; do
    code=1
    act "${command[@]}" || { code=0; is_there || code=$?; }
    if [ "$code" = 1 ]; then # deleted, or it never was
      requested=''
      return 0
    fi
    pause
  done
  say "error: $NAME could not be deleted and may be billed; delete it by hand: $(quote "${command[@]}")"
  return 1
}

# shellcheck disable=SC2329 # a trap
clean_up() {
  local code=$?
  trap '' INT TERM HUP
  rm -f "$BUNDLE"
  [ -z "$requested" ] || delete || code=1
  exit "$code"
}

training='' # set while a worker may be training
# shellcheck disable=SC2329 # a trap
save_and_leave() {
  trap '' INT TERM HUP
  local running=$child
  say "stopping: the run saves, then the TPU is deleted"
  [ -z "$training" ] || on_workers all "$stop" || say "note: the run could not be stopped; its last checkpoint counts"
  [ -z "$running" ] || kill -TERM -- "-$running" 2> /dev/null || true
  [ -z "$training" ] || fetch || true
  exit 75
}

if [ -n "$DRY_RUN" ]; then
  list_names
  request
  describe
  install_all
  on_workers all "$train"
  fetch
  delete
  exit 0
fi

code=0
is_there || code=$?
[ "$code" != 0 ] || fail "there is a TPU $NAME already; take another --name, or delete that one"
[ "$code" = 1 ] || fail "gcloud cannot list the TPUs of $ZONE; run: gcloud auth login, and check --zone and --project"
trap clean_up EXIT
trap save_and_leave INT TERM HUP

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
    on_workers all "$train" || code=$?
    if [ "$code" = 0 ]; then fetch && exit 0 || exit 1; fi
    pause # a TPU that is being taken away says so after a while
  fi
  find_state
  case $code:$state in
    75:ACTIVE | 255:ACTIVE) ;; # saved by a signal, or the connection broke: again on the same TPU
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
