#!/usr/bin/env bash
# Switch script for any pair of servers: it brings the order of the steps, the time limits, the undoing and the guard; what is to
# be done to the servers stands in five functions of your settings file (see generic.env.example).
#   cbpx -x /usr/local/lib/cbpx/generic.sh     with common.sh beside it, which says how every switch script works
#
#   generic.sh ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT
#
# The functions, in $CBPX_GENERIC_ENV, else /etc/cbpx/generic.env, else generic.env beside this script. Each runs in a bash of its
# own, with ACTIVE_HOST, ACTIVE_PORT, STANDBY_HOST and STANDBY_PORT set and the time limit QUERY_TIMEOUT. The last line
# it prints is the reason that is shown when it fails. They may be called more than once and must then do no harm.
#   check      0 if the switch may begin; 10 if STANDBY is the primary already (the rest of an earlier switch is then done); else
#              it is refused. Also asked, after the fact, whether STANDBY is a primary. It must change nothing
#   fence      ACTIVE takes no more writes, and whoever could still write is ended
#   caught_up  0 if STANDBY has all that ACTIVE has. Asked before the fence and after it, until it is so
#   promote    0 if STANDBY is a primary and takes writes; 1 if it certainly is not; else it may be
#   unfence    ACTIVE takes writes again. Also called when `fence` failed or was cut off half way
# Optional: settle, called when STANDBY is the primary, say, to make ACTIVE its standby.
# fence, promote and unfence run in the guard, which a kill of the script does not reach.

# shellcheck source=contrib/switch/common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh" || {
    echo "refused: cannot read common.sh, which must be installed beside ${BASH_SOURCE[0]}; nothing was touched"
    exit 1
}
program=generic
by_hand='what the function unfence of the settings file does'
after=no
exec {lock}</dev/null # always a descriptor, so that it can be closed in what is started

# step NAME: runs that function of the settings file; its status, and the reason in $cause. `timeout` ends it with all it has
# started. Lines it prints while it succeeds are of no interest.
step() {
    local out status limit
    limit=$(patience)
    # shellcheck disable=SC2016 # the inner bash expands these
    out=$(timeout -s KILL "$limit" bash -c 'set -a; . "$1"; set +a; "$2"' bash "$settings_file" "$1" \
        2>&1 </dev/null 3>&- {lock}<&-)
    status=$?
    cause=$(one_line "${out##*$'\n'}")
    if [ $status = 137 ]; then
        cause="$1 has not ended within $limit s${cause:+: $cause}"
    elif [ $status != 0 ]; then
        cause="$1 ended with status $status${cause:+: $cause}"
    fi
    return $status
}

prepare() {
    local name found
    if [ "$settings_file" = none ]; then
        cause='there is no settings file, /etc/cbpx/generic.env, with the five functions'
        return 1
    fi
    # shellcheck disable=SC2016
    found=$(bash -c '. "$1" >/dev/null 2>&1; compgen -A function' bash "$settings_file" </dev/null 2>/dev/null)
    for name in check fence caught_up promote unfence; do
        [[ $'\n'$found$'\n' == *$'\n'"$name"$'\n'* ]] && continue
        cause="the settings file $settings_file has no function $name"
        return 1
    done
    [[ $'\n'$found$'\n' != *$'\n'settle$'\n'* ]] || after=yes
    export ACTIVE_HOST=$active_host ACTIVE_PORT=$active_port STANDBY_HOST=$standby_host STANDBY_PORT=$standby_port
    is_program flock
}

# The lock is on the settings file, so that it is this machine's alone.
connect() {
    exec {lock}<"$settings_file" || { answer="cannot open $settings_file" && return 1; }
    answer=$lock
    flock -w "$QUERY_TIMEOUT" "$lock" && return
    answer='another switch still holds its lock'
    return 1
}

disconnect() { :; }
set_fence() { step fence || { answer=$cause && return 1; }; }
clear_fence() { step unfence; }

promote() {
    step promote && return
    answer=$cause
    [[ $cause == 'promote ended with status 1' || $cause == 'promote ended with status 1:'* ]] && return 1
    return 2
}

# `unfence` has said so, and it alone can know.
takes_writes() { :; }

is_promoted() {
    step check
    [ $? = 10 ]
}

roles() {
    step check
    case $? in
    0) say "check: $active is the primary, $standby its standby" ;;
    10)
        say "check: $standby is a primary already; finishing an earlier switch"
        return 1
        ;;
    *) refuse "$cause" ;;
    esac
}

inspect() { wait_caught_up || refuse "not in time: $cause"; }
verify_fence() { say "fenced: $active takes no more writes"; }

catch_up() {
    wait_caught_up || return
    say "replicated: $standby has all of $active"
}

wait_caught_up() {
    local told=${EPOCHREALTIME/./}
    until step caught_up; do
        in_time || return 1
        if ((${EPOCHREALTIME/./} - told > 1000000)); then
            say "waiting: $cause"
            told=${EPOCHREALTIME/./}
        fi
        sleep 0.05
    done
}

wait_writable() {
    while in_time; do
        is_promoted && return
        sleep 0.05
    done
    return 1
}

settle() {
    [ $after = yes ] || return 0
    step settle || say "WARNING: $cause"
}

switch_main "$@"
