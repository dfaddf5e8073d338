//! The servers of the soak: they do what a client's task says, and check what reaches them: every byte is one the
//! client sent, and a client that reset its connection is never seen to have ended in order.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use super::ledger::Ledger;
use super::wire::{Broken, Random, TASK, Task, Work, expect, expect_end, reset, send};

/// How long a slow server or client lets the other one wait: enough to fill every buffer on the way.
pub const SLOW: std::time::Duration = std::time::Duration::from_millis(300);

/// Starts a server that gives this name with each answer. It lasts as long as the process.
///
/// # Errors
/// When there is no port.
pub fn serve(name: u8, ledger: &Arc<Ledger>) -> io::Result<SocketAddr> {
    // With the standard library's queue of 128 the kernel would drop part of those a switch releases and repeat them a
    // second later.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    let ledger = Arc::clone(ledger);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let ledger = Arc::clone(&ledger);
            let body = move || {
                if let Err(Fault(words)) = converse(stream, name, &ledger) {
                    ledger.fault(&format!("server: {words}"));
                }
            };
            // Out of threads: that client sees a close, and complains.
            thread::Builder::new().stack_size(256 * 1024).spawn(body).ok();
        }
    });
    Ok(address)
}

/// What must not happen.
struct Fault(String);

fn converse(stream: TcpStream, name: u8, ledger: &Ledger) -> Result<(), Fault> {
    // A connection that is reset already will say so.
    stream.set_nodelay(true).ok();
    stream.set_read_timeout(Some(PATIENCE)).ok();
    stream.set_write_timeout(Some(PATIENCE)).ok();
    let mut stream = Some(stream);
    while let Some(open) = stream.take() {
        let Some(task) = next_task(&open)? else { return Ok(()) };
        stream = perform(open, task, name, ledger)
            .map_err(|broken| Fault(format!("{:?} of {} up, {} down: {broken}", task.work, task.up, task.down)))?;
    }
    Ok(())
}

/// `None` when the client has ended or was reset: both are allowed between two tasks.
fn next_task(mut stream: &TcpStream) -> Result<Option<Task>, Fault> {
    let mut bytes = [0; TASK];
    let mut length = 0;
    while length < TASK {
        match stream.read(&mut bytes[length..]) {
            Ok(0) if length == 0 => return Ok(None),
            Ok(0) => return Err(Fault(format!("the stream ended, as if in order, after {length} bytes of a task"))),
            Ok(some) => length += some,
            Err(e) if Broken::Failed(e.kind().into()).is_reset() => return Ok(None),
            Err(e) => return Err(Fault(format!("waiting for a task: {e}"))),
        }
    }
    Task::parse(&bytes).map(Some).ok_or_else(|| Fault("other bytes than a task".to_owned()))
}

/// Gives the connection back when another task may follow.
fn perform(stream: TcpStream, task: Task, name: u8, ledger: &Ledger) -> Result<Option<TcpStream>, Broken> {
    let began = ledger.era();
    match task.work {
        Work::Answer => {
            expect(&stream, &mut task.upward(), task.up)?;
            answer(&stream, task, name)?;
            Ok(Some(stream))
        }
        Work::Slowly => {
            thread::sleep(Random(task.seed).up_to(SLOW));
            expect(&stream, &mut task.upward(), task.up)?;
            answer(&stream, task, name)?;
            Ok(Some(stream))
        }
        Work::Both => {
            let sent = thread::scope(|scope| {
                let sending = scope.spawn(|| answer(&stream, task, name));
                expect(&stream, &mut task.upward(), task.up)?;
                sending.join().map_err(|_| Broken::Failed(io::Error::other("the sender panicked")))
            })?;
            sent?;
            Ok(Some(stream))
        }
        Work::ToEnd => {
            expect(&stream, &mut task.upward(), task.up)?;
            expect_end(&stream)?;
            answer(&stream, task, name)?;
            stream.shutdown(Shutdown::Write)?;
            Ok(None)
        }
        Work::EndFirst => {
            answer(&stream, task, name)?;
            stream.shutdown(Shutdown::Write)?;
            match expect(&stream, &mut task.upward(), task.up).and_then(|()| expect_end(&stream)) {
                // A switch does not wait for a client whose server has ended.
                Err(Broken::Ended(_) | Broken::Failed(_)) if ledger.may_have_switched_since(began) => Ok(None),
                outcome => outcome.map(|()| None),
            }
        }
        Work::UntilReset => match answer(&stream, task, name)
            .map_err(Broken::from)
            .and_then(|()| expect(&stream, &mut task.upward(), task.up))
        {
            Err(broken) if broken.is_reset() => Ok(None),
            Err(broken) => Err(broken),
            Ok(()) => Err(Broken::Failed(io::Error::other("the client's reset was not seen"))),
        },
        Work::Reset => {
            let short = Task { down: Random(task.seed).below(task.down), ..task };
            // The client may not read: then this stops where the buffers end, and the reset comes all the same.
            stream.set_write_timeout(Some(SLOW))?;
            answer(&stream, short, name).ok();
            reset(stream);
            Ok(None)
        }
    }
}

fn answer(mut stream: &TcpStream, task: Task, name: u8) -> io::Result<()> {
    stream.write_all(&[name])?;
    send(stream, &mut task.downward(), task.down)
}
