//! Enough of MariaDB's protocol to know exactly what was acknowledged: a handshake without a password, one statement at
//! a time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One session.
pub struct Session {
    stream: TcpStream,
    /// The number the next packet must have.
    sequence: u8,
}

impl Session {
    /// Connects as `user`, who has no password.
    pub fn open(addr: SocketAddr, user: &str) -> Result<Session, String> {
        let open = || {
            let stream = TcpStream::connect(addr)?;
            // Longer than any time limit a test gives a switch: a held client waits.
            stream.set_read_timeout(Some(Duration::from_secs(90)))?;
            stream.set_nodelay(true)?;
            Ok(Session { stream, sequence: 0 })
        };
        let mut session: Session = open().map_err(|e: io::Error| format!("connect: {e}"))?;
        session.packet()?;
        // Capabilities: PROTOCOL_41 and SECURE_CONNECTION; then the largest packet, the character set, 23 zeros, the
        // user and no answer to the password challenge.
        let mut hello = (0x0200_u32 | 0x8000).to_le_bytes().to_vec();
        hello.extend(0x0100_0000_u32.to_le_bytes());
        hello.push(33);
        hello.extend([0; 23]);
        hello.extend(user.bytes());
        hello.extend([0, 0]);
        session.send(&hello)?;
        session.packet()?;
        Ok(session)
    }

    /// Runs one statement and returns its rows; NULL is `NULL`.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        self.command(3, sql)?;
        let head = self.packet()?;
        if head.first() == Some(&0) {
            return Ok(Vec::new());
        }
        // Column definitions up to an end packet, rows up to another.
        while !is_end(&self.packet()?) {}
        let mut rows = Vec::new();
        loop {
            let packet = self.packet()?;
            if is_end(&packet) {
                return Ok(rows);
            }
            rows.push(columns(&packet)?);
        }
    }

    /// Says goodbye.
    pub fn close(mut self) -> Result<(), String> {
        self.command(1, "")
    }

    fn command(&mut self, number: u8, text: &str) -> Result<(), String> {
        self.sequence = 0;
        let mut body = vec![number];
        body.extend(text.bytes());
        self.send(&body)
    }

    fn send(&mut self, body: &[u8]) -> Result<(), String> {
        let mut packet = (body.len() as u32).to_le_bytes().to_vec();
        packet[3] = self.sequence;
        packet.extend(body);
        self.stream.write_all(&packet).map_err(|e| format!("send: {e}"))?;
        self.sequence += 1;
        Ok(())
    }

    /// The next packet; one that tells of an error is one.
    fn packet(&mut self) -> Result<Vec<u8>, String> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).map_err(|e| format!("receive: {e}"))?;
        let mut body = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.stream.read_exact(&mut body).map_err(|e| format!("receive: {e}"))?;
        self.sequence = head[3].wrapping_add(1);
        match body.first() {
            Some(0xff) => Err(format!("the server refuses: {}", String::from_utf8_lossy(&body[3..]))),
            Some(_) => Ok(body),
            None => Err("an empty packet".to_owned()),
        }
    }
}

fn is_end(packet: &[u8]) -> bool {
    packet[0] == 0xfe && packet.len() < 9
}

/// Stwake-ups of up to 250 bytes, each after its length.
fn columns(mut packet: &[u8]) -> Result<Vec<String>, String> {
    let mut columns = Vec::new();
    while let Some((&length, rest)) = packet.split_first() {
        if length == 0xfb {
            columns.push("NULL".to_owned());
            packet = rest;
        } else {
            let (text, rest) = rest.split_at_checked(usize::from(length)).ok_or("a column that is too long")?;
            columns.push(String::from_utf8_lossy(text).into_owned());
            packet = rest;
        }
    }
    Ok(columns)
}
