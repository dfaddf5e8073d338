#!/usr/bin/env bash
# Switch script for PostgreSQL 12 and later, to be used as it is: cbpx -x /usr/local/lib/cbpx/postgresql.sh
#
#   postgresql.sh ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT
#
# cbpx runs it when the last client connection has ended and holds all new ones meanwhile. It
#   1. refuses, before anything is touched, unless ACTIVE is the primary, STANDBY its streaming standby, little behind;
#   2. waits until the standby has caught up;
#   3. fences the old primary: read-only for every new session, all other clients ended (and, with FENCE=stop, stopped);
#   4. waits until the standby has replayed the last byte the old primary wrote;
#   5. promotes the standby and waits until it has committed a write.
# Whatever fails before the promotion is ordered is undone: the old primary takes writes again. Nothing is undone after it.
# Needs bash 5, psql, and timeout, setsid (both on every Linux). It changes one setting, default_transaction_read_only.
#
# Exit status, and where cbpx then sends the clients:
#   0  STANDBY is a primary and takes writes                                  to the new one
#   1  refused, nothing was touched                                           to the old one
#   2  failed, everything was undone                                          to the old one
#   3  failed and NOT undone: the old primary is still fenced, see the text   to the old one, which may refuse writes
#
# Settings come from a file of shell assignments: $CBPX_POSTGRESQL_ENV, else /etc/cbpx/postgresql.env, else postgresql.env
# beside this script. It is executed: keep it writable by root only.
#   PGUSER, PGPASSFILE, PGDATABASE, PGSSLMODE, ...  as libpq knows them. Defaults here: PGUSER=postgres, PGDATABASE=postgres
#   MAX_LAG_BYTES=16777216  refuse if the standby is further behind than this at the start
#   PROMOTE_RESERVE=2       seconds that must be left for the promotion; if they are not, it is not begun (and the fence undone)
#   QUERY_TIMEOUT=3         whole seconds for one statement, connecting included; so long a second switch waits for the first
#   STANDBY_NAME=           application_name of the standby on the primary, if several standbys go by the same one
#   FENCE=readonly          or `stop`: read-only first, then FENCE_COMMAND must stop the server
#   FENCE_COMMAND=          run (bash -c, $FENCE_HOST and $FENCE_PORT set) once the old primary is read-only and all is replayed
#   UNFENCE_COMMAND=        the opposite. Both needed with FENCE=stop, optional otherwise (say, a firewall rule)
#   ALLOW_SYNC_NAMES=no     `yes`: promote although synchronous_standby_names is set on the standby (commits may wait for ever)
#   PSQL=                   psql to use; empty: the newest in /usr/lib/postgresql, else the one in PATH
#   GUARD_LOG=              file for the guard's lines, besides syslog (tag cbpx-postgresql)
# cbpx gives CBPX_SECONDS_LEFT: seconds until it kills this process group. Without it: 60.
#
# The guard. SIGKILL (cbpx's time limit, `abort`) leaves no time to undo anything, so a second process, in a session of its
# own, holds an open connection to the old primary and is the only one that fences, un-fences and orders the promotion.
# It does so on words from a pipe. When the pipe ends without `end`, it undoes the fence, unless the promotion was
# already ordered. Until that is done it keeps the script's standard output open (descriptor 3), so that whoever killed the
# script can wait for it: the pipe ends when the guard has finished. It holds an advisory lock on the old primary, so that a quick second switch waits until it has finished.

set -u
export LC_ALL=C
began=${EPOCHREALTIME/./}
lock=1667395704 # "cbpx" in ASCII; any number does that all users of this script share

# say TEXT: one progress line with the seconds since the start.
say() {
    local t=$((${EPOCHREALTIME/./} - began))
    printf '%d.%03d s  %s\n' $((t / 1000000)) $((t / 1000 % 1000)) "$*" 2>/dev/null || reader=gone
}

# The guard's lines: nobody reads its output, so they go to syslog and, if asked for, to a file.
note() {
    logger -t cbpx-postgresql -- "$active -> $standby: $*" 2>/dev/null
    [ -z "${GUARD_LOG:-}" ] || printf '%(%F %T)T [%d] %s -> %s: %s\n' -1 $$ "$active" "$standby" "$*" >>"$GUARD_LOG"
}

