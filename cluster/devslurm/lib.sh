# shellcheck shell=bash
# What up.sh and down.sh share: where the cluster lives, and which processes are of it. It is sourced.

SPEAKER=devslurm
HERE=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=cluster/apt.sh
. "$HERE/../apt.sh"
PATH=$PATH:/usr/sbin:/sbin # where a user's PATH does not lead

fail() {
    say "$@" >&2
    exit 1
}

# find_folder [FOLDER]: FOLDER becomes absolute, without links, as it stands in the configuration.
find_folder() {
    FOLDER=$(realpath -m "${1:-${TMPDIR:-/tmp}/devslurm-$(id -un)}")
    CONF=$FOLDER/slurm.conf
}

is_ours() { grep -qsx ClusterName=devslurm "$CONF"; }

# daemon_pids COMMAND...: its daemons, by what they have open, since some of them overwrite their arguments.
daemon_pids() {
    local pid
    find /proc/[0-9]*/fd -maxdepth 1 -lname "$FOLDER/log/*" 2>/dev/null | cut -d/ -f3 | sort -un |
        while read -r pid; do
            case " $* " in *" $(cat "/proc/$pid/comm" 2>/dev/null || true) "*) echo "$pid" ;; esac
        done
}

# job_pids: what its jobs run on the nodes; not the shells and programs that talk to the cluster.
job_pids() {
    local file
    grep -lzxFs "SLURM_CONF=$CONF" /proc/[0-9]*/environ | while read -r file; do
        grep -qzs ^SLURMD_NODENAME= "$file" && basename "$(dirname "$file")"
    done || true
}
