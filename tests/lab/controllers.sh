#!/bin/bash
# Start a real slurmctld with each rendered cluster below /clusters, one after another, and print what it then knows:
# a line "CLUSTER NODE GRES" for each node. Runs in the node image, with a munge key of its own.
set -euo pipefail

mungekey --create --force >/dev/null
chown munge: /etc/munge/munge.key
install -d -o munge -g munge /run/munge
runuser -u munge -- munged
head -c 32 /dev/urandom >/etc/slurm/jwt_hs256.key
chown slurm: /etc/slurm/jwt_hs256.key
chmod 600 /etc/slurm/jwt_hs256.key
install -d -o slurm -g slurm /var/log/slurm /var/spool/slurmctld

for cluster in /clusters/*/; do
  name=$(basename "$cluster")
  cp "$cluster"/slurm/*.conf /etc/slurm/
  # Without slurmdbd, which would take a database for each: no accounting, and no QOS, which preemption is by.
  sed -i -E '/^(AccountingStor|PreemptType|PreemptMode|PreemptParameters|PriorityWeightQOS)/d' /etc/slurm/slurm.conf
  scontrol show hostnames "$(sed -nE 's/^NodeName=(\S+).*/\1/p' /etc/slurm/slurm.conf | paste -sd,)" |
    sed 's/^/127.0.0.1 /' | cat <(printf '127.0.0.1 localhost %s\n' "$(hostname)") - >/etc/hosts
  slurmctld -D -c >"/tmp/$name.log" 2>&1 &
  controller=$!
  until scontrol ping 2>/dev/null | grep -q 'is UP'; do
    kill -0 "$controller" 2>/dev/null || { echo "$name: slurmctld ended" >&2; cat "/tmp/$name.log" >&2; exit 1; }
    sleep 0.1
  done
  if grep -v plugstack "/tmp/$name.log" | grep -iE 'error: .*(pars|unrecog|invalid|unknown)' >&2; then exit 1; fi
  sinfo --noheader --Node --format "%N|%G" --exact | sort -u | sed "s/^/$name|/"
  kill "$controller"
  wait "$controller" || true
  rm -rf /var/spool/slurmctld/*
done
