//! Command line and configuration file, from outside.

use std::process::Command;

use super::{Pumpkin, link, refused, runs};
use crate::backend::Backend;
use crate::command::run;
use crate::support::TempDir;
use crate::talk::served_by;

#[test]
fn help_and_version_go_to_standard_output_and_exit_with_0() {
    let dir = TempDir::new("pumpkin");
    for (flag, token) in [
        ("--help", "Usage: cbpx pumpkin CONFIG"),
        ("--help-config", "pre_resolve_workers=1"),
        ("--version", "PumpkinLB Version 2.0.0 "),
    ] {
        let ran = runs(&[flag], dir.path());
        assert!(ran.code == Some(0) && ran.err.is_empty() && ran.out.contains(token), "{flag}: {ran:?}");
    }
}

#[test]
fn links_with_the_old_names_are_the_program() {
    let dir = TempDir::new("pumpkin");
    for name in ["PumpkinLB.py", "pumpkinlb"] {
        let ran = run(&mut Command::new(link(name, dir.path())));
        ran.failed_with(1, &[&format!("Usage: {name} CONFIG")]);
    }
    let help = crate::command::cbpx(&["--help"], dir.path());
    assert!(help.out.contains("cbpx pumpkin ..."), "{}", help.out);
}

#[test]
fn defect_9_two_arguments_and_user_errors_exit_with_1_and_lines_instead_of_tracebacks() {
    let dir = TempDir::new("pumpkin");
    runs(&[], dir.path()).failed_with(1, &["Usage: cbpx pumpkin CONFIG"]);
    runs(&["a", "b"], dir.path()).failed_with(1, &["Too many arguments.\nUsage: cbpx pumpkin CONFIG"]);
    for (arguments, told) in [
        (["nosuch"], "ERROR: cannot read nosuch: No such file or directory\n"),
        (["--nosuch"], "ERROR: cannot read --nosuch: No such file or directory\n"),
    ] {
        let ran = runs(&arguments, dir.path());
        ran.failed_with(1, &[]);
        assert_eq!(ran.err, told);
    }
    for (text, told) in [
        ("", "ERROR: conf: there is no [mappings] section: see --help-config\n"),
        ("[options]\nbuffer_size=4096\n", "ERROR: conf: there is no [mappings] section: see --help-config\n"),
        ("80=host:1\n", "ERROR: conf: line 1: '80=host:1' comes before the first section\n"),
        ("[mappings]\n80\n", "ERROR: conf: line 2: '80' has neither '=' nor ':'\n"),
        ("[mappings]\n80=a-a:1\n80=b-b:1\n", "ERROR: conf: line 3: key '80' is in [mappings] already, in line 2\n"),
    ] {
        let ran = refused(text);
        ran.failed_with(1, &[]);
        assert_eq!(ran.err, told, "{text}");
    }
}

