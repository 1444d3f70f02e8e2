#!/usr/bin/env bash
# Starts a SLURM of two nodes, n1 and n2, on this machine: munged, slurmctld and two slurmd, in one folder, with
# their own ports and key. Works for any user, without system services and cgroups. Daemons that run are left
# alone, those that died are started again.
#
#   bash cluster/devslurm/up.sh [FOLDER]       default: devslurm-USER in the folder for temporary files
#   bash cluster/devslurm/down.sh [FOLDER]     stops it and all its SLURM jobs, and removes the folder
#
# Partitions: low (default), and high, which preempts it by REQUEUE. Settings, read when the folder is made:
#
# DEVSLURM_GRACE      seconds from a preempted job's SIGTERM to its end (10)
# DEVSLURM_KILL_WAIT  seconds from SIGTERM to SIGKILL (5)
# DEVSLURM_TIMEOUT    seconds without an answer after which a node counts as lost (10)
# DEVSLURM_REQUEUE    seconds before a requeued job may start again, 5 or more (10; real clusters: 120)
# DEVSLURM_JOB_AGE    seconds for which squeue and scontrol remember an ended job (120)
# DEVSLURM_CONF       further lines for slurm.conf
set -euo pipefail

# shellcheck source=cluster/devslurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

WAIT_SECONDS=60
PROGRAMS=(munged slurmctld slurmd sbatch srun salloc scancel scontrol sinfo squeue sprio sdiag)

main() {
    find_folder "$@"
    # The path of a socket may have 107 bytes.
    ((${#FOLDER} <= 70)) || fail "$FOLDER: too long a path for sockets, give a shorter one"
    ((${DEVSLURM_REQUEUE:-10} >= 5)) || fail "DEVSLURM_REQUEUE=$DEVSLURM_REQUEUE: SLURM takes 5 or more"
    bash "$HERE/install.sh"
    is_ours || make_folder
    # Sites, allocations and users put settings for SLURM's commands into the environment.
    unset "${!SLURM_@}" "${!SBATCH_@}" "${!SALLOC_@}" "${!SQUEUE_@}" "${!SINFO_@}"
    # shellcheck source=/dev/null
    . "$FOLDER/env"
    start munged munged --foreground --force --origin=127.0.0.1 --socket="$FOLDER/munge/socket" \
        --key-file="$FOLDER/munge/key" --seed-file="$FOLDER/munge/seed" --pid-file="$FOLDER/pid/munged"
    await "munge's socket" test -S "$FOLDER/munge/socket"
    start slurmctld slurmctld -D -f "$CONF"
    await "an answer of slurmctld" controller_answers
    start n1 slurmd -D -f "$CONF" -N n1
    start n2 slurmd -D -f "$CONF" -N n2
    await "the nodes' registration" nodes_answer
    tell "$@"
}

make_folder() {
    [[ ! -e $FOLDER ]] || rmdir "$FOLDER" 2>/dev/null || fail "$FOLDER: is there already, and is not a cluster's"
    mkdir -p "$(dirname "$FOLDER")"
    (umask 077 && mkdir "$FOLDER" "$FOLDER"/{bin,gpu,log,munge,pid,spool,spool/n1,spool/n2,state})
    local program
    for program in "${PROGRAMS[@]}"; do
        ln -s "$(command -v "$program")" "$FOLDER/bin/$program"
    done
    (umask 077 && head -c 1024 /dev/urandom >"$FOLDER/munge/key")
    # SLURM wants a device for each GPU, but does not open it.
    ln -s /dev/null "$FOLDER/gpu/nvidia0"
    ln -s /dev/null "$FOLDER/gpu/nvidia1"
    echo "Name=gpu File=$FOLDER/gpu/nvidia[0-1]" >"$FOLDER/gres.conf"
    echo "export SLURM_CONF='$CONF' PATH='$FOLDER/bin':\"\$PATH\"" >"$FOLDER/env"
    slurm_conf >"$CONF.new"
    mv "$CONF.new" "$CONF" # last: it makes the folder count as a cluster's
}

slurm_conf() {
    local host address user port listen=
    host=$(uname -n) user=$(id -un) port=$(free_ports)
    address=$(getent ahostsv4 "$host" | awk '{ print $1; exit }') || true
    # Where the machine's name resolves to loopback, SLURM can listen on loopback only.
    case $address in 127.*) listen=CommunicationParameters=NoInAddrAny,NoCtldInAddrAny ;; *) address=127.0.0.1 ;; esac
    cat <<END
ClusterName=devslurm
SlurmctldHost=$host($address)
SlurmctldPort=$port
$listen
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credentials of its last start have expired.
AuthInfo=socket=$FOLDER/munge/socket,cred_expire=${DEVSLURM_REQUEUE:-10}

StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool/%n
SlurmctldPidFile=$FOLDER/pid/slurmctld
SlurmdPidFile=$FOLDER/pid/%n
SlurmctldLogFile=$FOLDER/log/slurmctld
SlurmdLogFile=$FOLDER/log/%n
MailProg=/bin/true

# No cgroups: they need root.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
PropagateResourceLimits=NONE

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1

# Short intervals, since tests wait for these.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
KillWait=${DEVSLURM_KILL_WAIT:-5}
SlurmdTimeout=${DEVSLURM_TIMEOUT:-10}
MinJobAge=${DEVSLURM_JOB_AGE:-120}
InactiveLimit=0
UnkillableStepTimeout=30
# A lost node that answers again is used again; one that was set DOWN by hand stays down.
ReturnToService=1

# Nodes have the size stated here, whatever the machine has.
SlurmdParameters=config_overrides
MaxNodeCount=2
GresTypes=gpu
NodeName=DEFAULT CPUs=4 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
NodeName=n1 NodeAddr=$address NodeHostname=$host Port=$((port + 1))
NodeName=n2 NodeAddr=$address NodeHostname=$host Port=$((port + 2))
PartitionName=DEFAULT Nodes=n1,n2 MaxTime=INFINITE State=UP
PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=${DEVSLURM_GRACE:-10}
PartitionName=high PriorityTier=10 PreemptMode=OFF
${DEVSLURM_CONF:-}
END
}

# free_ports: prints the first of three free ports in a row, below the kernel's ephemeral range.
free_ports() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        is_free $port && is_free $((port + 1)) && is_free $((port + 2)) && echo $port && return
    done
    fail "no free ports found"
}

