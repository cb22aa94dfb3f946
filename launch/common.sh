# shellcheck shell=bash
# What the scripts of this folder share. They source it from the project's folder, where they are started.

fail() {
  echo "error: $1" >&2
  exit 2
}

say() { echo "$1" >&2; }

# need TOOL REMEDY
need() { command -v "$1" > /dev/null || fail "there is no $1 here; $2"; }

# value OPTION VALUE ...: an option that needs a value has one, which is not the next option
value() {
  [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value"
  case $2 in -*) fail "$1 needs a value, and $2 is an option" ;; esac
}

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

# shellcheck disable=SC2034 # the scripts use it
GIVEN="config workdir data_dir distributed coordinator num_processes process_id"
# refuse NAMES WORD...: flags that a script gives itself are not among the words
refuse() {
  local names=" $1 " word name
  shift
  for word; do
    name=${word%%=*}
    name=${name#-}
    case $word in -*) case $names in *" ${name#-} "*) fail "$word: the script gives this flag itself" ;; esac ;; esac
  done
}

# whole OPTION VALUE LEAST: a whole number of at least LEAST
whole() {
  case $2 in '' | *[!0-9]*) fail "$1 $2: give a whole number" ;; esac
  [ "$2" -ge "$3" ] || fail "$1 $2: give at least $3"
}

OPEN_CONFIG='
import importlib.util, sys
path, _, argument = sys.argv[1].partition(":")
spec = importlib.util.spec_from_file_location("config", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.get_config(*[argument] if argument else [])
'
# open_config CONFIG: it is there; and it opens, where a Python has what that needs. An hour in a queue is long.
open_config() {
  local python=${PYTHON:-python3} answer
  [ -f "${1%%:*}" ] || fail "--config: there is no file ${1%%:*}"
  "$python" -c 'import ml_collections' > /dev/null 2>&1 || return 0
  answer=$("$python" -c "$OPEN_CONFIG" "$1" 2>&1) || fail "--config $1: $(printf '%s\n' "$answer" | tail -n 1)"
}

# require_committed CONFIG LEAVE_CHANGES: what is trained elsewhere is the committed state of this folder
require_committed() {
  local changes
  need git "install git: the committed state of this folder is what is trained"
  git rev-parse --quiet --verify HEAD > /dev/null 2>&1 ||
    fail "no commit here, and the committed state is what is trained; run: git init && git add . && git commit"
  git cat-file -e "HEAD:./${1%%:*}" 2> /dev/null ||
    fail "--config: ${1%%:*} is not committed, and would not be there; run: git add and git commit"
  changes=$(git status --porcelain --untracked-files=no) || fail "git status does not work here"
  [ -z "$changes" ] || [ -n "$2" ] ||
    fail "what is not committed is not trained: $(printf '%s' "$changes" | head -n 3 | tr -s '\n ' ' '); commit it, or \
leave it out on purpose: --leave-changes"
}

# TRAIN_FLAGS in the environment holds flags of lra_tasks.train, separated by blanks, that every run of a site gets:
# those of its mesh, for example.
# shellcheck disable=SC2034 # the scripts use it
read -r -d '' -a SITE_FLAGS <<< "${TRAIN_FLAGS:-}" || true
