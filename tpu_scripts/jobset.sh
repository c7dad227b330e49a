#!/usr/bin/env bash
# The JobSet of a run on GKE, rendered from jobset.yaml.tmpl; submitted with --apply.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: jobset.sh NAME --accelerator KIND --topology 4x4 --image IMAGE --claim CLAIM [options]
                 -- EXPERIMENT.py [overrides]

Prints the JobSet of \`rsvlm train EXPERIMENT.py --out /mnt/rsvlm/runs/NAME\`. The name is that of the
run: submitted again after it was deleted, it goes on.

  --accelerator KIND  tpu-v5-lite-podslice (v5e), tpu-v5p-slice, tpu-v6e-slice, ...
  --topology AxBxC    of the slice, in chips
  --chips N           of a host; default 4
  --slices N          default 1
  --image IMAGE       a container with rsvlm and jax[tpu]
  --claim CLAIM       a ReadWriteMany volume claim that exists: runs, data, compiled programs
  --on-demand         not on spot nodes
  --hours H           of one start at most; default 24
  --restarts N        after which it has failed; default 20
  --flags GROUPS      flags of the TPU compiler, by groups of flags.py (a,b)
  --apply             submit it; refused if there is a JobSet of this name
  --dry-run           with --apply: print the commands, run nothing
  -h, --help          this text
TEXT
}

text() {  # a YAML string
  local word="${1//\\/\\\\}"
  printf '"%s"' "${word//\"/\\\"}"
}

accelerator="" topology="" image="" claim="" chips=4 slices=1 spot=1 hours=24 restarts=20 flags=""
apply=""
normalise "$@"
set -- "${words[@]}"
while (($#)) && [[ "$1" != -- ]]; do
  taken=2
  case "$1" in
    --accelerator) value "$@"; accelerator="$2" ;;
    --topology) value "$@"; topology="$2" ;;
    --chips) value "$@"; chips="$2" ;;
    --slices) value "$@"; slices="$2" ;;
    --image) value "$@"; image="$2" ;;
    --claim) value "$@"; claim="$2" ;;
    --on-demand) spot="" taken=1 ;;
    --hours) value "$@"; hours="$2" ;;
    --restarts) value "$@"; restarts="$2" ;;
    --flags) value "$@"; tpu_flags "$2" ;;
    --apply) apply=1 taken=1 ;;
    --zone | --project) die "no such option: $1; kubectl is told its cluster by gcloud" ;;
    *) common "$@" ;;
  esac
  shift "$taken"
done
if (($#)); then shift; fi
[[ -n "$name" ]] || die "no name given; see --help"
check_name "the name" "$name"
((${#name} <= 40)) || die "the name: expected 40 letters at most, for those of the pods"
for option in accelerator topology image claim; do
  [[ -n "${!option}" ]] || die "no --$option given; see --help"
  # They stand in the YAML as they are.
  [[ "${!option}" =~ ^[A-Za-z0-9][A-Za-z0-9_./:@-]*$ ]] || die "--$option: found '${!option}'"
done
for option in chips slices hours restarts; do
  [[ "${!option}" =~ ^[1-9][0-9]*$ ]] || die "--$option: expected 1 or more; found '${!option}'"
done
[[ "$topology" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
  die "--topology: expected 4x4 or 4x4x4; found '$topology'"
total=$((${topology//x/*}))
((total % chips == 0)) || die "--topology: $total chips do not divide into hosts of $chips; see --chips"
(($#)) && [[ "$1" != -* ]] || die "no experiment given; it comes after --"

arguments="$(text train), $(text "$1"), \"--out\", \"/mnt/rsvlm/runs/$name\""
for word in "${@:2}"; do
  [[ "$word" != --out && "$word" != --out=* ]] || die "--out is /mnt/rsvlm/runs/$name; leave it out"
  [[ "$word" != *$'\n'* ]] || die "an override of several lines"
  arguments+=", $(text "$word")"
done
selector="# on demand"
if [[ -n "$spot" ]]; then selector='cloud.google.com/gke-spot: "true"'; fi

yaml="$(<"$here/jobset.yaml.tmpl")"
fill() { yaml="${yaml//"@$1@"/"$2"}"; }
fill NAME "$name"
fill RESTARTS "$restarts"
fill SLICES "$slices"
fill HOSTS "$((total / chips))"
fill SECONDS "$((hours * 3600))"
fill GRACE "$(if [[ -n "$spot" ]]; then echo 25; else echo 300; fi)"
fill ACCELERATOR "$accelerator"
fill TOPOLOGY "$topology"
fill SPOT_SELECTOR "$selector"
fill IMAGE "$image"
fill CHIPS "$chips"
fill CLAIM "$claim"
fill FLAGS "$(text "$flags")"
fill ARGS "[$arguments]"

if [[ -z "$apply" ]]; then
  printf '%s\n' "$yaml"
  exit 0
fi
need kubectl "install it: gcloud components install kubectl"
if [[ -z "$dry_run" ]]; then printf '%s\n' "$yaml" >"$scratch/$name.yaml"; fi
if ask kubectl get jobset "$name" --output name; then
  die "the name exists already: $answer; see it by kubectl describe jobset $name, or delete it by \
kubectl delete jobset $name (its run stays)"
fi
file="$scratch/$name.yaml"
if [[ -n "$dry_run" ]]; then file="$name.yaml"; fi
run kubectl apply --filename "$file"
