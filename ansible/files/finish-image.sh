#!/bin/bash
# The last step of the node image, in the container that is committed afterwards.
set -euo pipefail

# The clock, the kernel's settings and modules and the consoles are the host's: a privileged container could change
# them. And an image is replaced, not updated in place.
for unit in \
  chrony.service systemd-timesyncd.service \
  systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
  modprobe@.service kmod-static-nodes.service systemd-udevd.service systemd-random-seed.service \
  dev-hugepages.mount dev-mqueue.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  sys-fs-fuse-connections.mount systemd-remount-fs.service \
  getty.target console-getty.service systemd-logind.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
  ln -sf /dev/null "/etc/systemd/system/$unit"
done

# The target of a container starts the services of its part, and nothing else does.
systemctl disable mariadb slipway-database slurmdbd slurmctld slurmrestd sackd slurmd

# A privileged container would have the host's kernel log in its own journal.
install -d /etc/systemd/journald.conf.d
printf '[Journal]\nReadKMsg=no\n' >/etc/systemd/journald.conf.d/container.conf

# What would make two nodes alike: Debian's packages generate a key of MUNGE and an empty database.
rm -rf /etc/munge/munge.key /etc/ssh/ssh_host_* /root/.ssh
find /var/lib/mysql -mindepth 1 -delete
: >/etc/machine-id

# What only building needed. The folders stay, with their owners and modes.
find /root /tmp /var/tmp -xdev -mindepth 1 ! -name .bashrc ! -name .profile -delete
find /var/cache /var/log -xdev -type f -delete
find /var/lib/apt/lists -mindepth 1 -delete

# The caches of libraries are as fresh as /usr, so that the first start need not make them again.
touch /etc/.updated /var/.updated
