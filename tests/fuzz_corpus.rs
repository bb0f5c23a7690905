//! What the fuzz targets have come upon so far, every file of it, on stable: see `fuzz/README.md`.
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
        // Shown if it fails.
        println!("{}", file.display());
        check(&fs::read(file).unwrap());
    }
}

#[test]
fn whatever_is_put_in_is_invisible() {
    assert_holds("boundary", fuzz::boundary::check);
}

#[test]
fn whatever_goes_into_an_event_comes_out_of_it() {
    assert_holds("event", fuzz::event::check);
}

#[test]
fn whatever_a_topic_is_called_it_is_refused_or_found_again() {
    assert_holds("topic", fuzz::topic::check);
}

#[test]
fn whatever_is_no_position_is_refused() {
    assert_holds("position", fuzz::position::check);
}

#[test]
fn whatever_a_client_resumes_with_nothing_is_lost_silently() {
    assert_holds("resume", fuzz::resume::check);
}
