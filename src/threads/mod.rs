//! Names of threads. The kernel keeps them, so that `threads`, `top -H` and a core dump agree, and the log line of a
//! reused thread tells what the thread is doing now.

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

/// Gives the calling thread a name. The kernel keeps its first 15 bytes.
pub fn rename(name: &str) {
    NAME.with(|own| {
        let mut own = own.borrow_mut();
        own.clear();
        own.push_str(name);
    });
    let shown: Vec<u8> = name.bytes().filter(|b| *b != 0).take(15).collect();
    if let Ok(shown) = CString::new(shown) {
        // A name is a courtesy: without one everything works.
        rustix::thread::set_name(&shown).ok();
    }
}

/// Hands the calling thread's name to `read`.
pub fn with_name<R>(read: impl FnOnce(&str) -> R) -> R {
    NAME.with(|own| {
        let own = own.borrow();
        read(if own.is_empty() { "main" } else { &own })
    })
}

/// Starts a thread under this name, with the system's usual stack.
///
/// # Errors
/// When the system has no thread left.
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
    // A thread that ends between the two reads is left out.
    let name = |id| fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok();
    ids.into_iter().filter_map(name).map(|name| name.trim_end().to_owned()).collect()
}
