# Sourced by the scripts beside it: options that all have, one-line errors, commands that are shown
# instead of run, and retries. Not here: what any script does.
# shellcheck shell=bash disable=SC2034  # much is used where this is sourced
#
# Exit codes: 2 a wrong option, or something that no retry mends (no credentials, no quota, a name
# that is taken); 69 a service that did not answer after all retries, or what was there has gone; 75
# try again later.

set -euo pipefail

RSVLM_TRIES="${RSVLM_TRIES:-5}"      # of a command that a service has failed
RSVLM_BACKOFF="${RSVLM_BACKOFF:-5}"  # seconds before the second try; twice as many before each next
RSVLM_POLL="${RSVLM_POLL:-30}"       # seconds between two questions about a state
RSVLM_TIMEOUT="${RSVLM_TIMEOUT:-1200}"  # seconds of one try, after which it is ended
export CLOUDSDK_CORE_DISABLE_PROMPTS=1  # gcloud asks nobody

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  printf 'error: bash %s is too old; 4.4 or newer is needed (macOS: brew install bash)\n' "$BASH_VERSION" >&2
  exit 2
fi

name="" zone="${CLOUDSDK_COMPUTE_ZONE:-}" project="${CLOUDSDK_CORE_PROJECT:-}" dry_run=""
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
scratch="$(mktemp -d)" waited=""
clean() {
  if [[ -n "$waited" ]]; then kill "$waited" 2>/dev/null || true; fi
  rm -rf "$scratch"
}
trap clean EXIT

COMMON_HELP="  --zone ZONE         of the TPU; default \$CLOUDSDK_COMPUTE_ZONE
  --project PROJECT   default \$CLOUDSDK_CORE_PROJECT, or what gcloud is set to
  --dry-run           print the commands, one a line; run nothing
  -h, --help          this text"

say() { printf '%s\n' "$*" >&2; }

die() {  # LINE [CODE]
  printf 'error: %s\n' "$1" >&2
  exit "${2:-2}"
}

quoted() {  # WORD...: one line that a shell reads as these words
  local word quote="'\\''" line=""
  for word in "$@"; do
    if ! [[ "$word" =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      word="'${word//\'/"$quote"}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

pause() {  # SECONDS, in which a signal is heard
  sleep "$1" &
  wait "$!"
}

# ---- options -------------------------------------------------------------------------------------

normalise() {  # into $words: --option=value as two words, up to `--`
  local word rest=""
  words=()
  for word in "$@"; do
    if [[ -z "$rest" && "$word" == --?*=* ]]; then
      words+=("${word%%=*}" "${word#*=}")
    else
      words+=("$word")
      if [[ "$word" == -- ]]; then rest=1; fi
    fi
  done
}

value() {  # OPTION VALUE...: there is one
  (($# > 1)) && [[ -n "$2" && "$2" != --* ]] || die "$1 needs a value; see --help"
}

common() {  # the words left: takes the first option that all scripts have, or the name
  taken=2
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) dry_run=1 taken=1 ;;
    --zone) value "$@"; zone="$2" ;;
    --project) value "$@"; project="$2" ;;
    -*) die "no such option: $1; see --help" ;;
    *)
      [[ -z "$name" ]] || die "one name only; found $name and $1; a command comes after --"
      name="$1" taken=1
      ;;
  esac
}

