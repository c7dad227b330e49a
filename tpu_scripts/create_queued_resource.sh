#!/usr/bin/env bash
# Ask for a TPU slice, once: a queued resource of Google Cloud.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: create_queued_resource.sh NAME --type TYPE --zone ZONE [options]

Looks first: what is there already under this name and is of this type is left as it is. Cheap by
default: spot, and the request ends by itself when it was not granted in time.

  --type TYPE         v5litepod-16, v5p-128, v6e-64, ... (of v5p and v4 the number is twice the chips)
  --runtime VERSION   image of the hosts; default by type
  --on-demand         not pre-empted, at the full price
  --reserved          from a reservation of yours
  --valid-until-duration TIME   how long the request may wait; default 6h
  --service-account EMAIL       of the hosts; default that of the project
  --slices N          slices of this type, joined by the data centre's network; default 1
  --replace           what was pre-empted or has failed under this name is removed first
  --wait              until it is ACTIVE; exit code 75 if it was not granted
$COMMON_HELP
TEXT
}

type="" runtime="" tier=--spot valid=6h account="" slices=1 replace="" waits=""
normalise "$@"
set -- "${words[@]}"
while (($#)); do
  taken=2
  case "$1" in
    --type) value "$@"; type="$2" ;;
    --runtime) value "$@"; runtime="$2" ;;
    --spot) tier=--spot taken=1 ;;
    --on-demand) tier="" taken=1 ;;
    --reserved) tier=--reserved taken=1 ;;
    --valid-until-duration) value "$@"; valid="$2" ;;
    --service-account) value "$@"; account="$2" ;;
    --slices) value "$@"; slices="$2" ;;
    --replace) replace=1 taken=1 ;;
    --wait) waits=1 taken=1 ;;
    *) common "$@" ;;
  esac
  shift "$taken"
done
check_place
[[ -n "$type" ]] || die "no type given; expected --type v5litepod-16 or another"
[[ "$valid" =~ ^[1-9][0-9]*[smhd]$ ]] ||
  die "--valid-until-duration: expected a number with s, m, h or d; found '$valid'"
[[ "$slices" =~ ^[1-9][0-9]{0,3}$ ]] || die "--slices: expected 1 or more; found '$slices'"
if [[ -z "$runtime" ]]; then
  case "$type" in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v4-*) runtime=tpu-ubuntu2204-base ;;
    *) die "no image is known for '$type'; give --runtime VERSION, or one of v4-N, v5litepod-N, \
v5p-N, v6e-N" ;;
  esac
fi

is_made() {
  resource_state && [[ "$state" != FAILED && "$state" != SUSPENDED ]]
}

create() {
  local command=("${QUEUED[@]}" create "$name" "${place[@]}" --accelerator-type "$type"
    --runtime-version "$runtime" --valid-until-duration "$valid" --labels "made-by=rsvlm")
  if ((slices == 1)); then
    command+=(--node-id "$name")
  else
    command+=(--node-count "$slices" --node-prefix "$name")
  fi
  if [[ -n "$tier" ]]; then command+=("$tier"); fi
  if [[ -n "$account" ]]; then command+=(--service-account "$account"); fi
  run_unless is_made "${command[@]}"
}

if resource_state; then
  if [[ -n "$found_type" && "$found_type" != "$type" ]]; then
    die "the name exists already: $name is a $found_type; expected $type; take another name, or \
delete.sh $name --zone $zone"
  fi
  while [[ "$state" == SUSPENDING || "$state" == DELETING ]]; do
    say "$name is $state; waiting"
    pause "$RSVLM_POLL"
    resource_state || break
  done
  case "$state" in
    "") create ;;
    FAILED | SUSPENDED)
      [[ -n "$replace" ]] ||
        die "$name is $state; give --replace, or delete.sh $name --zone $zone"
      say "$name is $state; making it anew"
      remove
      create
      ;;
    *) say "$name is there: $state" ;;
  esac
else
  create
fi

if [[ -n "$waits" ]]; then
  while true; do
    if ! resource_state; then
      [[ -z "$dry_run" ]] || break
      die "$name has gone" 75
    fi
    case "$state" in
      ACTIVE) break ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING)
        refuse_what_lasts "$failure" "$failure" gcloud
        die "$name was not granted: $state (${failure:-no capacity within $valid, or taken back})" 75
        ;;
    esac
    say "$name is $state; waiting"
    pause "$RSVLM_POLL"
  done
fi
