# shellcheck shell=bash
# What the switch scripts in this folder share: progress lines, settings, time limits, the guard, and the order of the steps.
# It is sourced by them, not run, and must be installed beside them.
#
# A switch script is run as  SCRIPT.sh ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT  when the last client connection has
# ended; cbpx holds all new ones meanwhile. Every script
#   1. refuses, before anything is touched, unless ACTIVE is the primary and STANDBY its replica, little behind;
#   2. fences the old primary: it takes no more writes, its other clients are ended;
#   3. waits until the standby has everything the old primary wrote;
#   4. promotes the standby and waits until it takes writes.
# Whatever fails before the promotion is ordered is undone: the old primary takes writes again. Nothing is undone after it.
#
# Exit status, and where cbpx then sends the clients:
#   0  STANDBY is a primary and takes writes                                  to the new one
#   1  refused, nothing was touched                                           to the old one
#   2  failed, everything was undone                                          to the old one
#   3  failed and NOT undone: the old primary is still fenced, see the text   to the old one, which may refuse writes
#
# Settings of every script, in a file of shell assignments: $CBPX_NAME_ENV (NAME is POSTGRESQL, MARIADB, ...), else
# /etc/cbpx/NAME.env, else NAME.env beside the script. It is executed: keep it writable by root only.
#   PROMOTE_RESERVE=2       seconds that must be left for the promotion; if they are not, it is not begun (and the fence undone)
#   QUERY_TIMEOUT=3         whole seconds for one request, connecting included; so long a second switch waits for the first
#   FENCE_COMMAND=          run (bash -c, $FENCE_HOST and $FENCE_PORT set) once the old primary is fenced and all is replicated
#   UNFENCE_COMMAND=        the opposite, run when the fence is undone
#   GUARD_LOG=              file for the guard's lines, besides syslog (tag cbpx-NAME)
# cbpx gives CBPX_SECONDS_LEFT: seconds until it kills this process group. Without it: 60.
#
# The guard. SIGKILL (cbpx's time limit, `abort`) leaves no time to undo anything, so a second process, in a session of its
# own, is the only one that fences, un-fences and orders the promotion. It does so on words from a pipe. When the pipe ends
# without `end`, it undoes the fence, unless the promotion was already ordered. Until that is done it keeps the script's
# standard output open (descriptor 3), so that whoever killed the script can wait for it: the pipe ends when the guard has
# finished.
#
# A script sets `program` (its NAME in small letters), `by_hand` (how to un-fence by hand) and perhaps `wrote`, defines the functions below and
# calls `switch_main "$@"` last. Each returns 0, or else 1 with the reason in $cause ($answer in those of the guard).
#   prepare        in both processes: the defaults of its own settings; 1 if one is wrong or a program is missing
#   connect        guard: connects to the active and takes the lock that keeps a second switch out; an id in $answer
#   disconnect     guard: the opposite
#   keep_alive     guard: called every 10 s while there is nothing to do
#   set_fence      guard: the active takes no more writes; what it returns in $answer is there for `verify_fence`
#   clear_fence    guard: it takes writes again. May be called again, and without `connect`, by the script itself
#   restore        guard: undoes what `promote` did to the standby before it failed
#   promote        guard: 0 ordered; 1 certainly not done; 2 it may have been done
#   release        guard: drops what only the time between fence and promotion needs
#   takes_writes   whether a new client of the active may write
#   is_promoted    whether the standby is a primary now
#   roles          1 if the standby is the primary already and the rest of an earlier switch is to be done; refuses by itself
#   inspect        refuses by itself unless the standby is fit to be promoted and has caught up
#   verify_fence   the fence works and no older client is left; fails by itself
#   catch_up       waits until the standby has all of the fenced active; says so
#   commanded      called when FENCE_COMMAND has succeeded; fails by itself
#   wait_writable  waits for the first write on the new primary until $give_up: 2 promoted but it takes no write, 1 not promoted
#   settle         what remains once the standby is promoted, say, making the old primary its replica; never fails

set -u
export LC_ALL=C
began=${EPOCHREALTIME/./}
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
program='' by_hand='' cause='' wrote='taken a write'
active_host='' active_port='' standby_host='' standby_port='' active='' standby=''
guarding=no touched=no ordered=no finished=no reader=there fenced=no promoting=no ran_command=no
script='' answer='' guard_session='' guard_in='' guard_out='' session_in='' session_out=''

keep_alive() { :; }
restore() { :; }
release() { :; }
settle() { :; }
commanded() { say 'fenced: FENCE_COMMAND done'; }

