//! `set`: the list, every row, every refusal, and from when a new value counts.

use crate::backend::Backend;
use crate::proxy::Proxy;
use crate::support::{SOON, eventually, thread_pairs};
use crate::talk::{Session, served_by};

fn proxy(extra: &[&str]) -> (Proxy, Backend) {
    let backend = Backend::echo("A");
    (Proxy::start(&backend.address(), "127.0.0.1:9", extra), backend)
}

#[test]
fn the_list_has_every_setting_in_its_place() {
    let (proxy, backend) = proxy(&["-t", "2", "-c", "50", "-x", "/bin/true"]);
    assert!(proxy.ask("switch").contains("Switch OK"), "the list shows what was configured, also after a switch");
    let expected = format!(
        " Remote control port : {}
 Listening on        : {}
 Active backend      : {}
 Standby backend     : 127.0.0.1:9
 Switch timeout      : 2.00 s
 Max queued conns    : 50
 Max open conns      : 0
 listen() backlog    : 4096
 Network buffer      : 2048 bytes
 Thread pairs        : {}
 Switch loop wait    : 0.10 s
 Switch script       : /bin/true
 Log file            : cbpx.log
 Log level           : INFO

 Dynamic: ['switch_max_time', 'max_queued_conns', 'max_open_conns', 'switch_loop_wait', 'net_buffer_size', 'thread_pairs']
",
        proxy.control().port(),
        proxy.addr().port(),
        backend.address(),
        thread_pairs()
    );
    let list = proxy.ask("set");
    let room = list.strip_prefix(&expected).unwrap_or_else(|| panic!("{list}"));
    assert!(room.starts_with("\n Room for about ") && room.contains(" clients at once ("), "{room}");
}

#[test]
fn what_is_within_the_range_is_stored_and_shown() {
    let (proxy, _backend) = proxy(&[]);
    for (name, value, shown) in [
        ("switch_max_time", "0", "Switch timeout      : 0.00 s"),
        ("switch_max_time", "1e0", "Switch timeout      : 1.00 s"),
        ("switch_max_time", "10", "Switch timeout      : 10.00 s"),
        ("max_queued_conns", "020", "Max queued conns    : 20"),
        ("max_queued_conns", "10", "Max queued conns    : 10"),
        ("max_queued_conns", "10000", "Max queued conns    : 10000"),
        ("max_open_conns", "10", "Max open conns      : 10"),
        ("max_open_conns", "65536", "Max open conns      : 65536"),
        ("max_open_conns", "0", "Max open conns      : 0"),
        ("switch_loop_wait", "0.1", "Switch loop wait    : 0.10 s"),
        ("switch_loop_wait", "1", "Switch loop wait    : 1.00 s"),
        ("net_buffer_size", "1024", "Network buffer      : 1024 bytes"),
        ("net_buffer_size", "65536", "Network buffer      : 65536 bytes"),
        ("thread_pairs", "0", "Thread pairs        : 0"),
        ("thread_pairs", "65536", "Thread pairs        : 65536"),
    ] {
        assert_eq!(proxy.ask(&format!("set {name} {value}")), format!(" Parameter '{name}' set to '{value}' \n"));
        let list = proxy.ask("set");
        assert!(list.contains(&format!("\n {shown}\n")), "no '{shown}' in:\n{list}");
    }
}

