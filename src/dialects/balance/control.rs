//! The commands of balance 3.54. Backends are called channels and numbered from 0 within their group. Any prefix of a
//! command is accepted, except for `kill`; the first match in the table wins. A command that fails changes nothing.

use std::io;
use std::time::Duration;

use super::reports::{mrtg_bytes, mrtg_conns, show};
use crate::config::{Failover, Policy};
use crate::control::Context;
use crate::control::session::CommandSet;
use crate::control::table::CommandResult;
use crate::control::terminal::Terminal;
use crate::core::msg::{Answer, BackendView, Change, Command, EndpointId, GroupId, Unchanged, UpstreamId};
use crate::endpoint::{self, Endpoint};
use crate::engine::messages::CoordinatorHandle;
use crate::engine::resolve::Unlearned;

/// The first line of a shell: it keeps the session open, with a prompt before each command.
pub const SHELL: &str = "-i";
/// The answer to `kill` if it failed.
pub const STOP_FAILED: &str = "shutdown failed.";
const SYNTAX: &str = "syntax error";
const OUT_OF_RANGE: &str = "value out of range";
pub(super) const UNKNOWN_CHANNEL: &str = "unknown channel";
const BAD_ADDRESS: &str = "invalid address";
const ENDING: &str = "too late: the program is ending";

pub(super) const GROUPS: i64 = 16;
/// Maximum number of channels of a group.
const CHANNELS: usize = 64;
/// Maximum length of a line at the prompt, in bytes.
const LONGEST: usize = 127;
/// Longest wait for the listeners to close.
const STOPPING: Duration = Duration::from_secs(5);

/// State of one session.
#[derive(Debug)]
pub struct Channels {
    /// The current group.
    group: usize,
    /// Whether the session prompts.
    shell: bool,
    hash_failover: Failover,
}

pub(super) type Sent = io::Result<()>;
type CommandFn = fn(&mut Channels, &Context, &[i64], &[&str], &mut Terminal<'_>) -> Sent;

/// One command. It gets its arguments twice: as numbers and as typed.
struct BalanceRow {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: CommandFn,
}

/// All commands, in the order in which prefixes are matched.
const ROWS: &[BalanceRow] = &[
    BalanceRow { name: "quit", arguments: "", help: "leave the shell", run: quit },
    BalanceRow { name: "show", arguments: "", help: "show all channels and their counters", run: show },
    BalanceRow { name: "help", arguments: "", help: "list the commands", run: help },
    BalanceRow { name: "?", arguments: "", help: "the same", run: help },
    BalanceRow { name: KILL, arguments: "", help: "stop accepting; the whole word is needed", run: kill },
    BalanceRow { name: "disable", arguments: "N", help: "assign no more clients to channel N", run: disable },
    BalanceRow { name: "group", arguments: "G", help: "make group G the current one", run: group },
    BalanceRow { name: "reset", arguments: "N", help: "reset sent, rcvd and totalc of channel N", run: reset },
    BalanceRow { name: "enable", arguments: "N", help: "assign clients to channel N again", run: enable },
    BalanceRow { name: "create", arguments: "HOST PORT", help: "create a channel, disabled", run: create },
    BalanceRow {
        name: "assign",
        arguments: "N HOST PORT",
        help: "change the address of channel N (must be disabled)",
        run: assign,
    },
    BalanceRow { name: "maxc", arguments: "N M", help: "limit channel N to M clients at once; 0: no limit", run: maxc },
    BalanceRow { name: "mrtg-bytes", arguments: "G N", help: "bytes of a channel, for MRTG", run: mrtg_bytes },
    BalanceRow { name: "mrtg-conns", arguments: "G N", help: "connections of a channel, for MRTG", run: mrtg_conns },
    BalanceRow { name: "version", arguments: "", help: "show the version and the limits", run: version },
    BalanceRow { name: "hash", arguments: "", help: "hash client addresses in the current group", run: hash },
    BalanceRow { name: "rr", arguments: "", help: "use round robin in the current group", run: round_robin },
];

/// Ends the service for all clients, so it must be typed in full.
const KILL: &str = "kill";

fn find(word: &str) -> Option<&'static BalanceRow> {
    ROWS.iter().find(|row| if row.name == KILL { word == KILL } else { row.name.starts_with(word) })
}

