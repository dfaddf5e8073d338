//! The play: what is said, in which order, and what is measured meanwhile. One thread, this one, speaks; everybody else
//! sends it events. Between events `pulse` makes rows of what the counters show.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::book::Totals;
use super::clients::{Clients, LONG, Pace, SHORT, TRANSACTION};
use super::operator::{Operator, Report};
use super::pulse::Pulse;
use super::screen::{Ink, Screen};
use super::stage::Stage;
use super::verdict::{Scene, Verdict, milliseconds};

/// What the play hears of.
#[derive(Debug)]
pub enum Event {
    /// The operator was told this line.
    Said(String),
    /// The operator's answer is complete.
    SaidAll,
    /// Ctrl-C, or another signal to end.
    Interrupted,
}

/// Why a play ends before its end.
#[derive(Debug)]
enum Cut {
    Interrupted,
    /// Somebody at the control port told the proxy to quit.
    ProxyGone,
    /// Nobody can be shown anything any more, or something that must work does not.
    Failed(io::Error),
}

impl From<io::Error> for Cut {
    fn from(e: io::Error) -> Cut {
        Cut::Failed(e)
    }
}

/// From a heading to the operator's `switch`. Half a row, so that the next row ends in the middle of the switch.
const BEFORE_SWITCH: Duration = Duration::from_millis(250);

/// One performance.
pub struct Play<'a> {
    stage: &'a Stage,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    screen: Screen,
    pulse: Pulse,
}

/// One of the two switches, and what is said about it.
struct Act {
    heading: &'static str,
    story: &'static str,
    /// The outcome begins with this.
    expected: &'static str,
    /// The server that serves afterwards.
    then: &'static str,
}

const ACTS: [Act; 2] = [
    Act {
        heading: "Act 1: a switch that fails",
        story: "The standby, green, has not caught up, and the switch script will find that out after\n\
                300 ms. Clients wait meanwhile; then blue should serve them as if nothing had been.",
        expected: "Switch failed: script exited with code: 1",
        then: "blue",
    },
    Act {
        heading: "Act 2: a switch that works",
        story: "Green has caught up. The script takes 300 ms to promote it. Watch 'in queue': nobody\n\
                is refused, they wait; then the active backend is green, with errors still at 0.",
        expected: "Switch OK",
        then: "green",
    },
];

