//! The output: text, and one row per half second. On a terminal the current row grows, with a bar per sample, so that a
//! pause is visible; in a pipe only finished rows appear, without bars, colours or control codes.

use std::env;
use std::io::{self, IsTerminal, Stdout, Write};
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use super::pulse::Queue;

/// Standard output.
pub struct Screen {
    out: Stdout,
    colour: bool,
    /// Bars from lowest to highest; `None`: no bars.
    bars: Option<[char; 8]>,
    /// An unfinished row is shown.
    growing: bool,
    /// The highest value so far, shown as a full bar.
    highest: u64,
    rows: u32,
}

/// How text may be emphasized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    Bold,
    Dim,
    Blue,
    Green,
    Yellow,
    Red,
}

/// Changes between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests answered.
    pub answered: u64,
    /// Clients held at the end of the sample.
    pub held: usize,
    /// A request failed.
    pub failed: bool,
}

/// Half a second, or the elapsed part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScreenRow {
    /// Time since the clients started.
    pub time: Duration,
    pub active: &'static str,
    pub queue: Option<Queue>,
    pub per_second: u64,
    pub errors: u64,
    pub samples: Vec<Sample>,
}

/// Number of rows after which the headings are repeated during a long stay.
const HEADINGS_EVERY: u32 = 20;
/// Width of a row with bars, in columns.
const COLUMNS: u16 = 76;
/// Maximum width of text, in columns.
pub const WIDTH: usize = 80;
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII: [char; 8] = ['_', '_', '-', '-', '=', '=', '#', '#'];
const ERASE: &str = "\r\x1b[K";

impl Screen {
    /// Uses whatever standard output supports.
    pub fn new() -> Screen {
        let out = io::stdout();
        let capable = out.is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let wide = tcgetwinsize(&out).map_or(true, |size| size.ws_col == 0 || size.ws_col >= COLUMNS);
        let bars = if speaks_utf8() { BLOCKS } else { ASCII };
        Screen {
            colour: capable && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            bars: (capable && wide).then_some(bars),
            out,
            growing: false,
            highest: 1,
            rows: 0,
        }
    }

    /// Resets the scale of the bars.
    pub fn lower_ceiling(&mut self) {
        self.highest = 1;
    }

    /// Whether rows have bars.
    pub fn has_bars(&self) -> bool {
        self.bars.is_some()
    }

    /// The text, emphasized if standard output supports it.
    pub fn ink(&self, ink: Ink, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Blue => "94",
            Ink::Green => "32",
            Ink::Yellow => "33",
            Ink::Red => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A server's name in its own colour, padded to `width`.
    pub fn server(&self, name: &str, width: usize) -> String {
        let padded = format!("{name:<width$}");
        match name {
            "blue" => self.ink(Ink::Blue, &padded),
            "green" => self.ink(Ink::Green, &padded),
            _ => padded,
        }
    }

    /// Prints one or more lines.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let erase = if std::mem::take(&mut self.growing) { ERASE } else { "" };
        self.put(&format!("{erase}{text}\n"))
    }