impl Channels {
    pub fn new(hash_failover: Failover) -> Channels {
        Channels { group: 0, shell: false, hash_failover }
    }

    fn obey(&mut self, context: &Context, line: &str, terminal: &mut Terminal<'_>) -> Sent {
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
                (row.run)(self, context, &numbers, &arguments, terminal)
            }
            None => terminal.line(SYNTAX),
        }
    }

    fn open_shell(&mut self, terminal: &mut Terminal<'_>) -> Sent {
        self.shell = true;
        terminal.keep_open = true;
        let pid = std::process::id();
        terminal.line(&format!("balance 3.54, master process {pid}: 'help' lists the commands, 'quit' leaves"))
    }

    fn current(&self) -> GroupId {
        GroupId { upstream: UpstreamId(0), index: self.group }
    }

    /// A channel of the current group.
    fn channel(&self, context: &Context, number: i64) -> Option<BackendView> {
        channel(context, self.group as i64, number)
    }
}

impl CommandSet for Channels {
    fn prompt(&self) -> String {
        format!("balance[{}] ", self.group)
    }

    fn run(&mut self, context: &Context, line: &str, terminal: &mut Terminal<'_>) -> io::Result<CommandResult> {
        // The command was understood, whatever its outcome.
        self.obey(context, line, terminal).map(|()| CommandResult::Done)
    }
}

/// Converts like atoi(3): ignores what follows the number; no number is 0.
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
pub(super) fn survey(handle: &CoordinatorHandle) -> Vec<BackendView> {
    let views = handle.survey().recv().unwrap_or_default();
    views.into_iter().filter(|view| view.group.upstream == UpstreamId(0)).collect()
}

pub(super) fn channel(context: &Context, group: i64, number: i64) -> Option<BackendView> {
    let is = |index: usize, wanted: i64| i64::try_from(index).is_ok_and(|index| index == wanted);
    survey(&context.handle).into_iter().find(|view| is(view.group.index, group) && is(view.number, number))
}

fn quit(_: &mut Channels, _: &Context, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    terminal.leaving = true;
    Ok(())
}

fn help(_: &mut Channels, _: &Context, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    terminal.line("commands (any prefix will do, but for kill; N: a channel of the current group):")?;
    for row in ROWS {
        terminal.line(&format!("  {:<22}{}", format!("{} {}", row.name, row.arguments), row.help))?;
    }
    Ok(())
}

fn version(_: &mut Channels, _: &Context, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    terminal.line("  This is balance 3.54")?;
    terminal.line(&format!("  MAXGROUPS={GROUPS}"))?;
    terminal.line(&format!("  MAXCHANNELS={CHANNELS}"))
}

/// Requests a change and writes its result.
fn change(
    context: &Context,
    change: Change,
    terminal: &mut Terminal<'_>,
    words: impl FnOnce(Answer) -> String,
) -> Sent {
    match context.ask(Command::Change(change)) {
        Some(Answer::TooLate) | None => terminal.line(ENDING),
        Some(answer) => terminal.line(&words(answer)),
    }
}

fn disable(
    channels: &mut Channels,
    context: &Context,
    numbers: &[i64],
    _: &[&str],
    terminal: &mut Terminal<'_>,
) -> Sent {
    let number = numbers[0];
    let Some(view) = channels.channel(context, number) else { return no_such(number, terminal) };
    change(context, Change::Disable(view.id), terminal, |answer| {
        let already = if answer == Answer::Unchanged(Unchanged::AlreadyDisabled) { "already " } else { "" };
        format!("channel {number} {already}disabled")
    })
}

fn enable(
    channels: &mut Channels,
    context: &Context,
    numbers: &[i64],
    _: &[&str],
    terminal: &mut Terminal<'_>,
) -> Sent {
    let number = numbers[0];
    let Some(view) = channels.channel(context, number) else { return no_such(number, terminal) };
    change(context, Change::Enable(view.id), terminal, |answer| {
        let already = if answer == Answer::Unchanged(Unchanged::AlreadyEnabled) { "already " } else { "" };
        format!("channel {number} {already}enabled")
    })
}

