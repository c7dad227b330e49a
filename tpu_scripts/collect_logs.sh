#!/usr/bin/env bash
# What a run has written, onto this machine: the log of each worker, and the run without checkpoints.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: collect_logs.sh NAME --zone ZONE --id RUN [options]

  --id RUN            the run
  --to DIR            default logs/RUN; files of an earlier call are replaced
  --shared DIR        as in setup_workers.sh; default /mnt/rsvlm
$COMMON_HELP
TEXT
}

id="" to="" shared=/mnt/rsvlm
normalise "$@"
set -- "${words[@]}"
while (($#)); do
  taken=2
  case "$1" in
    --id) value "$@"; id="$2" ;;
    --to) value "$@"; to="$2" ;;
    --shared) value "$@"; shared="$2" ;;
    *) common "$@" ;;
  esac
  shift "$taken"
done
check_place
[[ -n "$id" ]] || die "no run given; expected --id RUN"
check_name "--id" "$id"
to="${to:-logs/$id}"

run mkdir -p "$to"
# Each line says its host: gcloud's --output-directory knows workers, but not of which slice.
on_workers "$(quoted "$WORKER" log "$id")"
if ask "${remote[@]}"; then
  awk -v to="$to" '$1 == "rsvlm-log" {
    file = to "/" $2 ".log"
    print substr($0, length($1 $2) + 3) >file
  }' "$scratch/stdout"
elif [[ -z "$dry_run" ]]; then
  die "$name is not there"
fi
# The files of a run are small but for its checkpoints.
run "${QUEUED[@]}" ssh "$name" "${place[@]}" --node 0 --worker 0 --command \
  "$(quoted tar -C "$shared/runs" --exclude checkpoints -czf "$id.tgz" "$id")"
run "${QUEUED[@]}" scp "$name:$id.tgz" "$to/$id.tgz" "${place[@]}" --node 0 --worker 0
say "logs: $to"
