# shellcheck shell=bash
# shellcheck disable=SC2034 # tpu_pod.sh uses what is set here
# A Cloud TPU slice for tpu_pod.sh, which sources this: what is asked of gcloud, and what the workers run.

TRIES=20 # of what must not fail, such as deleting, POLL_SECONDS apart
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
# a run is told to save, for which four minutes are plenty
stop="if [ -e luna-run.pid ] && kill -TERM \$(cat luna-run.pid) 2> /dev/null; then for _ in \$(seq 240); do \
kill -0 \$(cat luna-run.pid) 2> /dev/null || break; sleep 1; done; fi; rm -f luna-run.pid"

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

# on_workers WHICH COMMAND. A host that is taken away says no farewell: ssh asks it every half minute, three times.
on_workers() {
  act "${TPU[@]}" ssh "$NAME" "${WHERE[@]}" --worker="$1" --ssh-flag=-oServerAliveInterval=30 --command="$2"
}

# train NUMBER: on all workers. When a connection broke, gcloud runs its command again, so a worker does what it is told
# once an attempt: the second time it tells the run, which may still be at work, to save, as all other hosts then do,
# and ends with 75.
train() {
  local word line
  line="$stop; if [ \"\$(cat luna-run.attempt 2> /dev/null)\" = $1 ]; then exit 75; fi; \
echo $1 > luna-run.attempt; echo \$\$ > luna-run.pid; cd luna-jax && exec env JAX_PLATFORMS=tpu,cpu \
../luna-venv/bin/python -m lra_tasks.train --config $(quote "$CONFIG") --workdir $BASE/runs/$NAME \
--data_dir $BASE/data --distributed=auto"
  for word in ${FLAGS[@]+"${FLAGS[@]}"}; do line="$line $(quote "$word")"; done
  on_workers all "$line"
}

list_names() { act "${QUEUE[@]}" list "${WHERE[@]}" --format='value(name)'; }

describe() { act "${QUEUE[@]}" describe "$NAME" "${WHERE[@]}" --format='value(state.state)'; }

# is_there: 0 yes, 1 no; 2 when gcloud cannot say
is_there() {
  local names
  names=$(list_names) || return 2
  printf '%s\n' "$names" | sed 's|.*/||' | grep -x -- "$NAME" > /dev/null
}

# find_state: sets $state; UNKNOWN when gcloud cannot say so many times in a row
state=''
find_state() {
  for _ in $(seq "$TRIES"); do
    state=$(describe) && [ -n "$state" ] && return
    pause
  done
  state=UNKNOWN
}

# settle CODE: sets $state after a run has ended. A spot TPU that is being taken away says so only after a while.
settle() {
  local tries=1
  case $SPOT:$1 in yes:75 | yes:134 | yes:255) ;; yes:*) tries=5 ;; esac
  for _ in $(seq "$tries"); do
    pause
    find_state
    [ "$state" = ACTIVE ] || return 0
  done
}

requested='' # set as soon as there may be something to delete
creating=''  # set while nobody knows whether there is
request() {
  local more=(--valid-until-duration="$WAIT")
  [ "$SHARE" = none ] || more+=(--metadata=enable-oslogin=TRUE) # one user id on all hosts, which a share needs
  [ -z "$SPOT" ] || more+=(--spot)
  requested=yes creating=yes
  act "${QUEUE[@]}" create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
    "${WHERE[@]}" "${more[@]}" || return
  creating=''
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

bundle() { act git bundle create --quiet "$BUNDLE" HEAD; }

install_once() {
  act "${TPU[@]}" scp "$BUNDLE" "$NAME:luna-jax.bundle" "${WHERE[@]}" --worker=all || return
  on_workers all "$install"
}

# install_all: a TPU that is just there may not let anybody in yet, so it is tried three times
install_all() {
  local code
  for _ in 1 2 3; do
    code=0
    install_once || code=$?
    [ "$code" != 0 ] || break
    pause
  done
  [ "$code" = 0 ] || { say "error: the installation failed"; return "$code"; }
  [ -z "$PREPARE" ] || on_workers 0 "$prepare"
}

fetch() {
  local from=/mnt/luna/runs/$NAME
  [ "$SHARE" != none ] || from=luna/runs/$NAME # below the home folder, where scp starts
  act mkdir -p runs
  for _ in 1 2 3 4 5; do
    ! act "${TPU[@]}" scp --recurse "$NAME:$from" runs/ "${WHERE[@]}" --worker=0 || return 0
    pause
  done
  say "error: $from could not be fetched"
  return 1
}

delete() {
  local command=("${QUEUE[@]}" delete "$NAME" "${WHERE[@]}" --force --quiet) code
  for _ in $(seq "$TRIES"); do
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
