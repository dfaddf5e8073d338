#!/usr/bin/env bash
# Switch script for Redis 6.2 and later (7 tested; Valkey speaks the same), to be used as it is:
#   cbpx -x /usr/local/lib/cbpx/redis.sh     with common.sh beside it, which says how every switch script works
#
#   redis.sh ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT
#
# The fence is min-replicas-to-write: a primary that demands two thousand million replicas refuses every write, with NOREPLICAS,
# to everybody. The standby has everything when its offset has reached the one the primary had after that. REPLICAOF NO ONE
# promotes it. With REJOIN=yes the old primary becomes its replica at once, and `switch` again goes back.
#
# Settings besides those of common.sh, from $CBPX_REDIS_ENV, else /etc/cbpx/redis.env, else redis.env beside this script:
#   REDIS_USER=, REDISCLI_AUTH=   who connects to both servers, and the password
#   REDIS_CLI=redis-cli           the client, with its options, say: redis-cli --tls --cacert /etc/cbpx/ca.crt
#   MAX_LAG_BYTES=16777216        refuse if the standby is further behind than this at the start
#   REJOIN=yes                    the old primary becomes a replica of the new one; `no`: it stays fenced
#   REWRITE=yes                   CONFIG REWRITE on both, where a server has a configuration file: roles survive a restart
#   MIN_REPLICAS=0                min-replicas-to-write of a server that still carries the fence of an interrupted switch

# shellcheck source=contrib/switch/common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh" || {
    echo "refused: cannot read common.sh, which must be installed beside ${BASH_SOURCE[0]}; nothing was touched"
    exit 1
}
program=redis
by_hand='CONFIG SET min-replicas-to-write 0'
demand=2147483647 # replicas; the largest value the setting takes
before=0 lag_before=10 replid='' link=''

prepare() {
    MAX_LAG_BYTES=${MAX_LAG_BYTES:-16777216} REJOIN=${REJOIN:-yes} REWRITE=${REWRITE:-yes} MIN_REPLICAS=${MIN_REPLICAS:-0}
    REDIS_USER=${REDIS_USER:-} REDIS_CLI=${REDIS_CLI:-redis-cli}
    read -ra client <<<"$REDIS_CLI"
    [ -z "$REDIS_USER" ] || client+=(--user "$REDIS_USER")
    is_whole MAX_LAG_BYTES && is_whole MIN_REPLICAS && is_yes_or_no REJOIN && is_yes_or_no REWRITE &&
        is_program "${client[0]}" 'install redis-tools, or set REDIS_CLI'
}

# is_error TEXT: redis-cli shows an error reply as a line that begins with its code.
is_error() { [[ $1 =~ ^([A-Z]+\ |\(error\)|Could\ not\ connect|Error:|AUTH\ failed|Warning:) ]]; }

