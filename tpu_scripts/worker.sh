#!/usr/bin/env bash
# What happens on a worker of a TPU (a host of it); the other scripts call it there through ssh.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: worker.sh setup COMMIT SHARED [NFS]   take ~/rsvlm_jax.COMMIT into use as ~/rsvlm_jax, installed
                                             in ~/rsvlm_env; not while a run is going on from another
       worker.sh start RUN COMMAND...        start it in the background, unless RUN is running
       worker.sh state RUN                   rsvlm-state HOST none|running|ended CODE STEP
       worker.sh stop RUN                    SIGTERM: training saves and ends with 75
       worker.sh log RUN                     what it has written, each line as rsvlm-log HOST LINE
       worker.sh now COMMAND...              run it and wait; then: rsvlm-ended HOST CODE
Any of them with --dry-run first prints the commands instead.

SHARED is a directory that all workers see, with NFS (HOST:/SHARE) mounted there. ~/.rsvlm_env, where
there is one, is read before a command: the place for secrets.
TEXT
}

dry_run=""
if [[ "${1-}" == --dry-run ]]; then
  dry_run=1
  shift
fi
verb="${1---help}" jobs="$HOME/rsvlm_jobs" env="$HOME/rsvlm_env"
shift || true

die() {  # LINE [WORD CODE]: which of all lines that come over ssh is meant for the scripts there
  printf 'rsvlm-%s: %s\n' "${2:-error}" "$1" >&2
  exit "${3:-2}"
}

run() {
  if [[ -n "$dry_run" ]]; then
    printf '%q' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
  else
    "$@"
  fi
}

# Where pip puts what it installs for one user: no login shell says so to a command over ssh.
export PATH="$HOME/.local/bin:$PATH"

setup() {  # COMMIT SHARED [NFS]
  local commit="$1" shared="$2" nfs="${3-}"
  if [[ -n "$nfs" ]] && ! mountpoint -q "$shared"; then
    # A new host still installs by itself.
    run sudo apt-get -o DPkg::Lock::Timeout=600 install -q -y nfs-common
    run sudo mkdir -p "$shared"
    run sudo mount -t nfs -o hard,rw "$nfs" "$shared"
    run sudo chmod a+rwx "$shared"
  fi
  [[ -n "$dry_run" || -d "$shared" && -w "$shared" ]] ||
    die "no directory for all workers at $shared; give --nfs HOST:/SHARE"
  run mkdir -p "$jobs"
  if [[ -z "$dry_run" ]]; then printf '%s\n' "$shared" >"$jobs/shared"; fi
  alone
  if [[ "$(cat "$env/.commit" 2>/dev/null)" == "$commit" ]]; then
    echo "rsvlm-setup $(hostname) has $commit"
    return
  fi
  for folder in "$jobs"/*/; do
    if running; then
      die "$(basename "$folder") is running on $(hostname) from another commit; stop it first, or let \
it end" busy 75
    fi
  done
  run rm -f "$env/.commit"
  run ln -sfn "rsvlm_jax.$commit" "$HOME/rsvlm_jax.new"
  run mv -fT "$HOME/rsvlm_jax.new" "$HOME/rsvlm_jax"
  # The images come with Python 3.10; uv brings a newer one.
  command -v uv >/dev/null || run python3 -m pip install --user --quiet uv
  if ! [[ -x "$env/bin/python" ]]; then run uv venv --quiet --python 3.12 "$env"; fi
  run uv pip install --quiet --python "$env/bin/python" -e "$HOME/rsvlm_jax[tpu]"
  if [[ -z "$dry_run" ]]; then printf '%s\n' "$commit" >"$env/.commit"; fi
  echo "rsvlm-setup $(hostname) installed $commit"
}

prepare() {  # the environment of a command
  if [[ -r "$HOME/.rsvlm_env" ]]; then
    set -a
    # shellcheck source=/dev/null
    source "$HOME/.rsvlm_env"
    set +a
  fi
  shared="$(cat "$jobs/shared" 2>/dev/null || true)"
  export PATH="$env/bin:$PATH"
  export JAX_PLATFORMS="${JAX_PLATFORMS-tpu}"  # an error, not a CPU, where the TPU does not answer
  if [[ -n "$shared" ]]; then
    export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$shared/compiled}"
  fi
  cd "$HOME/rsvlm_jax"
}

job() {  # RUN: its folder
  [[ "${1-}" =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || die "no such run: '${1-}'"
  run_id="$1" folder="$jobs/$1"
}

running() {  # the lock is held by whoever runs, and by nobody after a crash
  [[ -e "$folder/lock" ]] && ! flock -n "$folder/lock" true
}

alone() {  # neither another start nor another setup on this host from here on
  if [[ -n "$dry_run" ]]; then return; fi
  mkdir -p "$jobs"
  exec 9>"$jobs/alone"
  flock 9
}

start() {  # COMMAND...
  alone
  if running; then
    echo "rsvlm-start $(hostname) runs $run_id already"
    return
  fi
  prepare
  if [[ -n "$dry_run" ]]; then
    run "$@"
    return
  fi
  mkdir -p "$folder"
  rm -f "$folder/code"
  # shellcheck disable=SC2016
  setsid nohup flock --wait 10 "$folder/lock" bash -c '
    folder="$1" code=0
    shift
    "$@" &
    echo "$!" >"$folder/pid"
    wait "$!" || code=$?
    echo "$code" >"$folder/code.new"
    mv "$folder/code.new" "$folder/code"
  ' worker "$folder" "$@" >>"$folder/log" 2>&1 </dev/null 9>&- &
  # Ten seconds for those who only look (`running`): nobody else starts it, and it is never queued.
  while ! running && ! [[ -e "$folder/code" ]]; do
    kill -0 "$!" 2>/dev/null || die "$run_id did not start on $(hostname)"
    sleep 0.05
  done
  echo "rsvlm-start $(hostname) started $run_id"
}

state() {
  local word=none code=- step=- found
  if running; then
    word=running
  elif [[ -d "$folder" ]]; then
    word=ended code="$(cat "$folder/code" 2>/dev/null || echo 137)"
  fi
  shared="$(cat "$jobs/shared" 2>/dev/null || true)"
  found="$(cd "$shared/runs/$run_id/checkpoints" 2>/dev/null &&
    compgen -G '*/manifest.json' | cut -d/ -f1 | grep -xE '[0-9]+' | sort -n | tail -n 1)" || true
  echo "rsvlm-state $(hostname) $word $code ${found:-$step}"
}

case "$verb" in
  -h | --help) usage ;;
  setup) (($# >= 2)) || die "expected setup COMMIT SHARED [NFS]"; setup "$@" ;;
  start) job "$@"; shift; (($#)) || die "no command given"; start "$@" ;;
  state) job "$@"; state ;;
  stop)
    job "$@"
    if running; then run kill -TERM "$(<"$folder/pid")"; fi
    ;;
  log) job "$@"; run sed "s/^/rsvlm-log $(hostname) /" "$folder/log" ;;
  now)
    prepare
    code=0
    run "$@" || code=$?
    echo "rsvlm-ended $(hostname) $code"
    exit "$code"
    ;;
  *) usage >&2; exit 2 ;;
esac
