# shellcheck shell=bash
# What the scripts of this folder share. They source it from the project's folder, where they are started.

fail() {
  echo "error: $1" >&2
  exit 2
}

say() { echo "$1" >&2; }

# need TOOL REMEDY
need() { command -v "$1" > /dev/null || fail "there is no $1 here; $2"; }

# value OPTION NUMBER_OF_ARGUMENTS_LEFT: an option that needs a value has one
value() { [ "$2" -ge 2 ] || fail "$1 needs a value"; }

# quote WORD...: the words as a shell reads them
quote() {
  local word line=''
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_./:=+,-]*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "${line# }"
}

# TRAIN_FLAGS in the environment holds flags of lra_tasks.train, separated by blanks, that every run of a site gets:
# those of its mesh, for example. On a TPU slice and under Slurm JAX finds the processes of a run by itself.
# shellcheck disable=SC2034 # the scripts use it
read -r -a SITE_FLAGS <<< "${TRAIN_FLAGS:-}" || true
