# shellcheck shell=bash
# What the set-up scripts share: to say what happens, and to have system packages. It is sourced; SPEAKER is
# the name that the lines begin with.

say() { echo "$SPEAKER: $*"; }

# ensure_packages LACKING STOP: installs the Debian packages that the function LACKING prints. Where that
# cannot be, or does not help, it calls STOP with their names.
ensure_packages() {
    local lacking=$1 stop=$2 missing
    mapfile -t missing < <("$lacking" | tr ' ' '\n')
    ((${#missing[@]})) || return 0
    { [[ $EUID == 0 ]] && command -v apt-get >/dev/null; } || "$stop" "${missing[@]}"
    say "system packages: ${missing[*]} ..."
    exec 8</var/lib/apt && flock 8 # another of our scripts may be at it: apt-get itself does not always wait
    local start=$SECONDS log
    log=$(mktemp)
    # The lists on the machine may be absent or old: only then is apt-get update worth its time.
    if ! { apt_get install "${missing[@]}" || { apt_get update && apt_get install "${missing[@]}"; }; } >"$log" 2>&1
    then
        tail -n 30 "$log" >&2
        say "system packages: FAILED; the whole log is $log" >&2
        exit 1
    fi
    rm -f "$log"
    exec 8<&-
    say "system packages: $((SECONDS - start)) s"
    mapfile -t missing < <("$lacking" | tr ' ' '\n')
    ((${#missing[@]} == 0)) || "$stop" "${missing[@]}"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 --no-install-recommends "$@" </dev/null
}
