//! The plan of the house: which folder of `src` may know which, and that the code keeps to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// From the top floor down. A room may know those that stand after it, and no other.
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

/// The ground, which knows no room. What stands above all of them may know each.
const GROUND: [&str; 1] = ["sync"];
const ROOF: [&str; 3] = ["lib", "guide", "test_util"];

/// The code of a file without its unit tests, comments and texts.
fn code(file: &Path) -> String {
    let source = fs::read_to_string(file).unwrap();
    let source = ["\nmod tests {", "\npub(crate) mod samples {"]
        .iter()
        .fold(&*source, |code, tests| code.split(tests).next().unwrap());
    source.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// What comes first in each path that begins at the crate's root: `a` and `b` in `use crate::{a::X, b}`.
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
                for other in known(&code(&file)) {
                    knows.entry(other).or_default().push(inside.display().to_string());
                }
            }
        }
    }
    rooms
}

#[test]
fn no_room_knows_one_that_the_plan_does_not_give_it() {
    let rooms = rooms();
    let planned: BTreeSet<&str> = PLAN.iter().map(|(room, _)| *room).chain(GROUND).chain(ROOF).collect();
    let there: BTreeSet<&str> = rooms.keys().map(String::as_str).collect();
    assert_eq!(there, planned, "the rooms that there are, and those of the plan");
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
fn the_plan_has_arrows_in_one_direction_only() {
    let floor = |room: &str| PLAN.iter().position(|(name, _)| *name == room).unwrap_or(PLAN.len());
    for (room, allowed) in PLAN {
        for other in allowed {
            assert!(floor(room) < floor(other), "{room} stands above {other}, or does not know it");
        }
    }
}

#[test]
fn what_a_file_knows_is_read_from_its_paths() {
    let found = known("use crate::{a::{X, Y}, b, c::Z};\nfn f() -> crate::d::V { crate::E }");
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["E", "a", "b", "c", "d"]);
}
