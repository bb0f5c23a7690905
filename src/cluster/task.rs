//! The task of a node, and its part that reads the engine's log.

use std::{
    future::{Future, poll_fn},
    mem::discriminant,
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    Cluster, Replicated,
    health::{Signs, Trouble},
    repeating, writing,
};
use crate::{
    backplane::{FollowError, Following, Mark, Read, Stored, Tail},
    time::jitter::{jittered, random},
};

/// How often a node says that it is there.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// After how long a node takes its connection for dead, if what it appended does not come back: three beats.
const SILENCE: Duration = Duration::from_secs(6);

/// How often it is looked whether the log is still what was read. An engine says so only when it is followed anew.
const LOOK: Duration = Duration::from_secs(30);

/// Runs until the registry ends.
pub(super) async fn run(running: Running, node: Weak<dyn Replicated>) {
    let cluster = &running.0;
    let mut parts: [Pin<Box<dyn Future<Output = ()> + Send>>; 5] = [
        Box::pin(follow(cluster, &node)),
        Box::pin(writing::write(cluster)),
        Box::pin(writing::beat(cluster, &node)),
        Box::pin(repeating::repeat(cluster, &node)),
        Box::pin(over(cluster)),
    ];
    poll_fn(|cx| match parts.iter_mut().any(|part| part.as_mut().poll(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// The task's turn. When its runtime ends, even before the task was polled, the task may begin again in another one.
pub(super) struct Running(pub(super) Arc<Cluster>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
}

async fn over(cluster: &Cluster) {
    // An error says that the sender is gone, and the cluster with it.
    let _ = cluster.is_over.subscribe().wait_for(|is_over| *is_over).await;
}

/// Waits longer each time, from 0.1 s to a maximum.
pub(super) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    pub(super) const AWAY: Duration = Duration::from_secs(5);
    pub(super) const REFUSED: Duration = Duration::from_secs(30);

    pub(super) fn new() -> Self {
        Self(Self::FIRST)
    }

    pub(super) async fn wait(&mut self, at_most: Duration) {
        sleep(jittered(self.0, random())).await;
        self.0 = (self.0 * 2).min(at_most);
    }
}

/// Why reading has to begin again.
pub(super) enum Stop {
    Failed(FollowError),
    /// What this node appended did not come back.
    Silent,
    /// Everything has to be read and compared again.
    Compare,
    /// It has to be looked whether the log is still what was read.
    Look,
    /// The registry has ended.
    Over,
}

impl From<FollowError> for Stop {
    fn from(error: FollowError) -> Self {
        Self::Failed(error)
    }
}

/// Reads the log, and begins again after each failure.
async fn follow(cluster: &Cluster, node: &Weak<dyn Replicated>) {
    let mut backoff = Backoff::new();
    loop {
        let stop = match begin(cluster).await {
            Ok(following) => read(cluster, node, following, &mut backoff).await,
            Err(error) => Stop::Failed(error),
        };
        match stop {
            Stop::Failed(FollowError::Away(error)) => {
                cluster.reading_is(away(error.to_string()));
                backoff.wait(Backoff::AWAY).await;
            }
            Stop::Failed(FollowError::Refused(error)) => {
                cluster.reading_is(Some(Trouble::Refused { reason: error.to_string() }));
                backoff.wait(Backoff::REFUSED).await;
            }
            Stop::Silent => {
                cluster.reading_is(away(SILENT.to_owned()));
                backoff.wait(Backoff::AWAY).await;
            }
            Stop::Compare => cluster.lock().state.doubt(),
            Stop::Look => _ = look_at_begin(cluster).await,
            Stop::Over => return,
        }
    }
}

/// Looks whether the log begins after a record that this node has asked to keep. Somebody has deleted it then.
async fn look_at_begin(cluster: &Cluster) -> Result<(), FollowError> {
    let first = next(cluster, &mut *open(cluster, None).await?.tail).await?.blocks.first().map(|stored| stored.place);
    if let Some(first) = first {
        cluster.lock().state.carried().lose(|place| place < first);
    }
    Ok(())
}

pub(super) fn away(reason: String) -> Option<Trouble> {
    Some(Trouble::Away { since: SystemTime::now(), reason })
}

async fn begin(cluster: &Cluster) -> Result<Following, FollowError> {
    let mark = cluster.lock().state.mark();
    open(cluster, mark).await
}

/// Begins to read the log.
pub(super) async fn open(cluster: &Cluster, after: Option<Mark>) -> Result<Following, FollowError> {
    match timeout(cluster.engine.longest_call(), cluster.engine.follow(after.as_ref())).await {
        Ok(following) => following,
        Err(elapsed) => Err(FollowError::Away(elapsed.into())),
    }
}

/// Reads one connection's log, until something is wrong with it.
async fn read(cluster: &Cluster, node: &Weak<dyn Replicated>, following: Following, backoff: &mut Backoff) -> Stop {
    let Following { continues, mut tail } = following;
    if !continues {
        if let Err(stop) = read_anew(cluster, node, &mut *tail).await {
            return stop;
        }
    }
    let mut silence = Silence::new(cluster);
    let opened = Instant::now();
    loop {
        let read = match next(cluster, &mut *tail).await {
            Ok(read) => read,
            Err(error) => return error.into(),
        };
        let Some(node) = node.upgrade() else { return Stop::Over };
        let stop = cluster.take(&*node, &read.blocks);
        cluster.has_read(read.is_newest);
        if let Some(stop) = stop {
            return stop;
        }
        if let Some(stop) = silence.look(cluster) {
            return stop;
        }
        if read.is_newest && opened.elapsed() > LOOK {
            return Stop::Look;
        }
        *backoff = Backoff::new();
    }
}

pub(super) async fn next(cluster: &Cluster, tail: &mut dyn Tail) -> Result<Read, FollowError> {
    match timeout(cluster.engine.longest_call(), tail.next()).await {
        Ok(read) => read,
        Err(elapsed) => Err(FollowError::Away(elapsed.into())),
    }
}

/// Whether what this node appends comes back.
struct Silence {
    /// The block in flight, and since when.
    waiting: Option<(u64, Instant)>,
}

impl Silence {
    fn new(cluster: &Cluster) -> Self {
        let mut silence = Self { waiting: None };
        silence.waiting = silence.now(cluster);
        silence
    }

    fn now(&self, cluster: &Cluster) -> Option<(u64, Instant)> {
        cluster.lock().outbox.accepted().map(|number| (number, Instant::now()))
    }

    /// Looks whether the engine has accepted a block that has not come back for too long.
    fn look(&mut self, cluster: &Cluster) -> Option<Stop> {
        let now = self.now(cluster);
        match (self.waiting, now) {
            (Some((before, since)), Some((number, _))) if before == number => {
                if since.elapsed() > 2 * BEAT {
                    cluster.reading_is(away(SILENT.to_owned()));
                }
                return (since.elapsed() > SILENCE).then_some(Stop::Silent);
            }
            _ => self.waiting = now,
        }
        cluster.reading_is(None);
        None
    }
}

/// What is said of an engine that accepts blocks which then cannot be read.
const SILENT: &str = "what was appended does not come back";

/// Reads all that the log has, and makes the registry the same.
async fn read_anew(cluster: &Cluster, node: &Weak<dyn Replicated>, tail: &mut dyn Tail) -> Result<(), Stop> {
    let mut log = Vec::new();
    loop {
        let read = next(cluster, tail).await?;
        log.extend(read.blocks);
        if read.is_newest {
            break;
        }
    }
    // If the log was trimmed meanwhile, blocks may be missing between those that were read.
    let first = next(cluster, &mut *open(cluster, None).await?.tail).await?.blocks.first().map(Stored::mark);
    if let Some(first) = first {
        let at = log.iter().position(|stored| stored.mark() == first);
        log.drain(..at.ok_or(Stop::Compare)?);
    }
    let node = node.upgrade().ok_or(Stop::Over)?;
    if !cluster.progress.borrow().signs.is_loaded {
        cluster.load(&*node, &log)?;
    } else {
        cluster.compare(&*node, &log)?;
    }
    cluster.has_read(true);
    cluster.reading_is(None);
    Ok(())
}

impl Cluster {
    fn reading_is(&self, trouble: Option<Trouble>) {
        self.sign(|signs| &mut signs.reading, trouble);
    }

    pub(super) fn writing_is(&self, trouble: Option<Trouble>) {
        self.sign(|signs| &mut signs.writing, trouble);
    }

    fn sign(&self, of: impl Fn(&mut Signs) -> &mut Option<Trouble>, trouble: Option<Trouble>) {
        self.change_signs(|signs| {
            let sign = of(signs);
            match trouble {
                None => sign.take().is_some(),
                Some(trouble) => {
                    Signs::set(sign, trouble);
                    true
                }
            }
        });
    }

    /// Changes the signs, and tells the registry if its health is of another kind then. `change` returns whether it has changed anything.
    pub(super) fn change_signs(&self, change: impl FnOnce(&mut Signs) -> bool) {
        let mut changed = None;
        self.progress.send_if_modified(|progress| {
            let before = progress.signs.health();
            let is_changed = change(&mut progress.signs);
            changed = is_changed.then(|| (before, progress.signs.health()));
            is_changed
        });
        let Some((before, now)) = changed.filter(|(before, now)| discriminant(before) != discriminant(now)) else {
            return;
        };
        // No lock is held any more.
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            node.health_changed(&before, &now);
        }
    }

    /// Notes that the log was read, and whether to its end.
    fn has_read(&self, is_newest: bool) {
        if is_newest {
            self.is_alive();
        }
        self.progress.send_if_modified(|progress| {
            progress.is_at_newest = is_newest;
            progress.newest_reads += u64::from(is_newest);
            is_newest
        });
    }
}
