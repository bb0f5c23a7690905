//! Checks the plan of the folders of `src`: each folder uses only the folders that the plan allows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The rooms from the top down. A room may use only the rooms that stand after it in its list.
const PLAN: [(&str, &[&str]); 14] = [
    ("layer", &["registry", "client", "limit", "topics", "stream", "log", "event", "time", "collections", "sync"]),
    ("observe", &["client", "cluster", "limit", "topics", "stream", "log", "event", "sync"]),
    (
        "registry",
        &[
            "backplane",
            "client",
            "cluster",
            "presence",
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
    ("client", &["cluster", "presence", "limit", "topics", "stream", "log", "event", "time", "collections", "sync"]),
    ("cluster", &["backplane", "topics", "log", "event", "time", "sync"]),
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
const GROUND: [&str; 1] = ["sync"];
const ROOF: [&str; 3] = ["lib", "guide", "test_util"];

/// The code of a file without its unit tests, comments and strings.
fn code(file: &Path) -> String {
    let source = fs::read_to_string(file).unwrap();
    let source = ["\nmod tests {", "\npub(crate) mod samples {"]
        .iter()
        .fold(&*source, |code, tests| code.split(tests).next().unwrap());
    source.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Returns the first segment after each `crate::`, for example `a` and `b` of `use crate::{a::X, b}`.
fn known(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect::<String>();
    let mut known = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            known.insert(word(path));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                _ if begins && !character.is_whitespace() => {
                    known.insert(word(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    known
}

/// Returns the rooms, and for each room that it uses, the files that use it.
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
                for other in known(&code(&file)) {
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
                against.push(format!("{room} is not to know {other}, as {files:?} do"));
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
fn the_rooms_that_a_file_uses_are_read_from_its_paths() {
    let found = known("use crate::{a::{X, Y}, b, c::Z};\nfn f() -> crate::d::V { crate::E }");
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["E", "a", "b", "c", "d"]);
}
