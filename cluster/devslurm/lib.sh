# shellcheck shell=bash
# Sourced by up.sh and down.sh: the folder of the cluster, and which processes belong to it.

SPEAKER=devslurm
HERE=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=cluster/apt.sh
. "$HERE/../apt.sh"
PATH=$PATH:/usr/sbin:/sbin # a user's PATH may lack them

fail() {
    say "$@" >&2
    exit 1
}

# find_folder [FOLDER]: makes FOLDER absolute and free of links, as it stands in the configuration.
find_folder() {
    FOLDER=$(realpath -m "${1:-${TMPDIR:-/tmp}/devslurm-$(id -un)}")
    CONF=$FOLDER/slurm.conf
}

is_ours() { grep -qsx ClusterName=devslurm "$CONF"; }

# daemon_pids COMMAND...: prints the daemons, found by the log they have open: some overwrite their arguments.
daemon_pids() {
    local pid
    find /proc/[0-9]*/fd -maxdepth 1 -lname "$FOLDER/log/*" 2>/dev/null | cut -d/ -f3 | sort -un |
        while read -r pid; do
            case " $* " in *" $(cat "/proc/$pid/comm" 2>/dev/null || true) "*) echo "$pid" ;; esac
        done
}

# job_pids: prints what its SLURM jobs run on the nodes, not the shells and programs that talk to the cluster.
job_pids() {
    local file
    grep -lzxFs "SLURM_CONF=$CONF" /proc/[0-9]*/environ | while read -r file; do
        grep -qzs ^SLURMD_NODENAME= "$file" && basename "$(dirname "$file")"
    done || true
}
