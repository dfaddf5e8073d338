//! The words of balance 3.54: backends are channels, counted within their group from 0. Any prefix of a word will do, but
//! for `kill`; the table's order says whose prefix it is. What cannot be carried out changes nothing.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::Desk;
use super::session::Speech;
use super::table::Verdict;
use super::terminal::Terminal;
use crate::config::{Failover, Policy};
use crate::core::msg::{Answer, BackendView, Change, Command, EndpointId, GroupId, Unchanged, UpstreamId};
use crate::endpoint::{self, Address, Endpoint};
use crate::engine::inbox::Outlet;
use crate::engine::resolve::Unlearned;

/// The line with which a shell begins: the session is kept open then, and asks for one command after the other.
pub const SHELL: &str = "-i";
/// The answer to `kill` when it did not work.
pub const STOP_FAILED: &str = "shutdown failed.";
const SYNTAX: &str = "syntax error";
const OUT_OF_RANGE: &str = "value out of range";
const UNKNOWN_CHANNEL: &str = "unknown channel";
const BAD_ADDRESS: &str = "invalid address";
const ENDING: &str = "too late: the program is ending";

const GROUPS: i64 = 16;
/// Of one group.
const CHANNELS: usize = 64;
/// Bytes of a line at the prompt.
const LONGEST: usize = 127;
/// How long the listeners may take to close.
const STOPPING: Duration = Duration::from_secs(5);

/// One session.
#[derive(Debug)]
pub struct Talk {
    /// The current one.
    group: usize,
    /// There is a prompt.
    shell: bool,
    hash_failover: Failover,
}

type Said = io::Result<()>;
type Run = fn(&mut Talk, &Desk, &[i64], &[&str], &mut Terminal<'_>) -> Said;

/// A word. It is given its arguments twice: as numbers, and as they were typed.
struct Row {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: Run,
}

/// All words, in the order in which their prefixes are looked for.
const ROWS: &[Row] = &[
    Row { name: "quit", arguments: "", help: "leave the shell", run: quit },
    Row { name: "show", arguments: "", help: "show all channels and their counters", run: show },
    Row { name: "help", arguments: "", help: "list the commands", run: help },
    Row { name: "?", arguments: "", help: "the same", run: help },
    Row { name: KILL, arguments: "", help: "stop accepting; the whole word is needed", run: kill },
    Row { name: "disable", arguments: "N", help: "give channel N no more clients", run: disable },
    Row { name: "group", arguments: "G", help: "make group G the current one", run: group },
    Row { name: "reset", arguments: "N", help: "count sent, rcvd and totalc of channel N from 0", run: reset },
    Row { name: "enable", arguments: "N", help: "give channel N clients again", run: enable },
    Row { name: "create", arguments: "HOST PORT", help: "a new channel, disabled", run: create },
    Row {
        name: "assign",
        arguments: "N HOST PORT",
        help: "move the disabled channel N to another server",
        run: assign,
    },
    Row { name: "maxc", arguments: "N M", help: "channel N gets at most M clients at once; 0: any number", run: maxc },
    Row { name: "mrtg-bytes", arguments: "G N", help: "bytes of a channel, for MRTG", run: mrtg_bytes },
    Row { name: "mrtg-conns", arguments: "G N", help: "connections of a channel, for MRTG", run: mrtg_conns },
    Row { name: "version", arguments: "", help: "show the version and the limits", run: version },
    Row { name: "hash", arguments: "", help: "the current group goes by the client's address", run: hash },
    Row { name: "rr", arguments: "", help: "the channels of the current group take turns", run: round_robin },
];

/// Ends the service for everybody, so a slip of the finger is not enough.
const KILL: &str = "kill";

fn find(word: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| if row.name == KILL { word == KILL } else { row.name.starts_with(word) })
}

impl Talk {
    pub fn new(hash_failover: Failover) -> Talk {
        Talk { group: 0, shell: false, hash_failover }
    }

    fn obey(&mut self, desk: &Desk, line: &str, terminal: &mut Terminal<'_>) -> Said {
        let mut words = line.split_whitespace();
        let Some(word) = words.next() else { return Ok(()) };
        if word == SHELL && !self.shell {
            return self.open_shell(terminal);
        }
        let arguments: Vec<&str> = words.collect();
        let row = find(word).filter(|row| arguments.len() >= row.arguments.split_whitespace().count());
        match row.filter(|_| !self.shell || line.len() <= LONGEST) {
            Some(row) => {
                let numbers: Vec<i64> = arguments.iter().map(|argument| leading_number(argument)).collect();
                (row.run)(self, desk, &numbers, &arguments, terminal)
            }
            None => terminal.line(SYNTAX),
        }
    }

