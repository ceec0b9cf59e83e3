#!/bin/bash
# Start a real slurmctld with each rendered cluster below /clusters, one after another, and a real slurmd for one node
# of each pool; give each of these a job with all of its GPUs; print what slurmctld then knows: a line
# CLUSTER|NODE|STATE|GRES|REASON for each node. Runs in the node image, with a munge key of its own.
#
# What a slurmd sees of its machine is stated in /clusters/CLUSTER/machines, a line "NODE POOL HWLOC" for each: cores
# and sockets by a synthetic topology (hwloc: HWLOC_SYNTHETIC), device files by mknod. Memory is this machine's.
set -euo pipefail

if [ "${1:-}" = slurmd ]; then # node.json, node: in a mount namespace of its own, with what that machine has in /dev
  mount --bind "$2" /etc/slipway/node.json
  mount -t tmpfs none /mnt
  cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /mnt
  ln -s /proc/self/fd /mnt/fd
  while read -r device; do
    mkdir -p "/mnt${device%/*}"
    mknod "/mnt$device" c 195 0
  done < <(sed -nE 's/.*"\/dev(\/[^"]+)".*/\1/p' "$2")
  mount --move /mnt /dev
  exec slurmd -D -N "$3"
fi

mungekey --create --force >/dev/null
chown munge: /etc/munge/munge.key
install -d -o munge -g munge /run/munge
runuser -u munge -- munged
head -c 32 /dev/urandom >/etc/slurm/jwt_hs256.key
chown slurm: /etc/slurm/jwt_hs256.key
chmod 600 /etc/slurm/jwt_hs256.key
install -d -o slurm -g slurm /var/log/slurm /var/spool/slurmctld /etc/slipway
echo '{}' >/etc/slipway/node.json

until_is() { # seconds, command...: until it prints nothing
  local end=$((SECONDS + $1))
  shift
  until [ -z "$("$@")" ]; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

unsettled() { # of the nodes that have a slurmd, those that it has not spoken for
  sinfo --noheader --Node --nodes="$1" --format='%N %t' | grep -E ' unk' || true
}

busy() { sinfo --noheader --Node --nodes="$1" --format='%N %t' | grep -E ' (comp|alloc|mix)' || true; }

range() { # first, count
  if [ "$2" -eq 1 ]; then echo "$1"; else echo "[$1-$(($1 + $2 - 1))]"; fi
}

configure() { # folder of a cluster
  rm -f /etc/slurm/*.conf
  cp "$1"/slurm/*.conf /etc/slurm/
  rm -f /etc/slurm/slurmdbd.conf
  # Without slurmdbd, which would take a database for each: no accounting, and no QOS, which preemption is by. Without
  # what needs a machine of its own: cgroups, health checks, memory.
  sed -i -E -e '/^(AccountingStor|PreemptType|PreemptMode|PreemptParameters|PriorityWeightQOS|HealthCheck)/d' \
    -e '/^(JobAcctGather|AcctGather|ProctrackType|TaskPlugin|PrologFlags|JobComp|SlurmdSpoolDir)/d' \
    -e 's/(RealMemory|DefMemPerCPU)=[0-9]+/\1=1/' /etc/slurm/slurm.conf
  cat >>/etc/slurm/slurm.conf <<'END'
SlurmdSpoolDir=/var/spool/slurmd/%n
SlurmdPidFile=/run/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
END
  echo 'CgroupPlugin=disabled' >/etc/slurm/cgroup.conf
  # All nodes are here: each has a port of its own instead of an address.
  local port=20000 hosts count line
  while read -r hosts; do
    count=$(scontrol show hostnames "$hosts" | tee -a /tmp/hosts | wc -l)
    line="NodeName=$hosts Port=$(range "$port" "$count")"
    sed -i "s/^NodeName=${hosts//[\[\]]/.} /$line /" /etc/slurm/slurm.conf
    port=$((port + count))
  done < <(sed -nE 's/^NodeName=(\S+).*/\1/p' /etc/slurm/slurm.conf)
  sed 's/^/127.0.0.1 /' /tmp/hosts | cat <(printf '127.0.0.1 localhost %s\n' "$(hostname)") - >/etc/hosts
  rm /tmp/hosts
}

slurmd_of() { # cluster's folder, node, pool, topology: sees a node.json of its own
  mkdir -p "/var/spool/slurmd/$2"
  HWLOC_SYNTHETIC=$4 unshare --mount "$0" slurmd "$1/nodes/$3.json" "$2" >"/tmp/$2.log" 2>&1 &
  daemons+=($!)
}

for cluster in /clusters/*/; do
  name=$(basename "$cluster")
  configure "$cluster"
  slurmctld -D -c >"/tmp/$name.log" 2>&1 &
  daemons=($!)
  until scontrol ping 2>/dev/null | grep -q 'is UP'; do
    kill -0 "${daemons[0]}" 2>/dev/null || { echo "$name: slurmctld ended" >&2; cat "/tmp/$name.log" >&2; exit 1; }
    sleep 0.1
  done
  if grep -iE 'error: .*(pars|unrecog|invalid|unknown|plugstack)' "/tmp/$name.log" | grep -v MailProg >&2; then exit 1; fi

  started=()
  while read -r node pool topology; do
    slurmd_of "$cluster" "$node" "$pool" "$topology"
    started+=("$node")
  done <"$cluster/machines"
  nodes=$(IFS=,; echo "${started[*]}")
  until_is 60 unsettled "$nodes" || { echo "$name: no word of:" >&2; unsettled "$nodes" >&2; tail -n 3 /tmp/*-1.log >&2; }

  # A job on each node that has GPUs, with all of them: the prolog looks for their device files.
  jobs=()
  while read -r node partition state gres; do
    [ "$state" = idle ] && [ "$gres" != "(null)" ] || continue
    timeout 60 srun --quiet --partition="$partition" --nodelist="$node" --mem=0 --gres="${gres%%(*}" true </dev/null &
    jobs+=($!)
  done < <(sinfo --noheader --Node --nodes="$nodes" --format='%N %R %t %G' --exact)
  for job in "${jobs[@]}"; do wait "$job" || echo "$name: a job failed" >&2; done
  until_is 30 busy "$nodes" || echo "$name: jobs do not end" >&2

  sinfo --noheader --Node --Format='NodeHost:200,StateCompact:30,Gres:200,Reason:200' --exact |
    sed -E 's/^(\S+)\s+(\S+)\s+(\S+)\s+(.*\S)\s*$/\1|\2|\3|\4/' | sort -u | sed "s/^/$name|/"
  kill "${daemons[@]}" 2>/dev/null || true
  wait "${daemons[@]}" || true
  rm -rf /var/spool/slurmctld/* /var/spool/slurmd
done