one_line() { printf '%s' "${1//$'\n'/ / }"; }

# patience [MOST]: seconds a step may take: never beyond the moment we must give up, never so short that it cannot work.
patience() {
    local us=$((${give_up:-$((${EPOCHREALTIME/./} + 3600000000))} - ${EPOCHREALTIME/./})) most
    printf -v most '%.0f' "${1:-$QUERY_TIMEOUT}e6"
    ((us > most)) && us=$most
    ((us < 300000)) && us=300000
    printf '%d.%06d' $((us / 1000000)) $((us % 1000000))
}

# query plain|admin HOST PORT SQL [NAME=VALUE...]: every statement is its own transaction; the output goes to stdout, error
# text too. A plain session is what any client gets. An admin one may write while the fence is up, and its commits
# do not wait for synchronous standbys.
query() {
    local kind=$1 host=$2 port=$3 sql=$4 opts="-c client_min_messages=error -c statement_timeout=${QUERY_TIMEOUT}s" vars=() v
    shift 4
    [ "$kind" = plain ] || opts+=' -c default_transaction_read_only=off -c synchronous_commit=local'
    for v; do vars+=(-v "$v"); done
    PGOPTIONS="${PGOPTIONS:-} $opts" PGAPPNAME='cbpx switch' PGCONNECT_TIMEOUT=2 \
        timeout --foreground -s KILL "$(patience)" \
        "$PSQL" -XqAtw -v ON_ERROR_STOP=1 -h "$host" -p "$port" ${vars[@]+"${vars[@]}"} <<<"$sql" 2>&1
}