    fn open_shell(&mut self, terminal: &mut Terminal<'_>) -> Said {
        self.shell = true;
        terminal.keep_open = true;
        let pid = std::process::id();
        terminal.line(&format!("balance 3.54, master process {pid}: 'help' lists the commands, 'quit' leaves"))
    }

    fn current(&self) -> GroupId {
        GroupId { upstream: UpstreamId(0), index: self.group }
    }

    /// The channel of the current group.
    fn channel(&self, desk: &Desk, number: i64) -> Option<BackendView> {
        channel(desk, self.group as i64, number)
    }
}

impl Speech for Talk {
    fn prompt(&self) -> String {
        format!("balance[{}] ", self.group)
    }

    fn run(&mut self, desk: &Desk, line: &str, terminal: &mut Terminal<'_>) -> io::Result<Verdict> {
        // Whatever was answered, the question was understood.
        self.obey(desk, line, terminal).map(|()| Verdict::Done)
    }
}

/// What atoi(3) makes of it: a number may be followed by anything, and anything else is 0.
fn leading_number(text: &str) -> i64 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number = if end == 0 { 0 } else { digits[..end].parse().unwrap_or(i64::MAX) };
    if negative { -number } else { number }
}

/// All channels, group by group.
fn survey(outlet: &Outlet) -> Vec<BackendView> {
    let views = outlet.survey().recv().unwrap_or_default();
    views.into_iter().filter(|view| view.group.upstream == UpstreamId(0)).collect()
}

fn channel(desk: &Desk, group: i64, number: i64) -> Option<BackendView> {
    let is = |index: usize, wanted: i64| i64::try_from(index).is_ok_and(|index| index == wanted);
    survey(&desk.outlet).into_iter().find(|view| is(view.group.index, group) && is(view.number, number))
}

fn quit(_: &mut Talk, _: &Desk, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    terminal.leaving = true;
    Ok(())
}

fn help(_: &mut Talk, _: &Desk, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    terminal.line("commands (any prefix will do, but for kill; N: a channel of the current group):")?;
    for row in ROWS {
        terminal.line(&format!("  {:<22}{}", format!("{} {}", row.name, row.arguments), row.help))?;
    }
    Ok(())
}

fn version(_: &mut Talk, _: &Desk, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    terminal.line("  This is balance 3.54")?;
    terminal.line(&format!("  MAXGROUPS={GROUPS}"))?;
    terminal.line(&format!("  MAXCHANNELS={CHANNELS}"))
}

fn show(_: &mut Talk, desk: &Desk, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    terminal.line(&Shown::head().line())?;
    for view in survey(&desk.outlet) {
        terminal.line(&Shown::of(desk, &view).line())?;
    }
    Ok(())
}

/// The columns of `show`: scripts cut them out by position.
struct Shown([String; 11]);

impl Shown {
    fn head() -> Shown {
        let names = ["GRP", "Type", "#", "S", "ip-address", "port", "c", "totalc", "maxc", "sent", "rcvd"];
        Shown(names.map(str::to_owned))
    }

    fn of(desk: &Desk, view: &BackendView) -> Shown {
        let (host, port) = place(&desk.addresses.of(view.id));
        let kind = match view.policy {
            Policy::ClientHash => "Hash",
            Policy::RoundRobin | Policy::InOrder | Policy::Least(_) => "RR",
        };
        let totals = &view.totals;
        Shown([
            view.group.index.to_string(),
            kind.to_owned(),
            view.number.to_string(),
            if view.enabled { "ENA" } else { "dis" }.to_owned(),
            host,
            port,
            view.granted.to_string(),
            totals.attempts.to_string(),
            view.limit.unwrap_or(0).to_string(),
            totals.up.to_string(),
            totals.down.to_string(),
        ])
    }

    fn line(&self) -> String {
        let [group, kind, number, state, host, port, now, total, limit, sent, received] = &self.0;
        format!(
            "{group:>3} {kind:>4} {number:>2} {state:>3} {host:>16} {port:>5} {now:>4} {total:>11} {limit:>4} \
             {sent:>11} {received:>11}"
        )
    }
}

/// Where a channel is: of a name's addresses an IPv4 one if there is any.
fn place(addresses: &[Address]) -> (String, String) {
    let tcp = |address: &Address| match address {
        Address::Tcp(tcp) => Some(*tcp),
        Address::Unix(_) => None,
    };
    let found: Vec<_> = addresses.iter().filter_map(tcp).collect();
    let best = found.iter().find(|address| matches!(address.ip(), IpAddr::V4(_))).or(found.first());
    best.map(|address| (address.ip().to_string(), address.port().to_string())).unwrap_or_default()
}

