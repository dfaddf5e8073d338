//! What balance tells of its channels: the table of `show`, and single counters for MRTG. Scripts read both, so their
//! layout does not change.

use std::net::IpAddr;

use super::control::{Channels, GROUPS, Sent, UNKNOWN_CHANNEL, channel, survey};
use crate::config::Policy;
use crate::control::Context;
use crate::control::terminal::Terminal;
use crate::core::msg::BackendView;
use crate::endpoint::Address;

pub(super) fn show(_: &mut Channels, context: &Context, _: &[i64], _: &[&str], terminal: &mut Terminal<'_>) -> Sent {
    terminal.line(&ShowRow::head().line())?;
    for view in survey(&context.handle) {
        terminal.line(&ShowRow::of(context, &view).line())?;
    }
    Ok(())
}

/// The columns of `show`: scripts cut them out by position.
struct ShowRow([String; 11]);

impl ShowRow {
    fn head() -> ShowRow {
        let names = ["GRP", "Type", "#", "S", "ip-address", "port", "c", "totalc", "maxc", "sent", "rcvd"];
        ShowRow(names.map(str::to_owned))
    }

    fn of(context: &Context, view: &BackendView) -> ShowRow {
        let (host, port) = place(&context.addresses.of(view.id));
        let kind = match view.policy {
            Policy::ClientHash => "Hash",
            Policy::RoundRobin | Policy::InOrder | Policy::Least(_) => "RR",
        };
        let totals = &view.totals;
        ShowRow([
            view.group.index.to_string(),
            kind.to_owned(),
            view.number.to_string(),
            if view.enabled { "ENA" } else { "dis" }.to_owned(),
            host,
            port,
            view.assigned.to_string(),
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

pub(super) fn mrtg_bytes(
    _: &mut Channels,
    context: &Context,
    numbers: &[i64],
    _: &[&str],
    terminal: &mut Terminal<'_>,
) -> Sent {
    mrtg(context, numbers, terminal, |view| [view.totals.down.to_string(), view.totals.up.to_string()])
}

pub(super) fn mrtg_conns(
    _: &mut Channels,
    context: &Context,
    numbers: &[i64],
    _: &[&str],
    terminal: &mut Terminal<'_>,
) -> Sent {
    mrtg(context, numbers, terminal, |view| [view.totals.attempts.to_string(), UNKNOWN.to_owned()])
}

/// MRTG's word for a value that nobody has.
const UNKNOWN: &str = "UNKNOWN";

/// Four lines: two values, the uptime and the name of what was measured.
fn mrtg(
    context: &Context,
    numbers: &[i64],
    terminal: &mut Terminal<'_>,
    values: impl FnOnce(&BackendView) -> [String; 2],
) -> Sent {
    let (group, number) = (numbers[0], numbers[1]);
    if !(0..GROUPS).contains(&group) {
        return terminal.line("unknown group");
    }
    let Some(view) = channel(context, group, number) else { return terminal.line(UNKNOWN_CHANNEL) };
    values(&view).iter().try_for_each(|value| terminal.line(value))?;
    terminal.line(UNKNOWN)?;
    terminal.line(&format!("group {group} channel {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_show_are_where_they_always_were() {
        let expected = "GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd";
        assert_eq!(ShowRow::head().line(), expected);
        let row = ["0", "RR", "0", "ENA", "127.0.0.1", "18802", "0", "3", "0", "0", "9"].map(str::to_owned);
        let expected = "  0   RR  0 ENA        127.0.0.1 18802    0           3    0           0           9";
        assert_eq!(ShowRow(row).line(), expected);
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