# fetch SIDE KIND SQL [NAME=VALUE...]: the last row in $row, or false and the cause in $cause.
fetch() {
    local side=$1 kind=$2 sql=$3 status out
    shift 3
    if [ "$side" = active ]; then
        out=$(query "$kind" "$active_host" "$active_port" "$sql" "$@")
    else
        out=$(query "$kind" "$standby_host" "$standby_port" "$sql" "$@")
    fi
    status=$?
    row=${out##*$'\n'}
    cause=$(one_line "${out:-no answer in time}")
    return $status
}

# unreadable FILE: true, and why in $cause, if this user cannot open it.
unreadable() {
    cause=$({ : <"$1"; } 2>&1) && return 1
    cause=${cause##*: }
}

# Reads the settings. False, and why in $cause, if the file is there, or was asked for by name, and cannot be used.
settings() {
    local file
    # runuser, su and sudo may leave HOME at another user's directory. libpq looks for certificates there, and fails if
    # it may not look; without HOME it takes this user's own.
    [ -x "${HOME:-/}" ] || unset HOME
    user=$(id -un 2>/dev/null) || user=$UID
    for file in "${CBPX_POSTGRESQL_ENV:-}" /etc/cbpx/postgresql.env "$(dirname -- "${BASH_SOURCE[0]}")/postgresql.env" ''; do
        [ -n "$file" ] || continue
        if [ -e "$file" ] || [ "$file" = "${CBPX_POSTGRESQL_ENV:-}" ]; then break; fi
        # What this user cannot see may exist all the same.
        unreadable "$file"
        [[ $cause != 'Permission denied' ]] || break
    done
    settings_file=${file:-none}
    if [ -n "$file" ]; then
        if unreadable "$file" || ! cause=$(bash -n -- "$file" 2>&1); then
            cause="cannot read the settings file $file as user $user: $(one_line "${cause#"$file: "}")"
            return 1
        fi
        set -a +u # a variable the file uses and nobody has set is empty, as in any shell
        # shellcheck source=/dev/null
        . "$file"
        set +a -u
    fi
    if [ -n "${GUARD_LOG:-}" ] && ! cause=$({ : >>"$GUARD_LOG"; } 2>&1); then
        [ $guarding = yes ] || say "note: user $user cannot write GUARD_LOG $GUARD_LOG: ${cause##*: }; the guard reports to syslog only"
        GUARD_LOG=
    fi
    if [ -z "${PSQL:-}" ]; then
        PSQL=psql
        # Debian's /usr/bin/psql is a Perl script that looks for the real one first: 25 ms each time.
        for file in /usr/lib/postgresql/[1-9][0-9]/bin/psql; do [ ! -x "$file" ] || PSQL=$file; done
    fi
    export PGUSER="${PGUSER:-postgres}" PGDATABASE="${PGDATABASE:-postgres}"
    MAX_LAG_BYTES=${MAX_LAG_BYTES:-16777216} PROMOTE_RESERVE=${PROMOTE_RESERVE:-2} QUERY_TIMEOUT=${QUERY_TIMEOUT:-3}
    FENCE=${FENCE:-readonly} FENCE_COMMAND=${FENCE_COMMAND:-} UNFENCE_COMMAND=${UNFENCE_COMMAND:-}
    STANDBY_NAME=${STANDBY_NAME:-} ALLOW_SYNC_NAMES=${ALLOW_SYNC_NAMES:-no} CBPX_SECONDS_LEFT=${CBPX_SECONDS_LEFT:-60}
}

# The cause of a failed connection, with the file a password should have come from.
with_hint() {
    local told=$1 file=${PGPASSFILE:-${HOME:-$(getent passwd "$UID" | cut -d: -f6)}/.pgpass}
    if [[ $told != *'no password supplied'* ]]; then
        printf '%s' "$told"
    elif unreadable "$file"; then
        printf '%s' "$told (user $user cannot read the password file $file: $cause)"
    else
        printf '%s' "$told (the password file $file has no line for this server and $PGUSER)"
    fi
}

# ---------------------------------------------------------------------------------------------------------------------
# The guard: postgresql.sh --guard PID_OF_THE_SCRIPT ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT
# Words in: fence, command, unfence, promote, end. One answer line each: `ok`, or `failed CAUSE`, or `unknown CAUSE`.

# ask SQL: one statement in the guard's open session; the last row, or the cause, in $answer.
ask() {
    local line
    answer='the connection is lost'
    [ -n "$db_in" ] || return 1
    { printf '%s\n\\echo cbpx-end :ERROR :LAST_ERROR_MESSAGE\n' "$1" >&"$db_in"; } 2>/dev/null || return 1
    # The server gives up after QUERY_TIMEOUT; we wait a second longer to hear it say so.
    while IFS= read -r -t $((QUERY_TIMEOUT + 1)) -u "$db_out" line 2>/dev/null; do
        case $line in
        'cbpx-end false'*) return 0 ;;
        'cbpx-end true'*)
            answer=${line#cbpx-end true }
            return 1
            ;;
        esac
        answer=$line
    done
    return 1
}

set_fence() { ask 'ALTER SYSTEM SET default_transaction_read_only = on;' && ask 'SELECT pg_reload_conf();'; }

# Through the open session if there still is one: a few milliseconds count here, clients may be on their way.
clear_fence() {
    ask $'ALTER SYSTEM RESET default_transaction_read_only;\nSELECT pg_reload_conf();' && return
    # The session is gone and our lock with it: whoever holds the lock now is responsible for the fence.
    fetch active admin "SELECT pg_advisory_lock($lock); ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();"
}

# Un-fences and makes sure that a new session may write. A primary that is down gets a minute to come back.
undo() {
    local from=${EPOCHREALTIME/./} cleared=no
    clear_fence && cleared=yes
    if [ "$commanded" = yes ] && [ -n "$UNFENCE_COMMAND" ]; then
        FENCE_HOST=$active_host FENCE_PORT=$active_port bash -c "$UNFENCE_COMMAND" </dev/null \
            >>"${GUARD_LOG:-/dev/null}" 2>&1 3>&- || note "UNFENCE_COMMAND failed with status $?"
    fi
    until fetch active plain "SELECT current_setting('default_transaction_read_only');" && [ "$row" = off ]; do
        if ((${EPOCHREALTIME/./} - from > 60000000)); then
            answer="$active is STILL FENCED: $cause; do: ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()"
            return 1
        fi
        [ "$cleared" = yes ] || { clear_fence && cleared=yes; }
        ((${EPOCHREALTIME/./} - from < 1000000)) || cleared=no
        sleep 0.02
    done
    fenced=no
    answer=$(((${EPOCHREALTIME/./} - from) / 1000))
    # Nobody but this guard should promote. Should somebody have, two writable primaries are worse than one fenced.
    if fetch standby plain 'SELECT pg_is_in_recovery();' && [ "$row" = f ]; then
        set_fence
        fenced=yes
        answer="$standby was promoted by somebody else: $active stays fenced"
        return 1
    fi
}

# The point of no return. The script is asked once more whether it is still there: it may have been killed just now.
order_promotion() {
    kill -0 "$script" 2>/dev/null || return 2
    promoting=yes
    fetch standby admin "SELECT 'connected'; SELECT pg_promote(false);"
    case $cause in
    'connected / t') return 0 ;;
    'connected / f' | *connected*ERROR:*)
        # The server itself says that it did nothing; but a statement that was cut off may have done it.
        [[ $cause == *cancel* ]] && return 1
        promoting=no
        ;;
    *connected*) ;;
    *) promoting=no ;; # never got in
    esac
    return 1
}

