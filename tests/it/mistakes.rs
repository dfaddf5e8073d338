//! Mistakes of a tired operator: each causes a helpful message, and has no other effect.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use crate::backend::Backend;
use crate::command::Killed;
use crate::proxy::{CBPX, Proxy, finish};
use crate::support::{Reserved, TempDir};

fn run(arguments: &[&str]) -> Output {
    let dir = TempDir::new("mistakes");
    Command::new(CBPX).args(arguments).current_dir(dir.path()).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_proxy_that_would_be_its_own_backend_does_not_start() {
    let port = Reserved::new();
    let (own, number) = (format!("127.0.0.1:{}", port.port()), port.port().to_string());
    for (active, standby) in [(own.as_str(), "127.0.0.1:9"), ("127.0.0.1:9", own.as_str())] {
        let ran = run(&["-p", &number, "-a", active, "-s", standby, "-t", "5", "-c", "10", "-o", "0"]);
        let words = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(1), "{words}");
        assert!(words.contains(&own) && words.contains("listens there itself"), "{words}");
    }
}

#[test]
fn a_command_without_ctl_is_told_where_it_belongs() {
    let ran = run(&["switch"]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("cbpx ctl switch"));
}

#[test]
fn a_line_of_separators_is_an_empty_line() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    assert_eq!(proxy.ask(" ; ;"), " Closing: the line is empty\n");
}

#[test]
fn quit_with_words_too_many_names_them_and_does_nothing() {
    let server = Backend::echo("s");
    let mut proxy = Proxy::start(&server.address(), &server.address(), &[]);
    assert!(proxy.ask("quit force now").contains("'force now'"));
    assert!(proxy.is_running());
}

#[test]
fn a_script_whose_interpreter_is_missing_is_told_apart_from_a_missing_script() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("mistakes"));
    let script = dir.script("promote", "#!/no/such/shell\n").display().to_string();
    let proxy = Proxy::start(&server.address(), &server.address(), &["-x", &script]);
    let answer = proxy.ask("switch");
    assert!(answer.contains(&format!(" script: cannot start {script}: ")) && answer.contains("#!"), "{answer}");
    assert!(answer.contains("Switch failed: script exec failed: "), "{answer}");
    std::fs::remove_file(&script).unwrap();
    assert!(!proxy.ask("switch").contains("#!"));
}

#[test]
fn ctl_tells_the_outcome_although_nobody_reads_its_output() {
    let server = Backend::echo("s");
    let proxy = Proxy::start(&server.address(), &server.address(), &[]);
    let to = proxy.control().to_string();
    let mut ctl = Command::new(CBPX);
    let mut ctl = Killed::start(ctl.args(["ctl", "--to", &to, "switch"]).stdout(Stdio::piped()));
    drop(ctl.0.stdout.take());
    assert_eq!(ctl.0.wait().unwrap().code(), Some(0));
}

#[test]
fn the_short_prefix_of_the_control_port_still_means_it() {
    let ran = run(&["--rc", "99999"]);
    assert!(String::from_utf8_lossy(&ran.stderr).contains("-r/--rc_port: must be "), "{ran:?}");
}

#[test]
fn the_first_ctrl_c_tells_the_terminal_why_it_is_not_obeyed() {
    let server = Backend::echo("s");
    let mut proxy = Proxy::start_with(&server.address(), &server.address(), &[], |command| {
        command.stderr(Stdio::piped());
    });
    let client: TcpStream = proxy.connect();
    crate::support::eventually(crate::support::SOON, "the client is served", || proxy.stat("active") == 1);
    proxy.signal(rustix::process::Signal::INT);
    let mut stderr = proxy.child().stderr.take().unwrap();
    let mut words = vec![0; 40];
    stderr.read_exact(&mut words).unwrap();
    assert!(String::from_utf8_lossy(&words).starts_with("cbpx: clients connected: 1, held: 0"));
    assert!(proxy.is_running());
    drop(client);
    finish(proxy.begin("hello"));
}
