//! What this process takes of the machine.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::{alloc::System, env, fs, process::Command};

use cap::Cap;

const ALONE: &str = "TOWER_SSE_TEST_ALONE";

/// Whether this process has one test to run. If not, the test was run in one of its own, where nobody else takes or gives back
/// anything, and has passed.
pub(crate) fn is_alone(test: &str) -> bool {
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = Command::new(env::current_exe().expect("this file"));
    child.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
    assert!(child.status().expect("it starts").success(), "{test}");
    false
}

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// The memory that is allocated, in bytes.
pub(crate) fn allocated() -> usize {
    HEAP.allocated()
}

/// How many files and sockets it has open.
pub(crate) fn open_files() -> usize {
    // One is the directory itself.
    fs::read_dir("/proc/self/fd").expect("Linux").count() - 1
}