/// Asks for a change, and says what became of it.
fn change(desk: &Desk, change: Change, terminal: &mut Terminal<'_>, words: impl FnOnce(Answer) -> String) -> Said {
    match desk.ask(Command::Change(change)) {
        Some(Answer::TooLate) | None => terminal.line(ENDING),
        Some(answer) => terminal.line(&words(answer)),
    }
}

fn disable(talk: &mut Talk, desk: &Desk, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let number = numbers[0];
    let Some(view) = talk.channel(desk, number) else { return no_such(number, terminal) };
    change(desk, Change::Disable(view.id), terminal, |answer| {
        let already = if answer == Answer::Unchanged(Unchanged::AlreadyDisabled) { "already " } else { "" };
        format!("channel {number} {already}disabled")
    })
}

fn enable(talk: &mut Talk, desk: &Desk, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let number = numbers[0];
    let Some(view) = talk.channel(desk, number) else { return no_such(number, terminal) };
    change(desk, Change::Enable(view.id), terminal, |answer| {
        let already = if answer == Answer::Unchanged(Unchanged::AlreadyEnabled) { "already " } else { "" };
        format!("channel {number} {already}enabled")
    })
}

fn reset(talk: &mut Talk, desk: &Desk, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let number = numbers[0];
    let Some(view) = talk.channel(desk, number) else { return no_such(number, terminal) };
    change(desk, Change::Reset(view.id), terminal, |_| format!("channel {number} counters reset"))
}

fn no_such(number: i64, terminal: &mut Terminal<'_>) -> Said {
    terminal.line(&format!("no such channel {number}"))
}

fn maxc(talk: &mut Talk, desk: &Desk, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let (number, most) = (numbers[0], numbers[1]);
    let Some(view) = talk.channel(desk, number) else { return terminal.line(UNKNOWN_CHANNEL) };
    let Ok(limit) = u32::try_from(most) else { return terminal.line(OUT_OF_RANGE) };
    let limit = (limit > 0).then_some(limit);
    change(desk, Change::Limit(view.id, limit), terminal, |_| format!("maxc of channel {number} changed to {most}"))
}

fn create(talk: &mut Talk, desk: &Desk, _: &[i64], words: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let group = talk.current();
    if survey(&desk.outlet).iter().filter(|view| view.group == group).count() >= CHANNELS {
        return terminal.line("no channel slots available");
    }
    let found = match learn(desk, words[0], words[1]) {
        Ok(found) => found,
        Err(words) => return terminal.line(&words),
    };
    change(desk, Change::Create(group, found), terminal, |_| "channel created".to_owned())
}

fn assign(talk: &mut Talk, desk: &Desk, numbers: &[i64], words: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let Some(view) = talk.channel(desk, numbers[0]) else { return terminal.line(UNKNOWN_CHANNEL) };
    let found = match learn(desk, words[1], words[2]) {
        Ok(found) => found,
        Err(words) => return terminal.line(&words),
    };
    change(desk, Change::Assign(view.id, found), terminal, |answer| {
        let refused = answer == Answer::Unchanged(Unchanged::NotDisabled);
        let words = if refused { "channel must be disabled to assign new address" } else { "channel reassigned" };
        words.to_owned()
    })
}

/// A place for a channel, or why it cannot be used.
fn learn(desk: &Desk, host: &str, port: &str) -> Result<EndpointId, String> {
    let endpoint = endpoint(host, port).ok_or_else(|| BAD_ADDRESS.to_owned())?;
    desk.addresses.learn(&endpoint).map_err(|why| match why {
        Unlearned::Unresolved => BAD_ADDRESS.to_owned(),
        Unlearned::Own => format!("{BAD_ADDRESS}: this proxy listens there itself"),
    })
}

fn endpoint(host: &str, port: &str) -> Option<Endpoint> {
    Some(Endpoint::tcp(endpoint::bare_host(host)?, endpoint::port_number(port)?))
}

fn group(talk: &mut Talk, _: &Desk, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    if !(0..GROUPS).contains(&numbers[0]) {
        return terminal.line(OUT_OF_RANGE);
    }
    talk.group = numbers[0] as usize;
    Ok(())
}

fn hash(talk: &mut Talk, desk: &Desk, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let policy = Change::Policy(talk.current(), Policy::ClientHash, talk.hash_failover);
    change(desk, policy, terminal, |_| format!("group {} set to hash", talk.group))
}

