#!/bin/bash
# Before a job, on each of its nodes, as root: its scratch folder, and a look at the GPUs that it was given.
# When this fails, Slurm drains the node and queues the job again: nothing starts on a node that is not right.
# Environment: Slurm's documentation, "Prolog and Epilog Guide".
set -euo pipefail

fail() { # say why in slurmd's log and in the node's reason
  echo "prolog: $*" >&2
  scontrol update "NodeName=${SLURMD_NODENAME:?}" State=DRAIN "Reason=health: prolog: $*" || true
  exit 1
}

: "${SLURM_JOB_ID:?}" "${SLURM_JOB_UID:?}"
scratch=/tmp/slurm-$SLURM_JOB_ID

rm -rf --one-file-system "$scratch" || fail "cannot clear $scratch; look at the disk of /tmp"
install -d -m 0700 -o "$SLURM_JOB_UID" "$scratch" || fail "cannot make $scratch; look at the disk of /tmp"

# SLURM_JOB_GPUS are the numbers of the job's GPUs on this node, which are their device files' as well.
gpus=${SLURM_JOB_GPUS:-}
for number in ${gpus//,/ }; do
  [ -c "/dev/nvidia$number" ] || fail "GPU $number was given to job $SLURM_JOB_ID, but /dev/nvidia$number is missing"
done
