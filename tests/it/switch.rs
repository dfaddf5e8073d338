//! The switchover as an operator sees it: the layout of the answer, every outcome with its reason, and where clients
//! are afterwards.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::support::{SOON, TempDir, eventually};
use crate::talk::{Session, is_turned_away, served_by};

/// A proxy between A, active, and B.
struct Pair {
    proxy: Proxy,
    a: Backend,
    b: Backend,
    dir: TempDir,
}

impl Pair {
    fn start(extra: &[&str]) -> Pair {
        Pair::with_script(None, extra)
    }

    /// With a switch script of this text.
    fn with_script(text: Option<&str>, extra: &[&str]) -> Pair {
        let (a, b, dir) = (Backend::echo("A"), Backend::echo("B"), TempDir::new("switch"));
        let path = text.map(|text| dir.script("switch.sh", text).display().to_string());
        let mut arguments: Vec<&str> = path.iter().flat_map(|path| ["-x", path.as_str()]).collect();
        arguments.extend(extra);
        Pair { proxy: Proxy::start(&a.address(), &b.address(), &arguments), a, b, dir }
    }

    /// A client that is being served.
    fn client(&self) -> TcpStream {
        let mut client = self.proxy.connect();
        served_by(&mut client);
        client
    }

    /// So many clients, held.
    fn hold(&self, count: u64) -> Vec<TcpStream> {
        let before = self.proxy.stat("in queue");
        let held = (0..count).map(|_| self.proxy.connect()).collect();
        eventually(SOON, "they are held", || self.proxy.stat("in queue") == before + count);
        held
    }

    /// After a failure everything is as if nothing had happened, held clients included.
    fn is_as_before(&self, held: &mut [TcpStream]) {
        for client in held.iter_mut() {
            assert_eq!(served_by(client), "A");
        }
        assert_eq!(served_by(&mut self.proxy.connect()), "A");
        let stats = self.proxy.ask("stats");
        assert!(stats.contains(&format!("[n/a]  {} ", self.a.address())), "{stats}");
        assert_eq!(self.b.connections(), 0, "nobody reached the other one");
    }
}

#[test]
fn an_idle_switch_is_told_in_full() {
    let pair = Pair::start(&["-t", "2", "-c", "20"]);
    let answer = pair.proxy.ask("switch");
    let (a, b) = (pair.a.address(), pair.b.address());
    let (head, tail) = answer.split_once(" Took ").unwrap();
    let expected = format!(
        " Starting switch: {a} -> {b}, timeout: 2.00 s, 20 connections buffer

 SWtime Current backend       active in queue ->cps cps-> q total
 ------ --------------------- ------ -------- ----- ----- -------
 0.00   {a:<21}      0        0     0     0       0
"
    );
    assert_eq!(head, expected);
    let (timings, last) = tail.split_once('\n').unwrap();
    assert!(timings.contains(" s: drain 0.") && timings.ends_with("; 0 clients held"), "{timings}");
    assert_eq!(last, "\n Switch OK!: all connections closed\n");
    assert_eq!(served_by(&mut pair.proxy.connect()), "B");
}

#[test]
fn rows_show_the_progress_and_open_connections_work_to_their_end() {
    let pair = Pair::start(&[]);
    let mut client = pair.client();
    let mut switch = Session::switch(&pair.proxy);
    let mut held = pair.hold(2);
    let row = switch.line_with(" 1        2 ");
    assert!(row.contains(&pair.a.address()), "{row}");
    for _ in 0..3 {
        assert_eq!(served_by(&mut client), "A");
    }
    let time = |row: String| row.split_whitespace().next().unwrap().parse::<f64>().unwrap();
    let times: Vec<f64> = (0..3).map(|_| time(switch.line())).collect();
    assert!(times.is_sorted() && times[0] < times[2], "{times:?}");
    assert_eq!(pair.a.connections() + pair.b.connections(), 1, "who came later was not dialled");
    drop(client);
    assert_eq!(switch.last_line(), " Switch OK!: all connections closed");
    for client in &mut held {
        assert_eq!(served_by(client), "B");
    }
    assert_eq!(pair.a.connections(), 1);
}

