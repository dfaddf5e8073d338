#!/usr/bin/env bash
# Switch script for MariaDB 10.5 and later with GTID replication (10.11 tested; not MySQL), to be used as it is:
#   cbpx -x /usr/local/lib/cbpx/mariadb.sh     with common.sh beside it, which says how every switch script works
#
#   mariadb.sh ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT
#
# The fence is read_only=1, which refuses the writes of every ordinary account, also the commit of a transaction begun before; and,
# until the standby is promoted, a global read lock (FLUSH TABLES WITH READ LOCK) of the guard's session, because accounts with
# READ ONLY ADMIN (or, up to 10.10, SUPER) write in spite of read_only. All other sessions are ended. The standby has
# everything when its gtid_slave_pos equals the gtid_binlog_pos the primary had after that. With REJOIN=yes the old primary
# becomes its replica at once, and `switch` again goes back.
#
# Settings besides those of common.sh, from $CBPX_MARIADB_ENV, else /etc/cbpx/mariadb.env, else mariadb.env beside this script:
#   MARIADB_CNF=            option file of the client ([client] user, password, ssl-ca, ...); the password belongs there
#   MARIADB_USER=           who connects to both servers; empty: as the option file says
#   MARIADB=mariadb         the client
#   MAX_LAG_SECONDS=10      refuse if the standby is further behind than this at the start
#   ALLOW_FILTERS=no        `yes`: promote although the standby does not replicate everything (Replicate_Ignore_DB, ...)
#   PROBE_SQL='FLUSH HOSTS' the write that the new primary must have committed; it must do no harm when it is repeated
#   REJOIN=no               `yes`: the old primary becomes a replica of the new one; `no`: it stays read-only
#   REPLICATION_USER=, REPLICATION_PASSWORD=   for REJOIN=yes: with what the old primary connects to the new one
#   REJOIN_OPTIONS=         more of CHANGE MASTER TO, say: MASTER_SSL=1, MASTER_HEARTBEAT_PERIOD=5

# shellcheck source=contrib/switch/common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/common.sh" || {
    echo "refused: cannot read common.sh, which must be installed beside ${BASH_SOURCE[0]}; nothing was touched"
    exit 1
}
program=mariadb
by_hand='SET GLOBAL read_only = 0'
position='' channel=''
read_only='SELECT CONCAT(@@global.read_only);' # OFF, ON, or the name of a stricter one

prepare() {
    MARIADB=${MARIADB:-mariadb} MARIADB_CNF=${MARIADB_CNF:-} MARIADB_USER=${MARIADB_USER:-}
    MAX_LAG_SECONDS=${MAX_LAG_SECONDS:-10} ALLOW_FILTERS=${ALLOW_FILTERS:-no} PROBE_SQL=${PROBE_SQL:-FLUSH HOSTS}
    REJOIN=${REJOIN:-no} REJOIN_OPTIONS=${REJOIN_OPTIONS:-}
    REPLICATION_USER=${REPLICATION_USER:-} REPLICATION_PASSWORD=${REPLICATION_PASSWORD:-}
    client=("$MARIADB")
    if [ -n "$MARIADB_CNF" ]; then
        if unreadable "$MARIADB_CNF"; then
            cause="cannot read the option file $MARIADB_CNF as user $user: $cause"
            return 1
        fi
        client+=("--defaults-extra-file=$MARIADB_CNF")
    fi
    client+=(--protocol=tcp --connect-timeout=2 --skip-reconnect -NBrn)
    [ -z "$MARIADB_USER" ] || client+=("--user=$MARIADB_USER")
    if [ "$REJOIN" = yes ] && [ -z "$REPLICATION_USER" ]; then
        cause='REJOIN=yes needs REPLICATION_USER and REPLICATION_PASSWORD'
        return 1
    fi
    is_whole MAX_LAG_SECONDS && is_yes_or_no ALLOW_FILTERS && is_yes_or_no REJOIN &&
        is_program "$MARIADB" 'install mariadb-client, or set MARIADB'
}

