//! Thread names. The kernel keeps them, so that `threads`, `top -H` and a core dump agree, and the log line of a reused
//! thread shows its current job.

pub mod pool;
mod repeating;

use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::io;
use std::thread::{self, JoinHandle};

pub use self::repeating::Repeating;

thread_local! {
    static NAME: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Renames the calling thread. The kernel keeps the first 15 bytes.
pub fn rename(name: &str) {
    NAME.with(|own| {
        let mut own = own.borrow_mut();
        own.clear();
        own.push_str(name);
    });
    let shown: Vec<u8> = name.bytes().filter(|b| *b != 0).take(15).collect();
    if let Ok(shown) = CString::new(shown) {
        // Ignored: a name is not essential.
        rustix::thread::set_name(&shown).ok();
    }
}

/// Passes the calling thread's name to `read`.
pub fn with_name<R>(read: impl FnOnce(&str) -> R) -> R {
    NAME.with(|own| {
        let own = own.borrow();
        read(if own.is_empty() { "main" } else { &own })
    })
}

/// Starts a thread with this name and the system's default stack size.
///
/// # Errors
/// When the system cannot start another thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let own = name.to_owned();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        rename(&own);
        body();
    })
}

/// The names of all threads of this process, oldest first.
pub fn list() -> Vec<String> {
    let mut ids: Vec<u64> = fs::read_dir("/proc/self/task")
        .map(|tasks| tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    ids.sort_unstable();
    // A thread that ends between the two reads is omitted.
    let name = |id| fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok();
    ids.into_iter().filter_map(name).map(|name| name.trim_end().to_owned()).collect()
}
