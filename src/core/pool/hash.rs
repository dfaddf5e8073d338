//! Numbers from addresses, the same on every machine and in every release. So a client keeps its backend when the
//! program restarts, and several proxies in front of the same backends choose alike.

use std::net::{IpAddr, Ipv4Addr};

use crate::core::msg::{BackendId, ClientHash};
use crate::endpoint::Address;

/// The hash of a client's address without the port. An IPv4 address and its v4-mapped form have the same hash, and so
/// have all clients of a Unix socket.
pub fn of_client(peer: &Address) -> ClientHash {
    let ip = match peer {
        Address::Tcp(address) => address.ip().to_canonical(),
        Address::Unix(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    ClientHash(match ip {
        IpAddr::V4(ip) => fnv1a(&ip.octets()),
        IpAddr::V6(ip) => fnv1a(&ip.octets()),
    })
}

/// How much a client prefers a backend. The client gets the available backend with the highest rank (rendezvous
/// hashing). So when a backend is lost only its own clients move, and they spread over the others.
pub fn rank(client: ClientHash, backend: BackendId) -> u64 {
    mix(client.0 ^ mix(backend.0 as u64 + 1))
}

/// A bijection in which every input bit changes half of the output bits on average: the last steps of the splitmix64
/// generator, after its increment, so that zero is mixed as well.
pub fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(STEP);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The next number of the splitmix64 generator: the same sequence for the same state, on every machine.
pub fn next(state: &mut u64) -> u64 {
    let number = mix(*state);
    *state = state.wrapping_add(STEP);
    number
}

/// The golden ratio as a fraction of 2^64: a generator that takes this step visits every number once.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The 64-bit hash of Fowler, Noll and Vo, variant 1a, with their offset and prime.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientHash {
        of_client(&Address::Tcp(address.parse().unwrap()))
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_mixer_is_the_published_one() {
        // The first numbers of splitmix64 from the seed 1234567.
        let mut state = 1_234_567;
        assert_eq!(mix(state), 6_457_827_717_110_365_317);
        assert_eq!([(); 2].map(|()| next(&mut state)), [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn a_client_is_its_address_in_either_form_whatever_its_port() {
        assert_eq!(client("192.0.2.7:1"), client("192.0.2.7:60000"));
        assert_eq!(client("192.0.2.7:1"), client("[::ffff:192.0.2.7]:2"));
        assert_ne!(client("192.0.2.7:1"), client("192.0.2.8:1"));
        assert_ne!(client("[2001:db8::1]:1"), client("[2001:db8::2]:1"));
    }

    #[test]
    fn neighbours_are_spread() {
        let home = |n: usize| (0..3).map(BackendId).max_by_key(|id| rank(client(&format!("10.0.0.{n}:1")), *id));
        let mut homes = [0; 3];
        (0..252).filter_map(home).for_each(|id| homes[id.0] += 1);
        assert!(homes.iter().all(|&its| (60..110).contains(&its)), "{homes:?}");
    }
}
