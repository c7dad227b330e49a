#!/usr/bin/env bash
# See a run to its end on a TPU that may be taken away: create, set up, start, watch, and again.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: babysit.sh NAME --type TYPE --zone ZONE --id RUN [options] -- EXPERIMENT.py [overrides]

Trains EXPERIMENT into SHARED/runs/RUN. The same RUN each time is what makes a new TPU go on where the
last one stopped. This script may be stopped and started again: the run goes on meanwhile.

  exit code of training   0              done
                          2, 3, 5        an error that would come again: gives up with it
                          75, 76, else   started again; after 3 times without a newer checkpoint
                                         it gives up
  a TPU that was taken    made anew, set up anew, gone on from the newest checkpoint

  --type, --runtime, --on-demand, --reserved, --valid-until-duration, --service-account, --slices
                      as in create_queued_resource.sh
  --shared, --nfs     as in setup_workers.sh
  --env, --flags      as in run_all_workers.sh
  --id RUN            name of the run
  --limit TIME        gives up after so long; default 24h
  --delete-at-end NAME   however it ends, the TPU is deleted; the name is typed once more
$COMMON_HELP
TEXT
}

id="" limit=24h delete="" type="" shared=/mnt/rsvlm create=() setup=() start=()
normalise "$@"
set -- "${words[@]}"
while (($#)) && [[ "$1" != -- ]]; do
  taken=2
  case "$1" in
    --type) value "$@"; type="$2"; create+=("$1" "$2") ;;
    --runtime | --valid-until-duration | --service-account | --slices)
      value "$@"; create+=("$1" "$2") ;;
    --spot | --on-demand | --reserved) create+=("$1"); taken=1 ;;
    --shared) value "$@"; shared="$2"; setup+=("$1" "$2") ;;
    --nfs) value "$@"; setup+=("$1" "$2") ;;
    --env | --flags) value "$@"; start+=("$1" "$2") ;;
    --id) value "$@"; id="$2" ;;
    --limit) value "$@"; limit="$2" ;;
    --delete-at-end) value "$@"; delete="$2" ;;
    *) common "$@" ;;
  esac
  shift "$taken"
done
if (($#)); then shift; fi
check_place
[[ -n "$type" ]] || die "no type given; expected --type v5litepod-16 or another"
[[ -n "$id" ]] || die "no run given; expected --id RUN"
check_name "--id" "$id"
[[ "$limit" =~ ^([1-9][0-9]*)([smhd])$ ]] ||
  die "--limit: expected a number with s, m, h or d; found '$limit'"
case "${BASH_REMATCH[2]}" in
  s) seconds=1 ;;
  m) seconds=60 ;;
  h) seconds=3600 ;;
  d) seconds=86400 ;;
esac
seconds=$((seconds * BASH_REMATCH[1]))
[[ -z "$delete" || "$delete" == "$name" ]] ||
  die "--delete-at-end: expected the name once more ($name); found '$delete'"
(($#)) && [[ "$1" != -* ]] || die "no experiment given; it comes after --"
for word in "$@"; do
  [[ "$word" != --out && "$word" != --out=* ]] || die "--out is $shared/runs/$id; leave it out"
done
train=(rsvlm train "$1" --out "$shared/runs/$id" "${@:2}")
common_words=("$name" "${place[@]}")
if [[ -n "$dry_run" ]]; then common_words+=(--dry-run); fi

child() {  # COMMAND...: in the background, so that a signal is heard at once
  local ended=0
  "$@" &
  child_id=$!
  wait "$child_id" || ended=$?
  child_id=""
  return "$ended"
}

finish() {  # CODE LINE
  say "$2"
  if [[ -n "$delete" ]]; then
    "$here/delete.sh" "${common_words[@]}" --typed "$delete" ||
      say "warning: $name is still there and costs money"
  else
    say "$name costs money until: tpu_scripts/delete.sh $name --zone $zone"
  fi
  exit "$1"
}

stop_watching() {
  if [[ -n "$child_id" ]]; then kill "$child_id" || true; fi
  say "stopped watching; the run goes on, and the same command watches it again"
  exit 143
}
child_id=""
trap stop_watching TERM INT

in_time() {
  ((SECONDS < seconds)) || finish 75 "$limit are over; the run can be gone on with"
}

read_states() {  # lines of the workers into $job (none, running, ended), $code, $step
  local mark word found_code found_step running="" ended="" none=""
  job="" code=0 step=-1
  while read -r mark _ word found_code found_step _; do
    [[ "$mark" == rsvlm-state ]] || continue
    case "$word" in
      running) running=1 ;;
      none) none=1 ;;
      ended)
        ended=1
        if [[ "$found_code" =~ ^[235]$ ]] || ((code == 0)); then code="$found_code"; fi
        ;;
    esac
    if [[ "$found_step" =~ ^[0-9]+$ ]] && ((found_step > step)); then step="$found_step"; fi
  done <<<"$1"
  if [[ -n "$running" ]]; then
    job=running
  elif [[ -n "$ended" ]]; then
    job=ended
    if [[ -n "$none" ]] && ((code == 0)); then code=137; fi  # a worker that knows nothing of it
  elif [[ -n "$none" ]]; then
    job=none
  fi
}

