//! Checks the plan of the folders of `src`: each folder uses only the folders that the plan allows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The rooms from the top down. A room may use only the rooms that stand after it in its list.
const PLAN: [(&str, &[&str]); 20] = [
    (
        "layer",
        &[
            "record",
            "registry",
            "handle",
            "reader",
            "client",
            "reading",
            "limit",
            "topics",
            "stream",
            "log",
            "event",
            "time",
            "collections",
            "sync",
        ],
    ),
    ("record", &["registry", "handle", "client", "limit", "topics", "stream", "log", "event", "collections", "sync"]),
    ("control", &["registry", "client", "topics", "event", "full_body"]),
    ("script", &["full_body"]),
    ("observe", &["client", "cluster", "limit", "topics", "stream", "log", "event", "sync"]),
    (
        "registry",
        &[
            "client",
            "cluster",
            "presence",
            "limit",
            "topics",
            "stream",
            "log",
            "event",
            "time",
            "backplane",
            "collections",
            "sync",
        ],
    ),
    ("handle", &["reader", "client", "limit", "topics", "stream", "log", "event"]),
    ("reader", &["client", "reading", "limit", "topics", "stream", "log", "event", "time", "sync"]),
    (
        "client",
        &["reading", "cluster", "presence", "limit", "topics", "stream", "log", "event", "time", "collections", "sync"],
    ),
    ("reading", &["topics", "log", "event", "collections", "sync"]),
    ("cluster", &["topics", "log", "event", "time", "backplane", "sync"]),
    ("presence", &["topics", "event", "collections", "sync"]),
    ("limit", &["stream", "event", "time", "collections", "sync"]),
    ("topics", &["stream", "log", "event", "time", "collections", "sync"]),
    ("stream", &["log", "event", "time"]),
    ("log", &["event", "collections"]),
    ("event", &[]),
    ("time", &["collections", "sync"]),
    ("backplane", &["sync"]),
    ("collections", &["sync"]),
];

/// Modules that use no room. Every room may use them.
const GROUND: [&str; 2] = ["sync", "full_body"];
const ROOF: [&str; 3] = ["lib", "guide", "test_util"];

/// Splits code into words and signs, without comments, texts and characters.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let is_word = |at: usize| chars.get(at).is_some_and(|it| it.is_alphanumeric() || *it == '_');
    let is = |at: usize, text: &str| text.chars().enumerate().all(|(i, it)| chars.get(at + i) == Some(&it));
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if is(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if is(at, "/*") {
            let mut depth = 0;
            while at < chars.len() {
                match (is(at, "/*"), is(at, "*/")) {
                    (true, _) => (depth, at) = (depth + 1, at + 2),
                    (_, true) => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
                if depth == 0 {
                    break;
                }
            }
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if chars[at] == '\'' {
            // A character, or else a lifetime.
            at += match (chars.get(at + 1), chars.get(at + 2)) {
                (Some('\\'), _) => 3 + chars[at + 3..].iter().take_while(|it| **it != '\'').count() + 1,
                (_, Some('\'')) => 3,
                _ => 1,
            };
        } else if is_word(at) {
            let length = (at..).take_while(|at| is_word(*at)).count();
            let word: String = chars[at..at + length].iter().collect();
            at += length;
            let marks = (at..).take_while(|at| is(*at, "#")).count();
            if ["r", "br", "cr"].contains(&&*word) && is(at + marks, "\"") {
                let end = format!("\"{}", "#".repeat(marks));
                at += marks + 1;
                while at < chars.len() && !is(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else {
                tokens.push(word);
            }
        } else if is(at, "::") {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            tokens.extend(Some(chars[at].to_string()).filter(|it| !it.trim().is_empty()));
            at += 1;
        }
    }
    tokens
}

/// The position after the bracket that closes the one at `open`.
fn after_block(tokens: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match &**token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Removes the modules that only tests have.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const TEST: [&[&str]; 2] = [&["#", "[", "cfg", "(", "test", ")"], &["#", "[", "cfg", "(", "all", "(", "test"]];
    let mut code = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = |with: &&[&str]| with.iter().zip(&tokens[at..]).filter(|(a, b)| *a == b).count() == with.len();
        if TEST.iter().any(begins) {
            let mut item = after_block(tokens, at + 1);
            while tokens.get(item).is_some_and(|it| it == "#") {
                item = after_block(tokens, item + 1);
            }
            let declaration = tokens[item..].iter().position(|it| it == "{" || it == ";");
            if let Some(open) = declaration.filter(|to| tokens[item..item + to].iter().any(|it| it == "mod")) {
                at = if tokens[item + open] == "{" { after_block(tokens, item + open) } else { item + open + 1 };
                continue;
            }
        }
        code.push(tokens[at].clone());
        at += 1;
    }
    code
}

/// What the paths of a file lead to, from the root of the crate: `a` and `b` for `use crate::{a::X, b}`, and the same with `super`. `depth`:
/// how many modules the file's own is below the root.
///
/// What could hide a path is found by its own name: another name for the root, all of the root, the source of another place.
fn known(source: &str, depth: usize) -> BTreeSet<String> {
    let tokens = without_tests(&tokens(source));
    let token = |at: usize| tokens.get(at).map_or("", |it| &**it);
    let mut known = BTreeSet::new();
    // For each open bracket, whether it is that of a module.
    let mut modules = Vec::new();
    for at in 0..tokens.len() {
        let here = depth + modules.iter().filter(|is_module| **is_module).count();
        match token(at) {
            "{" => modules.push(at >= 2 && token(at - 2) == "mod"),
            "}" => drop(modules.pop()),
            "extern" if token(at + 1) == "crate" => drop(known.insert("extern crate".to_owned())),
            "path" if token(at - 1) == "[" && token(at + 1) == "=" => drop(known.insert("#[path]".to_owned())),
            "include" if token(at + 1) == "!" => drop(known.insert("include!".to_owned())),
            "crate" | "super" | "self" if at == 0 || token(at - 1) != "::" => {
                follow(&tokens, at, here, here, &mut known);
            }
            _ => {}
        }
    }
    known
}

/// Follows the path that continues at `at`, `here` modules below the root.
fn follow(tokens: &[String], at: usize, here: usize, module: usize, known: &mut BTreeSet<String>) {
    let token = |at: usize| tokens.get(at).map_or("", |it| &**it);
    let here = match token(at) {
        "crate" => 0,
        "super" => here.saturating_sub(1),
        "self" => here,
        "{" => {
            let end = after_block(tokens, at);
            let (mut depth, mut begins) = (0, true);
            for at in at + 1..end.saturating_sub(1) {
                if begins {
                    follow(tokens, at, here, module, known);
                }
                match token(at) {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                begins = depth == 0 && token(at) == ",";
            }
            return;
        }
        name if here == 0 => {
            known.insert(name.to_owned());
            return;
        }
        _ => return,
    };
    match token(at + 1) {
        "::" => follow(tokens, at + 2, here, module, known),
        "as" if here == 0 && module > 0 => drop(known.insert("crate as".to_owned())),
        _ => {}
    }
}

/// The rooms, and what each knows: the files that do.
fn rooms() -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut rooms: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let src = folders[0].clone();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|extension| extension == "rs") {
                let inside = file.strip_prefix(&src).unwrap();
                let room = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
                let knows = rooms.entry(room.to_owned()).or_default();
                let below = inside.components().count()
                    - usize::from(["mod.rs", "lib.rs"].iter().any(|it| inside.ends_with(it)));
                for other in known(&fs::read_to_string(&file).unwrap(), below) {
                    knows.entry(other).or_default().push(inside.display().to_string());
                }
            }
        }
    }
    rooms
}

