//! Splits input from a person or a script into lines: skips telnet's negotiation; a line ends with LF or CRLF. Pure;
//! the session decides how long to wait for the end of a line.

/// Bytes received but not yet taken as a line.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    telnet: TelnetState,
}

/// Parser state within a telnet command (RFC 854).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum TelnetState {
    #[default]
    Data,
    /// After IAC.
    Command,
    /// After IAC and WILL, WONT, DO or DONT: the option follows.
    Option,
    /// Within a subnegotiation, and there after an IAC.
    Sub,
    SubCommand,
}

const IAC: u8 = 255;
const SB: u8 = 250;
const SE: u8 = 240;

impl LineBuffer {
    /// Appends received bytes without telnet commands.
    pub fn push(&mut self, received: &[u8]) {
        for &byte in received {
            self.telnet = match (self.telnet, byte) {
                (TelnetState::Data, IAC) => TelnetState::Command,
                (TelnetState::Data, byte) => {
                    self.bytes.push(byte);
                    TelnetState::Data
                }
                (TelnetState::Command, SB) => TelnetState::Sub,
                (TelnetState::Command, 251..=254) => TelnetState::Option,
                (TelnetState::Command, _) => TelnetState::Data,
                (TelnetState::Option, _) => TelnetState::Data,
                (TelnetState::Sub, IAC) => TelnetState::SubCommand,
                (TelnetState::Sub, _) => TelnetState::Sub,
                (TelnetState::SubCommand, SE) => TelnetState::Data,
                (TelnetState::SubCommand, _) => TelnetState::Sub,
            };
        }
    }

    /// Takes the first complete line, without its line end.
    pub fn line(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Some(text(&line[..end]))
    }

    /// Takes an incomplete line, whose end will not come.
    pub fn rest(&mut self) -> String {
        text(&std::mem::take(&mut self.bytes))
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // telnet sends CR NUL for a bare carriage return.
    let line = line.strip_suffix(b"\r\0").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> (Vec<String>, String) {
        let mut buffer = LineBuffer::default();
        chunks.iter().for_each(|chunk| buffer.push(chunk));
        let lines = std::iter::from_fn(|| buffer.line()).collect();
        (lines, buffer.rest())
    }

    #[test]
    fn lf_and_crlf_end_a_line_and_a_rest_without_end_is_kept() {
        let (got, rest) = lines(&[b"hello\nstats\r", b"\nswi", b"tch"]);
        assert_eq!((got, rest.as_str()), (vec!["hello".to_owned(), "stats".to_owned()], "switch"));
    }

    #[test]
    fn telnet_negotiation_is_skipped_wherever_it_is_cut() {
        let sent = b"\xff\xfd\x03he\xff\xfb\x18l\xff\xfa\x18\x00vt100\xff\xffx\xff\xf0lo\xff\xf1\r\n";
        for cut in 0..sent.len() {
            assert_eq!(lines(&[&sent[..cut], &sent[cut..]]).0, ["hello"], "cut at {cut}");
        }
    }

    #[test]
    fn any_bytes_are_some_text() {
        let (got, _) = lines(&[b"\xc3\x28\x00\n"]);
        assert_eq!(got.len(), 1);
    }
}
