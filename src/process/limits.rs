//! The capacity of the process, determined once at the start from the limits of descriptors, threads and memory. A
//! client needs two descriptors and, when idle, some kilobytes. It needs no thread of its own, but gets two while there
//! is capacity for them. Beyond the capacity the newest client is rejected (promise 5). An estimate that is too low
//! rejects clients without need; one that is too high endangers all clients. The log shows the estimate.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::engine::{Capacity, Permits};
use crate::relay;

/// The relevant limits of the system. `u64::MAX` means no limit.
#[derive(Clone, Copy, Debug)]
pub struct SystemLimits {
    /// RLIMIT_NOFILE, after the soft limit was raised to the hard one.
    pub descriptors: u64,
    /// The smallest of RLIMIT_NPROC, the control group's pids.max, kernel.threads-max, kernel.pid_max, and a third of
    /// vm.max_map_count: each thread needs three mappings, for its stack, its guard page and an allocator arena.
    pub threads: u64,
    /// The smaller of the machine's memory and the control group's limit, in bytes.
    pub memory: u64,
}

/// The resulting limits of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of clients at once.
    pub clients: usize,
    /// Maximum number of pipes for bulk transfers.
    pub pipes: usize,
    /// Number of shared relay threads.
    pub relays: usize,
    /// Maximum number of clients with a pair of threads of their own.
    pub pairs: usize,
    /// The resource that limits the number of clients.
    bound: ScarceResource,
    /// Set if the limit of threads is below what control and a switch may need.
    pub few_threads: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScarceResource {
    Descriptors(u64),
    /// In bytes.
    Memory(u64),
}

/// Descriptors of the process apart from its relay threads: the standard three, listeners, log, watch, script, some
/// control sessions.
const OWN_DESCRIPTORS: u64 = 20;
/// Descriptors of each further service apart from its relay threads: listener, watch and first-bytes thread, two each.
const FURTHER_DESCRIPTORS: u64 = 6;
/// Descriptors of a client: one for itself and one for its backend.
const PER_CLIENT: u64 = 2;
/// At most one in this many descriptors is for pipes (two each), and there are no more pipes than this: only a few are
/// busy at a time.
const PIPES_PART: u64 = 16;
const MOST_PIPES: u64 = 256;
/// At most one in this many descriptors is for pairs of threads: it is better to let a client share threads than to
/// reject another.
const PAIRS_PART: u64 = 16;
/// At most one in this many threads is for pairs (two each). The others are for control and switches.
const THREADS_PART: u64 = 2;
/// Memory of a pair in bytes, besides its client's: two stacks in the process (20 KiB are touched) and in the kernel
/// (32 KiB), and the bookkeeping of two threads. Pairs get at most one in `PAIRS_MEMORY_PART` bytes of all memory.
const PAIR_MEMORY: u64 = 96 * 1024;
const PAIRS_MEMORY_PART: u64 = 16;
/// The largest number that an operator can set.
const MOST_PAIRS: u64 = 65_536;
/// Memory of an idle client in bytes, with both sockets: 1.3 KiB in the process and about 8 KiB in the kernel (measured
/// with `contrib/bench/relay --only idle` and /proc/slabinfo). The rest is for bytes in flight.
const CLIENT_MEMORY: u64 = 16 * 1024;
/// One in this many bytes of memory is for clients; the rest is for other programs, and for clients with much traffic.
const MEMORY_PART: u64 = 2;
/// Our own threads: sixteen relay threads, 64 control sessions, and as many for rejected sessions.
const OWN_THREADS: u64 = 160;