quoted() {
    local text=${1//\\/\\\\}
    printf "'%s'" "${text//\'/\'\'}"
}

# fetch SIDE SQL [OPTION...]: every statement by itself, until one fails; what it printed in $out, the last row in $row, or false
# and the cause in $cause.
fetch() {
    local side=$1 sql=$2 host=$active_host port=$active_port status
    shift 2
    [ "$side" = active ] || host=$standby_host port=$standby_port
    out=$(timeout --foreground -s KILL "$(patience)" "${client[@]}" --host="$host" --port="$port" "$@" 2>&1 \
        <<<"SET SESSION max_statement_time=$QUERY_TIMEOUT, lock_wait_timeout=$QUERY_TIMEOUT; $sql")
    status=$?
    row=${out##*$'\n'}
    cause=$(one_line "${out:-no answer in time}")
    # An error is shown with the statement above it.
    [[ $cause != *ERROR\ * ]] || cause="ERROR ${cause##*ERROR }"
    return $status
}

# replication SIDE: the row of its only replication connection, into the map `fact`; their number in $connections.
declare -A fact
replication() {
    local line name value
    fetch "$1" 'SHOW ALL SLAVES STATUS;' --column-names --vertical || return 1
    fact=() connections=0
    while IFS= read -r line; do
        [[ $line != *'. row **'* ]] || connections=$((connections + 1))
        name=${line%%:*}
        value=${line#*:}
        [ "$name" = "$line" ] || fact[${name//[[:space:]]/}]=${value# }
    done <<<"$out"
}

# ---------------------------------------------------------------------------------------------------------------------
# The guard's part

# ask SQL: statements in the guard's open session; the last row, or the error, in $answer.
ask() {
    hear "$1"$'\n'"SELECT 'cbpx-end';" || return 1
    answer=${heard##*$'\n'}
    [[ $'\n'$heard != *$'\nERROR '* ]] && return
    answer=$(one_line "ERROR ${heard##*$'\n'ERROR }")
    return 1
}

# Should this machine vanish, the server ends the session, and its locks, after 60 s without a word (see keep_alive).
connect() {
    coproc SESSION {
        exec "${client[@]}" --force --host="$active_host" --port="$active_port" 2>&1 3>&-
    }
    session_out=${SESSION[0]} session_in=${SESSION[1]}
    ask "SET SESSION lock_wait_timeout=$QUERY_TIMEOUT, wait_timeout=60; SELECT GET_LOCK('cbpx', $QUERY_TIMEOUT);" || return 1
    [ "$answer" = 1 ] || { answer='another switch still holds its lock' && return 1; }
    ask 'SELECT CONNECTION_ID();' || return 1
    guard_session=$answer
}

disconnect() { session_in=''; }
keep_alive() { ask 'SELECT 1;'; }

# end_others [BEFORE]: ends all sessions of clients but ours, or those with an id below BEFORE, and counts them in $ended. That a
# session has gone by then is no error.
end_others() {
    local id kills='' own=${guard_session:-0}
    fetch active "SELECT id FROM information_schema.processlist WHERE id NOT IN (CONNECTION_ID(), $own) AND id < ${1:-~0}
        AND command NOT IN ('Binlog Dump', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker')
        AND user NOT IN ('system user', 'event_scheduler');" || return 1
    ended=0
    for id in $out; do
        kills+="KILL CONNECTION $id;"
        ended=$((ended + 1))
    done
    [ -z "$kills" ] || fetch active "$kills" --force || :
}

# A statement that runs would keep the lock waiting; its session ends first, like every other.
set_fence() {
    local count
    end_others || { answer=$cause && return 1; }
    count=$ended
    ask 'FLUSH TABLES WITH READ LOCK;' && ask 'SET GLOBAL read_only=1;' && answer=$count
}

clear_fence() {
    ask 'SET GLOBAL read_only=0; UNLOCK TABLES;' && return
    # The session is gone, or the server does not know that yet: its read lock would hold. Whoever has our lock now is
    # responsible for the fence.
    [ -z "$guard_session" ] || fetch active "KILL CONNECTION $guard_session;"
    fetch active "SELECT GET_LOCK('cbpx', $QUERY_TIMEOUT); SET GLOBAL read_only=0;"
}

# The client sends a statement when the one before has been answered, so that what was printed tells how far it got.
promote() {
    # The read lock ends with the session that holds it, and with it the certainty that nobody has written.
    if ! ask "SELECT IS_USED_LOCK('cbpx') = CONNECTION_ID();" || [ "$answer" != 1 ]; then
        answer="the session that holds the read lock on $active is lost ($answer)"
        return 1
    fi
    find_channel
    stopped=yes
    if fetch standby "STOP SLAVE $channel; SELECT 'stopped'; SET GLOBAL read_only=0; SELECT 'promoted';"; then return 0; fi
    answer=$cause
    case $out in
    *promoted*) return 0 ;;
    # SET itself said no; a statement that was cut off may have done it.
    *stopped*'ERROR 1969'* | *stopped*'ERROR 20'*) return 2 ;;
    *stopped*ERROR*) return 1 ;;
    *stopped*) return 2 ;;
    *) return 1 ;;
    esac
}

find_channel() {
    channel="''"
    ! replication standby || [ "$connections" != 1 ] || channel=$(quoted "${fact[Connection_name]:-}")
}

stopped=no
restore() {
    [ $stopped = yes ] || return 0
    fetch standby "START SLAVE $channel;" || note "START SLAVE on $standby failed: $cause"
}

# Sessions that wait for the read lock would write as soon as it is gone: they end.
release() {
    end_others
    ask 'UNLOCK TABLES;'
}

# ---------------------------------------------------------------------------------------------------------------------

takes_writes() {
    fetch active "$read_only" || return 1
    cause="read_only is still $row"
    [ "$row" = OFF ]
}

is_promoted() {
    fetch standby "$read_only" && [ "$row" = OFF ] && replication standby && ! is_running
}

is_running() { [[ ${fact[Slave_IO_Running]:-No} != No || ${fact[Slave_SQL_Running]:-No} != No ]]; }

# role_of SIDE: primary, fenced, standby, writable (a replica that is not read-only) or down in $role.
role_of() {
    local closed
    role=down version=''
    fetch "$1" "SELECT CONCAT_WS('|', @@global.read_only, VERSION());" || return
    IFS='|' read -r closed version <<<"$row"
    [[ $version == *MariaDB* ]] || refuse "${!1} is no MariaDB server, but $version"
    replication "$1" || return
    case "$closed $connections" in
    'OFF 0') role=primary ;;
    OFF*) if is_running; then role=writable; else role=primary; fi ;;
    *' 0') role=fenced ;;
    *) role=standby ;;
    esac
}