#[test]
fn defect_5_without_a_mapping_that_can_be_used_it_exits_with_1() {
    refused("[mappings]\n").failed_with(1, &["ERROR: no mapping in conf can be used"]);
    let ran = refused("[mappings]\n80=\nhttp=host:1\n81=nosuch.invalid:80,host,127.0.0.1:x\n");
    ran.failed_with(1, &[]);
    let expected = [
        "WARNING: Skipping, no workers defined for 80 (line 2)",
        "WARNING: Skipping Invalid mapping, cannot convert port: http (line 3)",
        "WARNING: Skipping Worker, could not resolve nosuch.invalid (line 4)",
        "WARNING: Skipping Invalid Worker host (line 4)",
        "WARNING: Skipping worker, could not parse port x (line 4)",
        "WARNING: Skipping, no workers defined for 81 (line 4)",
        "ERROR: no mapping in conf can be used: there is nothing to listen on",
    ];
    assert_eq!(ran.err.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn defect_1_a_key_with_an_address_listens_there_and_nowhere_else() {
    let a = Backend::echo("A");
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\n127.0.0.1:P0={}\n", a.address()));
    assert_eq!(served_by(&mut pumpkin.connect(0)), "A");
    let elsewhere = std::net::TcpStream::connect(("127.0.0.2", pumpkin.port(0)));
    assert_eq!(elsewhere.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let line = format!("Starting up listener on 127.0.0.1:{} with mappings: {}\n", pumpkin.port(0), a.address());
    assert!(pumpkin.out().contains(&line), "{}", pumpkin.out());
    assert_eq!(pumpkin.err(), "");
}

#[test]
fn a_key_with_a_port_listens_on_all_addresses_whatever_the_separator() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let pumpkin = Pumpkin::start(2, &format!("[mappings]\nP0 = {}\nP1: {}\n", a.address(), b.address()));
    for (number, name) in ["A", "B"].iter().enumerate() {
        assert_eq!(served_by(&mut pumpkin.connect(number)), *name);
        let port = pumpkin.port(number);
        assert_eq!(served_by(&mut crate::service::connect(([127, 0, 0, 2], port).into())), *name);
        assert!(pumpkin.out().contains(&format!("Starting up listener on 0.0.0.0:{port} with mappings: ")));
    }
}

#[test]
fn defect_2_a_skipped_worker_leaves_the_others_their_address_and_their_weight() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let (a, b) = (a.address(), b.address());
    let bad = "nowhere, ab:1, host:, 127.0.0.1:http, nosuch.invalid:80,";
    let pumpkin = Pumpkin::start(1, &format!("[mappings]\nP0={bad} {a}, {bad} {b} ,\n"));
    let served: Vec<String> = (0..6).map(|_| served_by(&mut pumpkin.connect(0))).collect();
    assert_eq!(served, ["A", "B", "A", "B", "A", "B"]);
    for told in [
        "WARNING: Skipping Invalid Worker nowhere (line 2)\n",
        "WARNING: Skipping Invalid Worker ab:1 (line 2)\n",
        "WARNING: Skipping Invalid Worker host: (line 2)\n",
        "WARNING: Skipping worker, could not parse port http (line 2)\n",
        "WARNING: Skipping Worker, could not resolve nosuch.invalid (line 2)\n",
    ] {
        assert_eq!(pumpkin.err().matches(told).count(), 2, "{told}: {}", pumpkin.err());
    }
    assert!(pumpkin.err().lines().all(|line| line.starts_with("[ ")), "{}", pumpkin.err());
    assert!(pumpkin.out().contains(&format!("with mappings: {a}, {b}\n")), "{}", pumpkin.out());
}

#[test]
fn defect_12_a_list_may_go_on_in_indented_lines() {
    let (a, b) = (Backend::echo("A"), Backend::echo("B"));
    let text = format!("[mappings]\nP0={},\n    # the second\n    {}\n", a.address(), b.address());
    let pumpkin = Pumpkin::start(1, &text);
    assert_eq!(served_by(&mut pumpkin.connect(0)), "A");
    assert_eq!(served_by(&mut pumpkin.connect(0)), "B");
    assert_eq!(pumpkin.err(), "");
}

#[test]
fn what_is_unknown_or_wrong_in_the_options_is_told_and_the_rest_holds() {
    let a = Backend::echo("A");
    let options = "[options]\nbuffer_size=0\nPre_Resolve_Workers=maybe\nnosuch=1\n[extra]\nx=1\n";
    let pumpkin = Pumpkin::start(1, &format!("{options}[mappings]\nP0={}\n", a.address()));
    assert_eq!(served_by(&mut pumpkin.connect(0)), "A");
    for told in [
        "WARNING: line 2: buffer_size must be a number of bytes above 0 (given: 0); 4096 is used\n",
        "WARNING: line 3: pre_resolve_workers must be 1, true, 0 or false (given: maybe); 1 is used\n",
        "WARNING: line 4: unknown key 'nosuch' in [options], ignored\n",
        "WARNING: line 5: unknown section [extra], ignored\n",
    ] {
        assert!(pumpkin.err().contains(told), "{told}: {}", pumpkin.err());
    }
    assert!(pumpkin.out().contains("Configured buffer size = 4096 bytes\n"), "{}", pumpkin.out());
}

#[test]
fn the_buffer_size_is_told_first_and_is_the_one_that_was_set() {
    let a = Backend::echo("A");
    let pumpkin = Pumpkin::start(1, &format!("[options]\nbuffer_size=8192\n[mappings]\nP0={}\n", a.address()));
    let out = pumpkin.out();
    let first = out.lines().next().unwrap();
    assert!(first.ends_with(" ] Configured buffer size = 8192 bytes"), "{out}");
    assert_eq!(pumpkin.err(), "");
    let without = Pumpkin::start(1, &format!("[options]\n[mappings]\nP0={}\n", a.address()));
    let told = "WARNING: Error parsing [options]: buffer_size is missing; 4096 is used\n";
    assert!(without.err().contains(told), "{}", without.err());
}

#[test]
fn every_line_has_the_layout_of_the_original() {
    let a = Backend::echo("A");
    let text = format!("[mappings]\nP0={},nowhere\n", a.address());
    let mut pumpkin = Pumpkin::start(1, &text);
    pumpkin.signal(rustix::process::Signal::TERM);
    assert_eq!(pumpkin.wait().code(), Some(0));
    let (out, err) = (pumpkin.out(), pumpkin.err());
    assert!(out.lines().count() == 4 && err.lines().count() == 1, "{out}\n{err}");
    for line in out.lines().chain(err.lines()) {
        let date =
            line.strip_prefix("[ ").and_then(|line| line.split_once(" ] ")).unwrap_or_else(|| panic!("{line}")).0;
        // Sat Nov 21 02:20:24 2026
        let parts: Vec<&str> = date.split(' ').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [3, 3, 2, 8, 4], "{line}");
        assert!("Mon Tue Wed Thu Fri Sat Sun".contains(parts[0]) && parts[3].matches(':').count() == 2, "{line}");
    }
}

