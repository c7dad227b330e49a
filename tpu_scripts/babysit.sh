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
                          4              (a checkpoint) the same, unless there is a newer one
                          75, 76, else   started again; after 3 times without a newer checkpoint
                                         it gives up
  a TPU that was taken    made anew, set up anew, gone on from the newest checkpoint

  --type, --runtime, --on-demand, --reserved, --valid-until-duration, --service-account, --slices
                      as in create_queued_resource.sh
  --shared, --nfs     as in setup_workers.sh
  --env, --flags      as in run_all_workers.sh
  --id RUN            name of the run
  --limit TIME        gives up after so long; default 24h. Until then a service that does not
                      answer is waited for
  --delete-at-end NAME   however it ends, the TPU is deleted, after training was told to save; the
                      name is typed once more
$COMMON_HELP
TEXT
}

id="" limit=24h delete="" slices=1 type="" shared=/mnt/rsvlm create=() setup=() start=()
normalise "$@"
set -- "${words[@]}"
while (($#)) && [[ "$1" != -- ]]; do
  taken=2
  case "$1" in
    --type) value "$@"; type="$2"; create+=("$1" "$2") ;;
    --slices) value "$@"; slices="$2"; create+=("$1" "$2") ;;
    --runtime | --valid-until-duration | --service-account) value "$@"; create+=("$1" "$2") ;;
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
create=("$here/create_queued_resource.sh" "${common_words[@]}" "${create[@]}" --replace --wait)
setup=("$here/setup_workers.sh" "${common_words[@]}" "${setup[@]}")
start=("$here/run_all_workers.sh" "${common_words[@]}" --id "$id" "${start[@]}" -- "${train[@]}")

if [[ -n "$dry_run" ]]; then
  "${create[@]}"
  "${setup[@]}"
  "${start[@]}"
  on_workers "$(quoted "$WORKER" state "$id")"
  run "${remote[@]}"
  if [[ -n "$delete" ]]; then "$here/delete.sh" "${common_words[@]}" --typed "$delete"; fi
  exit 0
fi

