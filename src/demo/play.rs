//! The play: prints the story and measures. This thread alone writes; all others send it events. Between events,
//! `pulse` turns counters into rows.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::bare::{Bare, Moved};
use super::book::DemoTotals;
use super::clients::{DemoClients, LONG, Pace, SHORT, TRANSACTION};
use super::operator::{Operator, SwitchReport};
use super::pulse::{Pulse, Sight};
use super::screen::{Ink, Screen, fold};
use super::stage::DemoStage;
use super::verdict::{DemoVerdict, Observations, milliseconds};

/// Events that the play receives.
#[derive(Debug)]
pub enum DemoEvent {
    /// The operator received this line.
    Said(String),
    /// The operator's answer is complete.
    SaidAll,
    /// Ctrl-C, or another signal to end.
    Interrupted,
}

/// Why a play ends early.
#[derive(Debug)]
enum Interruption {
    Interrupted,
    /// Someone told the proxy to quit at its control port.
    ProxyGone,
    /// Standard output failed, or the demo itself did.
    Failed(io::Error),
}

impl From<io::Error> for Interruption {
    fn from(e: io::Error) -> Interruption {
        Interruption::Failed(e)
    }
}

/// From a heading to `switch`: half a row, so that the next row ends in the middle of the switch.
const BEFORE_SWITCH: Duration = Duration::from_millis(250);

/// The play in progress.
pub struct Play<'a> {
    stage: &'a DemoStage,
    events: Sender<DemoEvent>,
    inbox: Receiver<DemoEvent>,
    screen: Screen,
    pulse: Pulse,
    /// Set during the act without a proxy.
    bare: Option<Bare>,
}

/// One of the two switches, and the text about it.
struct Act {
    heading: &'static str,
    /// The name in the verdict.
    name: &'static str,
    story: &'static str,
    /// Start of the expected outcome.
    expected: &'static str,
    /// The server that serves afterwards.
    then: &'static str,
}

const WORKS: Act = Act {
    heading: "Act 1: a switch that works",
    name: "a switch that works",
    story: "The script takes 300 ms to promote green. Watch 'in queue': nobody is refused,\n\
            they wait; then the active backend is green, with errors still at 0.",
    expected: "Switch OK",
    then: "green",
};

const FAILS: Act = Act {
    heading: "Act 2: a switch that fails",
    name: "a switch that fails",
    story: "The standby, blue now, has not caught up, and the script finds that out after\n\
            300 ms. Clients wait meanwhile; then green serves as if nothing had been.",
    expected: "Switch failed: script exited with code: 1",
    then: "green",
};

const WITHOUT: &str = "Act 3: the same move without cbpx";

const WITHOUT_STORY: &str = "Two more servers, blue and green, and 55 clients that connect to them directly.\n\
    Blue is stopped, the same script promotes green, the clients are sent there.";

