//! This process's memory and files.
#![allow(dead_code, reason = "no test uses all of it")]

use std::{alloc::System, env, fs, process::Command};

use cap::Cap;

const ALONE: &str = "TOWER_SSE_TEST_ALONE";

/// Whether this process has only this test to run. Otherwise it runs the test in a new process, where no other test
/// allocates or frees memory. The test has passed when it returns false.
pub(crate) fn is_alone(test: &str) -> bool {
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = Command::new(env::current_exe().expect("the path of this program"));
    child.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
    assert!(child.status().expect("the process starts").success(), "{test}");
    false
}

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// The allocated memory in bytes.
pub(crate) fn allocated() -> usize {
    HEAP.allocated()
}

/// The number of open files and sockets.
pub(crate) fn open_files() -> usize {
    // One is the directory itself.
    fs::read_dir("/proc/self/fd").expect("Linux").count() - 1
}
