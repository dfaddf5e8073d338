//! Tests in namespaces of their own: with ports, addresses and files that nobody else uses, and that the test may
//! change. Where the system does not allow that (it takes root), they say so and prove nothing.

use std::env;
use std::fs;
use std::process::Command;

use crate::command::run;
use crate::support::Reserved;

const INSIDE: &str = "CBPX_TEST_ALONE";
/// Makes the loopback interface of the new network work, keeps mounts to itself, and becomes what its arguments say.
const SET_UP: &str = "ip link set lo up && mount --make-rprivate / && exec \"$0\" \"$@\"";

/// Whether this test is to do its work now. If not, another process has done it, and its outcome is this one's.
///
/// # Panics
/// When the test failed there.
pub fn is_alone(test: &str) -> bool {
    if env::var(INSIDE).as_deref() == Ok(test) {
        return true;
    }
    let alone = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-n", "-m", "sh", "-c", SET_UP]).args(words).env(INSIDE, test);
        run(&mut command)
    };
    let allowed = alone(&["true"]);
    if allowed.code != Some(0) {
        eprintln!("SKIPPED: no namespaces here: {}", allowed.err.trim());
        return false;
    }
    let ran = alone(&[env::current_exe().unwrap().to_str().unwrap(), "--exact", test, "--nocapture"]);
    assert!(ran.out.contains("1 passed"), "{}\n{}", ran.out, ran.err);
    false
}

/// From now on these are the ports from which the system chooses.
pub fn choose_ports_from(first: u16, last: u16) {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{first} {last}")).unwrap();
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    let ran = run(Command::new("ip").args(words.split(' ')));
    assert_eq!(ran.code, Some(0), "ip {words}: {}", ran.err);
}

/// An unused port. It needs no reservation in this namespace.
pub fn unused_port() -> u16 {
    Reserved::new().port()
}
