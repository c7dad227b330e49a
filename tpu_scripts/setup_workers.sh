#!/usr/bin/env bash
# The last commit of this repository onto all workers of a TPU, and what it needs.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: setup_workers.sh NAME --zone ZONE [options]

Copies \`git archive HEAD\` (what is not committed stays here) and installs it with jax[tpu] into
~/rsvlm_env of each worker. A worker that has this commit already is left as it is; where a run is
going on from another commit nothing is changed (exit code 75).

  --shared DIR        directory that all workers see, for runs and data; default /mnt/rsvlm
  --nfs HOST:/SHARE   mounted there (Filestore); without it DIR has to be there
$COMMON_HELP
TEXT
}

shared=/mnt/rsvlm nfs=""
normalise "$@"
set -- "${words[@]}"
while (($#)); do
  taken=2
  case "$1" in
    --shared) value "$@"; shared="$2" ;;
    --nfs) value "$@"; nfs="$2" ;;
    *) common "$@" ;;
  esac
  shift "$taken"
done
check_place
[[ "$shared" == /* ]] || die "--shared: expected an absolute path; found '$shared'"
[[ -z "$nfs" || "$nfs" == ?*:/* ]] || die "--nfs: expected HOST:/SHARE; found '$nfs'"

cd "$(dirname "$here")"
commit=COMMIT
if [[ -z "$dry_run" ]]; then
  commit="$(git rev-parse HEAD)" || die "no git repository in $PWD"
  if [[ -n "$(git status --porcelain)" ]]; then
    say "warning: what is not committed stays here"
  fi
fi

archive="$scratch/rsvlm_jax.tgz"
if [[ -n "$dry_run" ]]; then archive=rsvlm_jax.tgz; fi
code="rsvlm_jax.$commit"
run git archive --format tar.gz --prefix "$code/" --output "$archive" HEAD
run "${QUEUED[@]}" scp "$archive" "$name:rsvlm_jax.tgz" "${place[@]}" --node all --worker all \
  --scp-flag=-oConnectTimeout=20
install=("$code/tpu_scripts/worker.sh" setup "$commit" "$shared")
if [[ -n "$nfs" ]]; then install+=("$nfs"); fi
# Beside the code that is there, which may be running; worker.sh takes it into use.
unpack="rm -rf unpacked && mkdir unpacked && tar -xzf rsvlm_jax.tgz -C unpacked && mv unpacked/$code ."
on_workers "test -d $code || ($unpack) && $(quoted "${install[@]}")"
run "${remote[@]}"