impl SystemLimits {
    /// Raises the soft limit of descriptors to the hard one, and reads all limits.
    pub fn take() -> SystemLimits {
        let system = |name: &str| number(Path::new("/proc/sys").join(name)).unwrap_or(u64::MAX);
        let threads = [
            limit(Resource::Nproc),
            group_limit("pids", "pids.max", "pids.max"),
            system("kernel/threads-max"),
            system("kernel/pid_max"),
            system("vm/max_map_count") / 3,
        ];
        let memory = [machine_memory(), group_limit("memory", "memory.max", "memory.limit_in_bytes")];
        SystemLimits {
            descriptors: raise_descriptor_limit(),
            threads: threads.into_iter().min().unwrap_or(u64::MAX),
            memory: memory.into_iter().min().unwrap_or(u64::MAX),
        }
    }

    /// The capacity of a process with this many services.
    pub fn limits(&self, services: usize) -> Limits {
        let relays = relay::number(self.descriptors);
        let threads = (services.max(1) * relays) as u64 * relay::DESCRIPTORS_EACH;
        let own = OWN_DESCRIPTORS + FURTHER_DESCRIPTORS * (services as u64).saturating_sub(1) + threads;
        let pipes = (self.descriptors / PIPES_PART / 2).min(MOST_PIPES);
        let by_threads = self.threads.saturating_sub(OWN_THREADS) / THREADS_PART / 2;
        let by_memory = self.memory / PAIRS_MEMORY_PART / PAIR_MEMORY;
        let by_descriptors = self.descriptors / PAIRS_PART / relay::DESCRIPTORS_OF_A_PAIR;
        let pairs = by_descriptors.min(by_threads).min(by_memory).min(MOST_PAIRS);
        let free = self.descriptors.saturating_sub(own + 2 * pipes + pairs * relay::DESCRIPTORS_OF_A_PAIR);
        let by_descriptors = (free / PER_CLIENT, ScarceResource::Descriptors(self.descriptors));
        let by_memory = (self.memory / MEMORY_PART / CLIENT_MEMORY, ScarceResource::Memory(self.memory));
        let (clients, bound) = if by_memory.0 < by_descriptors.0 { by_memory } else { by_descriptors };
        Limits {
            clients: usize::try_from(clients).unwrap_or(usize::MAX).max(1),
            pipes: pipes as usize,
            relays,
            pairs: pairs as usize,
            bound,
            few_threads: (self.threads < OWN_THREADS).then_some(self.threads),
        }
    }
}

impl Limits {
    /// The capacity of each of this many services, which share the total.
    pub fn room(&self, services: usize) -> Capacity {
        let services = services.max(1);
        Capacity {
            permits: Permits::new(self.clients),
            pipes: self.pipes / services,
            relays: self.relays,
            pairs: self.pairs / services,
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "about {} clients at once", self.clients)?;
        match self.bound {
            ScarceResource::Descriptors(number) => write!(f, " (descriptors: {number})"),
            ScarceResource::Memory(bytes) => write!(f, " (memory: {} MiB)", bytes >> 20),
        }
    }
}

fn limit(resource: Resource) -> u64 {
    getrlimit(resource).current.unwrap_or(u64::MAX)
}

fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Fails only if the system forbids it; then the soft limit stays.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    }
    limit(Resource::Nofile)
}

/// The number in a file that contains one number; `None` for `max` or anything else.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn machine_memory() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let row = table.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = row.and_then(|row| row.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.map_or(u64::MAX, |kibibytes| kibibytes * 1024)
}

/// The smallest limit of our control group and its ancestors; the file's name depends on the version (1 or 2).
fn group_limit(controller: &str, name: &str, old_name: &str) -> u64 {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_files(&table, controller, name, old_name).into_iter().filter_map(number).min().unwrap_or(u64::MAX)
}

