//! Destinations in balance's syntax: `HOST[:PORT[:MAXC]]`, in groups that end with `!` (round robin) or `%` (hash of
//! the client's address).

use crate::config::{Backend, Failover, FailurePolicy, Group, Policy, Upstream};
use crate::endpoint::{self, Endpoint, is_six};

/// Number of groups. All exist from the start; groups without a channel are skipped.
pub const GROUPS: usize = 16;
/// Maximum number of destinations and separators on one command line.
const WORDS: usize = 63;

/// Defaults that all groups share.
#[derive(Clone, Copy, Debug)]
pub struct ChannelDefaults {
    /// Used by destinations that name no port.
    pub port: u16,
    /// Used by groups that hash the client's address.
    pub hash_failover: Failover,
    pub failure_policy: FailurePolicy,
}

/// Why a list of destinations is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// More than 63 words.
    TooMany(usize),
    TooManyGroups(usize),
    /// The group at this index has no destination.
    EmptyGroup(usize),
    /// The destination has no host.
    Address(String),
    /// The destination, and its third field.
    Limit(String, String),
}

/// Parses the words after the port. Also returns warnings about them.
///
/// # Errors
/// Reports the first mistake.
pub fn read(words: &[String], common: ChannelDefaults) -> Result<(Upstream, Vec<String>), ChannelError> {
    if words.len() > WORDS {
        return Err(ChannelError::TooMany(words.len()));
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut warnings = Vec::new();
    for (number, ended) in words.split_inclusive(|word| is_separator(word)).enumerate() {
        let (policy, destinations) = match ended.split_last() {
            Some((last, before)) if last == "%" => (Policy::ClientHash, before),
            Some((last, before)) if last == "!" => (Policy::RoundRobin, before),
            Some(_) | None => (Policy::RoundRobin, ended),
        };
        if destinations.is_empty() {
            return Err(ChannelError::EmptyGroup(number));
        }
        let backends = destinations.iter().map(|word| backend(word, common.port, &mut warnings));
        groups.push(Group { backends: backends.collect::<Result<_, _>>()?, ..empty(policy, common) });
    }
    if groups.len() > GROUPS {
        return Err(ChannelError::TooManyGroups(groups.len()));
    }
    groups.resize_with(GROUPS, || empty(Policy::RoundRobin, common));
    Ok((Upstream { groups }, warnings))
}

fn is_separator(word: &str) -> bool {
    word == "!" || word == "%"
}

fn empty(policy: Policy, common: ChannelDefaults) -> Group {
    let failover = match policy {
        Policy::ClientHash => common.hash_failover,
        Policy::RoundRobin | Policy::InOrder | Policy::Least(_) => Failover::WithinGroup,
    };
    Group { policy, failover, failure_policy: common.failure_policy, backends: Vec::new() }
}

/// Parses one destination. As in balance, fields after the third are ignored, and so is a third that is not a number.
fn backend(word: &str, own_port: u16, warnings: &mut Vec<String>) -> Result<Backend, ChannelError> {
    let (host, rest) = split_host(word).ok_or_else(|| ChannelError::Address(word.to_owned()))?;
    let mut fields = rest.split(':');
    let port = match fields.next().unwrap_or_default() {
        "" => own_port,
        text => port(text).unwrap_or_else(|| {
            warnings.push(format!("'{word}': no service is called '{text}': port 0 cannot be reached"));
            0
        }),
    };
    let limit = match fields.next().unwrap_or_default() {
        "" => None,
        text => match text.parse::<i64>() {
            Ok(number) => {
                let limit = u32::try_from(number).map_err(|_| ChannelError::Limit(word.to_owned(), text.to_owned()))?;
                (limit > 0).then_some(limit)
            }
            Err(_) => {
                warnings.push(format!("'{word}': '{text}' is no number: there is no limit"));
                None
            }
        },
    };
    Ok(Backend { endpoint: Endpoint::tcp(host, port), limit, enabled: true })
}

/// Splits the host from the fields after it. IPv6 may be in brackets, or bare unless it can be read as `HOST::MAXC`.
fn split_host(word: &str) -> Option<(&str, &str)> {
    let (host, rest) = if let Some(bracketed) = word.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']')?;
        if !is_six(host) {
            return None;
        }
        (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some(""))?)
    } else if is_six(word) && !is_host_and_limit(word) {
        (word, "")
    } else {
        word.split_once(':').unwrap_or((word, ""))
    };
    let usable = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
    usable.then_some((host, rest))
}

