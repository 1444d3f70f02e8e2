#!/usr/bin/env bash
# Installs the programs of SLURM and munge: as root Debian's packages; otherwise says what to ask for and exits
# with 69. Starts nothing, and sets up no service of the machine.
set -euo pipefail

SPEAKER=devslurm
# shellcheck source=cluster/apt.sh
. "$(dirname "${BASH_SOURCE[0]}")/../apt.sh"
PATH=$PATH:/usr/sbin:/sbin # a user's PATH may lack them
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

# Debian starts the services it installs, unless this file forbids it.
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
