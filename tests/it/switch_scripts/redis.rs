//! Redis: a primary and its replica, and contrib/switch/redis.sh. Clients are redis-cli and this file's own few lines
//! of its protocol.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::server::{Process, hand_over, unprivileged};
use super::{Server, Site};
use crate::support::{Reserved, TempDir, eventually};

pub struct Redis(Process);

impl Redis {
    /// With a configuration file, which CONFIG REWRITE writes to.
    fn start(dir: &TempDir, name: &str, lines: &str) -> Redis {
        let port = Reserved::new();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
        let home = dir.path().join(name);
        fs::create_dir(&home).unwrap();
        let file = home.join("redis.conf");
        // The waits of a second and more are made short; a full copy is made at once.
        let text = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nsave \"\"\nrepl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n{lines}\n",
            port.port(),
            home.display()
        );
        fs::write(&file, text).unwrap();
        hand_over(&file);
        hand_over(&home);
        let mut command = unprivileged("redis-server");
        command.arg(&file).current_dir(&home);
        let log = home.join("server.log");
        Redis(Process::start(command, port, log, || ask(addr, &["PING"]).is_ok()))
    }

    pub fn pair(dir: &TempDir) -> [Redis; 2] {
        let first = Redis::start(dir, "first", "");
        let second = Redis::start(dir, "second", &format!("replicaof 127.0.0.1 {}", first.port()));
        [first, second]
    }

    pub fn ask(&self, words: &[&str]) -> Vec<String> {
        self.try_ask(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    fn try_ask(&self, words: &[&str]) -> Result<Vec<String>, String> {
        ask((Ipv4Addr::LOCALHOST, self.port()).into(), words)
    }

    fn info(&self, line: &str) -> bool {
        self.ask(&["INFO"]).concat().lines().any(|found| found.trim() == line)
    }
}

impl Server for Redis {
    fn port(&self) -> u16 {
        self.0.port()
    }

    fn takes_writes(&self) -> bool {
        self.try_ask(&["DEL", "none"]).is_ok()
    }

    fn follows(&self, other: &Redis) -> bool {
        self.info(&format!("master_port:{}", other.port())) && self.info("master_link_status:up")
    }

    fn is_standby(&self) -> bool {
        self.info("role:slave")
    }

    fn is_guarded(&self) -> bool {
        self.ask(&["CLIENT", "LIST"]).concat().contains("name=cbpx-guard")
    }

    fn rows(&self) -> Vec<(usize, usize)> {
        let of = |client: usize| {
            let rows = self.ask(&["LRANGE", &format!("ledger:{client}"), "0", "-1"]);
            rows.into_iter().map(move |n| (client, n.parse().unwrap())).collect::<Vec<_>>()
        };
        (0..20).flat_map(of).collect()
    }
}

pub fn visit(addr: SocketAddr, client: usize, n: usize) -> Result<(u16, usize), String> {
    let (key, n) = (format!("ledger:{client}"), n.to_string());
    if client < 4 {
        return visit_with_redis_cli(addr, &key, &n);
    }
    let mut connection = Connection::open(addr)?;
    let count = connection.ask(&["RPUSH", &key, &n])?.concat();
    let port = connection.ask(&["CONFIG", "GET", "port"])?;
    connection.ask(&["QUIT"])?;
    Ok((number(port.last())?, number(Some(&count))?))
}

fn visit_with_redis_cli(addr: SocketAddr, key: &str, n: &str) -> Result<(u16, usize), String> {
    // One script, so one connection and one transaction.
    let script = "return {redis.call('RPUSH', KEYS[1], ARGV[1]), redis.call('CONFIG', 'GET', 'port')[2]}";
    let script =
        script.replace("redis.call('CONFIG', 'GET', 'port')[2]", "string.match(redis.call('INFO'), 'tcp_port:(%d+)')");
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let output = Command::new("redis-cli")
        .args(["-h", &host, "-p", &port, "EVAL", &script, "1", key, n])
        .output()
        .map_err(|e| format!("redis-cli: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match said.split_whitespace().collect::<Vec<_>>()[..] {
        [count, port] if output.status.success() => {
            Ok((number(Some(&port.to_owned()))?, number(Some(&count.to_owned()))?))
        }
        _ => Err(format!("redis-cli says {said:?} {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn number<T: std::str::FromStr>(text: Option<&String>) -> Result<T, String> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| format!("no number: {text:?}"))
}

struct Connection(BufReader<TcpStream>);

fn ask(addr: SocketAddr, words: &[&str]) -> Result<Vec<String>, String> {
    Connection::open(addr)?.ask(words)
}

impl Connection {
    fn open(addr: SocketAddr) -> Result<Connection, String> {
        let open = || {
            let stream = TcpStream::connect(addr)?;
            // Longer than any time limit a test gives a switch: a held client waits.
            stream.set_read_timeout(Some(Duration::from_secs(90)))?;
            Ok(Connection(BufReader::new(stream)))
        };
        open().map_err(|e: std::io::Error| format!("connect: {e}"))
    }

    /// One command; the stwake-ups of its reply, flat.
    fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, String> {
        let mut message = format!("*{}\r\n", words.len());
        for word in words {
            message += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(message.as_bytes()).map_err(|e| format!("{words:?}: {e}"))?;
        let mut reply = Vec::new();
        self.read(&mut reply).map_err(|e| format!("{words:?}: {e}"))?;
        Ok(reply)
    }

    fn read(&mut self, reply: &mut Vec<String>) -> Result<(), String> {
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(|e| e.to_string())?;
        let line = line.strip_suffix("\r\n").ok_or("the connection has ended")?;
        let (kind, rest) = line.split_at_checked(1).ok_or("an empty reply")?;
        match (kind, rest.parse::<usize>()) {
            ("-", _) => Err(rest.to_owned()),
            ("+" | ":", _) => {
                reply.push(rest.to_owned());
                Ok(())
            }
            ("$", Ok(length)) => {
                let mut body = vec![0; length + 2];
                self.0.read_exact(&mut body).map_err(|e| e.to_string())?;
                reply.push(String::from_utf8_lossy(&body[..length]).into_owned());
                Ok(())
            }
            ("*", Ok(length)) => (0..length).try_for_each(|_| self.read(reply)),
            _ => Err(format!("an unknown reply: {line:?}")),
        }
    }
}

fn site() -> Site<Redis> {
    let dir = TempDir::new("redis");
    hand_over(dir.path());
    let pair = Redis::pair(&dir);
    Site::start("redis", dir, pair, visit, "")
}

#[test]
fn redis_goes_there_and_back_and_no_client_notices() {
    let site = site();
    super::goes_there_and_back_unnoticed(&site);
    // Its role is in the configuration file: a restart changes nothing.
    let file = |name: &str| fs::read_to_string(site.file(&format!("{name}/redis.conf"))).unwrap();
    assert!(!file("first").contains("replicaof"), "{}", file("first"));
    assert!(file("second").contains(&format!("replicaof 127.0.0.1 {}", site.first.port())), "{}", file("second"));
    for name in ["first", "second"] {
        assert!(!file(name).contains("2147483647"), "the fence was saved: {}", file(name));
    }
}

#[test]
fn a_redis_switch_that_fails_leaves_everything_as_it_was() {
    let site = site();
    site.first.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    // It counts its replicas once a second.
    eventually(super::LONG, "the replica is counted", || site.first.takes_writes());
    let read_only =
        |value: &'static str| move |second: &Redis| drop(second.ask(&["CONFIG", "SET", "replica-read-only", value]));
    super::leaves_everything_as_it_was(&site, read_only("no"), read_only("yes"), "is not replica-read-only");
    // What the operator had demanded is demanded again.
    assert_eq!(site.first.ask(&["CONFIG", "GET", "min-replicas-to-write"])[1], "1");
}

#[test]
fn a_redis_script_that_is_killed_is_undone_by_its_guard() {
    super::is_undone_by_its_guard(&site());
}

#[test]
fn a_redis_script_killed_after_the_promotion_leaves_one_writable_server() {
    let site = site();
    // The new primary demands more replicas than it gets, so that the script waits for its first write.
    let demand = |replicas: &'static str| {
        move |site: &Site<Redis>| drop(site.second.ask(&["CONFIG", "SET", "min-replicas-to-write", replicas]))
    };
    super::stands_once_it_is_promoted(&site, demand("3"), demand("0"));
}

#[test]
fn a_redis_switch_is_refused_if_the_standby_follows_somebody_else() {
    let site = site();
    let other = Redis::start(&site.dir, "other", "");
    site.second.ask(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    eventually(super::LONG, "it follows the other one", || site.second.follows(&other));
    site.switch("Switch failed: script exited with code: 1", &["follows another primary", "nothing was touched"]);
    assert!(site.first.takes_writes() && site.second.is_standby());
}
