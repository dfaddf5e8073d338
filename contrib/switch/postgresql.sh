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
# Settings come from a file of shell assignments: $CBPX_POSTGRESQL_ENV, else /etc/cbpx/postgresql.env, else postgresql.env
# beside this script. It is executed: keep it writable by root only.
#   PGUSER, PGPASSFILE, PGDATABASE, PGSSLMODE, ...  as libpq knows them. Defaults here: PGUSER=postgres, PGDATABASE=postgres
#   MAX_LAG_BYTES=16777216  refuse if the standby is further behind than this at the start
#   STANDBY_NAME=           application_name of the standby on the primary, if several standbys go by the same one
#   FENCE=readonly          or `stop`: read-only first, then FENCE_COMMAND must stop the server, UNFENCE_COMMAND start it
#   ALLOW_SYNC_NAMES=no     `yes`: promote although synchronous_standby_names is set on the standby (commits may wait for ever)
#   PSQL=                   psql to use; empty: the newest in /usr/lib/postgresql, else the one in PATH
#
# It needs common.sh beside it, which has the exit statuses, the settings PROMOTE_RESERVE, QUERY_TIMEOUT, FENCE_COMMAND,
# UNFENCE_COMMAND and GUARD_LOG, and the guard: that holds an open connection to the old primary, and an advisory lock there, so that
# a quick second switch waits until it has finished.

# shellcheck source=contrib/switch/common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh" || {
    echo "refused: cannot read common.sh, which must be installed beside ${BASH_SOURCE[0]}; nothing was touched"
    exit 1
}
program=postgresql
by_hand='ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf()'
wrote='committed a write'
lock=1667395704 # "cbpx" in ASCII; any number does that all users of this script share
row=''

prepare() {
    local file
    if [ -z "${PSQL:-}" ]; then
        PSQL=psql
        # Debian's /usr/bin/psql is a Perl script that looks for the real one first: 25 ms each time.
        for file in /usr/lib/postgresql/[1-9][0-9]/bin/psql; do [ ! -x "$file" ] || PSQL=$file; done
    fi
    export PGUSER="${PGUSER:-postgres}" PGDATABASE="${PGDATABASE:-postgres}"
    MAX_LAG_BYTES=${MAX_LAG_BYTES:-16777216} FENCE=${FENCE:-readonly}
    STANDBY_NAME=${STANDBY_NAME:-} ALLOW_SYNC_NAMES=${ALLOW_SYNC_NAMES:-no}
    case $FENCE in
    readonly) ;;
    stop)
        cause='FENCE=stop needs FENCE_COMMAND and UNFENCE_COMMAND'
        [[ -n $FENCE_COMMAND && -n $UNFENCE_COMMAND ]] || return 1
        ;;
    *)
        cause="FENCE must be readonly or stop, not '$FENCE'"
        return 1
        ;;
    esac
    is_whole MAX_LAG_BYTES && is_program "$PSQL" 'install postgresql-client, or set PSQL'
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
# The guard's part

