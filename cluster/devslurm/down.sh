#!/usr/bin/env bash
# Stops the cluster that up.sh started, with everything its SLURM jobs run, and removes its folder.
#
#   bash cluster/devslurm/down.sh [FOLDER]
set -euo pipefail

# shellcheck source=cluster/devslurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

main() {
    find_folder "$@"
    is_ours || { say "no cluster in $FOLDER"; return; }
    end TERM daemon_pids slurmctld slurmscriptd slurmd # first, so that nothing new starts
    end KILL daemon_pids slurmstepd
    end KILL job_pids
    end TERM daemon_pids munged
    rm -rf "$FOLDER"
    say "ended, and $FOLDER removed"
}

# end SIGNAL COMMAND...: signals the processes that COMMAND prints until none is left; KILL after 3 s.
end() {
    local signal=$1 start=$SECONDS pids
    shift
    while mapfile -t pids < <("$@") && ((${#pids[@]})); do
        ((SECONDS - start < 3)) || signal=KILL
        ((SECONDS - start < 15)) || fail "cannot end ${pids[*]}; $FOLDER is left as it is"
        kill -"$signal" "${pids[@]}" 2>/dev/null || true
        sleep 0.1
    done
}

main "$@"
