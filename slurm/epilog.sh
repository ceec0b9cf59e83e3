#!/bin/bash
# After a job, on each of its nodes, as root: its scratch folder goes, and what it left running.
# When this fails, Slurm drains the node. Nothing here asks the controller: a thousand nodes end a job at once.
set -euo pipefail

: "${SLURM_JOB_ID:?}" "${SLURM_JOB_UID:?}"

rm -rf --one-file-system "/tmp/slurm-$SLURM_JOB_ID"

[ "$SLURM_JOB_UID" -ge 1000 ] || exit 0 # services; their processes are not a job's

# With cgroups slurmd has killed all by now. Without (cgroup v1) a process that left its session is known by what it
# inherited; other jobs of the same user on this node are not touched.
for pid in $(pgrep --uid "$SLURM_JOB_UID"); do
  if grep -qzFx "SLURM_JOB_ID=$SLURM_JOB_ID" "/proc/$pid/environ" 2>/dev/null; then
    kill -KILL "$pid" 2>/dev/null || true # it may have ended in the meantime
  fi
done
