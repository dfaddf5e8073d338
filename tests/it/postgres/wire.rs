//! Enough of PostgreSQL's protocol, version 3, to know exactly what was acknowledged: startup without a password, one
//! simple query at a time, and the polite end. An answer counts only when `ReadyForQuery` has arrived after it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One session.
pub struct Session(TcpStream);

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection could not be made, or ended too early.
    Broken(io::Error),
    /// The server says no.
    Refused { code: String, text: String },
    /// An answer came, but a wrong one.
    Wrong(String),
}

impl Failure {
    /// `cannot execute ... in a read-only transaction`: the server is fenced.
    pub fn is_fence(&self) -> bool {
        match self {
            Failure::Refused { code, .. } => code == "25006",
            Failure::Broken(_) | Failure::Wrong(_) => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Broken(cause) => write!(f, "connection broken: {cause}"),
            Failure::Refused { code, text } => write!(f, "server refused: {code} {text}"),
            Failure::Wrong(text) => write!(f, "wrong answer: {text}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Failure {
        Failure::Broken(cause)
    }
}

impl Session {
    /// Connects as `postgres` and waits until the server is ready.
    pub fn open(addr: SocketAddr) -> Result<Session, Failure> {
        Session::open_as("postgres", addr)
    }

    /// Connects as `user`, to the database `postgres`, and waits until the server is ready.
    pub fn open_as(user: &str, addr: SocketAddr) -> Result<Session, Failure> {
        let stream = TcpStream::connect(addr)?;
        // Longer than any time limit a test gives a switch: a held client waits.
        stream.set_read_timeout(Some(Duration::from_secs(90)))?;
        stream.set_nodelay(true)?;
        let mut session = Session(stream);
        let parameters = format!("user\0{user}\0database\0postgres\0\0");
        let mut startup = (parameters.len() as u32 + 8).to_be_bytes().to_vec();
        startup.extend(196_608_u32.to_be_bytes());
        startup.extend(parameters.as_bytes());
        session.0.write_all(&startup)?;
        session.until_ready()?;
        Ok(session)
    }

    /// Runs one query string, in one transaction, and returns the rows of all its statements.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Failure> {
        let mut message = vec![b'Q'];
        message.extend((sql.len() as u32 + 5).to_be_bytes());
        message.extend(sql.as_bytes());
        message.push(0);
        self.0.write_all(&message)?;
        self.until_ready()
    }

    /// Says goodbye.
    pub fn close(mut self) -> Result<(), Failure> {
        Ok(self.0.write_all(&[b'X', 0, 0, 0, 4])?)
    }

    fn until_ready(&mut self) -> Result<Vec<Vec<String>>, Failure> {
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            let (kind, body) = match self.message() {
                Ok(message) => message,
                // After a FATAL error the server closes; the error says more than the close.
                Err(cause) => return Err(refused.unwrap_or(Failure::Broken(cause))),
            };
            match kind {
                b'D' => rows.push(columns(&body)),
                b'E' => refused = Some(error(&body)),
                b'Z' => return refused.map_or(Ok(rows), Err),
                // Parameters, notices, row descriptions, command tags: nothing we need.
                _ => {}
            }
        }
    }

    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length.saturating_sub(4)];
        self.0.read_exact(&mut body)?;
        Ok((head[0], body))
    }
}

/// The columns of a DataRow; NULL is the empty string.
fn columns(body: &[u8]) -> Vec<String> {
    let (mut rest, mut columns) = (&body[2..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length).max(0) as usize;
        columns.push(String::from_utf8_lossy(&tail[..length]).into_owned());
        rest = &tail[length..];
    }
    columns
}

/// An ErrorResponse: fields of one letter and a text.
fn error(body: &[u8]) -> Failure {
    let field = |letter: u8| {
        let found = body.split(|&byte| byte == 0).find(|field| field.first() == Some(&letter));
        String::from_utf8_lossy(found.map_or(b"", |field| &field[1..])).into_owned()
    };
    Failure::Refused { code: field(b'C'), text: field(b'M') }
}
