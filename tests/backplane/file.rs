//! The log in a file: over restarts, kills, full disks and damage.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tower_sse::backplane::{
    AppendError, Backplane, Block, BlockKey, BoxFuture, Durability, File, FileConfig, FileError, FollowError, Place,
    Stored, suite,
};

use crate::random::Random;

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        Self::within(&env::temp_dir(), test)
    }

    fn within(parent: &Path, test: &str) -> Self {
        let folder = parent.join(format!("tower-sse-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A block of a session that appends one record at a time. Its body depends on the number.
fn block(number: u64) -> Block {
    let mut random = Random(number);
    let len = match number % 50 {
        0 => 20_000,
        1..10 => 3000,
        _ => 300,
    };
    let len = random.index(len);
    Block { key: BlockKey { session: 7, number }, records: 1, body: random.bytes(len).into() }
}

async fn append(file: &File, numbers: std::ops::Range<u64>) {
    for number in numbers {
        file.append(&block(number)).await.unwrap();
    }
}

async fn read_all(file: &File) -> Result<Vec<Stored>, FollowError> {
    let mut tail = file.follow(None).await?.tail;
    let mut all = Vec::new();
    loop {
        let read = tail.next().await?;
        all.extend(read.blocks);
        if read.is_newest {
            return Ok(all);
        }
    }
}

fn numbers(blocks: &[Stored]) -> Vec<u64> {
    blocks.iter().map(|stored| stored.block.key.number).collect()
}

fn every(time: Duration) -> FileConfig {
    FileConfig::default().durability(Durability::Every(time))
}

async fn passes_the_suite(folder: Folder, config: FileConfig) {
    let files: Mutex<HashMap<String, File>> = Mutex::default();
    suite::run(|name: &str| -> BoxFuture<'static, Arc<dyn Backplane>> {
        let mut files = files.lock().unwrap();
        let open = || File::open_with(folder.0.join(name), config.clone()).unwrap();
        let file = files.entry(name.to_owned()).or_insert_with(open).clone();
        Box::pin(async move { Arc::new(file) as Arc<dyn Backplane> })
    })
    .await;
}

#[tokio::test]
async fn it_passes_the_suite() {
    passes_the_suite(Folder::new("suite"), FileConfig::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_suite_on_several_threads_with_every_block_durable() {
    // The suite appends some 20,000 blocks, and a disk that others use too can take 20 ms for each.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { Folder::within(memory, "suite") } else { Folder::new("suite-durable") };
    passes_the_suite(folder, FileConfig::default().durability(Durability::EveryBlock)).await;
}

#[tokio::test]
async fn the_log_goes_on_after_a_restart() {
    for durability in [Durability::default(), Durability::EveryBlock, Durability::Every(Duration::ZERO)] {
        let config = FileConfig::default().durability(durability);
        let folder = Folder::new("restart");
        let file = File::open_with(folder.log(), config.clone()).unwrap();
        append(&file, 0..150).await;
        let before = read_all(&file).await.unwrap();
        drop(file);

        let file = File::open_with(folder.log(), config).unwrap();
        assert_eq!(read_all(&file).await.unwrap(), before);
        append(&file, 150..200).await;
        let all = read_all(&file).await.unwrap();
        assert_eq!((&all[..150], numbers(&all)), (&before[..], (0..200).collect()));
        assert!(all.is_sorted_by_key(|stored| stored.place));
        let mut reading = file.follow(Some(&before[99].mark())).await.unwrap();
        assert!(reading.continues);
        assert_eq!(reading.tail.next().await.unwrap().blocks, all[100..]);
    }
}

#[tokio::test]
async fn places_go_on_above_the_last_if_the_clock_went_back_over_a_restart() {
    let folder = Folder::new("clock");
    let file = File::open(folder.log()).unwrap();
    append(&file, 0..1).await;
    // To the log, it is the same: its last place is ahead of the clock.
    let ahead = Place { ms: read_all(&file).await.unwrap()[0].place.ms + 3_600_000, seq: 4 };
    file.append_above(ahead, &block(1)).await.unwrap();
    // The newest block stays, so that its place is known.
    file.trim(Place { ms: ahead.ms + 1000, seq: 0 });
    drop(file);

    let file = File::open(folder.log()).unwrap();
    append(&file, 2..3).await;
    let read = read_all(&file).await.unwrap();
    let last = &read[read.len() - 1];
    assert_eq!(last.place, Place { ms: ahead.ms, seq: 6 });
    assert!(last.at_ms < ahead.ms, "when the block was taken is what the clock says");
}

#[tokio::test]
async fn a_trim_is_remembered_over_a_restart() {
    let folder = Folder::new("trim");
    let file = File::open(folder.log()).unwrap();
    append(&file, 0..1000).await;
    let all = read_all(&file).await.unwrap();
    file.trim(all[900].place);
    append(&file, 1000..1010).await;
    drop(file);
    let file = File::open(folder.log()).unwrap();
    assert_eq!(numbers(&read_all(&file).await.unwrap()), (900..1010).collect::<Vec<_>>());
    let gone = file.follow(Some(&all[899].mark())).await.unwrap();
    assert!(!gone.continues);
}

#[tokio::test]
async fn the_files_stay_as_large_as_what_is_retained() {
    const RETAINED: u64 = 2000;
    let folder = Folder::new("room");
    let file = File::open_with(folder.log(), every(Duration::from_millis(20))).unwrap();
    let size = || fs::read_dir(&folder.0).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    let (mut places, mut largest) = (Vec::new(), 0);
    let mut tail = file.follow(None).await.unwrap().tail;
    for number in 0..15 * RETAINED {
        append(&file, number..number + 1).await;
        if number % 100 == 0 {
            places.extend(tail.next().await.unwrap().blocks.iter().map(|stored| stored.place));
            if let Some(at) = places.len().checked_sub(RETAINED as usize) {
                file.trim(places[at]);
            }
            largest = largest.max(size());
        }
    }
    let retained: u64 = (0..RETAINED).map(|number| block(number).encoded_len() as u64).sum();
    // The pages that are not full, and the file with the newest blocks.
    let bound = retained * 3 / 2 + (6 << 20);
    assert!(largest < bound, "{largest} bytes for {retained}");
}

#[tokio::test]
async fn blocks_are_made_durable_when_it_is_time_and_nobody_calls() {
    let folder = Folder::new("due");
    let file = File::open_with(folder.log(), every(Duration::from_millis(30))).unwrap();
    let size = || fs::metadata(folder.log()).unwrap().len();
    let empty = size();
    append(&file, 0..100).await;
    // Until then, the blocks are only in the file beside it.
    let began = Instant::now();
    while size() == empty {
        assert!(began.elapsed() < Duration::from_secs(20), "the blocks are not moved");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_block_that_is_too_large_is_refused() {
    let folder = Folder::new("large");
    let file = File::open(folder.log()).unwrap();
    let body = vec![0; file.max_block()].into();
    let large = Block { key: BlockKey { session: 1, number: 0 }, records: 1, body };
    let refused = file.append(&large).await;
    assert!(matches!(refused, Err(AppendError::Refused(_))), "{refused:?}");
    let refused = file.append_above(Place { ms: 1 << 48, seq: 0 }, &block(0)).await;
    assert!(matches!(refused, Err(AppendError::Refused(_))), "{refused:?}");
    append(&file, 0..1).await;
    assert_eq!(numbers(&read_all(&file).await.unwrap()), [0]);
}

// What a file can be other than a log.

#[test]
fn a_file_that_is_no_log_is_an_error_and_stays_as_it_is() {
    let folder = Folder::new("foreign");
    let foreign = |path: &Path, why: &str| {
        let error = File::open(path).unwrap_err();
        assert!(matches!(error, FileError::Foreign { .. }), "{why}: {error:?}");
        assert!(error.to_string().starts_with(&format!("{} is not a log of this crate: ", path.display())), "{error}");
    };
    for (why, contents) in
        [("a letter", &b"x"[..]), ("a text", &[b'x'; 5000]), ("zeros", &[0; 8192]), ("a header", b"SQLite format 3\0")]
    {
        let path = folder.0.join("text");
        fs::write(&path, contents).unwrap();
        foreign(&path, why);
        assert_eq!(fs::read(&path).unwrap(), contents, "{why}");
    }

    fs::create_dir(folder.0.join("folder")).unwrap();
    fs::write(folder.0.join("folder/file"), "what somebody needs").unwrap();
    foreign(&folder.0.join("folder"), "a folder");

    // The database of another program: the identity of the program is in the header.
    drop(File::open(folder.log()).unwrap());
    let log = fs::read(folder.log()).unwrap();
    for identity in [[0, 0, 0, 0], [0, 0, 0, 9]] {
        let mut other = log.clone();
        other[68..72].copy_from_slice(&identity);
        fs::write(folder.log(), &other).unwrap();
        foreign(&folder.log(), "another program's database");
        assert_eq!(fs::read(folder.log()).unwrap(), other);
    }

    let mut later = log;
    later[60..64].copy_from_slice(&[0, 0, 0, 2]);
    fs::write(folder.log(), &later).unwrap();
    let error = File::open(folder.log()).unwrap_err();
    assert!(matches!(error, FileError::Version { version: 2, .. }), "{error:?}");
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_that_says_why() {
    let folder = Folder::new("cannot");
    let error = File::open(folder.0.join("missing/log")).unwrap_err();
    assert!(matches!(error, FileError::NoFolder { .. }), "{error:?}");
    fs::write(folder.0.join("file"), "").unwrap();
    let error = File::open(folder.0.join("file/log")).unwrap_err();
    assert!(matches!(error, FileError::NoFolder { .. } | FileError::Io { .. }), "{error:?}");

    // Not even root may write what is mounted for reading.
    let Some(disk) = Disk::mount("cannot-write", "1m") else { return };
    let path = disk.folder.log();
    drop(File::open(&path).unwrap());
    disk.remount("ro");
    for path in [path, disk.folder.0.join("other")] {
        let error = File::open(path).unwrap_err();
        assert!(matches!(error, FileError::NotPermitted { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_open_is_locked() {
    if let Some(path) = child_path("locked") {
        println!(
            "child: {}",
            File::open(path).map(|_| "it opens".to_owned()).unwrap_or_else(|error| error.to_string())
        );
        return;
    }
    let folder = Folder::new("locked");
    let file = File::open(folder.log()).unwrap();
    append(&file, 0..10).await;
    let says = || {
        let child = child("a_file_that_is_open_is_locked", "locked", &folder.log()).output().unwrap();
        String::from_utf8(child.stdout).unwrap()
    };
    assert!(says().contains("log is open already"), "{}", says());
    let here = File::open(folder.log()).unwrap_err();
    assert!(matches!(here, FileError::Locked { .. }), "{here:?}");
    // It is locked as long as there is a reader.
    let tail = file.follow(None).await.unwrap().tail;
    append(&file, 10..20).await;
    drop(file);
    assert!(matches!(File::open(folder.log()), Err(FileError::Locked { .. })));
    drop(tail);
    assert!(says().contains("it opens"), "{}", says());
    assert_eq!(read_all(&File::open(folder.log()).unwrap()).await.unwrap().len(), 20);
}

// A killed process.

#[tokio::test]
async fn a_killed_process_loses_no_block_that_was_acknowledged() {
    if let Some(path) = child_path("killed") {
        return append_until_killed(&path).await;
    }
    let folder = Folder::new("killed");
    let mut random = Random(4);
    // Some ten seconds are enough, also where the disk is slow.
    let (rounds, enough) = match env::var("TOWER_SSE_KILLS") {
        Ok(rounds) => (rounds.parse().unwrap(), Duration::MAX),
        Err(_) => (60, Duration::from_secs(10)),
    };
    let (mut acknowledged, began) = (None, Instant::now());
    for round in 0..rounds {
        if round >= 10 && began.elapsed() > enough {
            break;
        }
        let mut child = child("a_killed_process_loses_no_block_that_was_acknowledged", "killed", &folder.log());
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap).filter_map(|line| Some(line.strip_prefix("kept ")?.parse().unwrap()));
        let count = 1 + random.index(400);
        acknowledged = lines.by_ref().take(count).last().or(acknowledged);
        kill(&mut child);
        // What it wrote before it was killed.
        acknowledged = lines.last().or(acknowledged);

        let file = File::open(folder.log()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let read = read_all(&file).await.unwrap();
        assert!(read.last().map(|stored| stored.block.key.number) >= acknowledged, "round {round}: a block is lost");
        let oldest = read[0].block.key.number;
        for (number, stored) in (oldest..).zip(&read) {
            assert_eq!(stored.block, block(number), "round {round}");
        }
        let retained = acknowledged.map(|last: u64| (last + 1).saturating_sub(RETAINED));
        assert!(Some(oldest) <= retained, "round {round}: trimmed too much");
    }
}

const RETAINED: u64 = 300;

async fn append_until_killed(path: &Path) {
    // So often that many are killed while blocks are moved from one file to the other.
    let file = File::open_with(path, every(Duration::from_millis(2))).unwrap();
    let mut kept = read_all(&file).await.unwrap();
    let mut tail = file.follow(kept.last().map(Stored::mark).as_ref()).await.unwrap().tail;
    for number in kept.last().map_or(0, |stored| stored.block.key.number + 1).. {
        append(&file, number..number + 1).await;
        println!("kept {number}");
        if number % 20 == 0 {
            kept.extend(tail.next().await.unwrap().blocks);
            if let Some(at) = kept.len().checked_sub(RETAINED as usize) {
                file.trim(kept[at].place);
            }
        }
    }
}

fn kill(child: &mut Child) {
    // On Unix, it is SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
}

/// This program once more, to run a part of a test.
fn child(test: &str, part: &str, path: &Path) -> Command {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", &format!("file::{test}"), "--nocapture"]).env(format!("TOWER_SSE_CHILD_{part}"), path);
    child
}

/// The file that this process is to use, if it was started to run a part of a test.
fn child_path(part: &str) -> Option<PathBuf> {
    env::var_os(format!("TOWER_SSE_CHILD_{part}")).map(PathBuf::from)
}

// A full disk.

/// A disk of its own, which is in memory.
struct Disk {
    folder: Folder,
}

impl Disk {
    /// `None` if this process may not mount, which is an error in CI.
    fn mount(test: &str, size: &str) -> Option<Self> {
        let folder = Folder::new(test);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&folder.0);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        assert!(env::var_os("CI").is_none(), "a disk cannot be mounted");
        eprintln!("{test}: left out, as a disk cannot be mounted");
        None
    }

    fn remount(&self, option: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{option}")]).arg(&self.folder.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder.0).status();
    }
}

/// Appends until the disk is full. Returns the number of the block that had no room.
async fn fill(file: &File, mut number: u64) -> u64 {
    loop {
        match file.append(&block(number)).await {
            Ok(()) => number += 1,
            Err(AppendError::Full(_)) => return number,
            Err(error) => panic!("block {number}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_full_disk_takes_no_part_of_a_block_and_the_log_goes_on_when_there_is_room() {
    for durability in [Durability::default(), Durability::EveryBlock, Durability::Every(Duration::from_millis(1))] {
        let Some(disk) = Disk::mount("full", "6m") else { return };
        let config = FileConfig::default().durability(durability);
        let fillers = ["one", "two"].map(|name| disk.folder.0.join(name));
        for filler in &fillers {
            fs::write(filler, vec![0; 1 << 20]).unwrap();
        }
        let file = File::open_with(disk.folder.log(), config.clone()).unwrap();
        let full = fill(&file, 0).await;
        assert!(full > 100, "{full} blocks have room");
        for _ in 0..50 {
            // A smaller block may still have room, so it is the same one.
            assert!(matches!(file.append(&block(full)).await, Err(AppendError::Full(_))));
        }
        let expected: Vec<_> = (0..full).map(block).collect();
        let kept = |read: &[Stored]| read.iter().map(|stored| stored.block.clone()).collect::<Vec<_>>();
        assert!(
            kept(&read_all(&file).await.unwrap()) == expected,
            "{durability:?}: the blocks are there, and no other"
        );

        // It can be closed and opened meanwhile.
        drop(file);
        let file = File::open_with(disk.folder.log(), config.clone()).unwrap();
        assert!(
            kept(&read_all(&file).await.unwrap()) == expected,
            "{durability:?}: the blocks are there, and no other"
        );

        let [one, two] = &fillers;
        fs::remove_file(one).unwrap();
        append(&file, full..full + 50).await;
        let read = read_all(&file).await.unwrap();
        assert_eq!(numbers(&read), (0..full + 50).collect::<Vec<_>>());

        let full = fill(&file, full + 50).await;
        file.trim(read[100].place);
        fs::remove_file(two).unwrap();
        append(&file, full..full + 20).await;
        assert_eq!(numbers(&read_all(&file).await.unwrap()), (100..full + 20).collect::<Vec<_>>());
    }
}

#[test]
fn a_disk_without_room_for_a_new_log_is_an_error() {
    let Some(disk) = Disk::mount("no-room", "64k") else { return };
    let filler = disk.folder.0.join("filler");
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    let error = File::open(disk.folder.log()).unwrap_err();
    assert!(matches!(error, FileError::Full { .. }), "{error:?}");
    fs::remove_file(&filler).unwrap();
    File::open(disk.folder.log()).unwrap();
}

// Damage.

/// A log as it is after it was closed, or after the process was killed.
struct Pristine {
    database: Vec<u8>,
    /// The file with the newest blocks.
    newest: Option<Vec<u8>>,
    blocks: Vec<Stored>,
}

async fn pristine(closed: bool) -> Pristine {
    let folder = Folder::new("pristine");
    let file = File::open_with(folder.log(), every(Duration::MAX)).unwrap();
    append(&file, 0..200).await;
    let all = read_all(&file).await.unwrap();
    file.trim(all[60].place);
    append(&file, 200..210).await;
    drop(file);
    let file = File::open_with(folder.log(), every(Duration::MAX)).unwrap();
    append(&file, 210..300).await;
    let blocks = read_all(&file).await.unwrap();
    let newest = (!closed).then(|| fs::read(folder.0.join("log-wal")).unwrap());
    if closed {
        drop(file);
    }
    Pristine { database: fs::read(folder.log()).unwrap(), newest, blocks }
}

/// Damages some bytes, and says how.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    // The head of a file is small, and is hit as often as all the rest.
    let len = bytes.len();
    let at = if random.one_in(3) { random.index(len.min(200)) } else { random.index(len) };
    let end = (at + 512).min(len);
    match random.below(6) {
        0 | 1 => {
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} is changed")
        }
        2 => {
            bytes[at] = random.bytes(1)[0];
            format!("byte {at} is changed")
        }
        3 => {
            bytes[at..end].fill(0);
            format!("the bytes {at}..{end} are zero")
        }
        4 => {
            bytes.truncate(at);
            format!("the file ends at {at}")
        }
        _ => {
            let from = random.index(len - (end - at));
            bytes.copy_within(from..from + (end - at), at);
            format!("the bytes {at}..{end} are those of {from}")
        }
    }
}

#[tokio::test]
async fn a_damaged_log_is_an_error_or_ends_early_and_never_loads_wrong() {
    let rounds = env::var("TOWER_SSE_DAMAGES").map_or(700, |rounds| rounds.parse().unwrap());
    let mut random = Random(11);
    let folder = Folder::new("damaged");
    let (path, newest_path) = (folder.log(), folder.0.join("log-wal"));
    for closed in [true, false] {
        let pristine = pristine(closed).await;
        let (mut refused, mut short, mut whole) = (0, 0, 0);
        for _ in 0..rounds {
            let (mut database, mut newest) = (pristine.database.clone(), pristine.newest.clone());
            let how = match &mut newest {
                Some(newest) if random.one_in(2) => format!("of the newest, {}", damage(newest, &mut random)),
                _ => damage(&mut database, &mut random),
            };
            let _ = fs::remove_file(&newest_path);
            fs::write(&path, &database).unwrap();
            if let Some(newest) = newest {
                fs::write(&newest_path, newest).unwrap();
            }
            match opened(&path).await {
                Err(error) => {
                    assert!(!matches!(error, Some(FileError::Locked { .. })), "{how}: {error:?}");
                    refused += 1;
                }
                Ok((read, appended)) => {
                    let expected = &pristine.blocks[..read.len().min(pristine.blocks.len())];
                    assert!(read == expected, "{how}: it loads wrong");
                    assert!(appended, "{how}: a block is appended, and the log is another one then");
                    let is_whole = read.len() == pristine.blocks.len();
                    // Only the newest blocks can be missing, which are in a file of their own. An empty file is a new log.
                    assert!(is_whole || !closed || database.is_empty(), "{how}: {} blocks", read.len());
                    *(if is_whole { &mut whole } else { &mut short }) += 1;
                }
            }
        }
        println!("closed: {closed}; {refused} refused, {short} end early, {whole} whole");
        assert!(refused > rounds / 10, "{refused} of {rounds} are refused");
    }
}

/// Opens a log, reads it, and reads it again after a block was appended. The error is `None` if it comes with reading or appending.
async fn opened(path: &Path) -> Result<(Vec<Stored>, bool), Option<FileError>> {
    let file = File::open_with(path, every(Duration::MAX)).map_err(Some)?;
    let read = read_all(&file).await.map_err(|_| None)?;
    file.append(&block(1000)).await.map_err(|_| None)?;
    let again = read_all(&file).await.map_err(|_| None)?;
    let appended = again.len() == read.len() + 1
        && again.starts_with(&read)
        && again.last().is_some_and(|stored| stored.block == block(1000));
    Ok((read, appended))
}

#[test]
fn newest_blocks_without_their_log_are_an_error() {
    let folder = Folder::new("orphan");
    fs::write(folder.0.join("log-wal"), [1; 5000]).unwrap();
    let error = File::open(folder.log()).unwrap_err();
    assert!(matches!(error, FileError::Torn { .. }), "{error:?}");
    fs::write(folder.log(), "").unwrap();
    let error = File::open(folder.log()).unwrap_err();
    assert!(matches!(error, FileError::Torn { .. }), "{error:?}");
}