impl<'a> Play<'a> {
    pub fn new(stage: &'a DemoStage, events: Sender<DemoEvent>, inbox: Receiver<DemoEvent>) -> Play<'a> {
        Play { stage, events, inbox, screen: Screen::new(), pulse: Pulse::new(), bare: None }
    }

    /// Plays all acts and returns whether the verdict is good.
    ///
    /// # Errors
    /// When standard output cannot be written to, or a thread cannot be started.
    pub fn run(mut self, stay: bool) -> io::Result<bool> {
        self.introduce(stay)?;
        let (scenes, without) = match self.acts() {
            Ok(acts) => acts,
            Err(cut) => return self.explain(cut),
        };
        let verdict = DemoVerdict::new(&self.stage.book, scenes, without);
        verdict.tell(&mut self.screen)?;
        let good = verdict.is_good();
        // Stay whatever the verdict: the user may want to look around.
        Ok(if stay { self.stay()? && good } else { good })
    }

    fn introduce(&mut self, stay: bool) -> io::Result<()> {
        let (stage, screen) = (self.stage, &mut self.screen);
        let (proxy, control) = (stage.listening, stage.control);
        let title = "cbpx demo: a database moves to another server, and none of its clients notices";
        screen.say(&screen.ink(Ink::Bold, title))?;
        let (blue, green) = (screen.server("blue", 5), screen.server("green", 5));
        let transactions = format!("{LONG:>2} clients, {} ms transactions", TRANSACTION.as_millis());
        for line in [
            String::new(),
            format!("{:38}+------+", ""),
            format!(
                "  {:<31} --> |      | --> {blue}  primary: it answers",
                format!("{SHORT} clients, a request each")
            ),
            format!("{:38}| cbpx |", ""),
            format!("  {transactions:<31} --> |      |     {green}  standby: it refuses"),
            format!("{:38}+------+\n", ""),
        ] {
            screen.say(&line)?;
        }
        screen.say("All of it runs in this process, through real sockets. You would start this proxy\nwith\n")?;
        screen.say(&stage.command_line())?;
        let (stats, hello) = (
            format!("  echo stats | nc {} {}     ask the proxy", control.ip(), control.port()),
            format!("  echo hello | nc {} {}     be a client", proxy.ip(), proxy.port()),
        );
        screen.say(if stay {
            "\nIt takes eight seconds and then goes on (--stay) until Ctrl-C. Join in from a\n\
             second terminal at any time:\n"
        } else {
            "\nIt takes eight seconds. `cbpx demo --stay` goes on afterwards, so that you can\n\
             join in from a second terminal; its ports will differ from these:\n"
        })?;
        screen.say(&format!("{stats}\n{hello}\n"))?;
        screen.say("A request without an answer is an error, and so is one that a server refused.\n")?;
        screen.headings()
    }

    fn acts(&mut self) -> Result<(Vec<Observations>, Moved), Interruption> {
        // The clients end before the verdict, so that it includes the end of every request.
        let clients = DemoClients::start(&self.stage.target, Pace::Brisk, &self.stage.book)?;
        self.pulse = Pulse::new();
        self.rows(2)?;
        let first = self.act(&WORKS)?;
        self.stage.standby_falls_behind()?;
        let second = self.act(&FAILS)?;
        self.stage.standby_catches_up()?;
        drop(clients);
        Ok((vec![first, second], self.without()?))
    }

    /// The last act. No client uses the proxy meanwhile.
    fn without(&mut self) -> Result<Moved, Interruption> {
        let heading = self.screen.ink(Ink::Bold, WITHOUT);
        self.screen.say(&format!("\n{heading}\n{WITHOUT_STORY}\n"))?;
        self.screen.headings()?;
        let failed = |e| io::Error::other(format!("cannot set the stage without cbpx: {e}"));
        let bare = self.bare.insert(Bare::set().map_err(failed)?);
        let (target, book) = (bare.target.clone(), bare.book.clone());
        let clients = DemoClients::start(&target, Pace::Brisk, &book)?;
        self.pulse = Pulse::new();
        self.rows(1)?;
        self.watch(BEFORE_SWITCH)?;
        let there = self.move_by_hand()?;
        let before = book.totals().requests;
        self.rows(2)?;
        drop(clients);
        let totals = book.totals();
        let moved = Moved { totals, there: there && totals.requests > before };
        let errors = totals.errors + totals.wrong;
        let server = self.sight().active;
        self.screen.say(&format!("\n{} serves. {errors} requests failed.", capitalized(server)))?;
        self.bare = None;
        Ok(moved)
    }

    /// Does what an operator without a proxy would do. Returns whether the script succeeded.
    fn move_by_hand(&mut self) -> Result<bool, Interruption> {
        let Some(bare) = &self.bare else { return Ok(false) };
        let (blue, green) = (bare.blue.address, bare.green.address);
        self.screen.say(&self.screen.ink(Ink::Bold, "  $ systemctl stop blue"))?;
        bare.blue.stop();
        let line = format!("  $ switch.sh {} {} {} {}", blue.ip(), blue.port(), green.ip(), green.port());
        self.screen.say(&self.screen.ink(Ink::Bold, &line))?;
        let script = match bare.run_script(self.events.clone()) {
            Ok(script) => script,
            Err(e) => {
                self.screen.say(&self.screen.ink(Ink::Red, &format!("Cannot run the switch script: {e}")))?;
                return Ok(false);
            }
        };
        let target = bare.target.clone();
        self.hear(|_| {})?;
        let succeeded = script.succeeded()?;
        target.set(green);
        self.screen.say(&self.screen.ink(Ink::Bold, &format!("  $ set the clients' server to {green}")))?;
        Ok(succeeded)
    }

    fn act(&mut self, act: &Act) -> Result<Observations, Interruption> {
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
        // Held clients are served within the next rows.
        self.rows(3)?;
        let as_expected = report.outcome.as_deref().is_some_and(|outcome| outcome.starts_with(act.expected))
            && stage.name_of(&stage.proxy.context().stats.read().active) == act.then;
        let scene = Observations { name: act.name, report, as_expected, waits: stage.book.switch_waits() };
        let words = if as_expected {
            format!(
                "{} serves. The longest wait of any client was {}: {}.",
                capitalized(act.then),
                milliseconds(scene.waits.longest),
                scene.account()
            )
        } else {
            format!("Unexpected outcome: {}", scene.report.outcome.as_deref().unwrap_or("no answer"))
        };
        let words = format!("\n{}", fold(&words, ""));
        self.screen.say(&if as_expected { words } else { self.screen.ink(Ink::Red, &words) })?;
        if scene.report.outcome.as_deref().is_some_and(|outcome| outcome.contains("exec failed")) {
            self.screen.say("Programs may not run from the temporary directory: try another, TMPDIR=...")?;
        }
        Ok(scene)
    }

    /// Shows rows until the operator's answer is complete.
    fn listen(&mut self) -> Result<SwitchReport, Interruption> {
        let mut report = SwitchReport::default();
        self.hear(|line| report.read(line))?;
        self.stage.book.switch_ended();
        Ok(report)
    }

    /// Shows rows and lines until the answer is complete.
    fn hear(&mut self, mut line_by_line: impl FnMut(&str)) -> Result<(), Interruption> {
        loop {
            match self.next(None)? {
                Some(DemoEvent::Said(line)) => {
                    line_by_line(&line);
                    if !line.trim().is_empty() {
                        self.screen
                            .say(&self.screen.ink(Ink::Dim, &fold(&format!("  | {}", line.trim()), "  |   ")))?;
                    }
                }
                Some(DemoEvent::SaidAll) => return Ok(()),
                Some(DemoEvent::Interrupted) => return Err(Interruption::Interrupted),
                None => {}
            }
        }
    }

    /// Goes on until Ctrl-C or `quit force`. Returns whether no error occurred.
    fn stay(&mut self) -> io::Result<bool> {
        let clients = DemoClients::start(&self.stage.target, Pace::Gentle, &self.stage.book)?;
        let before = self.stage.book.totals();
        self.screen.lower_ceiling();
        let (ip, port) = (self.stage.control.ip(), self.stage.control.port());
        self.screen.say(&format!(
            "\nThe clients of cbpx go on, at a gentler pace. Your turn, in a second terminal;\nit works both ways:\n\n  \
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
            Interruption::Failed(e) => Err(e),
            // Clients cut off by `quit force` fail as intended.
            Interruption::ProxyGone => self.screen.say("\ncbpx was told to quit: the demo ends.").map(|()| true),
            Interruption::Interrupted => {
                let DemoTotals { requests, errors, wrong } = self.stage.book.totals();
                let (errors, wrong) = (errors - before.errors, wrong - before.wrong);
                self.screen.say(&format!(
                    "\nEnded. Since the verdict: {} requests, {errors} errors, {wrong} at the wrong server.",
                    requests - before.requests
                ))?;
                Ok(errors == 0 && wrong == 0)
            }
        }
    }

    /// Explains an early end, without a verdict.
    fn explain(&mut self, cut: Interruption) -> io::Result<bool> {
        self.screen.interrupted()?;
        let words = match cut {
            Interruption::Failed(e) => return Err(e),
            Interruption::Interrupted => "\nInterrupted: no verdict.",
            Interruption::ProxyGone => "\ncbpx was told to quit in the middle of the play: no verdict.",
        };
        self.screen.say(words)?;
        Ok(false)
    }

    /// Waits until this many more rows are complete.
    fn rows(&mut self, count: u32) -> Result<(), Interruption> {
        let last = self.pulse.rows + count;
        while self.pulse.rows < last {
            self.pass(None)?;
        }
        Ok(())
    }

    /// Waits for this long.
    fn watch(&mut self, time: Duration) -> Result<(), Interruption> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.pass(Some(end))?;
        }
        Ok(())
    }