# ask SQL: one statement in the guard's open session; the last row, or the cause, in $answer.
ask() {
    hear "$1"$'\n\\echo cbpx-end :ERROR :LAST_ERROR_MESSAGE' || return 1
    answer=${heard##*$'\n'}
    [[ $ending == 'cbpx-end true '* ]] || return 0
    answer=${ending#cbpx-end true }
    return 1
}

connect() {
    coproc SESSION {
        PGOPTIONS="${PGOPTIONS:-} -c client_min_messages=error -c statement_timeout=${QUERY_TIMEOUT}s" \
            PGAPPNAME='cbpx guard' PGCONNECT_TIMEOUT=2 exec "$PSQL" -XqAtw -h "$active_host" -p "$active_port" 2>&1 3>&-
    }
    session_out=${SESSION[0]} session_in=${SESSION[1]}
    ask 'SET idle_session_timeout = 0;' # unknown before PostgreSQL 14
    ask "SELECT pg_advisory_lock($lock);" && ask 'SELECT pg_backend_pid();' && return
    [[ $answer != *'statement timeout'* ]] || answer='another switch still holds its lock'
    return 1
}

disconnect() { { echo '\q' >&"$session_in"; } 2>/dev/null; }

set_fence() { ask 'ALTER SYSTEM SET default_transaction_read_only = on;' && ask 'SELECT pg_reload_conf();'; }

# Through the open session if there still is one: a few milliseconds count here, clients may be on their way.
clear_fence() {
    ask $'ALTER SYSTEM RESET default_transaction_read_only;\nSELECT pg_reload_conf();' && return
    # The session is gone and our lock with it: whoever holds the lock now is responsible for the fence.
    fetch active admin "SELECT pg_advisory_lock($lock); ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();"
}

promote() {
    fetch standby admin "SELECT 'connected'; SELECT pg_promote(false);"
    answer=$cause
    case $cause in
    'connected / t') return 0 ;;
    # The server itself says that it did nothing; but a statement that was cut off may have done it.
    'connected / f' | *connected*ERROR:*)
        [[ $cause == *cancel* ]] && return 2
        return 1
        ;;
    *connected*) return 2 ;;
    *) return 1 ;; # never got in
    esac
}

# ---------------------------------------------------------------------------------------------------------------------

takes_writes() { fetch active plain "SELECT current_setting('default_transaction_read_only');" && [ "$row" = off ]; }
is_promoted() { fetch standby plain 'SELECT pg_is_in_recovery();' && [ "$row" = f ]; }

# Which of the two is what. Sets a_role and s_role to primary, fenced (a primary that is read-only), standby or down.
roles() {
    local sql="SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' WHEN current_setting('default_transaction_read_only') = 'on'
        THEN 'fenced' ELSE 'primary' END, system_identifier, split_part(current_setting('server_version'), ' ', 1) FROM pg_control_system();"
    local a_id=- s_id=- a_role=down s_role=down a_cause='' s_cause=''
    if fetch active plain "$sql"; then IFS='|' read -r a_role a_id version <<<"$row"; else a_cause=$cause; fi
    if fetch standby plain "$sql"; then IFS='|' read -r s_role s_id _ <<<"$row"; else s_cause=$cause; fi
    [ "$s_role" = down ] || [ "$a_role" = down ] || [ "$a_id" = "$s_id" ] ||
        refuse "$active and $standby are different clusters ($a_id, $s_id)"
    judge_roles "$a_role" "$s_role" "$(with_hint "$a_cause")" "$(with_hint "$s_cause")"
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

inspect() {
    check_streaming
    clear_leftover || refuse "$standby would be read-only: $cause"
    fetch active admin 'SELECT pg_current_wal_flush_lsn();' || refuse "cannot query the active $active: $cause"
    wait_replayed "$row" || refuse "not in time: $cause"
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

verify_fence() {
    local verified ended=0
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

catch_up() {
    # This commit flushes all WAL before it, commits made with synchronous_commit=off included.
    fetch active admin "SELECT pg_logical_emit_message(true, 'cbpx', 'fenced'); SELECT pg_current_wal_flush_lsn();" ||
        fail "cannot get the last WAL position of $active: $cause"
    wait_replayed "$row" || return 1
    say "replayed: $standby has all of $active ($replayed_to)"
}

commanded() {
    if [ "$FENCE" = stop ]; then
        ! fetch active plain 'SELECT 1;' || fail "$active still answers after FENCE_COMMAND"
        wait_replayed received || fail "$cause"
        say "stopped: $active no longer answers, $standby has replayed all it received ($replayed_to)"
    else
        say 'fenced: FENCE_COMMAND done'
    fi
}

# Waits until an ordinary session has written and committed. The message is a WAL record that changes no data.
wait_writable() {
    local promoted=no
    while in_time; do
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

switch_main "$@"
