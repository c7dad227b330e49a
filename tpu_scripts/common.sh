# Sourced by the scripts beside it: options that all have, one-line errors, commands that are shown
# instead of run, and retries. Not here: what any script does.
# shellcheck shell=bash disable=SC2034  # much is used where this is sourced
#
# Exit codes: 2 a wrong option, or something that no retry mends (no credentials, no quota, a name
# that is taken); 69 a service that did not answer after all retries; 75 try again later.

set -euo pipefail

RSVLM_TRIES="${RSVLM_TRIES:-5}"      # of a command that a service has failed
RSVLM_BACKOFF="${RSVLM_BACKOFF:-5}"  # seconds before the second try; twice as many before each next
RSVLM_POLL="${RSVLM_POLL:-30}"       # seconds between two questions about a state

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  printf 'error: bash %s is too old; 4.4 or newer is needed (macOS: brew install bash)\n' "$BASH_VERSION" >&2
  exit 2
fi

name="" zone="${CLOUDSDK_COMPUTE_ZONE:-}" project="${CLOUDSDK_CORE_PROJECT:-}" dry_run=""
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

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

check_no_secret() {  # NAME=VALUE for the environment of a run
  [[ "$1" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env: expected NAME=VALUE; found '$1'"
  if [[ "${1%%=*}" =~ (TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY) ]]; then
    die "${1%%=*} looks like a secret, which does not belong on a command line; put it into \
~/.rsvlm_env of the workers (chmod 600), which is read at the start of a run"
  fi
}

# ---- commands ------------------------------------------------------------------------------------

run() {  # COMMAND...: shown under --dry-run, otherwise run with retries
  if [[ -n "$dry_run" ]]; then
    quoted "$@"
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
  _attempt ask "$@"
}

_attempt() {
  local how="$1" try=1 seconds="$RSVLM_BACKOFF" code
  shift
  while true; do
    code=0
    if [[ "$how" == ask ]]; then
      answer="$("$@" 2>"$scratch/stderr")" || code=$?
    else
      "$@" 2>"$scratch/stderr" || code=$?
    fi
    if ((code == 0)); then
      if [[ "$how" == run ]]; then cat "$scratch/stderr" >&2; fi
      return 0
    fi
    if [[ "$how" == ask ]] && grep -qiE 'NOT_FOUND|not found' "$scratch/stderr"; then return 1; fi
    _refuse_what_lasts
    ((try < RSVLM_TRIES)) || die "$1 failed $try times ($(_said))" 69
    say "$1 failed ($(_said)); again in $seconds s"
    pause "$seconds"
    try=$((try + 1)) seconds=$((seconds * 2))
  done
}

_said() {  # the last line of its errors
  local line
  line="$(grep -E 'ERROR|rror' "$scratch/stderr" | tail -n 1)" ||
    line="$(tail -n 1 "$scratch/stderr")"
  printf '%s' "${line:-it said nothing}"
}

_refuse_what_lasts() {  # what the service says and no retry mends
  local text
  if text="$(grep -m 1 '^error: ' "$scratch/stderr")"; then die "a worker says: ${text#error: }"; fi
  text="$(<"$scratch/stderr")"
  shopt -s nocasematch
  case "$text" in
    *"active account"* | *"auth login"* | *"reauthentic"* | *"default credentials"* | *invalid_grant*)
      die "no credentials ($(_said)); run: gcloud auth login" ;;
    *"attribute [project]"* | *"properly specified"*) die "no project ($(_said)); give --project" ;;
    *"per minute"*) ;;  # a rate, not an amount
    *quota*exceeded* | *exceeded*quota* | *"quota limit"* | *"insufficient quota"*)
      die "no quota${zone:+ in $zone} ($(_said)); ask for it in the console (IAM > Quotas), or take \
another zone or type" ;;
    *already_exists* | *"already exists"*)
      die "the name exists already ($(_said)); take another name, or delete that one" ;;
    *permission_denied* | *forbidden*) die "no permission ($(_said))" ;;
    *invalid_argument* | *"invalid value"* | *"unrecognized arguments"*) die "refused ($(_said))" ;;
    *) ;;
  esac
  shopt -u nocasematch
}

# ---- a queued resource and its workers -----------------------------------------------------------

QUEUED=(gcloud compute tpus queued-resources)

resource_state() {  # into $state and $found_type; fails if there is none
  state="" found_type=""
  ask "${QUEUED[@]}" describe "$name" "${place[@]}" \
    --format 'value(state.state,tpu.nodeSpec[0].node.acceleratorType)' || return 1
  read -r state found_type <<<"$answer" || true
  found_type="${found_type##*/}"
}

on_workers() {  # COMMAND_LINE [OPTION...]: words of the gcloud command into $remote
  remote=("${QUEUED[@]}" ssh "$name" "${place[@]}" --node all --worker all --command "$1")
  shift
  remote+=("$@")
}

WORKER=rsvlm_jax/tpu_scripts/worker.sh  # where setup_workers.sh puts it