# The script ended after the promotion was ordered and before it was seen to be done: nothing to undo, but somebody must be told how it ended.
watch_promotion() {
    local n
    exec 3>&- # nothing will be undone: nobody need wait for it
    for ((n = 0; n < 600; n++)); do
        if fetch standby plain 'SELECT pg_is_in_recovery();' && [ "$row" = f ]; then
            note "the script ended after it ordered the promotion: $standby IS the primary now, $active stays fenced;" \
                "type switch again to send the clients there"
            return
        fi
        sleep 0.1
    done
    note "the script ended after it ordered the promotion and $standby is not (seen to be) a primary after a minute" \
        "($cause): $active stays fenced, look at both"
}

# A script that was killed reads no reply: that is no trouble, its end is seen on the other pipe.
reply() { echo "$*" 2>/dev/null; }

guard() {
    local word
    trap : HUP INT TERM PIPE # handlers, not ignored: what UNFENCE_COMMAND starts must not inherit deaf ears
    exec 2>>"${GUARD_LOG:-/dev/null}"
    cd / || return
    script=$1 fenced=no promoting=no commanded=no
    coproc DB {
        PGOPTIONS="${PGOPTIONS:-} -c client_min_messages=error -c statement_timeout=${QUERY_TIMEOUT}s" \
            PGAPPNAME='cbpx guard' PGCONNECT_TIMEOUT=2 exec "$PSQL" -XqAtw -h "$active_host" -p "$active_port" 2>&1 3>&-
    }
    db_out=${DB[0]} db_in=${DB[1]}
    ask 'SET idle_session_timeout = 0;' # unknown before PostgreSQL 14
    if ask "SELECT pg_advisory_lock($lock);" && ask 'SELECT pg_backend_pid();'; then
        reply "ok $answer"
    else
        reply "failed $answer"
        return
    fi
    while read -r word; do
        case $word in
        fence)
            fenced=yes
            if set_fence; then reply ok; else reply "failed $answer"; fi
            ;;
        command)
            commanded=yes
            reply ok
            ;;
        promote)
            order_promotion
            case $?$promoting in
            0*) reply ok ;;
            2*) break ;;
            *yes) reply "unknown $cause" ;;
            *no) reply "failed $cause" ;;
            esac
            ;;
        unfence)
            if [ $promoting = yes ]; then
                reply 'failed the promotion was ordered'
            elif undo; then
                reply "ok $answer"
            else
                reply "failed $answer"
            fi
            ;;
        leave) fenced=no ;;
        end) fenced=no promoting=no ;;
        esac
    done
    if [ $promoting = yes ]; then
        watch_promotion
    elif [ $fenced = yes ]; then
        undo && answer="the script was killed: $active takes writes again after $answer ms"
        say "guard: $answer" >&3
        note "$answer"
    fi
    { echo '\q' >&"$db_in"; } 2>/dev/null
}

# ---------------------------------------------------------------------------------------------------------------------
# The script itself: asks, waits, tells.

# tell WORD [SECONDS]: gives the guard a word; its answer is in $answer. 0: ok, 1: failed, 2: it cannot be known.
tell() {
    local kind
    answer='the guard is gone'
    { echo "$1" >&"$guard_in"; } 2>/dev/null || return 1
    answer='failed the guard gives no answer'
    read -r -t "${2:-$(patience)}" -u "$guard_out" answer 2>/dev/null || return 2
    kind=${answer%% *}
    answer=${answer#"$kind"}
    answer=${answer# }
    case $kind in
    ok) return 0 ;;
    unknown) return 2 ;;
    *) return 1 ;;
    esac
}