watch() {  # until the run has ended: $job ended, or the TPU is lost: $job lost
  local silent=0 answered node
  while true; do
    pause "$RSVLM_POLL"
    in_time
    if ! resource_state || [[ "$state" != ACTIVE ]]; then
      say "$name is ${state:-gone}"
      job=lost
      return
    fi
    on_workers "$(quoted "$WORKER" state "$id")"
    if answered="$("${remote[@]}" 2>"$scratch/stderr")"; then
      silent=0
      read_states "$answered"
      [[ "$job" == running ]] || break
      continue
    fi
    ((silent += 1))
    say "the workers do not answer ($(tail -n 1 "$scratch/stderr"))"
    ((silent >= 3)) || continue
    # A queued resource may be ACTIVE for a while after its node was taken away.
    ask gcloud compute tpus tpu-vm describe "$name" "${place[@]}" --format 'value(state)' || true
    node="${answer:-gone}"
    case "$node" in
      PREEMPTED | TERMINATED | STOPPED | gone)
        say "the node of $name is $node"
        run "${QUEUED[@]}" delete "$name" "${place[@]}" --force --quiet
        job=lost
        return
        ;;
    esac
  done
}

there="" tries=0 troubles=0 newest=-1 step=-1 code=0 job=""
while true; do
  in_time
  failed=0
  if [[ -z "$there" ]]; then
    child "$here/create_queued_resource.sh" "${common_words[@]}" "${create[@]}" --replace --wait ||
      failed=$?
    if ((failed == 0)); then
      child "$here/setup_workers.sh" "${common_words[@]}" "${setup[@]}" || failed=$?
    fi
  fi
  if ((failed == 0)); then
    child "$here/run_all_workers.sh" "${common_words[@]}" --id "$id" "${start[@]}" -- "${train[@]}" ||
      failed=$?
  fi
  if [[ -n "$dry_run" ]]; then
    on_workers "$(quoted "$WORKER" state "$id")"
    run "${remote[@]}"
    if [[ -n "$delete" ]]; then
      "$here/delete.sh" "${common_words[@]}" --typed "$delete"
    fi
    exit "$failed"
  fi
  case "$failed" in
    0) ;;
    75) pause "$RSVLM_POLL"; continue ;;  # not granted in time: asked for again
    69)  # taken away meanwhile, perhaps
      ((troubles += 1))
      if ((troubles > RSVLM_TRIES)); then finish 69 "gave up: see the error above"; fi
      there=""
      pause "$RSVLM_POLL"
      continue
      ;;
    *) finish "$failed" "gave up: see the error above" ;;
  esac
  troubles=0 there=1
  watch
  if [[ "$job" != ended ]]; then
    there=""
    say "going on from the newest checkpoint on a new TPU"
    continue
  fi
  case "$code" in
    0) finish 0 "finished: $shared/runs/$id" ;;
    2 | 3 | 5) finish "$code" "training ended with $code, an error that would come again; see \
collect_logs.sh $name --zone $zone --id $id" ;;
  esac
  if ((step > newest)); then tries=0; fi
  newest="$step"
  ((tries += 1))
  if ((tries > 3)); then
    finish "$code" "training ended with $code, $tries times since the checkpoint of step $step; gave up"
  fi
  say "training ended with $code; starting it again"
done
