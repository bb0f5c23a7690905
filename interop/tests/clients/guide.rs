//! The chapter of the guide that contains the results.

use std::{env, fs, path::Path};

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/guide/clients.md");
const WRITE: &str = "TOWER_SSE_WRITE_MATRIX";

fn read() -> String {
    fs::read_to_string(GUIDE).expect("the guide")
}

/// Asserts that the named part of the guide is this text, or writes it. `programs` is written but not compared, as it
/// differs between machines.
pub(crate) fn has(name: &str, text: &str, programs: &str) {
    let guide = read();
    if env::var_os(WRITE).is_some() {
        fs::write(GUIDE, replaced(&replaced(&guide, name, text), "programs", programs)).expect("the guide");
        return;
    }
    let (_, found, _) = part(&guide, name);
    assert!(found == text, "the guide is out of date: run this with {WRITE}=1. The text should be:\n{text}");
}

fn replaced(guide: &str, name: &str, text: &str) -> String {
    let (before, _, after) = part(guide, name);
    format!("{before}{text}{after}")
}

fn part<'a>(guide: &'a str, name: &str) -> (&'a str, &'a str, &'a str) {
    let (begin, end) = (format!("<!-- {name} -->\n\n"), format!("\n<!-- end of {name} -->\n"));
    let from = guide.find(&begin).expect("the beginning of the part") + begin.len();
    let to = from + guide[from..].find(&end).expect("the end of the part");
    (&guide[..from], &guide[from..to], &guide[to..])
}

/// Asserts that each block of code in the guide is part of a file in these folders of the package, word for word.
pub(crate) fn snippets_are_in(folders: &[&str]) {
    let folders = folders.iter().map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let files = folders.flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let files: Vec<_> = files.filter_map(|file| fs::read_to_string(file.expect("a file").path()).ok()).collect();
    let guide = read();
    let snippets: Vec<_> = guide.split("```").skip(1).step_by(2).collect();
    assert!(snippets.len() > 5);
    for snippet in snippets {
        let (language, code) = snippet.split_once('\n').expect("a language");
        // Other blocks are compiled with the documentation, or are for a shell.
        if matches!(language, "js" | "python" | "rust,ignore") {
            assert!(files.iter().any(|file| file.contains(code)), "no client runs these lines:\n{code}");
        }
    }
}
