#!/usr/bin/env bash
# One command on all workers of a TPU: in the foreground, or as a run that outlives the connection.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: run_all_workers.sh NAME --zone ZONE -- COMMAND...             now, and wait for it
       run_all_workers.sh NAME --zone ZONE --id RUN [options] -- COMMAND...   in the background, once
       run_all_workers.sh NAME --zone ZONE --id RUN --state | --stop

The command runs in ~/rsvlm_jax with ~/rsvlm_env active. In the background: starting what is running
does nothing; --state prints a line for each worker, \`rsvlm-state HOST none|running|ended CODE STEP\`,
--stop sends SIGTERM (training saves and ends with 75).

  --id RUN            name of the run, the same each time
  --env NAME=VALUE    for the command; no secrets: those go into ~/.rsvlm_env of the workers
  --flags GROUPS      flags of the TPU compiler, by groups of flags.py (a,b)
$COMMON_HELP
TEXT
}

id="" what=start environment=()
normalise "$@"
set -- "${words[@]}"
while (($#)) && [[ "$1" != -- ]]; do
  taken=2
  case "$1" in
    --id) value "$@"; id="$2" ;;
    --env)
      value "$@"
      [[ "$2" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || die "--env: expected NAME=VALUE; found '$2'"
      environment+=("$2")
      ;;
    --flags)
      value "$@"
      tpu_flags "$2"
      environment+=("LIBTPU_INIT_ARGS=$flags")
      ;;
    --state | --stop) what="${1#--}" taken=1 ;;
    *) common "$@" ;;
  esac
  shift "$taken"
done
if (($#)); then shift; fi
check_place
[[ -z "$id" ]] || check_name "--id" "$id"
if [[ "$what" != start ]]; then
  [[ -n "$id" ]] || die "--$what needs --id RUN"
  (($# == 0)) || die "--$what takes no command"
  on_workers "$(quoted "$WORKER" "$what" "$id")"
  run "${remote[@]}"
  exit 0
fi
(($#)) || die "no command given; it comes after --"
check_no_secret "${environment[@]}" "$@"
command=("$@")
if ((${#environment[@]})); then command=(env "${environment[@]}" "$@"); fi
if [[ -n "$id" ]]; then
  on_workers "$(quoted "$WORKER" start "$id" "${command[@]}")"
  run "${remote[@]}"
  exit 0
fi
if ! resource_state; then
  [[ -n "$dry_run" ]] || die "$name is not there; see create_queued_resource.sh"
elif [[ "$state" != ACTIVE ]]; then
  die "$name is $state, not ACTIVE" 75
fi
on_workers "$(quoted "$WORKER" now "${command[@]}")"
if [[ -n "$dry_run" ]]; then
  quoted "${remote[@]}"
else
  "${remote[@]}"  # once: nobody knows whether it may run twice
fi
