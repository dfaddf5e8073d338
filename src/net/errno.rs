//! What the system's error numbers mean to this program: one table of classes for all that connect or accept.

use std::io;

use rustix::io::Errno;

/// This process or the system has no descriptor or memory left: the next attempt fails likewise, whatever it is for.
const SHORTAGE: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];

/// This machine has no such address, or none of that family.
const NOT_HERE: [Errno; 2] = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT];

/// Linux passes errors already pending on the new connection through accept(2); its manual says to retry these.
const PASSING: [Errno; 13] = [
    Errno::CONNABORTED,
    Errno::INTR,
    Errno::AGAIN,
    Errno::PERM,
    Errno::PROTO,
    Errno::NOPROTOOPT,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::NONET,
    Errno::OPNOTSUPP,
    Errno::TIMEDOUT,
];

/// Whether the system gave this number.
pub fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Whether this process is short of something, and would be for the next attempt, too.
pub fn is_shortage(error: &io::Error) -> bool {
    is_one_of(error, &SHORTAGE)
}

/// Whether this machine has no such address.
pub fn is_not_here(error: &io::Error) -> bool {
    is_one_of(error, &NOT_HERE)
}

/// Whether an error of accept(2) is that one client's own, or the network's: the next accept may work.
pub fn is_passing(error: &io::Error) -> bool {
    is_one_of(error, &PASSING)
}

fn is_one_of(error: &io::Error, class: &[Errno]) -> bool {
    class.iter().any(|errno| is(error, *errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_is_of_two_classes_and_one_without_a_number_is_of_none() {
        let classes = |error: &io::Error| [is_shortage(error), is_not_here(error), is_passing(error)];
        for errno in SHORTAGE.iter().chain(&NOT_HERE).chain(&PASSING) {
            let error = io::Error::from(*errno);
            assert_eq!(classes(&error).iter().filter(|class| **class).count(), 1, "{error}");
        }
        assert_eq!(classes(&io::Error::other("out of memory")), [false; 3]);
        assert_eq!(classes(&io::Error::from(Errno::CONNREFUSED)), [false; 3]);
    }
}