    /// Prints the headings of the rows.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn headings(&mut self) -> io::Result<()> {
        self.rows = 0;
        let (title, rule) = if self.has_bars() { (" requests as they end", " --------------------") } else { ("", "") };
        let titles = format!("   time active backend active in queue  req/s errors{title}");
        self.say(&self.ink(Ink::Dim, &titles))?;
        self.say(&self.ink(Ink::Dim, &format!(" ------ -------------- ------ -------- ------ ------{rule}")))
    }

    /// Prints a finished row.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn row(&mut self, row: &ScreenRow) -> io::Result<()> {
        if self.rows == HEADINGS_EVERY {
            self.headings()?;
        }
        self.rows += 1;
        let line = self.line(row);
        self.say(&line)
    }

    /// Prints an unfinished row, if standard output can erase it again.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn growing_row(&mut self, row: &ScreenRow) -> io::Result<()> {
        if !self.has_bars() {
            return Ok(());
        }
        let line = self.line(row);
        self.growing = true;
        self.put(&format!("{ERASE}{line}"))
    }

    /// Ends the line of an unfinished row.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn interrupted(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.growing) { self.put("\n") } else { Ok(()) }
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(|e| io::Error::new(e.kind(), format!("cannot write to standard output: {e}")))
    }

    fn line(&mut self, row: &ScreenRow) -> String {
        let queue = match row.queue {
            Some(Queue { assigned, held }) => format!("{assigned:>6} {held:>8}"),
            None => format!("{:>6} {:>8}", "-", "-"),
        };
        let numbers = format!("{queue} {:>6}", row.per_second);
        let errors = format!("{:>6}", row.errors);
        let errors = if row.errors > 0 { self.ink(Ink::Red, &errors) } else { errors };
        let bars: String = row.samples.iter().map(|sample| self.bar(*sample)).collect();
        let gap = if bars.is_empty() { "" } else { " " };
        let (time, active) = (row.time.as_secs_f64(), self.server(row.active, 14));
        format!(" {time:>6.1} {active} {numbers} {errors}{gap}{bars}")
    }

    fn bar(&mut self, sample: Sample) -> String {
        let Some(bars) = self.bars else { return String::new() };
        self.highest = self.highest.max(sample.answered);
        match sample.answered {
            0 if sample.failed => self.ink(Ink::Red, "!"),
            0 if sample.held > 0 => self.ink(Ink::Yellow, "."),
            0 => " ".to_owned(),
            answered => {
                let level = (answered * bars.len() as u64).div_ceil(self.highest).max(1) - 1;
                bars.get(level as usize).map(char::to_string).unwrap_or_default()
            }
        }
    }
}

/// Breaks text at spaces into lines of at most [`WIDTH`], all but the first indented by `indent`. A longer word gets a
/// line of its own.
pub fn fold(text: &str, indent: &str) -> String {
    let (mut lines, mut column) = (String::new(), 0);
    for word in text.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > indent.chars().count() && column + length > WIDTH {
            lines.truncate(lines.trim_end().len());
            lines.push_str(&format!("\n{indent}"));
            column = indent.chars().count();
        }
        lines.push_str(word);
        column += word.chars().count();
    }
    lines.truncate(lines.trim_end().len());
    lines
}

/// Whether the locale uses UTF-8; the first of the three variables that is set decides.
fn speaks_utf8() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|value| !value.is_empty());
    let locale = set.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(bars: Option<[char; 8]>) -> Screen {
        Screen { out: io::stdout(), colour: false, bars, growing: false, highest: 1, rows: 0 }
    }

    fn row() -> ScreenRow {
        let samples = [(80, 0, false), (40, 0, true), (0, 55, false), (0, 55, true), (0, 0, false)];
        let samples = samples.map(|(answered, held, failed)| Sample { answered, held, failed }).to_vec();
        let (time, queue) = (Duration::from_millis(1500), Some(Queue { assigned: 12, held: 55 }));
        ScreenRow { time, active: "blue", queue, per_second: 5120, errors: 0, samples }
    }

    #[test]
    fn a_pause_can_be_seen_among_the_bars() {
        let mut screen = screen(Some(BLOCKS));
        screen.highest = 80;
        assert_eq!(screen.line(&row()), "    1.5 blue               12       55   5120      0 █▄.! ");
    }

    #[test]
    fn the_widest_row_is_no_wider_than_a_terminal() {
        let samples = vec![Sample { answered: 1, held: 0, failed: false }; 20];
        let queue = Some(Queue { assigned: 65_536, held: 10_000 });
        let (time, active) = (Duration::from_secs(9999), "green");
        let row = ScreenRow { time, active, queue, per_second: 999_999, errors: 999_999, samples };
        let width = screen(Some(BLOCKS)).line(&row).chars().count();
        assert!(width <= usize::from(COLUMNS) && usize::from(COLUMNS) <= WIDTH, "{width}");
    }

    #[test]
    fn text_is_folded_at_spaces_and_nothing_is_lost() {
        let text = format!("{} {} end", "a".repeat(70), "b".repeat(90));
        let folded = fold(&text, "  | ");
        assert_eq!(folded, format!("{}\n  | {}\n  | end", "a".repeat(70), "b".repeat(90)));
        assert_eq!(fold("short enough", "    "), "short enough");
        let exact = format!("{} b", "a".repeat(78));
        assert_eq!(fold(&exact, ""), exact);
    }

    #[test]
    fn in_a_pipe_a_row_is_numbers_only() {
        assert_eq!(screen(None).line(&row()), "    1.5 blue               12       55   5120      0");
    }
}