is_free() { ! (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start NAME COMMAND...: starts a daemon unless it runs.
start() {
    local name=$1
    shift
    ! is_running "$name" "$1" || return 0
    setsid "$@" </dev/null >>"$FOLDER/log/$name.out" 2>&1 & # the daemons write their own files of process ids
}

is_running() {
    local pid
    pid=$(cat "$FOLDER/pid/$1" 2>/dev/null) || return 1
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$2" ]] && grep -qzsF "$FOLDER/" "/proc/$pid/cmdline"
}

# await WHAT COMMAND...: repeats the command until it succeeds.
await() {
    local what=$1 deadline=$((SECONDS + WAIT_SECONDS))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "no $what within $WAIT_SECONDS s; see $FOLDER/log"
        sleep 0.1
    done
}

controller_answers() { scontrol ping 2>/dev/null | grep -q 'is UP'; }

# sinfo puts a star behind the state of a node that does not answer.
nodes_answer() { [[ $(sinfo -h -N -p low -o %T 2>/dev/null | grep -cvE 'unk|inval|\*') == 2 ]]; }

tell() {
    cat <<END
devslurm: $(sinfo --version) is up in $FOLDER: nodes n1 and n2, partitions low (default) and high.

Put it into your shell:   $(<"$FOLDER/env")
Try:                      sinfo; srun --nodes=2 printenv SLURMD_NODENAME
End and remove it:        bash cluster/devslurm/down.sh${1:+ $1}
END
}

main "$@"