impl<'a> Play<'a> {
    pub fn new(stage: &'a Stage, events: Sender<Event>, inbox: Receiver<Event>) -> Play<'a> {
        Play { stage, events, inbox, screen: Screen::new(), pulse: Pulse::new() }
    }

    /// Plays it; returns whether the verdict is good.
    ///
    /// # Errors
    /// When standard output cannot be written to, or there are no threads.
    pub fn run(mut self, stay: bool) -> io::Result<bool> {
        self.introduce()?;
        let clients = Clients::start(self.stage.listening, Pace::Brisk, &self.stage.book)?;
        self.pulse = Pulse::new();
        let scenes = match self.acts() {
            Ok(scenes) => scenes,
            Err(cut) => return self.explain(cut),
        };
        // Before the verdict, so that it knows how every request has ended.
        drop(clients);
        let verdict = Verdict::new(&self.stage.book, scenes);
        verdict.tell(&mut self.screen)?;
        let good = verdict.is_good();
        // Whatever the verdict: who asked for it may want to look around.
        Ok(if stay { self.stay()? && good } else { good })
    }

    fn introduce(&mut self) -> io::Result<()> {
        let (stage, screen) = (self.stage, &mut self.screen);
        let (proxy, control) = (stage.listening, stage.control);
        let title = "cbpx demo: a database moves to another server, and none of its clients notices";
        screen.say(&screen.ink(Ink::Bold, title))?;
        let (blue, green) = (screen.server("blue", 5), screen.server("green", 5));
        let transactions = format!("{LONG:>2} clients, {} ms transactions", TRANSACTION.as_millis());
        for line in [
            String::new(),
            format!("{:40}+------+", ""),
            format!(
                "  {:<33} --> |      | --> {blue}  the primary: it answers",
                format!("{SHORT} clients, a short request each")
            ),
            format!("{:40}| cbpx |", ""),
            format!("  {transactions:<33} --> |      |     {green}  the standby: it refuses"),
            format!("{:40}+------+\n", ""),
        ] {
            screen.say(&line)?;
        }
        let [first, second] = stage.command_line();
        screen.say("All of it runs in this process, through real sockets. You would start this proxy with\n")?;
        screen.say(&format!("  {first}\n       {second}\n"))?;
        screen.say("Join in from a second terminal, now or at any time:\n")?;
        screen.say(&format!("  echo stats | nc {} {}     ask the proxy", control.ip(), control.port()))?;
        screen.say(&format!("  echo hello | nc {} {}     be a client\n", proxy.ip(), proxy.port()))?;
        screen.say("A request without an answer is an error, and so is one that a server refused.\n")?;
        screen.headings()
    }

    fn acts(&mut self) -> Result<Vec<Scene>, Cut> {
        self.rows(3)?;
        let first = self.act(&ACTS[0])?;
        self.stage.standby_catches_up()?;
        let second = self.act(&ACTS[1])?;
        Ok(vec![first, second])
    }

    fn act(&mut self, act: &Act) -> Result<Scene, Cut> {
        let stage = self.stage;
        let heading = self.screen.ink(Ink::Bold, act.heading);
        self.screen.say(&format!("\n{heading}\n{}\n", act.story))?;
        self.screen.headings()?;
        self.watch(BEFORE_SWITCH)?;
        let (ip, port) = (stage.control.ip(), stage.control.port());
        self.screen.say(&self.screen.ink(Ink::Bold, &format!("  $ echo switch | nc {ip} {port}")))?;
        stage.book.switch_begins();
        let failed = |e: io::Error| io::Error::new(e.kind(), format!("cannot type at the control port: {e}"));
        let operator = Operator::types_switch(stage.control, self.events.clone()).map_err(failed)?;
        let report = self.listen()?;
        drop(operator);
        // Whoever was held is served within the next rows.
        self.rows(3)?;
        let as_expected = report.outcome.as_deref().is_some_and(|outcome| outcome.starts_with(act.expected))
            && stage.name_of(&stage.proxy.desk().board.read().active) == act.then;
        let scene = Scene { name: act.heading, report, as_expected, waits: stage.book.switch_waits() };
        let words = if as_expected {
            format!(
                "\n{} serves. The longest wait of any client was {}:\n{}.",
                capitalized(act.then),
                milliseconds(scene.waits.longest),
                scene.account()
            )
        } else {
            let outcome = scene.report.outcome.as_deref().unwrap_or("no answer");
            self.screen.ink(Ink::Red, &format!("\nThat was not to be expected: {outcome}"))
        };
        self.screen.say(&words)?;
        if scene.report.outcome.as_deref().is_some_and(|outcome| outcome.contains("exec failed")) {
            self.screen.say("Programs may not run from the temporary directory: try another one, with TMPDIR=...")?;
        }
        Ok(scene)
    }

    /// Rows until the operator has the whole answer.
    fn listen(&mut self) -> Result<Report, Cut> {
        let mut report = Report::default();
        loop {
            match self.next(None)? {
                Some(Event::Said(line)) => {
                    report.read(&line);
                    if !line.trim().is_empty() {
                        self.screen.say(&self.screen.ink(Ink::Dim, &format!("  |{line}")))?;
                    }
                }
                Some(Event::SaidAll) => {
                    self.stage.book.switch_ended();
                    return Ok(report);
                }
                Some(Event::Interrupted) => return Err(Cut::Interrupted),
                None => {}
            }
        }
    }

    /// Everything goes on until Ctrl-C or `quit force`. Returns whether it went on well.
    fn stay(&mut self) -> io::Result<bool> {
        let clients = Clients::start(self.stage.listening, Pace::Gentle, &self.stage.book)?;
        let before = self.stage.book.totals();
        self.screen.lower_ceiling();
        let (ip, port) = (self.stage.control.ip(), self.stage.control.port());
        self.screen.say(&format!(
            "\nThe clients go on, at a gentler pace. Your turn, in a second terminal; it works both ways:\n\n  \
             echo switch | nc {ip} {port}\n\nCtrl-C ends the demo.\n"
        ))?;
        self.screen.headings()?;
        let cut = loop {
            if let Err(cut) = self.rows(1) {
                break cut;
            }
        };
        drop(clients);
        self.screen.interrupted()?;
        match cut {
            Cut::Failed(e) => Err(e),
            // The errors of clients that were cut off are what was asked for.
            Cut::ProxyGone => self.screen.say("\ncbpx was told to quit: the demo ends.").map(|()| true),
            Cut::Interrupted => {
                let Totals { requests, errors, wrong } = self.stage.book.totals();
                let (errors, wrong) = (errors - before.errors, wrong - before.wrong);
                self.screen.say(&format!(
                    "\nEnded. Since the verdict: {} requests, {errors} errors, {wrong} at the wrong server.",
                    requests - before.requests
                ))?;
                Ok(errors == 0 && wrong == 0)
            }
        }
    }

    /// The play is over before its end, and nothing has been shown.
    fn explain(&mut self, cut: Cut) -> io::Result<bool> {
        self.screen.interrupted()?;
        let words = match cut {
            Cut::Failed(e) => return Err(e),
            Cut::Interrupted => "\nInterrupted: no verdict.",
            Cut::ProxyGone => "\ncbpx was told to quit in the middle of the play: no verdict.",
        };
        self.screen.say(words)?;
        Ok(false)
    }

    /// Until this many rows more are complete.
    fn rows(&mut self, count: u32) -> Result<(), Cut> {
        let last = self.pulse.rows + count;
        while self.pulse.rows < last {
            self.pass(None)?;
        }
        Ok(())
    }

    /// For this long.
    fn watch(&mut self, time: Duration) -> Result<(), Cut> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.pass(Some(end))?;
        }
        Ok(())
    }

    fn pass(&mut self, until: Option<Instant>) -> Result<(), Cut> {
        match self.next(until)? {
            Some(Event::Interrupted) => Err(Cut::Interrupted),
            // The operator has nothing to say outside `listen`.
            Some(Event::Said(_) | Event::SaidAll) | None => Ok(()),
        }
    }

    /// The one place that waits: for an event, the next sample or `until`, whichever comes first.
    fn next(&mut self, until: Option<Instant>) -> Result<Option<Event>, Cut> {
        let deadline = until.map_or(self.pulse.next, |until| until.min(self.pulse.next));
        match self.inbox.recv_deadline(deadline) {
            Ok(event) => return Ok(Some(event)),
            // Never disconnected: this is a sender too.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if Instant::now() >= self.pulse.next {
            if self.stage.book.proxy_has_gone() {
                return Err(Cut::ProxyGone);
            }
            self.pulse.sample(self.stage, &mut self.screen)?;
        }
        Ok(None)
    }
}

fn capitalized(name: &str) -> String {
    let (first, rest) = name.split_at_checked(1).unwrap_or((name, ""));
    first.to_uppercase() + rest
}
