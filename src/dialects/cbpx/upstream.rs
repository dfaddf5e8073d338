//! A list of servers as typed: `A`, `A,B` (A and B share the clients), `A,B!C` (C only if neither A nor B is
//! available). It is shown as it was typed, without spaces.

use std::time::Duration;

use crate::config::{FailurePolicy, Group, Upstream};
use crate::endpoint::Endpoint;

/// How long a server that refused is used only if no other is available. A dead server thus costs few clients the
/// connect timeout, and a restarted one soon gets clients again.
const FAILED_FOR: Duration = Duration::from_secs(10);

/// Parses one list.
///
/// # Errors
/// Names the server and what is wrong with it.
pub fn parse(text: &str) -> Result<Upstream, String> {
    // A single server has no alternative.
    let failure_policy =
        if text.contains([',', '!']) { FailurePolicy::AvoidFor(FAILED_FOR) } else { FailurePolicy::Ignore };
    let server = |server: &str| match server.trim() {
        "" if text != server => Err(format!("'{text}' has a server missing (expected A, A,B or A,B!C)")),
        server => server.parse::<Endpoint>().map_err(|e| e.to_string()),
    };
    let group = |servers: &str| {
        Ok(Group::sharing(servers.split(',').map(server).collect::<Result<_, String>>()?, failure_policy))
    };
    Ok(Upstream { groups: text.split('!').map(group).collect::<Result<_, String>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_shown_as_it_was_typed() {
        for text in ["a:1", "a:1,b:2", "a:1,b:2!c:3", "[::1]:1!/run/s", "./s,a:1!b:2!c:3"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("a:1, b:2 ! c:3").unwrap().to_string(), "a:1,b:2!c:3");
    }

    #[test]
    fn one_server_is_never_passed_over_and_of_several_each_is_for_a_while() {
        assert_eq!(parse("a:1").unwrap(), Upstream::single(Endpoint::tcp("a", 1)));
        let upstream = parse("a:1!b:2").unwrap();
        assert!(upstream.groups.iter().all(|group| group.failure_policy == FailurePolicy::AvoidFor(FAILED_FOR)));
    }

    #[test]
    fn a_mistake_names_the_server_or_the_set() {
        for (text, named) in [("a:1,b", "'b' has no port"), ("a:1!:2", "':2'"), ("", "''")] {
            let words = parse(text).unwrap_err();
            assert!(words.contains(named), "{text}: {words}");
        }
        for text in ["a:1,", ",a:1", "a:1!", "!", "a:1,,b:2", "a:1!!b:2"] {
            let words = parse(text).unwrap_err();
            assert!(words.contains(&format!("'{text}' has a server missing")), "{text}: {words}");
        }
    }
}
