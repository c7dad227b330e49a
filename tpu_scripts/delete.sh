#!/usr/bin/env bash
# Give a TPU back: the queued resource and its hosts, with their disks. The shared directory stays.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: delete.sh NAME --zone ZONE [--typed NAME]

Asks for the name to be typed once more; in a script --typed NAME types it.

$COMMON_HELP
TEXT
}

typed=""
normalise "$@"
set -- "${words[@]}"
while (($#)); do
  taken=2
  case "$1" in
    --typed) value "$@"; typed="$2" ;;
    *) common "$@" ;;
  esac
  shift "$taken"
done
check_place
if ! resource_state && [[ -z "$dry_run" ]]; then
  say "$name is not there: nothing to delete"
  exit 0
fi
if [[ -z "$dry_run" && -z "$typed" ]]; then
  printf '%s (%s, %s) will be deleted. Type its name: ' "$name" "$found_type" "$state" >&2
  read -r typed || true
  [[ -t 0 ]] || say ""
fi
[[ -n "$dry_run" || "$typed" == "$name" ]] || die "nothing was deleted; typed '$typed', not '$name'"
remove