refuse() {
    say "refused: $*; nothing was touched"
    exit 1
}

# fail TEXT: undoes the fence, if there is one, before cbpx lets the clients go.
fail() {
    [ $ordered = no ] || leave "$*"
    trap '' TERM INT HUP
    finished=yes
    say "failed: $*"
    [ $touched = yes ] || exit 1
    if tell unfence 65 || { [[ $answer == *'the guard '* ]] && undo; }; then
        say "undone: $active takes writes again ($answer ms)"
        exit 2
    fi
    say "NOT undone: $answer"
    exit 3
}

# leave TEXT: the end after which un-fencing could make two writable primaries.
leave() {
    trap '' TERM INT HUP
    finished=yes
    say "failed: $*"
    tell leave 0.01 # no answer is due
    say "NOT undone: $active stays fenced; when $standby is a primary, type switch again to finish"
    exit 3
}

in_time() { ((${EPOCHREALTIME/./} < give_up)); }
left() {
    local us=$((deadline - ${EPOCHREALTIME/./}))
    ((us > 0)) || us=0
    printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10))
}

start_guard() {
    exec 3>&1
    coproc GUARD {
        exec setsid bash "${BASH_SOURCE[0]}" --guard $$ "$active_host" "$active_port" "$standby_host" "$standby_port" 2>/dev/null
    }
    exec 3>&-
    guard_out=${GUARD[0]} guard_in=${GUARD[1]}
    answer='it gives no answer'
    if read -r -t "$(patience $((QUERY_TIMEOUT + 3)))" -u "$guard_out" answer && [ "${answer%% *}" = ok ]; then
        guard_session=${answer#ok }
        return 0
    fi
    answer=${answer#failed }
    case $answer in *'statement timeout'*) refuse "another switch still holds its lock on $active" ;; esac
    return 1
}

# Which of the two is what. Sets a_role and s_role to primary, fenced (a primary that is read-only), standby or down.
roles() {
    local sql="SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' WHEN current_setting('default_transaction_read_only') = 'on'
        THEN 'fenced' ELSE 'primary' END, system_identifier, split_part(current_setting('server_version'), ' ', 1) FROM pg_control_system();"
    local a_id=- s_id=-
    a_role=down s_role=down a_cause='' s_cause=''
    if fetch active plain "$sql"; then IFS='|' read -r a_role a_id version <<<"$row"; else a_cause=$cause; fi
    if fetch standby plain "$sql"; then IFS='|' read -r s_role s_id _ <<<"$row"; else s_cause=$cause; fi
    [ "$s_role" != down ] || refuse "cannot query the standby $standby: $(with_hint "$s_cause")"
    [ "$a_role" = down ] || [ "$a_id" = "$s_id" ] || refuse "$active and $standby are different clusters ($a_id, $s_id)"
    case "$a_role $s_role" in
    'primary standby') ;;
    'fenced standby') say "note: $active is already read-only (a fence left by an earlier run, or set by hand)" ;;
    'down standby') refuse "cannot query the active $active: $(with_hint "$a_cause")" ;;
    'standby standby') refuse "neither $active nor $standby is a primary" ;;
    'primary primary') refuse "SPLIT BRAIN: $active and $standby are both writable primaries; stop one of them" ;;
    'primary fenced') refuse "SPLIT BRAIN: $active and $standby are both primaries ($standby is read-only)" ;;
    *)
        say "check: $standby is a primary already ($active: $a_role); finishing an earlier switch"
        return 1
        ;;
    esac
}

