#!/bin/bash
# Train a GPT on two nodes with DistributedDataParallel, one worker per GPU.
# Rendered from jobs/ddp.job.yaml by: python -m infra jobs
#
#   jobs/ddp.sh                       all 2 workers on this machine
#   HEAD=node-1:29400 jobs/ddp.sh     the same line on each of 2 machines; they meet at HEAD, which is one of them
#   jobs/ddp.sh --train.steps=50      every key of jobs/ddp.yaml is an option
set -euo pipefail

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=60  # seconds from SIGTERM to the end: save, and stop
cd "$(dirname "$0")/.."
meet=(--standalone --nproc-per-node=2)
[[ -z ${HEAD:-} ]] || meet=(--nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint="$HEAD" --rdzv-id=ddp)
exec "${STACK:-/opt/stack/current}/bin/python" -m jobs.torchrun "${meet[@]}" --max-restarts=3 \
    -m jobs.train --config jobs/ddp.yaml "$@"