#[test]
fn each_room_uses_only_the_rooms_of_its_plan() {
    let rooms = rooms();
    let planned: BTreeSet<&str> = PLAN.iter().map(|(room, _)| *room).chain(GROUND).chain(ROOF).collect();
    let there: BTreeSet<&str> = rooms.keys().map(String::as_str).collect();
    assert_eq!(there, planned, "the folders of `src`, and the rooms of the plan");
    let mut against = Vec::new();
    for (room, knows) in &rooms {
        let allowed: &[&str] = PLAN.iter().find(|(name, _)| name == room).map_or(&[], |(_, allowed)| *allowed);
        for (other, files) in knows.iter().filter(|(other, _)| *other != room) {
            if !ROOF.contains(&room.as_str()) && !allowed.contains(&other.as_str()) {
                against.push(format!("`{room}` must not know `{other}`: {files:?}"));
            }
        }
    }
    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn the_plan_has_no_cycles() {
    let floor = |room: &str| PLAN.iter().position(|(name, _)| *name == room).unwrap_or(PLAN.len());
    for (room, allowed) in PLAN {
        for other in allowed {
            assert!(floor(room) < floor(other), "{room} must stand above {other} to use it");
        }
    }
}

#[test]
fn what_a_file_knows_is_read_from_its_paths() {
    let rows: [(usize, &str, &[&str]); 26] = [
        (2, "use crate::{a::{X, Y}, b, c::Z};\nfn f() -> crate::d::V { crate::E }", &["E", "a", "b", "c", "d"]),
        (2, "use crate :: layer :: X;", &["layer"]),
        (2, "use crate::\n    layer::X;", &["layer"]),
        (2, "use super::super::topics;", &["topics"]),
        (2, "use self::super::super::topics;", &["topics"]),
        (2, "use super::{super::{topics, log::X}, own};", &["log", "topics"]),
        (2, "use super::own::X;", &[]),
        (1, "use super::topics;", &["topics"]),
        (1, "use self::own::X; fn f(&self) {}", &[]),
        (2, "mod inner { use super::own; use super::super::super::topics; }", &["topics"]),
        (2, "mod inner { fn f() { { super::super::own() } } } use super::super::topics;", &["topics"]),
        (2, "use crate as root;", &["crate as"]),
        (2, "use super::super as root;", &["crate as"]),
        (2, "use crate::{self as root};", &["crate as"]),
        (2, "extern crate self as me;", &["extern crate"]),
        (2, "use crate::*;", &["*"]),
        (2, "#[path = \"../layer/mod.rs\"] mod own;", &["#[path]"]),
        (2, "include!(\"../layer/body.rs\");", &["include!"]),
        (2, "const U: &str = \"http://x\"; use crate::layer;", &["layer"]),
        (2, "const U: &str = \"crate::layer \\\" crate::topics\"; // crate::log", &[]),
        (2, "const U: &str = r#\"crate::layer \" // \"#; use crate::log;", &["log"]),
        (
            2,
            "/* crate::layer /* crate::log */ crate::a */ const C: char = '\"'; const D: char = '\\''; crate::b",
            &["b"],
        ),
        (2, "fn f<'a>(x: &'a str) -> crate::a::X<'a> { crate::b }", &["a", "b"]),
        (2, "#[cfg(test)]\nmod tests { use crate::layer; fn f() {} }\nuse crate::log;", &["log"]),
        (2, "#[cfg(test)]\n#[allow(x)]\npub(crate) mod samples { use crate::layer; }\nuse crate::log;", &["log"]),
        (2, "pub(crate) mod samples { use crate::layer; }\nuse crate::log; pub(crate) use own::X;", &["layer", "log"]),
    ];
    for (depth, source, expected) in rows {
        let found = known(source, depth);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{source}");
    }
}
