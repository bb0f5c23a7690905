//! The browser client in `js`: its own tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{env, process::Command};

#[test]
fn the_client_passes_its_own_tests_with_its_types_its_size_and_its_package() {
    let node = interop::node();
    // npm and the programs of its packages run with this Node.js.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = node.parent().into_iter().map(Into::into).chain(env::split_paths(&path));
    let mut command = Command::new(interop::program("npm"));
    command.arg("test").current_dir(interop::browser_client()).env("PATH", env::join_paths(path).unwrap());
    // Colours are for people.
    let output = command.env("NO_COLOR", "1").output().expect("npm runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));

    let count = |name: &str| -> usize {
        let mut words = text.lines().filter_map(|line| line.split_once(name)?.1.parse().ok());
        words.next_back().unwrap_or_else(|| panic!("the number of tests:{name}\n{text}"))
    };
    assert!(count(" pass ") > 0 && count(" pass ") == count(" tests "), "{text}");
    // What a release depends on, as a test that is gone does not fail.
    for test in [
        "the module keeps its budgets",
        "the module has the types that it says it has",
        "the types let through what is right, and refuse what is not",
        "the package has its files and no others, and the version of the crate",
    ] {
        assert!(text.contains(test), "{test}");
    }
}