# The row of this standby on the active, by its slot, else by name, else by name and address. The name is what its connection
# string says, else cluster_name, else 'walreceiver'. As a rule r.conninfo is what libpq made of that string, defaults
# included; but a receiver that has followed its primary to a new timeline may show primary_conninfo as it was written
# (PostgreSQL 15.18 does, 15.20 does not): perhaps a URI, perhaps with quotes and spaces, and without the default name.
check_streaming() {
    local status name slot paused replayed addr sync may n state lag override
    fetch standby admin "SELECT coalesce(r.status, 'gone'), coalesce(nullif(:'name', ''),
              trim(both '''' from substring(r.conninfo from '(?:^|\s)application_name\s*=\s*(\S+)')),
              substring(r.conninfo from '[?&]application_name=([^&]+)'), nullif(current_setting('cluster_name'), ''), 'walreceiver'),
            r.slot_name, pg_is_wal_replay_paused(), pg_last_wal_replay_lsn(), host(inet_server_addr()),
            current_setting('synchronous_standby_names'), has_function_privilege('pg_promote(boolean,integer)', 'execute')
        FROM (SELECT) one LEFT JOIN pg_stat_wal_receiver r ON true;" "name=$STANDBY_NAME" ||
        refuse "cannot query the standby $standby: $cause"
    IFS='|' read -r status name slot paused replayed addr sync may <<<"$row"
    [ "$status" = streaming ] || refuse "the standby $standby is not streaming: its WAL receiver is '$status'"
    [ "$paused" = f ] || refuse "replay is paused on the standby $standby"
    [ "$may" = t ] || refuse "user $PGUSER may not execute pg_promote() on the standby $standby"
    [ -z "$sync" ] || [ "$ALLOW_SYNC_NAMES" = yes ] ||
        refuse "synchronous_standby_names is '$sync' on the standby $standby: once promoted its commits would wait for those"
    fetch active admin "WITH named AS (SELECT * FROM pg_stat_replication WHERE CASE WHEN :'slot' = '' THEN application_name = :'name'
              ELSE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = :'slot') END),
            here AS (SELECT * FROM named WHERE host(client_addr) IS NOT DISTINCT FROM nullif(:'addr', '')),
            ours AS (SELECT * FROM named WHERE (SELECT count(*) FROM named) = 1
                     UNION ALL SELECT * FROM here WHERE (SELECT count(*) FROM named) > 1)
        SELECT count(*), coalesce(min(state), ''), pg_wal_lsn_diff(pg_current_wal_flush_lsn(), :'replayed'),
          coalesce((SELECT min(coalesce(r.rolname, d.datname, '?')) FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole
            LEFT JOIN pg_database d ON d.oid = setdatabase
            WHERE EXISTS (SELECT FROM unnest(setconfig) c WHERE c ~ '^default_transaction_read_only=' AND c !~* '=(on|t|true|y|yes|1)$')), '') FROM ours;" \
        "name=$name" "slot=$slot" "addr=$addr" "replayed=$replayed" || refuse "cannot query the active $active: $cause"
    IFS='|' read -r n state lag override <<<"$row"
    [ "$n" != 0 ] || refuse "the active $active has no standby '${slot:-$name}' at ${addr:-a Unix socket} (see STANDBY_NAME)"
    [ "$n" = 1 ] || refuse "the active $active has $n standbys '$name': give each its application_name (see STANDBY_NAME)"
    [ "$state" = streaming ] || refuse "the active $active is not streaming to '$name': it says '$state'"
    [ -z "$override" ] || refuse "'$override' has a default_transaction_read_only of its own, which the fence cannot override"
    ((lag <= MAX_LAG_BYTES)) || refuse "the standby $standby is $lag bytes behind, more than MAX_LAG_BYTES=$MAX_LAG_BYTES"
    ((lag > 0)) || lag=0
    say "check: $active is the primary (PostgreSQL $version), $standby its standby '${slot:-$name}', streaming, $lag bytes behind"
}

# A fence lives in a server's own files: an old primary that became a standby without being copied still carries it.
clear_leftover() {
    fetch standby plain "SELECT current_setting('default_transaction_read_only');" && [ "$row" = off ] && return
    fetch standby admin 'ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();' || return
    while in_time; do
        if fetch standby plain "SELECT setting, sourcefile FROM pg_settings WHERE name = 'default_transaction_read_only';"; then
            [ "${row%%|*}" = off ] && say "cleared: $standby carried the fence of an earlier switch" && return
        fi
        sleep 0.02
    done
    cause="default_transaction_read_only is still on (${row#*|})"
    return 1
}

# wait_replayed LSN: an LSN, or `received`: all that the standby has got.
wait_replayed() {
    local ok behind at recovery told=${EPOCHREALTIME/./} target=":'lsn'::pg_lsn"
    [ "$1" != received ] || target='pg_last_wal_receive_lsn()'
    while fetch standby admin "SELECT pg_last_wal_replay_lsn() >= $target, pg_wal_lsn_diff($target, pg_last_wal_replay_lsn()),
            pg_last_wal_replay_lsn(), pg_is_in_recovery();" "lsn=$1"; do
        IFS='|' read -r ok behind at recovery <<<"$row"
        if [ "$recovery" != t ]; then
            [ $touched = yes ] || refuse "somebody else promoted $standby"
            leave "somebody else promoted $standby"
        fi
        if [ "$ok" = t ]; then
            replayed_to=$at
            return
        fi
        cause="$standby has replayed up to $at, $behind bytes short of $1"
        in_time || return
        if ((${EPOCHREALTIME/./} - told > 1000000)); then
            say "waiting: $cause"
            told=${EPOCHREALTIME/./}
        fi
        sleep 0.02
    done
    return 1
}

fence() {
    local verified ended=0
    touched=yes
    tell fence || fail "cannot fence $active: $answer"
    until fetch active plain "SELECT current_setting('default_transaction_read_only'), clock_timestamp();" &&
        [ "${row%%|*}" = on ]; do
        in_time || fail "the fence on $active has no effect: default_transaction_read_only: $cause"
        sleep 0.01
    done
    # Sessions begun from here on are read-only. The older ones may still write: they end.
    verified=${row#*|}
    while fetch active admin "SELECT count(pg_terminate_backend(pid)), count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
            AND pid NOT IN (pg_backend_pid(), :guard) AND backend_start < :'verified';" "guard=$guard_session" "verified=$verified"; do
        [ "${row##*|}" != 0 ] || break
        ((ended > 0)) || ended=${row##*|}
        in_time || fail "${row##*|} clients of $active do not end"
        sleep 0.02
    done
    [ "${row##*|}" = 0 ] || fail "cannot end the other clients of $active: $cause"
    say "fenced: $active is read-only, $ended direct clients ended"
}

run_fence_command() {
    [ -n "$FENCE_COMMAND" ] || return 0
    tell command || fail "FENCE_COMMAND not run: $answer"
    FENCE_HOST=$active_host FENCE_PORT=$active_port timeout --foreground -s KILL "$(patience 3600)" \
        bash -c "$FENCE_COMMAND" </dev/null || fail "FENCE_COMMAND failed with status $?"
    if [ "$FENCE" = stop ]; then
        ! fetch active plain 'SELECT 1;' || fail "$active still answers after FENCE_COMMAND"
        wait_replayed received || fail "$cause"
        say "stopped: $active no longer answers, $standby has replayed all it received ($replayed_to)"
    else
        say "fenced: FENCE_COMMAND done"
    fi
}

# Waits until an ordinary session has written and committed. The message is a WAL record that changes no data.
wait_writable() {
    local stop=$((deadline - 200000)) promoted=no
    give_up=$stop
    while ((${EPOCHREALTIME/./} < stop)); do
        if fetch standby plain "SELECT CASE WHEN pg_is_in_recovery() THEN 'recovery' WHEN current_setting('transaction_read_only') = 'on'
                THEN 'read-only' ELSE 'wrote' || pg_logical_emit_message(true, 'cbpx', 'promoted') END;"; then
            case $row in
            wrote*) return 0 ;;
            read-only)
                promoted=yes
                clear_leftover || :
                ;;
            recovery) ;;
            esac
        elif fetch standby plain 'SELECT pg_is_in_recovery();' && [ "$row" = f ]; then
            promoted=yes
        fi
        sleep 0.02
    done
    [ $promoted = yes ] && return 2
    return 1
}

finish() {
    wait_writable
    case $? in
    0) say "done: $standby is the primary and has committed a write" ;;
    # There is no way back and the old primary is fenced: the new one is the better place, whatever is wrong with it.
    2) say "WARNING: $standby is promoted, but has not committed a write yet: $cause" ;;
    *) leave "$standby was told to promote, but is not a primary ($cause)" ;;
    esac
    finished=yes
    tell end 0.01 # no answer is due; the guard has nothing left to undo
    exit 0
}

# The one program that is not on every Linux is psql.
check_programs() {
    local program
    for program in "$PSQL" timeout setsid; do
        type -P -- "$program" >/dev/null && continue
        cause='not found in PATH'
        [[ $program != */* ]] || unreadable "$program" || cause='not executable'
        [ "$program" != "$PSQL" ] || cause+='; install postgresql-client, or set PSQL'
        refuse "cannot run $program as user $user: $cause"
    done
}

main() {
    local limit reserve
    touched=no ordered=no finished=no reader=there
    guard_in='' guard_out='' db_in='' commanded=no
    settings || refuse "$cause"
    case $FENCE in
    readonly) ;;
    stop) [[ -n $FENCE_COMMAND && -n $UNFENCE_COMMAND ]] || refuse 'FENCE=stop needs FENCE_COMMAND and UNFENCE_COMMAND' ;;
    *) refuse "FENCE must be readonly or stop, not '$FENCE'" ;;
    esac
    check_programs
    printf -v limit '%.0f' "${CBPX_SECONDS_LEFT}e6" 2>/dev/null || refuse "CBPX_SECONDS_LEFT is no number: $CBPX_SECONDS_LEFT"
    printf -v reserve '%.0f' "${PROMOTE_RESERVE}e6" 2>/dev/null || refuse "PROMOTE_RESERVE is no number: $PROMOTE_RESERVE"
    deadline=$((began + limit)) give_up=$((began + limit - reserve))
    [[ $QUERY_TIMEOUT =~ ^[1-9][0-9]*$ ]] || refuse "QUERY_TIMEOUT is no whole number of seconds: $QUERY_TIMEOUT"
    [[ $MAX_LAG_BYTES =~ ^[0-9]+$ ]] || refuse "MAX_LAG_BYTES is no whole number: $MAX_LAG_BYTES"
    in_time || refuse "only $CBPX_SECONDS_LEFT s are left and PROMOTE_RESERVE alone is $PROMOTE_RESERVE s (cbpx: -t)"
    trap : PIPE # a reader that is gone is noticed where it matters, before the promotion
    trap 'fail "ended by a signal"' TERM INT HUP
    trap '[ $finished = yes ] || [ $touched = no ] || fail "ended early"' EXIT

    say "start: $active -> $standby, $(left) s left, settings: $settings_file"
    start_guard || guard_session=
    roles || finish
    [ -n "$guard_session" ] || refuse "the guard cannot work on the active $active: $answer"
    check_streaming
    clear_leftover || refuse "$standby would be read-only: $cause"
    fetch active admin 'SELECT pg_current_wal_flush_lsn();' || refuse "cannot query the active $active: $cause"
    wait_replayed "$row" || refuse "not in time: $cause"

    fence
    # This commit flushes all WAL before it, commits made with synchronous_commit=off included.
    fetch active admin "SELECT pg_logical_emit_message(true, 'cbpx', 'fenced'); SELECT pg_current_wal_flush_lsn();" ||
        fail "cannot get the last WAL position of $active: $cause"
    wait_replayed "$row" || fail "not in time: $cause"
    say "replayed: $standby has all of $active ($replayed_to)"
    run_fence_command
    in_time || fail "only $(left) s are left, less than PROMOTE_RESERVE=$PROMOTE_RESERVE"
    [ $reader = there ] || fail 'cbpx is gone'

    say "promoting: $standby, $(left) s left"
    ordered=yes
    tell promote "$(left)"
    case $? in
    0 | 2) finish ;;
    *)
        ordered=no
        fail "cannot promote $standby: $answer"
        ;;
    esac
}

guarding=no
if [ "${1:-}" = --guard ]; then
    guarding=yes
    script=$2
    shift 2
fi
if [ $# != 4 ]; then
    echo 'use: postgresql.sh ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT' >&2
    exit 1
fi
active_host=$1 active_port=$2 standby_host=$3 standby_port=$4
active="$active_host:$active_port" standby="$standby_host:$standby_port"
if [ $guarding = yes ]; then
    # The script has read the same file; this fails only if somebody has changed it since. The script reports the cause.
    settings || { echo "failed $cause" && exit 1; }
    guard "$script"
else
    main
fi
