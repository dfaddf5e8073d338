//! Both kinds of conversation with a proxy: an operator's with control, line by line as it comes, and a client's with
//! whatever backend it was given.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::proxy::{Proxy, finish};
use crate::support::{SOON, eventually};

/// The whole answer to one line at a control socket; `None` when nobody listens there.
pub fn answer(socket: &Path, line: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    writeln!(stream, "{line}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer)
}

/// An operator's connection, read line by line.
pub struct Session(BufReader<TcpStream>);

impl Session {
    /// Connects and sends exactly these bytes.
    pub fn send(proxy: &Proxy, bytes: &[u8]) -> Session {
        let mut stream = TcpStream::connect(proxy.control()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // A session that is rejected is closed while we write.
        stream.write_all(bytes).ok();
        Session(BufReader::new(stream))
    }

    /// Begins a switch and returns when it has begun: from then on no client is dialled.
    pub fn switch(proxy: &Proxy) -> Session {
        let mut session = Session::send(proxy, b"switch\n");
        session.line_with(" 0.00   ");
        session
    }

    /// The next line without its end; empty at the end of the answer.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// Reads on to the first line that contains `token`.
    pub fn line_with(&mut self, token: &str) -> String {
        let mut before = Vec::new();
        loop {
            let mut line = String::new();
            let length = self.0.read_line(&mut line).unwrap();
            assert!(length > 0, "the answer ended before '{token}': {before:?}");
            if line.contains(token) {
                return line.trim_end_matches('\n').to_owned();
            }
            before.push(line);
        }
    }

    /// Reads until these bytes have come: a prompt has no line end.
    pub fn until(&mut self, token: &str) -> String {
        let text = self.until_end_or(token);
        assert!(text.ends_with(token), "the answer ended before '{token}': {text:?}");
        text
    }

    fn until_end_or(&mut self, token: &str) -> String {
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with(token) && self.0.read(&mut byte).unwrap() > 0 {
            text.push(char::from(byte[0]));
        }
        text
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Says that nothing more will come.
    pub fn end_sending(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Everything to the end of the answer.
    pub fn rest(self) -> String {
        let read = String::from_utf8_lossy(self.0.buffer()).into_owned();
        read + &finish(self.0.into_inner())
    }

    /// The last line of the answer.
    pub fn last_line(self) -> String {
        self.rest().lines().last().unwrap_or_default().to_owned()
    }
}

/// All the sessions there may be at once, each at its prompt.
pub fn all_sessions(proxy: &Proxy) -> Vec<Session> {
    let mut sessions = Vec::new();
    // Those of earlier commands may still be on their way out, and then the last of these are rejected.
    eventually(SOON, "there is room for 64 sessions", || {
        let mut session = Session::send(proxy, b"prompt\n");
        if session.until_end_or("> ").ends_with("> ") {
            sessions.push(session);
        }
        sessions.len() == 64
    });
    sessions
}

/// The backend this client is talking to, asked over the connection itself (see `Backend::echo`).
pub fn served_by(client: &mut TcpStream) -> String {
    client.write_all(b"who?").unwrap();
    let mut answer = String::new();
    while !answer.ends_with(":who?") {
        let mut bytes = [0; 64];
        let length = match client.read(&mut bytes) {
            // A call with a time limit may end so when a child of this process has ended: see signal(7).
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.unwrap(),
        };
        assert!(length > 0, "closed instead of served, after '{answer}'");
        answer.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    answer.trim_end_matches(":who?").to_owned()
}

/// Whether this client is closed without having been served a byte.
pub fn is_turned_away(client: &mut TcpStream) -> bool {
    match client.read(&mut [0; 64]) {
        Ok(length) => length == 0,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