#[test]
fn what_is_not_is_refused_in_one_line_and_changes_nothing() {
    let (proxy, _backend) = proxy(&[]);
    let before = proxy.ask("set");
    let long = "x".repeat(100);
    let table: &[(&str, &str)] = &[
        ("switch_max_time -0.1", " switch_max_time must be between 0 and 10"),
        ("switch_max_time 10.1", " switch_max_time must be between 0 and 10"),
        ("switch_max_time nan", " switch_max_time must be between 0 and 10"),
        ("switch_max_time inf", " switch_max_time must be between 0 and 10"),
        ("max_queued_conns 9", " max_queued_conns must be between 10 and 10000"),
        ("max_queued_conns 10001", " max_queued_conns must be between 10 and 10000"),
        ("max_open_conns 9", " max_open_conns must be between 10 and 65536"),
        ("max_open_conns -1", " max_open_conns must be between 10 and 65536"),
        ("max_open_conns 65537", " max_open_conns must be between 10 and 65536"),
        ("switch_loop_wait 0.09", " switch_loop_wait must be between 0.1 and 1"),
        ("switch_loop_wait 1.1", " switch_loop_wait must be between 0.1 and 1"),
        ("net_buffer_size 1023", " net_buffer_size must be between 1024 and 65536"),
        ("net_buffer_size 65537", " net_buffer_size must be between 1024 and 65536"),
        ("thread_pairs -1", " thread_pairs must be between 0 and 65536"),
        ("thread_pairs 65537", " thread_pairs must be between 0 and 65536"),
        ("thread_pairs x", " x for 'thread_pairs' must be of int"),
        ("switch_max_time abc", " abc for 'switch_max_time' must be of float"),
        ("switch_loop_wait 0,5", " 0,5 for 'switch_loop_wait' must be of float"),
        ("max_queued_conns 12.5", " 12.5 for 'max_queued_conns' must be of int"),
        ("max_queued_conns 0x20", " 0x20 for 'max_queued_conns' must be of int"),
        ("max_open_conns nan", " nan for 'max_open_conns' must be of int"),
        ("net_buffer_size 1e4", " 1e4 for 'net_buffer_size' must be of int"),
        ("net_buffer_size 99999999999999999999", " 99999999999999999999 for 'net_buffer_size' must be of int"),
        (&format!("switch_loop_wait {long}"), &format!(" {long} for 'switch_loop_wait' must be of float")),
        ("nosuch 1", " No such parameter: nosuch"),
        ("Switch_max_time 1", " No such parameter: Switch_max_time"),
        ("switch_max_time", "Use: 'set PARAMETER VALUE'"),
        ("switch_max_time 1 2", "Use: 'set PARAMETER VALUE'"),
    ];
    for (words, said) in table {
        let answer = proxy.ask(&format!("set {words}"));
        assert!(answer.starts_with(said) && answer.matches('\n').count() == 1, "{words}: {answer}");
    }
    let fixed = ["port", "active", "standby", "rc_port", "listen_backlog", "log_file", "log_level", "switch_script"];
    for name in fixed.iter().chain(&["bind", "rc_bind", "rc_socket", "connect_timeout", "grace"]) {
        assert!(proxy.ask(&format!("set {name} 1")).ends_with(&format!("not settable: {name}\n")), "{name}");
    }
    assert_eq!(proxy.ask("set"), before);
}

#[test]
fn a_throttle_can_be_changed_and_lifted_at_once() {
    let (proxy, _backend) = proxy(&["-o", "1"]);
    let mut clients: Vec<_> = (0..14).map(|_| proxy.connect()).collect();
    eventually(SOON, "all but one are held", || proxy.stat("in queue") == 13);
    proxy.ask("set max_open_conns 10");
    eventually(SOON, "ten are served", || proxy.stat("active") == 10 && proxy.stat("in queue") == 4);
    proxy.ask("set max_open_conns 0");
    for client in &mut clients {
        assert_eq!(served_by(client), "A");
    }
    assert_eq!((proxy.stat("active"), proxy.stat("in queue")), (14, 0));
}

#[test]
fn a_queue_limit_counts_in_a_running_switch() {
    let (proxy, _backend) = proxy(&[]);
    let mut first = proxy.connect();
    served_by(&mut first);
    let switch = Session::switch(&proxy);
    let _held: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
    eventually(SOON, "ten are held", || proxy.stat("in queue") == 10);
    proxy.ask("set max_queued_conns 10");
    let _one_too_many = proxy.connect();
    assert_eq!(switch.last_line(), " Switch failed: connection limit reached");
}

#[test]
fn a_time_limit_counts_from_the_next_switch() {
    let (proxy, _backend) = proxy(&[]);
    let mut client = proxy.connect();
    served_by(&mut client);
    let switch = Session::switch(&proxy);
    proxy.ask("set switch_max_time 0");
    drop(client);
    assert_eq!(switch.last_line(), " Switch OK!: all connections closed");
    let next = proxy.ask("switch");
    assert!(next.contains("timeout: 0.00 s") && next.ends_with(" Switch failed: switch timeout\n"), "{next}");
}

#[test]
fn the_interval_of_rows_counts_at_once() {
    let (proxy, _backend) = proxy(&["-w", "10", "-t", "60"]);
    let mut client = proxy.connect();
    served_by(&mut client);
    let mut switch = Session::switch(&proxy);
    proxy.ask("set switch_loop_wait 0.1");
    // The row that was due after ten seconds comes now, and so do the next ones.
    let time = |row: String| row.split_whitespace().next().unwrap().parse::<f64>().unwrap();
    let times = [time(switch.line()), time(switch.line()), time(switch.line())];
    assert!(times[0] < 9.0 && times.is_sorted(), "{times:?}");
    drop(client);
    assert!(switch.rest().contains("Switch OK"));
}

#[test]
fn bytes_pass_unchanged_with_any_buffer_size() {
    let (proxy, _backend) = proxy(&[]);
    let mut early = proxy.connect();
    for size in ["1024", "65536"] {
        proxy.ask(&format!("set net_buffer_size {size}"));
        assert_eq!(served_by(&mut early), "A");
        assert_eq!(served_by(&mut proxy.connect()), "A");
    }
}