#[test]
fn a_switch_goes_there_and_back() {
    let pair = Pair::start(&[]);
    for (turn, name) in ["B", "A", "B"].iter().enumerate() {
        let answer = pair.proxy.ask("switch and words that do not matter");
        assert!(answer.ends_with(" Switch OK!: all connections closed\n"), "{answer}");
        let (from, to) = if turn % 2 == 0 { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        let arrow = format!(" Starting switch: {} -> {},", from.address(), to.address());
        assert!(answer.starts_with(&arrow), "{answer}");
        assert!(pair.proxy.ask("stats").contains(&to.address()));
        assert_eq!(served_by(&mut pair.proxy.connect()), *name);
        eventually(SOON, "the client has left", || pair.proxy.stat("active") == 0);
    }
}

#[test]
fn an_idle_switch_without_a_script_takes_at_most_20_ms() {
    let pair = Pair::start(&[]);
    let mut took: Vec<f64> = (0..15)
        .map(|_| {
            let answer = pair.proxy.ask("switch");
            let (_, timings) = answer.split_once(" Took ").unwrap();
            timings.split(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    took.sort_by(f64::total_cmp);
    assert!(took[took.len() / 2] <= 0.020, "{took:?}");
}

#[test]
fn the_final_line_does_not_wait_for_the_next_row() {
    let pair = Pair::start(&["-w", "10", "-t", "60"]);
    let client = pair.client();
    let switch = Session::switch(&pair.proxy);
    let begun = Instant::now();
    drop(client);
    assert_eq!(switch.last_line(), " Switch OK!: all connections closed");
    assert!(begun.elapsed() < Duration::from_secs(5), "a row is due after ten: {:?}", begun.elapsed());
}

#[test]
fn a_client_that_does_not_leave_makes_it_fail_in_time_and_notices_nothing() {
    let pair = Pair::start(&["-t", "0.4"]);
    let mut client = pair.client();
    let switch = Session::switch(&pair.proxy);
    let mut held = pair.hold(3);
    let answer = switch.rest();
    assert!(answer.ends_with(" Switch failed: switch timeout\n") && answer.contains("; 3 clients held\n"), "{answer}");
    assert_eq!(served_by(&mut client), "A");
    pair.is_as_before(&mut held);
}

#[test]
fn one_held_client_too_many_makes_it_fail_and_is_served_like_the_others() {
    let pair = Pair::start(&["-c", "2"]);
    let _client = pair.client();
    let switch = Session::switch(&pair.proxy);
    let mut held = pair.hold(2);
    held.push(pair.proxy.connect());
    assert_eq!(switch.last_line(), " Switch failed: connection limit reached");
    pair.is_as_before(&mut held);
}

#[test]
fn who_waits_for_the_throttle_counts_as_held() {
    let pair = Pair::start(&["-o", "1", "-c", "2"]);
    let client = pair.client();
    let mut held = pair.hold(2);
    let switch = Session::switch(&pair.proxy);
    held.push(pair.proxy.connect());
    assert_eq!(switch.last_line(), " Switch failed: connection limit reached");
    drop(client);
    for mut client in held {
        assert_eq!(served_by(&mut client), "A");
    }
}

#[test]
fn a_held_client_that_has_left_does_not_count_against_the_limit_nor_reach_a_backend() {
    let pair = Pair::start(&["-c", "2"]);
    let client = pair.client();
    let switch = Session::switch(&pair.proxy);
    for _ in 0..4 {
        drop(pair.hold(2));
        eventually(SOON, "both are known to be gone", || pair.proxy.stat("in queue") == 0);
    }
    let mut held = pair.hold(2);
    drop(client);
    assert_eq!(switch.last_line(), " Switch OK!: all connections closed");
    held.iter_mut().for_each(|client| assert_eq!(served_by(client), "B"));
    assert_eq!(pair.b.connections(), 2);
}

#[test]
fn outside_a_switch_the_queue_limit_is_a_warning() {
    let pair = Pair::start(&["-o", "1", "-c", "2"]);
    let client = pair.client();
    let held = pair.hold(4);
    eventually(SOON, "it is logged", || pair.proxy.log().contains("above the limit of 2"));
    assert!(pair.proxy.log().lines().any(|line| line.contains(" WARNING ") && line.contains("above the limit")));
    drop(client);
    for mut client in held {
        assert_eq!(served_by(&mut client), "A");
    }
}

#[test]
fn a_script_that_fails_leaves_everyone_where_they_were() {
    for (text, reason) in [
        ("#!/bin/sh\nexit 3\n", "script exited with code: 3"),
        ("#!/bin/sh\nkill -9 $$\n", "script terminated by signal: 9"),
        ("#!/bin/sh\nkill -TERM $$\n", "script terminated by signal: 15"),
        ("echo no interpreter\n", "script exec failed: Exec format error"),
        ("#!/no/such/interpreter\n", "script exec failed: No such file or directory"),
    ] {
        let pair = Pair::with_script(Some(text), &[]);
        let answer = pair.proxy.ask("switch");
        assert!(answer.ends_with(&format!(" Switch failed: {reason}\n")), "{answer}");
        pair.is_as_before(&mut []);
    }
}

#[test]
fn a_script_that_is_missing_or_not_executable_fails_the_switch() {
    let pair = Pair::with_script(Some("#!/bin/sh\n"), &[]);
    let script = pair.dir.path().join("switch.sh");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(pair.proxy.ask("switch").ends_with(" Switch failed: script exec failed: Permission denied\n"));
    std::fs::remove_file(&script).unwrap();
    assert!(pair.proxy.ask("switch").ends_with(" Switch failed: script exec failed: No such file or directory\n"));
    pair.is_as_before(&mut []);
    pair.dir.script("switch.sh", "#!/bin/sh\n");
    let answer = pair.proxy.ask("switch");
    assert!(
        answer.ends_with(" Switch OK!: all connections closed, script returned: 0\n"),
        "once it is there: {answer}"
    );
}

#[test]
fn a_script_that_hangs_is_ended_by_the_time_limit() {
    let pair = Pair::with_script(Some("#!/bin/sh\nsleep 1000\n"), &["-t", "0.4"]);
    let switch = Session::switch(&pair.proxy);
    let mut held = pair.hold(2);
    assert_eq!(switch.last_line(), " Switch failed: switch timeout");
    pair.is_as_before(&mut held);
}

#[test]
fn a_running_switch_is_undone_by_abort_and_by_ctrl_c_at_any_stage() {
    for (script, reason) in [
        (None, "aborted"),
        (Some("#!/bin/sh\nsleep 1000\n"), "aborted"),
        (None, "ctrl-c"),
        (Some("#!/bin/sh\nsleep 1000\n"), "ctrl-c"),
    ] {
        let mut pair = Pair::with_script(script, &["-t", "60"]);
        // Without a script a client that stays keeps the switch in its drain.
        let client = if script.is_none() { Some(pair.client()) } else { None };
        let switch = Session::switch(&pair.proxy);
        let mut held = pair.hold(2);
        match reason {
            "aborted" => assert_eq!(pair.proxy.ask("abort"), " The switch is undone\n"),
            _ => pair.proxy.signal(Signal::INT),
        }
        assert_eq!(switch.last_line(), format!(" Switch failed: {reason}"));
        pair.is_as_before(&mut held);
        assert!(pair.proxy.is_running());
        drop(client);
        assert_eq!(pair.proxy.ask("abort"), " No switch is running\n");
    }
}

#[test]
fn a_switch_goes_on_when_the_operator_leaves() {
    let pair = Pair::start(&[]);
    let client = pair.client();
    drop(Session::switch(&pair.proxy));
    let mut held = pair.hold(1);
    drop(client);
    assert_eq!(served_by(&mut held[0]), "B");
    eventually(SOON, "the outcome is in the log", || pair.proxy.log().contains("Switch OK!: all connections closed"));
}

#[test]
fn a_dead_backend_is_no_reason_for_a_switch_to_fail_but_clients_are_closed() {
    let a = Backend::echo("A");
    let dead = crate::support::Reserved::new();
    let proxy = Proxy::start(&a.address(), &format!("127.0.0.1:{}", dead.port()), &[]);
    assert!(proxy.ask("switch").contains(" Switch OK!"));
    assert!(is_turned_away(&mut proxy.connect()));
    let at = format!("127.0.0.1:{}", dead.port());
    eventually(SOON, "the log tells", || {
        proxy.log().lines().any(|line| line.contains(" ERROR ") && line.contains(&at))
    });
}