# fetch SIDE WORD...: one command; the whole reply in $reply, or false and the cause in $cause.
fetch() {
    local side=$1 host=$active_host port=$active_port
    shift
    [ "$side" = active ] || host=$standby_host port=$standby_port
    reply=$(timeout --foreground -s KILL "$(patience)" "${client[@]}" --no-auth-warning -h "$host" -p "$port" "$@" 2>&1 </dev/null)
    local status=$?
    reply=${reply//$'\r'/}
    cause=$(one_line "${reply:-no answer in time}")
    [ $status = 0 ] && ! is_error "$reply"
}

# info SIDE: what INFO says, into the map `fact`.
declare -A fact
info() {
    local line
    fetch "$1" INFO || return 1
    fact=()
    while IFS= read -r line; do
        [[ $line != *:* ]] || fact[${line%%:*}]=${line#*:}
    done <<<"$reply"
    [ -n "${fact[role]:-}" ] && return
    cause="INFO names no role: ${cause:0:80}"
    return 1
}

# setting SIDE NAME: its value in $value.
setting() {
    fetch "$1" CONFIG GET "$2" || return 1
    value=${reply##*$'\n'}
    [[ $reply == "$2"* ]] && return
    cause="CONFIG GET $2: $cause"
    return 1
}

# ---------------------------------------------------------------------------------------------------------------------
# The guard's part

# ask COMMAND: one command in the guard's open session; the reply in $answer.
ask() {
    hear "$1"$'\n'"ECHO cbpx-end" || return 1
    answer=$(one_line "$heard")
    ! is_error "$answer"
}

# The lock is the name of the open connection: whoever has given his the name and sees nobody else of that name has it.
# Of two who name theirs at the same time at least one sees the other; both step back and try again.
connect() {
    local until=$((${EPOCHREALTIME/./} + QUERY_TIMEOUT * 1000000)) others
    coproc SESSION { exec "${client[@]}" --no-auth-warning -h "$active_host" -p "$active_port" 2>&1 3>&-; }
    session_out=${SESSION[0]} session_in=${SESSION[1]}
    ask PING && [ "$answer" = PONG ] || return 1
    while :; do
        ask 'CLIENT SETNAME cbpx-guard' || return 1
        ask 'CLIENT LIST TYPE normal' || return 1
        others=$(grep -c 'name=cbpx-guard ' <<<"$heard")
        [ "$others" != 1 ] || break
        ask 'CLIENT SETNAME cbpx-waiting' || return 1
        if ((${EPOCHREALTIME/./} > until)); then
            answer='another switch still holds its lock'
            return 1
        fi
        sleep "0.0$((RANDOM % 90 + 10))"
    done
    ask 'CLIENT ID'
}

disconnect() { session_in=''; }
keep_alive() { ask PING; }

set_fence() {
    local value
    setting active min-replicas-to-write || { answer=$cause && return 1; }
    [ "$value" = $demand ] || before=$value
    setting active min-replicas-max-lag || { answer=$cause && return 1; }
    # 0 would switch the demand off.
    lag_before=$value
    [ "$value" != 0 ] || ask 'CONFIG SET min-replicas-max-lag 10' || return 1
    ask "CONFIG SET min-replicas-to-write $demand" || return 1
    # Nobody can write any more. The clients are ended so that they connect anew and find the new primary; an EXEC or a
    # script that is under way is done before this command begins.
    ask 'CLIENT KILL TYPE pubsub' && ask 'CLIENT KILL TYPE normal'
}

clear_fence() {
    [ "$before" != 0 ] || before=$MIN_REPLICAS
    { ask "CONFIG SET min-replicas-to-write $before" || fetch active CONFIG SET min-replicas-to-write "$before"; } || return 1
    [ "$lag_before" != 0 ] || fetch active CONFIG SET min-replicas-max-lag 0
}

promote() {
    # The connection that holds the lock must still be there.
    if ! ask 'CLIENT GETNAME' || [ "$answer" != cbpx-guard ]; then
        answer="the lock on $active is lost ($answer)"
        return 1
    fi
    fetch standby REPLICAOF NO ONE && [[ $reply == OK* ]] && return 0
    answer=$cause
    # An error reply says that nothing was done. No reply, or a connection that broke, may mean anything.
    [[ $reply != Error:* ]] && is_error "$reply" && return 1
    return 2
}

# ---------------------------------------------------------------------------------------------------------------------

takes_writes() {
    local value
    setting active min-replicas-to-write || return 1
    cause="min-replicas-to-write is still $value"
    [ "$value" != $demand ]
}

is_promoted() { info standby && [ "${fact[role]}" = master ]; }

# role_of SIDE: primary, fenced, standby or down in $role.
role_of() {
    local value
    role=down
    info "$1" && setting "$1" min-replicas-to-write || return
    case "${fact[role]} $value" in
    "master $demand") role=fenced ;;
    master*) role=primary ;;
    *) role=standby ;;
    esac
    cluster=${fact[cluster_enabled]:-0}
}

roles() {
    local role a_role s_role a_cause s_cause cluster=0
    role_of active
    a_role=$role a_cause=$cause
    [ "$cluster" = 0 ] || refuse "$active is a node of a Redis Cluster, which moves its roles itself (CLUSTER FAILOVER)"
    role_of standby
    s_role=$role s_cause=$cause
    [ "$s_role" != fenced ] || s_role=primary # a primary that carries the fence of an earlier switch: it is removed below
    judge_roles "$a_role" "$s_role" "$a_cause" "$s_cause"
}

# The id of the stream both speak of is the same exactly if the one is fed by the other, directly or through a third.
inspect() {
    local at lag version value
    info active || refuse "cannot query the active $active: $cause"
    replid=${fact[master_replid]} at=${fact[master_repl_offset]} version=${fact[redis_version]}
    info standby || refuse "cannot query the standby $standby: $cause"
    [ "${fact[master_link_status]}" = up ] ||
        refuse "the standby $standby is not connected to its primary (master_link_status: ${fact[master_link_status]})"
    [ "${fact[master_sync_in_progress]}" = 0 ] || refuse "the standby $standby is still copying the data set"
    [ "${fact[master_replid]}" = "$replid" ] ||
        refuse "the standby $standby follows another primary (${fact[master_host]}:${fact[master_port]}), not $active"
    [ "${fact[slave_read_only]}" = 1 ] || refuse "the standby $standby is not replica-read-only: it may have keys of its own"
    lag=$((at - fact[slave_repl_offset]))
    ((lag <= MAX_LAG_BYTES)) || refuse "the standby $standby is $lag bytes behind, more than MAX_LAG_BYTES=$MAX_LAG_BYTES"
    ((lag > 0)) || lag=0
    setting standby min-replicas-to-write || refuse "cannot query the standby $standby: $cause"
    if [ "$value" = $demand ]; then
        fetch standby CONFIG SET min-replicas-to-write "$MIN_REPLICAS" || refuse "$standby would refuse writes: $cause"
        say "cleared: $standby carried the fence of an earlier switch"
    fi
    say "check: $active is the primary (Redis $version), $standby its replica, connected, $lag bytes behind"
    reach "$at" || refuse "not in time: $cause"
}