check_name() {  # WHAT NAME: as Google and Kubernetes take it
  [[ "$2" =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ||
    die "$1: expected lower-case letters, digits and hyphens; found '$2'"
}

check_place() {  # the name and the zone are there; $place: options that say where
  [[ -n "$name" ]] || die "no name given; see --help"
  check_name "the name" "$name"
  [[ -n "$zone" ]] || die "no zone given; expected --zone ZONE or CLOUDSDK_COMPUTE_ZONE"
  place=(--zone "$zone")
  if [[ -n "$project" ]]; then place+=(--project "$project"); fi
  need gcloud "install the Google Cloud CLI: https://cloud.google.com/sdk/docs/install"
}

need() {  # TOOL REMEDY
  [[ -n "$dry_run" ]] || command -v "$1" >/dev/null || die "$1 is not on PATH; $2"
}

check_no_secret() {  # WORD...: none is NAME=VALUE with the name of a secret
  local word found secret='TOKEN(_|$)|SECRET|PASSWORD|PASSWD|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY'
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || continue
    found="${word%%=*}"
    [[ "${found^^}" =~ $secret ]] || continue
    die "$found looks like a secret, which does not belong on a command line; put it into \
~/.rsvlm_env of the workers (chmod 600), which is read at the start of a run"
  done
}

tpu_flags() {  # GROUPS: into $flags, the value of LIBTPU_INIT_ARGS
  command -v python3 >/dev/null || die "python3 is not on PATH; --flags needs it"
  flags="$(python3 "$here/flags.py" --value --device tpu "$1")" || exit 2
}

# ---- commands ------------------------------------------------------------------------------------

run() {  # COMMAND...: shown under --dry-run, otherwise run with retries
  run_unless "" "$@"
}

run_unless() {  # CHECK COMMAND...: as run, but a try that has failed may have done it all the same:
  # the function CHECK is asked before each further one
  if [[ -n "$dry_run" ]]; then
    quoted "${@:2}"
  else
    _attempt run "$@"
  fi
}

ask() {  # COMMAND...: as run, what it says in $answer; fails if there is no such thing
  answer=""
  if [[ -n "$dry_run" ]]; then
    quoted "$@"
    return 1
  fi
  _attempt ask "" "$@" || return 1
  answer="$(<"$scratch/stdout")"
}

_attempt() {
  local how="$1" check="$2" try=1 seconds="$RSVLM_BACKOFF" code limited=() verb
  shift 2
  verb="${5-}"  # of gcloud compute tpus queued-resources
  if command -v timeout >/dev/null; then limited=(timeout --kill-after 10 "$RSVLM_TIMEOUT"); fi
  while true; do
    code=0
    # In the background, so that a signal is heard at once.
    if [[ "$how" == ask ]]; then
      "${limited[@]}" "$@" >"$scratch/stdout" 2>"$scratch/stderr" &
    else
      "${limited[@]}" "$@" 2>"$scratch/stderr" &
    fi
    waited=$!
    wait "$waited" || code=$?
    waited=""
    # gcloud leaves a slice out that it cannot reach, and says that all is well.
    if ((code == 0)) && grep -q 'Could not prepare all' "$scratch/stderr"; then code=255; fi
    if ((code == 0)); then
      if [[ "$how" == run ]]; then cat "$scratch/stderr" >&2; fi
      return 0
    fi
    if ((code == 124)); then echo "ERROR: no end within $RSVLM_TIMEOUT s" >>"$scratch/stderr"; fi
    _errors "$verb"
    if _is_not_there; then
      if [[ "$how" == ask ]]; then return 1; fi
      if [[ "$verb" == delete ]]; then return 0; fi
      die "$name is not there ($(_said))" 69
    fi
    if ((try > 1)) && [[ "$verb" == create ]] && grep -qi already.exists "$scratch/errors"; then
      say "$name was made by a try that seemed to fail"
      return 0
    fi
    _refuse_what_lasts "$1"
    ((try < RSVLM_TRIES)) || die "$1 failed $try times ($(_said))" 69
    say "$1 failed ($(_said)); again in $seconds s"
    pause "$seconds"
    if [[ -n "$check" ]] && "$check"; then
      say "it was done all the same"
      return 0
    fi
    try=$((try + 1)) seconds=$((seconds * 2))
  done
}

_said() {  # the last line of its errors
  local line
  line="$(grep -E 'ERROR|rror' "$scratch/stderr" | tail -n 1)" ||
    line="$(tail -n 1 "$scratch/stderr")"
  printf '%s' "${line:-it said nothing}"
}

_errors() {  # VERB: into scratch/errors, what the service says, and not what a worker does
  case "$1" in
    ssh | scp) sed -n '/^ERROR: (gcloud/,$p' "$scratch/stderr" ;;
    *) cat "$scratch/stderr" ;;
  esac >"$scratch/errors"
}