roles() {
    local role a_role s_role a_cause s_cause version
    role_of active
    a_role=$role a_cause=$cause
    role_of standby
    s_role=$role s_cause=$cause
    [ "$s_role" != writable ] || refuse "the standby $standby is not read_only: clients could write there (SET GLOBAL read_only=1, and in my.cnf)"
    [ "$a_role" != writable ] || refuse "the active $active is itself a replica: a ring, or a chain, is not supported"
    judge_roles "$a_role" "$s_role" "$a_cause" "$s_cause"
}

# same_position A B: whether every GTID of A is the one B has for its domain.
same_position() {
    local gtid
    for gtid in ${1//,/ }; do
        [[ ",$2," == *",$gtid,"* ]] || return 1
    done
}

inspect() {
    local server binlog version s_server s_binlog current updates key n lag
    fetch active "SELECT CONCAT_WS('|', @@server_id, @@log_bin, VERSION());" || refuse "cannot query the active $active: $cause"
    IFS='|' read -r server binlog version <<<"$row"
    fetch standby "SELECT CONCAT_WS('|', @@server_id, @@log_bin, @@log_slave_updates, @@gtid_current_pos);" ||
        refuse "cannot query the standby $standby: $cause"
    IFS='|' read -r s_server s_binlog updates current <<<"$row"
    [ "$binlog" = ON ] || refuse "the active $active has no binary log (log_bin)"
    [ "$s_binlog$updates" = ONON ] || refuse "the standby $standby needs log_bin and log_slave_updates, or nobody can follow it"
    replication standby || refuse "cannot query the standby $standby: $cause"
    [ "$connections" = 1 ] || refuse "the standby $standby has $connections replication connections; it must have one"
    [ "${fact[Slave_IO_Running]}" = Yes ] ||
        refuse "the standby $standby is not connected to its primary (Slave_IO_Running: ${fact[Slave_IO_Running]}) ${fact[Last_IO_Error]}"
    [ "${fact[Slave_SQL_Running]}" = Yes ] ||
        refuse "the standby $standby does not apply what it gets (Slave_SQL_Running: ${fact[Slave_SQL_Running]}) ${fact[Last_SQL_Error]}"
    [ "${fact[Using_Gtid]}" != No ] || refuse "the standby $standby does not use GTID: CHANGE MASTER TO MASTER_USE_GTID=slave_pos"
    [ "${fact[Master_Server_Id]}" = "$server" ] ||
        refuse "the standby $standby follows server ${fact[Master_Server_Id]} (${fact[Master_Host]}:${fact[Master_Port]}), not $active, which is $server"
    for key in "${!fact[@]}"; do
        [[ $key != Replicate_* || $key == Replicate_Ignore_Server_Ids || $key == Replicate_Rewrite_DB || -z ${fact[$key]} ||
            $ALLOW_FILTERS == yes ]] ||
            refuse "the standby $standby does not replicate everything: $key=${fact[$key]} (see ALLOW_FILTERS)"
    done
    lag=${fact[Seconds_Behind_Master]}
    [[ $lag =~ ^[0-9]+$ ]] || refuse "the standby $standby does not know how far it is behind (Seconds_Behind_Master: $lag)"
    ((lag <= MAX_LAG_SECONDS)) || refuse "the standby $standby is $lag s behind, more than MAX_LAG_SECONDS=$MAX_LAG_SECONDS"
    # A server registers with the one it follows: two pairs may use the same ids, but not at the same address.
    fetch active 'SHOW SLAVE HOSTS;' || refuse "cannot query the active $active: $cause"
    n=$(cut -f1 <<<"$out" | grep -cx "$s_server")
    [ "$n" = 1 ] || refuse "the active $active has $n replicas with the server_id $s_server of $standby"
    # gtid_current_pos takes from its own log only what it has written as a primary: nothing newer than it has replicated.
    fetch standby 'SELECT @@gtid_slave_pos;' || refuse "cannot query the standby $standby: $cause"
    for key in ${current//,/ }; do
        [[ $key != *-"$s_server"-* || ",$row," == *",$key,"* ]] ||
            refuse "the standby $standby has a transaction of its own, $key, which $active has not"
    done
    say "check: $active is the primary ($version), $standby its replica, connected, $lag s behind"
    fetch active 'SELECT @@gtid_binlog_pos;' || refuse "cannot query the active $active: $cause"
    reach "$row" || refuse "not in time: $cause"
}

# reach POSITION: waits until the standby has applied all of it.
reach() {
    local told=${EPOCHREALTIME/./} want=$1
    while fetch standby "SELECT MASTER_GTID_WAIT('$want', 0.1); SELECT @@gtid_slave_pos;"; do
        position=$row
        [[ $out != 0* ]] || return 0
        cause="$standby has applied up to $position, not $want"
        in_time || return 1
        if ((${EPOCHREALTIME/./} - told > 1000000)); then
            say "waiting: $cause"
            told=${EPOCHREALTIME/./}
        fi
    done
    return 1
}

# Nobody can write now: not an ordinary account, because of read_only, nor any other, because of the guard's lock. Ended
# are the sessions that were there before; their number grows by those that came between.
verify_fence() {
    local ended count=$answer before
    fetch active "$read_only" || fail "cannot query the fenced $active: $cause"
    [ "$row" != OFF ] || fail "the fence on $active has no effect: read_only is $row"
    fetch active 'SELECT CONNECTION_ID();' || fail "cannot query the fenced $active: $cause"
    before=$row
    while end_others "$before"; do
        [ "$ended" != 0 ] || break
        in_time || fail "$ended clients of $active do not end"
        sleep 0.02
    done
    [ "${ended:-x}" = 0 ] || fail "cannot end the other clients of $active: $cause"
    say "fenced: $active is read-only, $count direct clients ended"
}

# Equal, not only as far: a standby with another history would be found out here at the latest.
catch_up() {
    fetch active 'SELECT @@gtid_binlog_pos;' || fail "cannot get the last position of $active: $cause"
    local want=$row
    reach "$want" || return 1
    same_position "$want" "$position" || fail "$standby has $position, but $active $want: they have different histories"
    say "replicated: $standby has all of $active ($want)"
}

wait_writable() {
    local promoted=no
    while in_time; do
        if is_promoted; then
            promoted=yes
            fetch standby "$PROBE_SQL;" && return 0
        fi
        sleep 0.02
    done
    [ $promoted = yes ] && return 2
    return 1
}

settle() {
    local until=$((${EPOCHREALTIME/./} + 1000000)) error=''
    # Else it would follow the old primary again after a restart.
    find_channel
    replication standby && [ "$connections" = 0 ] || fetch standby "RESET SLAVE $channel ALL;" ||
        say "WARNING: $standby would follow $active again after a restart: $cause; do: RESET SLAVE ALL"
    [ "$REJOIN" = yes ] || return 0
    if ! replication active; then
        say "WARNING: $active cannot follow $standby: $cause"
        return
    fi
    if ! is_running && ! fetch active "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL gtid_slave_pos=@@gtid_current_pos;
            CHANGE MASTER TO MASTER_HOST=$(quoted "$standby_host"), MASTER_PORT=$standby_port, MASTER_USER=$(quoted "$REPLICATION_USER"),
            MASTER_PASSWORD=$(quoted "$REPLICATION_PASSWORD"), MASTER_USE_GTID=slave_pos${REJOIN_OPTIONS:+, $REJOIN_OPTIONS}; START SLAVE;"; then
        say "WARNING: $active cannot follow $standby: ${cause//"$REPLICATION_PASSWORD"/***}"
        return
    fi
    while in_time && replication active; do
        if [ "${fact[Slave_IO_Running]:-}${fact[Slave_SQL_Running]:-}" = YesYes ]; then
            say "rejoined: $active is a replica of $standby"
            return
        fi
        error=${fact[Last_IO_Error]:-}${fact[Last_SQL_Error]:-}
        ((${EPOCHREALTIME/./} < until)) || break
        sleep 0.02
    done
    say "WARNING: $active is told to follow $standby, but is not connected yet: ${error:-see SHOW SLAVE STATUS there}"
}

switch_main "$@"