# reach OFFSET: waits until the standby, still on the same stream, has got so far.
reach() {
    local told=${EPOCHREALTIME/./}
    while info standby; do
        if [ "${fact[role]}" != slave ]; then
            [ $touched = yes ] || refuse "somebody else promoted $standby"
            leave "somebody else promoted $standby"
        fi
        cause="$standby has ${fact[slave_repl_offset]} of $1 bytes, link ${fact[master_link_status]}"
        [ "${fact[master_replid]}" = "$replid" ] || { cause="$standby no longer follows $active" && return 1; }
        ((fact[slave_repl_offset] < $1)) || return 0
        in_time || return 1
        if ((${EPOCHREALTIME/./} - told > 1000000)); then
            say "waiting: $cause"
            told=${EPOCHREALTIME/./}
        fi
        sleep 0.02
    done
    return 1
}

# A write that changes nothing is refused like any other.
verify_fence() {
    local ended=$answer
    fetch active DEL cbpx:no-such-key
    [[ $reply == *NOREPLICAS* ]] || fail "the fence on $active has no effect: DEL says $cause"
    say "fenced: $active refuses writes, $ended direct clients ended"
}

catch_up() {
    local at
    info active || fail "cannot query the active $active: $cause"
    at=${fact[master_repl_offset]}
    reach "$at" || return 1
    say "replicated: $standby has all of $active (offset $at)"
}

wait_writable() {
    local promoted=no value
    while in_time; do
        if info standby && [ "${fact[role]}" = master ]; then
            if [ $promoted = no ]; then
                promoted=yes
                # First: the new primary may itself demand a replica before it takes writes.
                rejoin
            fi
            if setting standby min-replicas-to-write && [ "$value" = $demand ]; then
                fetch standby CONFIG SET min-replicas-to-write "$MIN_REPLICAS"
            fi
            fetch standby DEL cbpx:no-such-key && return 0
        fi
        sleep 0.02
    done
    [ $promoted = yes ] && return 2
    return 1
}

# The old primary becomes a replica of the new one. It is read-only as such, so the fence can go.
rejoin() {
    local value
    [ "$REJOIN" = yes ] || return 0
    link=''
    if ! info active; then
        say "WARNING: $active cannot follow $standby: $cause"
    elif [ "${fact[role]}" = slave ]; then
        link=$cause
    elif ! setting active replica-read-only || { [ "$value" = no ] && ! fetch active CONFIG SET replica-read-only yes; }; then
        say "WARNING: $active would take writes as a replica: $cause"
    elif fetch active REPLICAOF "$standby_host" "$standby_port"; then
        link=ordered
        # The guard knows what the value was; without one (an earlier switch) it is MIN_REPLICAS.
        { [ -n "$guard_session" ] && tell release; } || fetch active CONFIG SET min-replicas-to-write "$MIN_REPLICAS" ||
            say "WARNING: $active still carries the fence: $cause"
    else
        say "WARNING: $active cannot follow $standby: $cause"
    fi
}

release() {
    info active && [ "${fact[role]}" != slave ] && return
    clear_fence
}

settle() {
    local until=$((${EPOCHREALTIME/./} + 1000000)) side
    if [ "$REWRITE" = yes ]; then
        for side in standby active; do
            info $side || continue
            [ -z "${fact[config_file]:-}" ] || fetch $side CONFIG REWRITE || say "WARNING: ${!side} will not remember its role after a restart: CONFIG REWRITE: $cause"
        done
    fi
    [ -n "$link" ] || return 0
    while in_time && info active; do
        if [ "${fact[master_link_status]:-}" = up ]; then
            say "rejoined: $active is a replica of $standby"
            return
        fi
        ((${EPOCHREALTIME/./} < until)) || break
        sleep 0.05
    done
    say "note: $active is told to follow $standby, but is not connected yet (see masterauth, and INFO replication there)"
}

switch_main "$@"