#[test]
fn names_that_are_not_looked_up_at_the_start_are_kept_and_served_by_all_the_same() {
    let a = Backend::echo("A");
    let port = a.address().rsplit_once(':').unwrap().1.to_owned();
    let options = "[options]\nbuffer_size=4096\npre_resolve_workers=";
    let mapping = format!("[mappings]\nP0=localhost:{port}\n");
    let late = Pumpkin::start(1, &format!("{options}0\n{mapping}"));
    assert_eq!(served_by(&mut late.connect(0)), "A");
    assert!(late.out().contains(&format!("with mappings: localhost:{port}\n")), "{}", late.out());
    let early = Pumpkin::start(1, &format!("{options}TRUE\n{mapping}"));
    assert_eq!(served_by(&mut early.connect(0)), "A");
    assert!(early.out().contains(&format!("with mappings: 127.0.0.1:{port}\n")), "{}", early.out());
}

#[test]
fn a_name_that_has_no_address_yet_is_a_worker_that_fails_when_it_is_to_be_looked_up_later() {
    let a = Backend::echo("A");
    let text = format!(
        "[options]\nbuffer_size=4096\npre_resolve_workers=false\n[mappings]\nP0=nosuch.invalid:80,{}\n",
        a.address()
    );
    let pumpkin = Pumpkin::start(1, &text);
    assert_eq!(served_by(&mut pumpkin.connect(0)), "A");
    pumpkin.warns("Could not connect to worker nosuch.invalid:80", 1);
}

#[test]
fn the_example_of_its_help_is_read() {
    let help = runs(&["--help-config"], &std::env::temp_dir()).out;
    let example = help.split_once("Example:\n\n").unwrap().1;
    let example: String = example.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
    let b = Backend::echo("B");
    let text = example
        .replace("\n80=", "\nP0=")
        .replace("127.0.0.1:5432=db.example:5432", &format!("127.0.0.1:P1={}", b.address()));
    assert!(text.contains("P0=") && text.contains("127.0.0.1:P1="), "{example}");
    let pumpkin = Pumpkin::start(2, &text);
    assert_eq!(served_by(&mut pumpkin.connect(1)), "B");
    assert_eq!(pumpkin.err(), "");
}
