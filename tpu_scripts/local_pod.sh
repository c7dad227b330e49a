#!/usr/bin/env bash
# A pod rehearsed on this machine: N real processes on loopback, each with simulated CPU devices.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: local_pod.sh N [--devices K] [--dry-run] [--] EXPERIMENT.py --out RUN [overrides of rsvlm train]

Trains with N local processes of K CPU devices each (default 1), as a pod of N hosts would: the same
start, reading, saving and stopping. A process that dies takes all down, and all go on from the newest
checkpoint. SIGTERM stops all after one step (exit code 75). Give the mesh all devices: --mesh.data -1.

  --devices K   simulated devices of each process
  --dry-run     print the command, run nothing
TEXT
}

processes="" devices=1 dry_run=""
while (($#)); do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --devices) devices="${2-}"; shift 2 || { usage >&2; exit 2; } ;;
    --dry-run) dry_run=1; shift ;;
    --) shift; break ;;
    *) if [[ -z "$processes" ]]; then processes="$1"; shift; else break; fi ;;
  esac
done
if ! [[ "$processes" =~ ^[1-9][0-9]*$ && "$devices" =~ ^[1-9][0-9]*$ ]] || (($# == 0)); then
  usage >&2
  exit 2
fi

flags="--xla_force_host_platform_device_count=$devices"
export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES="" XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }$flags"
command=(rsvlm train "$@" --supervise "$processes")
if [[ -n "$dry_run" ]]; then
  printf 'JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= XLA_FLAGS=%q' "$XLA_FLAGS"
  printf ' %q' "${command[@]}"
  printf '\n'
  exit 0
fi
exec "${command[@]}"