fn reset(channels: &mut Channels, context: &Context, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    let number = numbers[0];
    let Some(view) = channels.channel(context, number) else { return no_such(number, terminal) };
    change(context, Change::Reset(view.id), terminal, |_| format!("channel {number} counters reset"))
}

fn no_such(number: i64, terminal: &mut Terminal<'_>) -> Sent {
    terminal.line(&format!("no such channel {number}"))
}

fn maxc(channels: &mut Channels, context: &Context, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    let (number, most) = (numbers[0], numbers[1]);
    let Some(view) = channels.channel(context, number) else { return terminal.line(UNKNOWN_CHANNEL) };
    let Ok(limit) = u32::try_from(most) else { return terminal.line(OUT_OF_RANGE) };
    let limit = (limit > 0).then_some(limit);
    change(context, Change::Limit(view.id, limit), terminal, |_| format!("maxc of channel {number} changed to {most}"))
}

fn create(channels: &mut Channels, context: &Context, _: &[i64], words: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    let group = channels.current();
    if survey(&context.handle).iter().filter(|view| view.group == group).count() >= CHANNELS {
        return terminal.line("no channel slots available");
    }
    let found = match learn(context, words[0], words[1]) {
        Ok(found) => found,
        Err(words) => return terminal.line(&words),
    };
    change(context, Change::Create(group, found), terminal, |_| "channel created".to_owned())
}

fn assign(
    channels: &mut Channels,
    context: &Context,
    numbers: &[i64],
    words: &[&str],
    terminal: &mut Terminal<'_>,
) -> Sent {
    let Some(view) = channels.channel(context, numbers[0]) else { return terminal.line(UNKNOWN_CHANNEL) };
    let found = match learn(context, words[1], words[2]) {
        Ok(found) => found,
        Err(words) => return terminal.line(&words),
    };
    change(context, Change::SetEndpoint(view.id, found), terminal, |answer| {
        let refused = answer == Answer::Unchanged(Unchanged::NotDisabled);
        let words = if refused { "channel must be disabled to assign new address" } else { "channel reassigned" };
        words.to_owned()
    })
}

/// Resolves the address of a channel, or explains why it cannot be used.
fn learn(context: &Context, host: &str, port: &str) -> Result<EndpointId, String> {
    let endpoint = endpoint(host, port).ok_or_else(|| BAD_ADDRESS.to_owned())?;
    context.addresses.learn(&endpoint).map_err(|why| match why {
        Unlearned::Unresolved => BAD_ADDRESS.to_owned(),
        Unlearned::Own => format!("{BAD_ADDRESS}: this proxy listens there itself"),
    })
}

fn endpoint(host: &str, port: &str) -> Option<Endpoint> {
    Some(Endpoint::tcp(endpoint::bare_host(host)?, endpoint::port_number(port)?))
}

fn group(channels: &mut Channels, _: &Context, numbers: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    if !(0..GROUPS).contains(&numbers[0]) {
        return terminal.line(OUT_OF_RANGE);
    }
    channels.group = numbers[0] as usize;
    Ok(())
}

fn hash(channels: &mut Channels, context: &Context, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    let policy = Change::Policy(channels.current(), Policy::ClientHash, channels.hash_failover);
    change(context, policy, terminal, |_| format!("group {} set to hash", channels.group))
}

fn round_robin(channels: &mut Channels, context: &Context, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    let policy = Change::Policy(channels.current(), Policy::RoundRobin, Failover::WithinGroup);
    change(context, policy, terminal, |_| format!("group {} set to round robin", channels.group))
}

/// Ends the service. Answers only after the listeners are closed, so that the next instance can be started at once.
fn kill(_: &mut Channels, context: &Context, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    terminal.leaving = true;
    let stopped = context.ask(Command::Stop) == Some(Answer::Ending) && terminal.closes_within(STOPPING);
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
}