# say TEXT: one progress line with the seconds since the start.
say() {
    local t=$((${EPOCHREALTIME/./} - began))
    printf '%d.%03d s  %s\n' $((t / 1000000)) $((t / 1000 % 1000)) "$*" 2>/dev/null || reader=gone
}

# The guard's lines: nobody reads its output, so they go to syslog and, if asked for, to a file.
note() {
    logger -t "cbpx-$program" -- "$active -> $standby: $*" 2>/dev/null
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

in_time() { ((${EPOCHREALTIME/./} < give_up)); }
left() {
    local us=$((deadline - ${EPOCHREALTIME/./}))
    ((us > 0)) || us=0
    printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10))
}

# is_whole NAME: the setting is a whole number; else false and the cause.
is_whole() {
    [[ ${!1} =~ ^[0-9]{1,15}$ ]] && return
    cause="$1 is no whole number: ${!1}"
    return 1
}

# is_yes_or_no NAME
is_yes_or_no() {
    [[ ${!1} =~ ^(yes|no)$ ]] && return
    cause="$1 must be yes or no, not '${!1}'"
    return 1
}

# unreadable FILE: true, and why in $cause, if this user cannot open it.
unreadable() {
    cause=$({ : <"$1"; } 2>&1) && return 1
    cause=${cause##*: }
}

# Reads the settings. False, and why in $cause, if the file is there, or was asked for by name, and cannot be used.
settings() {
    local file variable="CBPX_${program^^}_ENV" given ours
    given=${!variable:-}
    # runuser, su and sudo may leave HOME at another user's directory. Clients look for their files there, and some fail if
    # they may not look; without HOME they take this user's own.
    [ -x "${HOME:-/}" ] || unset HOME
    user=$(id -un 2>/dev/null) || user=$UID
    for file in "$given" "/etc/cbpx/$program.env" "$here/$program.env" ''; do
        [ -n "$file" ] || continue
        if [ -e "$file" ] || [ "$file" = "$given" ]; then break; fi
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
        # A function of the file must not replace one of ours that happens to have the same name.
        ours=$(declare -f)
        set -a +u # a variable the file uses and nobody has set is empty, as in any shell
        # shellcheck source=/dev/null
        . "$file"
        set +a -u
        eval "$ours"
    fi
    if [ -n "${GUARD_LOG:-}" ] && ! cause=$({ : >>"$GUARD_LOG"; } 2>&1); then
        [ $guarding = yes ] || say "note: user $user cannot write GUARD_LOG $GUARD_LOG: ${cause##*: }; the guard reports to syslog only"
        GUARD_LOG=
    fi
    PROMOTE_RESERVE=${PROMOTE_RESERVE:-2} QUERY_TIMEOUT=${QUERY_TIMEOUT:-3} CBPX_SECONDS_LEFT=${CBPX_SECONDS_LEFT:-60}
    FENCE_COMMAND=${FENCE_COMMAND:-} UNFENCE_COMMAND=${UNFENCE_COMMAND:-}
}

# is_program PROGRAM [HINT]: it can be run; else false and the cause.
is_program() {
    type -P -- "$1" >/dev/null && return
    cause='not found in PATH'
    [[ $1 != */* ]] || unreadable "$1" || cause='not executable'
    cause="cannot run $1 as user $user: $cause${2:+; $2}"
    return 1
}

# ---------------------------------------------------------------------------------------------------------------------
# The guard: SCRIPT.sh --guard PID_OF_THE_SCRIPT ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT
# Words in: fence, command, unfence, promote, release, leave, end. One answer line each: the word and `ok`, or
# `failed CAUSE`, or `unknown CAUSE`.

# hear TEXT: sends lines to the guard's open session (session_in, session_out), the last of which makes it print a line that
# begins with `cbpx-end`. Returns that line in $ending and all before it in $heard.
hear() {
    local line
    heard='' ending='' answer='the connection is lost'
    [ -n "$session_in" ] || return 1
    { printf '%s\n' "$1" >&"$session_in"; } 2>/dev/null || return 1
    # The server gives up after QUERY_TIMEOUT; we wait a second longer to hear it say so.
    while IFS= read -r -t $((QUERY_TIMEOUT + 1)) -u "$session_out" line 2>/dev/null; do
        case $line in
        cbpx-end*)
            # shellcheck disable=SC2034 # PostgreSQL's tells whether there was an error
            ending=$line
            return 0
            ;;
        esac
        heard+=${heard:+$'\n'}$line
    done
    answer=$(one_line "${heard:-$answer}")
    return 1
}

# Un-fences and makes sure that a new session may write. A primary that is down gets a minute to come back.
undo() {
    local from=${EPOCHREALTIME/./} cleared=no
    restore
    clear_fence && cleared=yes
    if [ "$ran_command" = yes ] && [ -n "$UNFENCE_COMMAND" ]; then
        FENCE_HOST=$active_host FENCE_PORT=$active_port bash -c "$UNFENCE_COMMAND" </dev/null \
            >>"${GUARD_LOG:-/dev/null}" 2>&1 3>&- || note "UNFENCE_COMMAND failed with status $?"
    fi
    until [ "$cleared" = yes ] && takes_writes; do
        if ((${EPOCHREALTIME/./} - from > 60000000)); then
            answer="$active is STILL FENCED: $cause; do: $by_hand"
            return 1
        fi
        [ "$cleared" = yes ] || { clear_fence && cleared=yes; }
        ((${EPOCHREALTIME/./} - from < 1000000)) || cleared=no
        sleep 0.02
    done
    fenced=no
    local took=$(((${EPOCHREALTIME/./} - from) / 1000))
    # Nobody but this guard should promote. Should somebody have, two writable primaries are worse than one fenced.
    if is_promoted; then
        set_fence
        fenced=yes
        answer="$standby was promoted by somebody else: $active stays fenced"
        return 1
    fi
    answer=$took
}

# The point of no return. The script is asked once more whether it is still there: it may have been killed just now.
# 0: ordered; 1: not done; 2: unknown; 3: nobody is there any more who wants it.
order_promotion() {
    local status
    kill -0 "$script" 2>/dev/null || return 3
    promoting=yes
    promote
    status=$?
    [ $status != 1 ] || promoting=no
    return $status
}

# The script ended after the promotion was ordered and before it was seen to be done: nothing to undo, but somebody must be
# told how it ended.
watch_promotion() {
    local n
    exec 3>&- # nothing will be undone: nobody need wait for it
    for ((n = 0; n < 600; n++)); do
        if is_promoted; then
            release
            note "the script ended after it ordered the promotion: $standby IS the primary now, $active stays fenced;" \
                "type switch again to send the clients there"
            return
        fi
        sleep 0.1
    done
    note "the script ended after it ordered the promotion and $standby is not (seen to be) a primary after a minute" \
        "($cause): $active stays fenced, look at both"
}

# Every answer names its word: one that comes too late is not taken for that to the next word. A script that was killed reads no
# reply: that is no trouble, its end is seen on the other pipe.
reply() { echo "${word:-connect} $*" 2>/dev/null; }

# next_word: the next word in $word; false at the end of the pipe.
next_word() {
    while :; do
        read -r -t 10 word && return
        # Above 128: nothing said for so long. Else the pipe has ended.
        (($? > 128)) || return 1
        keep_alive
    done
}

guard() {
    local word
    trap : HUP INT TERM PIPE # handlers, not ignored: what UNFENCE_COMMAND starts must not inherit deaf ears
    exec 2>>"${GUARD_LOG:-/dev/null}"
    cd / || return
    if connect; then
        reply "ok $answer"
    else
        reply "failed $(one_line "$answer")"
        disconnect
        return
    fi
    while next_word; do
        case $word in
        fence)
            fenced=yes
            if set_fence; then reply "ok $answer"; else reply "failed $answer"; fi
            ;;
        command)
            ran_command=yes
            reply ok
            ;;
        promote)
            order_promotion
            case $? in
            0) reply ok ;;
            1) reply "failed $answer" ;;
            2) reply "unknown $answer" ;;
            *) break ;;
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
        release)
            if release; then reply ok; else reply "failed $answer"; fi
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
    disconnect
}

# ---------------------------------------------------------------------------------------------------------------------
# The script itself: asks, waits, tells.

# tell WORD [SECONDS]: gives the guard a word; its answer is in $answer. 0: ok, 1: failed, 2: it cannot be known.
tell() {
    local kind of='' limit
    limit=${2:-$(patience)}
    answer='the guard is gone'
    { echo "$1" >&"$guard_in"; } 2>/dev/null || return 1
    while [ "$of" != "$1" ]; do
        # A read that fails empties its variables.
        read -r -t "$limit" -u "$guard_out" of answer 2>/dev/null || { answer='the guard gives no answer' && return 2; }
    done
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
    finished=yes
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

start_guard() {
    exec 3>&1
    coproc GUARD {
        exec setsid bash "$0" --guard $$ "$active_host" "$active_port" "$standby_host" "$standby_port" 2>/dev/null
    }
    exec 3>&-
    guard_out=${GUARD[0]} guard_in=${GUARD[1]}
    if read -r -t "$(patience $((QUERY_TIMEOUT + 3)))" -u "$guard_out" _ answer && [ "${answer%% *}" = ok ]; then
        guard_session=${answer#ok}
        guard_session=${guard_session# }
        return 0
    fi
    answer=${answer#failed }
    answer=${answer:-it gives no answer}
    case $answer in *'another switch still holds its lock'*) refuse "another switch still holds its lock on $active" ;; esac
    return 1
}

# judge_roles A S A_CAUSE S_CAUSE: what follows from both roles, each of primary, fenced (a primary that takes no writes), standby
# or down. 1 if the standby is the primary already.
judge_roles() {
    [ "$2" != down ] || refuse "cannot query the standby $standby: $4"
    case "$1 $2" in
    'primary standby') ;;
    'fenced standby') say "note: $active is already read-only (a fence left by an earlier run, or set by hand)" ;;
    'down standby') refuse "cannot query the active $active: $3" ;;
    'standby standby') refuse "neither $active nor $standby is a primary" ;;
    'primary primary') refuse "SPLIT BRAIN: $active and $standby are both writable primaries; stop one of them" ;;
    'primary fenced') refuse "SPLIT BRAIN: $active and $standby are both primaries ($standby is read-only)" ;;
    *)
        say "check: $standby is a primary already ($active: $1); finishing an earlier switch"
        return 1
        ;;
    esac
}

raise_fence() {
    touched=yes
    tell fence "$(patience $((QUERY_TIMEOUT * 3)))" || fail "cannot fence $active: $answer"
    verify_fence
}

run_fence_command() {
    [ -n "$FENCE_COMMAND" ] || return 0
    tell command || fail "FENCE_COMMAND not run: $answer"
    FENCE_HOST=$active_host FENCE_PORT=$active_port timeout --foreground -s KILL "$(patience 3600)" \
        bash -c "$FENCE_COMMAND" </dev/null || fail "FENCE_COMMAND failed with status $?"
    commanded
}

finish() {
    ordered=yes
    give_up=$((deadline - 200000))
    wait_writable
    case $? in
    0) say "done: $standby is the primary and has taken a write" ;;
    # There is no way back and the old primary is fenced: the new one is the better place, whatever is wrong with it.
    2) say "WARNING: $standby is promoted, but has not $wrote yet: $cause" ;;
    *) leave "$standby was told to promote, but is not a primary ($cause)" ;;
    esac
    # From here on nothing can fail: an end by a signal must not turn success into failure.
    trap '' TERM INT HUP
    finished=yes
    [ -z "$guard_session" ] || tell release
    settle
    tell end 0.01 # no answer is due; the guard has nothing left to undo
    exit 0
}

main() {
    local limit reserve
    settings || refuse "$cause"
    is_program timeout || refuse "$cause"
    is_program setsid || refuse "$cause"
    printf -v limit '%.0f' "${CBPX_SECONDS_LEFT}e6" 2>/dev/null || refuse "CBPX_SECONDS_LEFT is no number: $CBPX_SECONDS_LEFT"
    printf -v reserve '%.0f' "${PROMOTE_RESERVE}e6" 2>/dev/null || refuse "PROMOTE_RESERVE is no number: $PROMOTE_RESERVE"
    deadline=$((began + limit)) give_up=$((began + limit - reserve))
    [[ $QUERY_TIMEOUT =~ ^[1-9][0-9]*$ ]] || refuse "QUERY_TIMEOUT is no whole number of seconds: $QUERY_TIMEOUT"
    prepare || refuse "$cause"
    in_time || refuse "only $CBPX_SECONDS_LEFT s are left and PROMOTE_RESERVE alone is $PROMOTE_RESERVE s (cbpx: -t)"
    trap : PIPE # a reader that is gone is noticed where it matters, before the promotion
    trap 'fail "ended by a signal"' TERM INT HUP
    trap '[ $finished = yes ] || [ $touched = no ] || fail "ended early"' EXIT

    say "start: $active -> $standby, $(left) s left, settings: $settings_file"
    start_guard || guard_session=
    roles || finish
    [ -n "$guard_session" ] || refuse "the guard cannot work on the active $active: $answer"
    inspect

    raise_fence
    catch_up || fail "not in time: $cause"
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

switch_main() {
    if [ "${1:-}" = --guard ]; then
        guarding=yes
        script=$2
        shift 2
    fi
    if [ $# != 4 ]; then
        echo "use: $program.sh ACTIVE_HOST ACTIVE_PORT STANDBY_HOST STANDBY_PORT" >&2
        exit 1
    fi
    active_host=$1 active_port=$2 standby_host=$3 standby_port=$4
    active="$active_host:$active_port" standby="$standby_host:$standby_port"
    if [ $guarding = yes ]; then
        # The script has read the same file; this fails only if somebody has changed it since. The script reports the cause.
        { settings && prepare; } || { reply "failed $cause" && exit 1; }
        guard
    else
        main
    fi
}