    fn pass(&mut self, until: Option<Instant>) -> Result<(), Interruption> {
        match self.next(until)? {
            Some(DemoEvent::Interrupted) => Err(Interruption::Interrupted),
            // The operator sends nothing outside `listen`.
            Some(DemoEvent::Said(_) | DemoEvent::SaidAll) | None => Ok(()),
        }
    }

    /// Snapshot of the counters.
    fn sight(&self) -> Sight {
        self.bare.as_ref().map_or_else(|| self.stage.sight(), Bare::sight)
    }

    /// The only place that waits: for an event, the next sample or `until`, whichever comes first.
    fn next(&mut self, until: Option<Instant>) -> Result<Option<DemoEvent>, Interruption> {
        let deadline = until.map_or(self.pulse.next, |until| until.min(self.pulse.next));
        match self.inbox.recv_deadline(deadline) {
            Ok(event) => return Ok(Some(event)),
            // Never disconnected: this thread holds a sender too.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if Instant::now() >= self.pulse.next {
            if self.stage.book.has_refusals() {
                return Err(Interruption::ProxyGone);
            }
            self.pulse.sample(self.sight(), &mut self.screen)?;
        }
        Ok(None)
    }
}

fn capitalized(name: &str) -> String {
    let (first, rest) = name.split_at_checked(1).unwrap_or((name, ""));
    first.to_uppercase() + rest
}
