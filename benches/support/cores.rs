//! The cores of the processes of a bench.

use std::process::{self, Command};

use rustix::thread::{CpuSet, sched_setaffinity};

/// The core of the servers, and that of their clients.
pub const SERVERS: usize = 0;
pub const CLIENTS: usize = 1;

/// Pins this thread, and the processes that it starts from now on, to a core.
pub fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("two cores are needed: one for the server, one for its clients");
}

/// Lets this process run only while no other wants its core. With the lowest priority of `nice`, others wait for it, up to
/// 4 ms where the kernel preempts by its tick.
pub fn run_when_idle() {
    let process = process::id().to_string();
    let changed = Command::new("chrt").args(["--idle", "--all-tasks", "--pid", "0", &process]).status();
    assert!(changed.is_ok_and(|status| status.success()), "chrt of util-linux is needed");
}
