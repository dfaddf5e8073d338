//! `-cpuprofile`: where the program's time went, for `go tool pprof`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use pprof::protos::{Message, Profile};
use rustix::process::Signal;

use super::program::Fallback;
use crate::backend::Backend;
use crate::command::{Ran, cbpx, run};
use crate::ends::pattern;
use crate::processes::catches;
use crate::support::{Reserved, SOON, TempDir};
use crate::talk::served_by;

/// One that keeps in this directory what is temporary.
fn profiled(flags: &[&str], server: &Backend, temporary: &Path) -> Fallback {
    let fallback = Fallback::spawn("127.0.0.1:PORT", flags, &[&server.address()], |command| {
        command.env("TMPDIR", temporary);
    });
    fallback.says("Listening on");
    fallback
}

fn of(path: &Path) -> Profile {
    let bytes = fs::read(path).unwrap();
    assert!(!bytes.is_empty(), "{} is empty", path.display());
    Profile::decode(&bytes[..]).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The names of all functions that were on some stack.
fn functions(profile: &Profile) -> Vec<&str> {
    profile.function.iter().map(|function| text(profile, function.name)).collect()
}

fn text(profile: &Profile, at: i64) -> &str {
    &profile.string_table[usize::try_from(at).unwrap()]
}

/// CPU time of a process so far, in its unit of a hundredth of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = stat.rsplit_once(')').unwrap().1;
    rest.split_whitespace().skip(11).take(2).map(|number| number.parse::<u64>().unwrap()).sum()
}

/// Small requests until the program has used so much time, then one large transfer; every byte must come back.
fn load(fallback: &Fallback, until: u64) {
    let begun = Instant::now();
    let mut client = fallback.connect();
    let mut answer = [0; 7];
    while ticks(fallback.pid()) < until {
        assert!(begun.elapsed() < SOON * 9, "it uses no time");
        for _ in 0..200 {
            client.write_all(b"request").unwrap();
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"request");
        }
    }
    let mut writer = client.try_clone().unwrap();
    let sent = pattern(8 << 20);
    let sending = thread::spawn({
        let sent = sent.clone();
        move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    sending.join().unwrap();
    assert!(got == sent, "every byte comes back, {} of {}", got.len(), sent.len());
}

/// Sends back what it gets, as it is.
fn mirror() -> Backend {
    Backend::start(|stream: TcpStream, _| {
        let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    })
}

#[test]
fn a_profile_is_written_at_the_end_and_tells_where_the_time_went() {
    let (server, dir) = (mirror(), TempDir::new("profile"));
    let path = dir.path().join("cpu.pprof");
    let spill = dir.path().join("tmp");
    fs::create_dir(&spill).unwrap();
    let mut fallback = profiled(&["-cpuprofile", path.to_str().unwrap()], &server, &spill);
    let before = ticks(fallback.pid());
    load(&fallback, before + 50);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "it is there from the start, and written at the end");
    let used = ticks(fallback.pid()) - before;
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::TERM);
    assert_eq!(fallback.wait().code(), Some(0));
    let profile = of(&path);
    let units: Vec<_> =
        profile.sample_type.iter().map(|one| (text(&profile, one.ty), text(&profile, one.unit))).collect();
    assert_eq!(units, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!(profile.period, 10_000_000, "a hundred times a second");
    let samples: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
    assert!(samples >= used as i64 / 5, "{samples} samples in {used} hundredths of a second");
    let names = functions(&profile);
    assert!(names.iter().any(|name| name.contains("cbpx::relay")), "{names:#?}");
    let threads: Vec<_> =
        profile.sample.iter().flat_map(|sample| &sample.label).map(|label| text(&profile, label.str)).collect();
    assert!(threads.iter().any(|name| name.starts_with("client-")), "{threads:?}");
    assert_eq!(fs::read_dir(&spill).unwrap().count(), 0, "nothing is left in the temporary directory");
    assert!(fallback.count("profiler") == 0, "{:?}", fallback.lines());
}

#[test]
fn a_second_signal_that_cuts_clients_writes_the_profile_too_and_the_last_file_named_is_it() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("profile"));
    let [first, last] = ["a", "b"].map(|name| dir.path().join(name).display().to_string());
    let flags = ["-cpuprofile", &first, &format!("--cpuprofile={last}")];
    let mut fallback = profiled(&flags, &server, dir.path());
    let mut client = fallback.connect();
    assert_eq!(served_by(&mut client), "s");
    catches(fallback.pid(), Signal::TERM);
    fallback.signal(Signal::TERM);
    fallback.says("Waiting for clients to finish");
    fallback.signal(Signal::INT);
    assert_eq!(fallback.wait().code(), Some(0));
    assert_eq!(of(Path::new(&last)).period, 10_000_000);
    assert!(!Path::new(&first).exists());
}

fn fails_to_start(profile: &str) -> Ran {
    let port = Reserved::new();
    let words = ["fallback", "-cpuprofile", profile, &format!("127.0.0.1:{}", port.port()), "127.0.0.1:9"];
    cbpx(&words, TempDir::new("profile").path())
}

#[test]
fn a_profile_that_cannot_be_written_to_its_file_is_told_with_status_1() {
    fails_to_start("no/such/place")
        .failed_with(1, &["tcp_fallback: cannot open CPU profile no/such/place: no such file"]);
    fails_to_start("/").failed_with(1, &["cannot open CPU profile /: is a directory"]);
    let dir = TempDir::new("profile");
    let fifo = dir.path().join("fifo");
    assert_eq!(run(std::process::Command::new("mkfifo").arg(&fifo)).code, Some(0));
    // The FIFO has no reader, and the proxy does not wait for one.
    fails_to_start(fifo.to_str().unwrap()).failed_with(1, &["cannot open CPU profile", "fifo: "]);

    let server = Backend::echo("s");
    let mut fallback = profiled(&["-cpuprofile", "/dev/full"], &server, dir.path());
    assert_eq!(served_by(&mut fallback.connect()), "s");
    fallback.signal(Signal::TERM);
    assert_eq!(fallback.wait().code(), Some(1));
    fallback.says("tcp_fallback: cannot write CPU profile /dev/full: no space left");
}

#[test]
fn without_the_flag_nothing_is_sampled() {
    let (server, dir) = (Backend::echo("s"), TempDir::new("profile"));
    let fallback = profiled(&[], &server, dir.path());
    catches(fallback.pid(), Signal::TERM);
    // Where a profile is taken, its directory is there from the start.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(served_by(&mut fallback.connect()), "s");
}
