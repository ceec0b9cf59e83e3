#!/bin/bash
# Before a job, on each of its nodes, as root: its scratch folder, and a look at the GPUs that it was given.
# When this fails, Slurm drains the node and queues the job again: nothing starts on a node that is not right.
# Environment: Slurm's documentation, "Prolog and Epilog Guide".
set -euo pipefail

facts=${SLIPWAY_NODE:-/etc/slipway/node.json} # what this node must have, rendered from its hardware profile

fail() { # say why in slurmd's log and in the node's reason; a controller that is busy is not waited for
  echo "prolog: $*" >&2
  timeout 5 scontrol update "NodeName=${SLURMD_NODENAME:?}" State=DRAIN "Reason=health: prolog: $*" || true
  exit 1
}

: "${SLURM_JOB_ID:?}" "${SLURM_JOB_UID:?}"
scratch=/tmp/slurm-$SLURM_JOB_ID

rm -rf --one-file-system "$scratch" || fail "cannot clear $scratch; look at the disk of /tmp"
install -d -m 0700 -o "$SLURM_JOB_UID" "$scratch" || fail "cannot make $scratch; look at the disk of /tmp"

# SLURM_JOB_GPUS counts the device files of gres.conf from 0, whatever their names end in: /dev/nvidia0, but
# /dev/dri/renderD128 of AMD.
if [ -n "${SLURM_JOB_GPUS:-}" ]; then
  stated=$(python3 -Ic 'import json, sys; print(*json.load(open(sys.argv[1]))["gpus"]["device_files"], sep="\n")' "$facts") ||
    fail "job $SLURM_JOB_ID was given GPUs, and $facts does not say which there are; render and configure it again"
  files=()
  [ -z "$stated" ] || mapfile -t files <<<"$stated"
  for number in ${SLURM_JOB_GPUS//,/ }; do
    file=
    [[ $number =~ ^[0-9]+$ ]] && file=${files[10#$number]:-}
    [ -n "$file" ] || fail "GPU $number was given to job $SLURM_JOB_ID, but this node is stated to have ${#files[@]}"
    [ -c "$file" ] || fail "GPU $number was given to job $SLURM_JOB_ID, but $file is missing"
  done
fi