fn round_robin(talk: &mut Talk, desk: &Desk, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    let policy = Change::Policy(talk.current(), Policy::RoundRobin, Failover::WithinGroup);
    change(desk, policy, terminal, |_| format!("group {} set to round robin", talk.group))
}

fn mrtg_bytes(_: &mut Talk, desk: &Desk, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    mrtg(desk, numbers, terminal, |view| [view.totals.down.to_string(), view.totals.up.to_string()])
}

fn mrtg_conns(_: &mut Talk, desk: &Desk, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    mrtg(desk, numbers, terminal, |view| [view.totals.attempts.to_string(), UNKNOWN.to_owned()])
}

/// MRTG's word for a value that nobody has.
const UNKNOWN: &str = "UNKNOWN";

/// Four lines: two values, the uptime and the name of what was measured.
fn mrtg(
    desk: &Desk,
    numbers: &[i64],
    terminal: &mut Terminal<'_>,
    values: impl FnOnce(&BackendView) -> [String; 2],
) -> Said {
    let (group, number) = (numbers[0], numbers[1]);
    if !(0..GROUPS).contains(&group) {
        return terminal.line("unknown group");
    }
    let Some(view) = channel(desk, group, number) else { return terminal.line(UNKNOWN_CHANNEL) };
    values(&view).iter().try_for_each(|value| terminal.line(value))?;
    terminal.line(UNKNOWN)?;
    terminal.line(&format!("group {group} channel {number}"))
}

/// Answered when nobody listens any more: the next instance may be started at once.
fn kill(_: &mut Talk, desk: &Desk, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Said {
    terminal.leaving = true;
    let stopped = desk.ask(Command::Stop) == Some(Answer::Ending) && terminal.closes_within(STOPPING);
    terminal.line(if stopped { "shutdown complete, exiting." } else { STOP_FAILED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_traditional_prefix_finds_its_word() {
        for (prefix, word) in [
            ("q", "quit"),
            ("s", "show"),
            ("h", "help"),
            ("?", "?"),
            ("d", "disable"),
            ("g", "group"),
            ("r", "reset"),
            ("e", "enable"),
            ("c", "create"),
            ("a", "assign"),
            ("m", "maxc"),
            ("mrtg", "mrtg-bytes"),
            ("mr", "mrtg-bytes"),
            ("mrtg-c", "mrtg-conns"),
            ("v", "version"),
            ("ha", "hash"),
            ("rr", "rr"),
        ] {
            assert_eq!(find(prefix).map(|row| row.name), Some(word), "{prefix}");
        }
        for row in ROWS.iter().filter(|row| row.name != KILL) {
            let clash = |end: usize| ROWS.iter().filter(|other| other.name.starts_with(&row.name[..end])).count() > 1;
            let unique = (1..=row.name.len()).filter(|end| !clash(*end));
            unique.for_each(|end| assert_eq!(find(&row.name[..end]).map(|row| row.name), Some(row.name)));
        }
    }

    /// Defect 9: a bare `k` was `kill`.
    #[test]
    fn kill_is_obeyed_in_full_only_and_unknown_words_not_at_all() {
        for word in ["k", "ki", "kil", "kills", "x", "shows", "Show", ""] {
            let found = find(word).map(|row| row.name);
            assert!(found.is_none() || word.is_empty(), "{word}: {found:?}");
        }
        assert_eq!(find("kill").map(|row| row.name), Some("kill"));
    }

    #[test]
    fn a_number_may_be_followed_by_anything_and_anything_else_is_zero() {
        for (text, number) in [("7", 7), ("-1", -1), ("+3", 3), ("12x", 12), ("x", 0), ("", 0), ("-", 0)] {
            assert_eq!(leading_number(text), number, "{text}");
        }
        assert_eq!(leading_number("99999999999999999999999"), i64::MAX);
    }

    #[test]
    fn the_columns_of_show_are_where_they_always_were() {
        let expected = "GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd";
        assert_eq!(Shown::head().line(), expected);
        let row = ["0", "RR", "0", "ENA", "127.0.0.1", "18802", "0", "3", "0", "0", "9"].map(str::to_owned);
        let expected = "  0   RR  0 ENA        127.0.0.1 18802    0           3    0           0           9";
        assert_eq!(Shown(row).line(), expected);
    }

    #[test]
    fn of_several_addresses_ipv4_is_shown_as_there_is_room_for_it() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        let shown = |addresses: &[Address]| place(addresses).0;
        assert_eq!(shown(&[tcp("[::1]:80"), tcp("127.0.0.1:80")]), "127.0.0.1");
        assert_eq!(place(&[tcp("[::1]:80")]), ("::1".to_owned(), "80".to_owned()));
        assert_eq!(shown(&[]), "");
    }
}