_is_not_there() {  # its error says so of the very thing; not of a project, a zone or a command
  local elsewhere="([Pp]roject|[Ll]ocation|[Zz]one)s?[]/ :'\"[]+[^]/ '\"]+"
  grep -iE 'NOT_FOUND|not found' "$scratch/errors" | sed -E "s#$elsewhere##g" |
    grep -E "(^|[^A-Za-z0-9_-])$name(-[0-9]+)?([^A-Za-z0-9_@-]|\$)" >/dev/null
}

_refuse_what_lasts() {  # TOOL: what a worker or the service says and no retry mends
  local text
  if text="$(grep -m 1 '^rsvlm-error: ' "$scratch/stderr")"; then
    die "a worker says: ${text#rsvlm-error: }"
  fi
  if text="$(grep -m 1 '^rsvlm-busy: ' "$scratch/stderr")"; then
    die "a worker says: ${text#rsvlm-busy: }" 75
  fi
  refuse_what_lasts "$(<"$scratch/errors")" "$(_said)" "$1"
}

refuse_what_lasts() {  # TEXT SHORT TOOL: ends this with one line, if no retry mends what TEXT says
  local login="gcloud auth login"
  if [[ "$3" == kubectl ]]; then
    login="gcloud auth login; gcloud container clusters get-credentials CLUSTER"
  fi
  shopt -s nocasematch
  case "$1" in
    *"active account"* | *"auth login"* | *"reauthentic"* | *"default credentials"* | \
      *invalid_grant* | *"logged in"* | *unauthorized*)
      die "no credentials ($2); run: $login" ;;
    *"attribute [project]"* | *"properly specified"*) die "no project ($2); give --project" ;;
    *"per minute"*) ;;  # a rate, not an amount
    *quota*exceeded* | *exceeded*quota* | *"quota limit"* | *"insufficient quota"*)
      die "no quota${zone:+ in $zone} ($2); ask for it in the console (IAM > Quotas), or take \
another zone or type" ;;
    *already_exists* | *"already exists"*)
      die "the name exists already ($2); take another name, or delete that one" ;;
    *permission_denied* | *forbidden*) die "no permission ($2)" ;;
    *"have a resource type"*) die "no JobSet controller in this cluster ($2)" ;;
    *invalid_argument* | *"invalid value"* | *"unrecognized arguments"*) die "refused ($2)" ;;
    *) ;;
  esac
  shopt -u nocasematch
}

# ---- a queued resource and its workers -----------------------------------------------------------

QUEUED=(gcloud compute tpus queued-resources)

resource_state() {  # into $state, $found_type and $failure; fails if there is none
  state="" found_type="" failure=""
  ask "${QUEUED[@]}" describe "$name" "${place[@]}" --format 'value[separator="|"](state.state,'\
'tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' || return 1
  IFS='|' read -r state found_type failure <<<"$answer" || true
  found_type="${found_type##*/}"
}

is_gone() {
  local polls
  for ((polls = 0; polls < 60; polls++)); do
    resource_state || return 0
    [[ "$state" == DELETING ]] || return 1
    pause "$RSVLM_POLL"
  done
  return 1
}

remove() {  # the queued resource with its nodes
  run_unless is_gone "${QUEUED[@]}" delete "$name" "${place[@]}" --force --quiet
}

on_workers() {  # COMMAND_LINE: words of the gcloud command into $remote
  # A host that was taken away closes no connection.
  remote=("${QUEUED[@]}" ssh "$name" "${place[@]}" --node all --worker all
    --ssh-flag=-oConnectTimeout=20 --ssh-flag=-oServerAliveInterval=20 --command "$1")
}

WORKER=rsvlm_jax/tpu_scripts/worker.sh  # where setup_workers.sh puts it