/// The files that may have such a limit, from the rows of /proc/self/cgroup (cgroups(7)): `0::PATH` in version 2,
/// `N:CONTROLLERS:PATH` in version 1.
fn group_files(table: &str, controller: &str, name: &str, old_name: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for row in table.lines() {
        let mut fields = row.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = if controllers.is_empty() {
            (PathBuf::from("/sys/fs/cgroup"), name)
        } else if controllers.split(',').any(|one| one == controller) {
            (Path::new("/sys/fs/cgroup").join(controllers), old_name)
        } else {
            continue;
        };
        files.extend(Path::new(path.trim_start_matches('/')).ancestors().map(|group| root.join(group).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(descriptors: u64, threads: u64, memory: u64) -> String {
        let limits = SystemLimits { descriptors, threads, memory }.limits(1);
        format!("{limits}, {} pipes, {} pairs, {:?}", limits.pipes, limits.pairs, limits.few_threads)
    }

    #[test]
    fn the_scarcest_of_what_a_client_needs_decides() {
        // 20 descriptors of the process and two for each relay thread; their number depends on the machine.
        let own = |descriptors| 20 + 2 * relay::number(descriptors) as u64;
        let by_descriptors =
            |descriptors: u64, pipes: u64, pairs: u64| (descriptors - own(descriptors) - 2 * pipes - pairs) / 2;
        assert_eq!(
            told(20_000, u64::MAX, 24 << 30),
            format!(
                "about {} clients at once (descriptors: 20000), 256 pipes, 1250 pairs, None",
                by_descriptors(20_000, 256, 1250)
            )
        );
        assert_eq!(
            told(20_000, 1000, 64 << 20),
            "about 2048 clients at once (memory: 64 MiB), 256 pipes, 42 pairs, None"
        );
        assert_eq!(told(64, 1000, 24 << 30), "about 17 clients at once (descriptors: 64), 2 pipes, 4 pairs, None");
        assert_eq!(
            told(1024, 100, 24 << 30),
            format!(
                "about {} clients at once (descriptors: 1024), 32 pipes, 0 pairs, Some(100)",
                by_descriptors(1024, 32, 0)
            )
        );
    }

    #[test]
    fn where_descriptors_are_few_they_are_not_spent_on_threads() {
        assert_eq!(relay::number(64), 1);
        assert!(relay::number(u64::MAX) >= relay::number(1024));
    }

    #[test]
    fn each_further_service_takes_descriptors_from_the_clients() {
        let readings = SystemLimits { descriptors: 1024, threads: 1000, memory: u64::MAX };
        let clients = [1, 2, 3].map(|services| readings.limits(services).clients);
        let each = 3 + relay::number(1024);
        assert_eq!(clients, [clients[0], clients[0] - each, clients[0] - 2 * each]);
        let room = readings.limits(4).room(4);
        assert_eq!((room.pipes, room.pairs), (8, 16));
    }

    #[test]
    fn a_process_with_nothing_has_room_for_one() {
        assert_eq!(told(0, 1000, 0), "about 1 clients at once (descriptors: 0), 0 pipes, 0 pairs, None");
        assert!(told(u64::MAX, u64::MAX, u64::MAX).starts_with("about "), "and one without limits does not overflow");
    }

    #[test]
    fn limits_of_the_groups_above_count_in_both_versions() {
        let files = |table| group_files(table, "pids", "pids.max", "pids.max.v1");
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            files("0::/system.slice/cbpx.service\n"),
            paths(&[
                "/sys/fs/cgroup/system.slice/cbpx.service/pids.max",
                "/sys/fs/cgroup/system.slice/pids.max",
                "/sys/fs/cgroup/pids.max"
            ])
        );
        assert_eq!(
            files("9:memory:/x\n8:pids:/a\n1:name=systemd:/\n"),
            paths(&["/sys/fs/cgroup/pids/a/pids.max.v1", "/sys/fs/cgroup/pids/pids.max.v1"])
        );
    }

    #[test]
    fn this_machine_has_limits() {
        let readings = SystemLimits::take();
        assert!(readings.descriptors > 10 && readings.threads > 1 && readings.memory > 1 << 20, "{readings:?}");
        assert!(readings.memory < u64::MAX && readings.threads < u64::MAX, "{readings:?}");
    }
}