/// As in balance, `fe::16` is the host `fe` with at most 16 connections. Everything else that looks like an IPv6
/// address is one.
fn is_host_and_limit(word: &str) -> bool {
    let limit = word.split_once("::").filter(|(host, limit)| !host.is_empty() && !limit.contains(':'));
    limit.is_some_and(|(host, limit)| !host.contains(':') && limit.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A port number (modulo 65536, as in balance) or the name of a service; never 0.
pub fn port(text: &str) -> Option<u16> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: u64 = text.parse().ok()?;
        return Some((number % 65_536) as u16).filter(|port| *port != 0);
    }
    endpoint::port_number(text)
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;

    const COMMON: ChannelDefaults =
        ChannelDefaults { port: 8080, hash_failover: Failover::NextGroup, failure_policy: FailurePolicy::Ignore };

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn groups(line: &str) -> Vec<Group> {
        let (upstream, _) = read(&words(line), COMMON).unwrap_or_else(|e| panic!("{line}: {e:?}"));
        assert_eq!(upstream.groups.len(), GROUPS, "{line}");
        upstream.groups.into_iter().filter(|group| !group.backends.is_empty()).collect()
    }

    /// Parses a line with one destination.
    fn one(word: &str) -> (String, Option<u32>) {
        let groups = groups(word);
        assert_eq!((groups.len(), groups[0].backends.len()), (1, 1), "{word}");
        assert!(groups[0].backends[0].enabled);
        (groups[0].backends[0].endpoint.to_string(), groups[0].backends[0].limit)
    }

    fn unusable(line: &str) -> ChannelError {
        read(&words(line), COMMON).expect_err(line)
    }

    #[test]
    fn every_form_of_a_destination_is_read() {
        for (word, endpoint, limit) in [
            ("h", "h:8080", None),
            ("h:", "h:8080", None),
            ("h:80", "h:80", None),
            ("h:80:", "h:80", None),
            ("h:80:0", "h:80", None),
            ("h:80:3", "h:80", Some(3)),
            ("h::16", "h:8080", Some(16)),
            ("h:80:3:9", "h:80", Some(3)),
            ("h:80:x", "h:80", None),
            ("h:http", "h:80", None),
            ("h:99999", "h:34463", None),
            ("10.0.0.1::2", "10.0.0.1:8080", Some(2)),
        ] {
            assert_eq!(one(word), (endpoint.to_owned(), limit), "{word}");
        }
    }

    /// Defect 12: `::1` and `[::1]` were rejected.
    #[test]
    fn ipv6_destinations_are_read_bare_and_in_brackets() {
        for (word, endpoint, limit) in [
            ("::1", "[::1]:8080", None),
            ("[::1]", "[::1]:8080", None),
            ("[::1]:80", "[::1]:80", None),
            ("[::1]:80:3", "[::1]:80", Some(3)),
            ("[::1]::3", "[::1]:8080", Some(3)),
            ("2001:db8::5", "[2001:db8::5]:8080", None),
            ("fe80::1:2", "[fe80::1:2]:8080", None),
            // As in balance, these are a host and its limit.
            ("fe::16", "fe:8080", Some(16)),
            ("10::1", "10:8080", Some(1)),
        ] {
            assert_eq!(one(word), (endpoint.to_owned(), limit), "{word}");
        }
    }

    #[test]
    fn separators_end_groups_and_give_them_their_kind() {
        let shape = |line: &str| {
            let of = |group: &Group| (group.policy, group.failover, group.backends.len());
            groups(line).iter().map(of).collect::<Vec<_>>()
        };
        let turns = |number| (Policy::RoundRobin, Failover::WithinGroup, number);
        let hash = |number| (Policy::ClientHash, Failover::NextGroup, number);
        assert_eq!(shape("a b"), [turns(2)]);
        assert_eq!(shape("a b !"), [turns(2)]);
        assert_eq!(shape("a b %"), [hash(2)]);
        assert_eq!(shape("a ! b c % d"), [turns(1), hash(2), turns(1)]);
        assert_eq!(shape("a % b"), [hash(1), turns(1)]);
        assert_eq!(shape(""), []);
        let common =
            ChannelDefaults { hash_failover: Failover::WithinGroup, failure_policy: FailurePolicy::Disable, ..COMMON };
        let (upstream, _) = read(&words("a %"), common).unwrap();
        assert_eq!(upstream.groups[0].failover, Failover::WithinGroup, "-H");
        assert!(upstream.groups.iter().all(|group| group.failure_policy == FailurePolicy::Disable), "-a");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let many = |number: usize| repeat_n("h", number).collect::<Vec<_>>().join(" ");
        assert_eq!(groups(&many(63))[0].backends.len(), 63);
        assert_eq!(unusable(&many(64)), ChannelError::TooMany(64));
        let grouped = |number: usize| repeat_n("h", number).collect::<Vec<_>>().join(" ! ");
        assert_eq!(groups(&grouped(16)).len(), 16);
        assert_eq!(groups(&(grouped(16) + " !")).len(), 16, "the last separator begins no group");
        assert_eq!(unusable(&grouped(17)), ChannelError::TooManyGroups(17));
        for (line, at) in [("!", 0), ("% h", 0), ("h ! ! h", 1), ("h ! h % %", 2)] {
            assert_eq!(unusable(line), ChannelError::EmptyGroup(at), "{line}");
        }
        for word in [":80", "", "a/b", "[x]:80", "[::1", "[::1]x"] {
            assert_eq!(read(&[word.to_owned()], COMMON).unwrap_err(), ChannelError::Address(word.to_owned()));
        }
        assert_eq!(unusable("h:80:-1"), ChannelError::Limit("h:80:-1".to_owned(), "-1".to_owned()));
    }

    #[test]
    fn what_is_ignored_is_told() {
        let told = |word: &str| read(&words(word), COMMON).unwrap().1;
        assert!(told("h:nosuchservice")[0].contains("'nosuchservice'"));
        assert_eq!(one("h:nosuchservice").0, "h:0");
        assert!(told("h:80:x")[0].contains("'x' is no number"));
        assert!(told("h:80:3:9 [::1]:80").is_empty());
    }
}