check_experiment() {  # FILE.py[:STAGE] or the name of a shipped one: workers get the last commit
  local file="${1%:*}"
  if [[ "${file##*/}" != *.* ]]; then file="experiments/$file.py"; fi
  [[ "$file" != /* ]] || return 0  # of theirs
  cd "$(dirname "$here")"
  git rev-parse --quiet --verify HEAD >/dev/null || die "no git repository in $PWD"
  git cat-file -e "HEAD:./$file" 2>/dev/null ||
    die "$file is not in the last commit, which is what workers get; commit it"
}

# What is wrong is told before anything is rented.
need git "it makes the archive that workers get"
check() {  # COMMAND...
  "$1" --dry-run "${@:2}" >/dev/null || exit 2
}
check "${create[@]}"
check "${setup[@]}"
check "${start[@]}"
check_experiment "$1"

# ---- parts ---------------------------------------------------------------------------------------

child() {  # COMMAND...: in the background, so that a signal is heard at once
  local ended=0
  "$@" &
  child_id=$!
  wait "$child_id" || ended=$?
  child_id=""
  return "$ended"
}

give_back() {  # the TPU, even if the service is away for an hour
  local ended tries
  for ((tries = 0; tries < 60; tries++)); do
    ended=0
    "$here/delete.sh" "${common_words[@]}" --typed "$delete" || ended=$?
    if ((ended == 0)); then return 0; fi
    if ((ended == 2)); then break; fi  # no credentials
    pause "$RSVLM_POLL"
  done
  say "warning: $name is still there and costs money; tpu_scripts/delete.sh $name --zone $zone"
  return 1
}

finish() {  # CODE LINE
  local ended="$1"
  trap clean EXIT
  trap - TERM INT HUP
  say "$2"
  if [[ -z "$rented" ]]; then
    say "nothing was rented here"
  elif [[ -z "$delete" ]]; then
    say "$name costs money until: tpu_scripts/delete.sh $name --zone $zone"
  elif ! give_back && ((ended == 0)); then
    ended=69
  fi
  exit "$ended"
}

stop_watching() {
  trap clean EXIT
  if [[ -n "$child_id" ]]; then kill "$child_id" || true; fi
  say "stopped watching; the run goes on, and the same command watches it again"
  exit 143
}

seen() {  # COMMAND...: what it says in $answer; 69 if nobody answers, which does not end this
  local ended=0
  "$@" >"$scratch/seen" 2>"$scratch/silence" &
  child_id=$!
  wait "$child_id" || ended=$?
  child_id=""
  answer="$(<"$scratch/seen")"
  if ((ended == 2)); then
    cat "$scratch/silence" >&2
    finish 2 "gave up: see the error above"
  fi
  return "$ended"
}

silence() {
  tail -n 1 "$scratch/silence"
}

tell_state() {
  resource_state || state=gone
  printf '%s\n' "$state"
}

tell_jobs() {  # of all workers; it is asked again soon enough, and answers soon or never
  RSVLM_TRIES=1 RSVLM_TIMEOUT="${RSVLM_ANSWER:-180}"
  on_workers "$(quoted "$WORKER" state "$id")"
  ask "${remote[@]}" || return 69
  printf '%s\n' "$answer"
}

tell_nodes() {  # NAME STATE of each; of several slices a node each
  local nodes=("$name") node
  if ((slices > 1)); then mapfile -t nodes < <(seq -f "$name-%.0f" 0 $((slices - 1))); fi
  for node in "${nodes[@]}"; do
    ask gcloud compute tpus tpu-vm describe "$node" "${place[@]}" --format 'value(state)' ||
      answer=NOT_FOUND
    printf '%s %s\n' "$node" "$answer"
  done
}

tell_stop() {  # SIGTERM: it saves, and ends with 75
  "$here/run_all_workers.sh" "${common_words[@]}" --id "$id" --stop
}

in_time() {
  ((SECONDS >= seconds)) || return 0
  local line="$limit are over; the run can be gone on with" polls
  [[ -n "$delete" && -n "$there" ]] || finish 75 "$line"
  say "$limit are over; training is told to save"
  if seen tell_stop; then
    for ((polls = 0; polls < ${RSVLM_SAVES:-20}; polls++)); do
      pause "$RSVLM_POLL"
      if seen tell_jobs; then
        read_states "$answer"
        [[ "$job" == running ]] || break
      fi
    done
  fi
  finish 75 "$line"
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
        if [[ "$found_code" =~ ^[2345]$ ]] || ((code == 0)); then code="$found_code"; fi
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

lost_node() {  # whether one was taken away; a queued resource may be ACTIVE for a while after
  local line
  seen tell_nodes || return 1
  while read -r line; do
    case "$line" in
      *" PREEMPTED" | *" TERMINATED" | *" STOPPED") ;;
      *" NOT_FOUND") [[ "$state" != ACTIVE ]] || continue ;;
      *) continue ;;
    esac
    say "the node ${line% *} is ${line##* }"
    return 0
  done <<<"$answer"
  return 1
}

watch() {  # until the run has ended: $job ended, or the TPU is lost: $job lost
  local silent=0
  while true; do
    pause "$RSVLM_POLL"
    in_time
    if ! seen tell_state; then
      say "the service does not answer ($(silence)); waiting"
      continue
    fi
    state="$answer"
    if [[ "$state" != ACTIVE ]]; then
      say "$name is $state"
      job=lost
      return
    fi
    if seen tell_jobs; then
      silent=0
      read_states "$answer"
      if [[ "$job" == running ]]; then continue; fi
      # With one slice lost the others end too.
      if ((code != 0)) && lost_node; then job=lost; fi
    else
      ((silent += 1))
      say "the workers do not answer ($(silence))"
      if ((silent < 3)) || ! lost_node; then continue; fi
      job=lost
    fi
    [[ "$job" != lost ]] || child remove || true  # what is still there, the loop sees
    return
  done
}

# ---- the loop ------------------------------------------------------------------------------------

SECONDS=0 there="" rented="" child_id="" tries=0 troubles=0 refusals=0 newest=-1 step=-1 code=0 job=""
trap 'finish $? "gave up: see the error above"' EXIT  # whatever error it is
trap stop_watching TERM INT HUP
while true; do
  in_time
  failed=0 doing=create
  if [[ -z "$there" ]]; then
    child "${create[@]}" || failed=$?
    # What is refused as somebody else's stays.
    if ((failed != 2)); then rented=1; fi
    if ((failed == 0)); then
      doing=setup there=1
      child "${setup[@]}" || failed=$?
    fi
  fi
  if ((failed == 0)); then
    doing=start
    child "${start[@]}" || failed=$?
  fi
  case "$doing $failed" in
    *" 0") troubles=0 refusals=0 ;;
    "setup 75") say "watching what runs there" ;;
    "create 75" | "create 69")  # not granted, or nobody answers: asked for again, ever less often
      ((refusals < 5)) && ((refusals += 1))
      say "asking again in $((1 << refusals)) times $RSVLM_POLL s"
      for ((wait = 0; wait < 1 << refusals; wait++)); do
        pause "$RSVLM_POLL"
        in_time
      done
      continue
      ;;
    *" 69")  # taken away meanwhile, perhaps
      there=""
      pause "$RSVLM_POLL"
      seen tell_state || continue
      state="$answer"
      if lost_node; then
        child remove || true
        continue
      fi
      ((troubles += 1))
      if ((troubles > RSVLM_TRIES)); then finish 69 "gave up: see the error above"; fi
      continue
      ;;
    *) finish "$failed" "gave up: see the error above" ;;
  esac
  watch
  if [[ "$job" != ended ]]; then
    there=""
    say "going on from the newest checkpoint on a new TPU"
    continue
  fi
  if [[ "$doing" == setup ]]; then there=""; fi
  if ((code == 0)); then finish 0 "finished: $shared/runs/$id"; fi
  if [[ "$code" =~ ^[235]$ ]] || ((code == 4 && step <= newest)); then
    finish "$code" "training ended with $code, an error that would come again; see \
collect_logs.sh $name --zone $zone --id $id"
  fi
  if ((step > newest)); then tries=0 newest="$step"; fi
  ((tries += 1))
  if ((tries > 3)); then
    finish "$code" "training ended with $code, $tries times since the checkpoint of step $step; gave up"
  fi
  say "training ended with $code; starting it again"
done
