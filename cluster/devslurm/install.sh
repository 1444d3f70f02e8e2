#!/usr/bin/env bash
# Sees to it that this machine has SLURM's and munge's programs: installs Debian's packages as root, else says
# what to ask for and ends with 69. Nothing is started, and no service of the machine is set up.
set -euo pipefail

SPEAKER=devslurm
# shellcheck source=cluster/apt.sh
. "$(dirname "${BASH_SOURCE[0]}")/../apt.sh"
PATH=$PATH:/usr/sbin:/sbin # where a user's PATH does not lead
POLICY=/usr/sbin/policy-rc.d

main() {
    [[ -n $(lacking) ]] || return 0
    [[ -e $POLICY || $EUID != 0 ]] || forbid_services
    ensure_packages lacking stop_without
}

lacking() {
    command -v munged >/dev/null || echo munge
    { command -v slurmctld && command -v slurmd && command -v sbatch; } >/dev/null || echo slurm-wlm
}

# Debian starts what it installs, unless this file says no.
forbid_services() {
    trap 'rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
}

stop_without() {
    cat >&2 <<END
devslurm: this machine lacks: $* (root can: apt-get update && apt-get install -y --no-install-recommends $*)
END
    exit 69
}

main
