//! Runs every file of the fuzz targets' corpora on stable Rust: see `fuzz/README.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::{fs, path::Path};

#[track_caller]
fn assert_holds(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> =
        fs::read_dir(&corpus).expect("the target has a corpus").map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty(), "the corpus of {target} is empty");
    for file in files {
        // The file's name is shown if the check fails.
        println!("{}", file.display());
        check(&fs::read(file).unwrap());
    }
}

#[test]
fn inserted_bytes_are_invisible_to_clients() {
    assert_holds("boundary", fuzz::boundary::check);
}

#[test]
fn an_event_is_decoded_to_what_it_was_made_of() {
    assert_holds("event", fuzz::event::check);
}

#[test]
fn any_topic_name_is_refused_or_found_again() {
    assert_holds("topic", fuzz::topic::check);
}

#[test]
fn text_that_is_no_position_is_refused() {
    assert_holds("position", fuzz::position::check);
}

#[test]
fn a_client_that_resumes_with_any_id_loses_nothing_silently() {
    assert_holds("resume", fuzz::resume::check);
}
