//! A client that reads, is disconnected, and resumes from its last id. All that arrives is compared with the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http_body::Body;
use proptest::{prelude::*, test_runner::TestCaseError};
use tower_sse::{ClientHandle, ClientId, CloseReason, Resume, SlowClientPolicy, SseBody, Subscription};

use crate::{
    open::{Empty, open},
    subscribed::{Subscribed, Want},
    world::{Progress, Published, World, matches},
};

type Checked<T = ()> = Result<T, TestCaseError>;

pub(crate) struct Reader {
    name: usize,
    /// The names to which its handler subscribes it when it reconnects.
    wants: Vec<Want>,
    /// The names to which it ever subscribed by itself.
    asked: Vec<&'static str>,
    stream: Option<Stream>,
    arrivals: Vec<Arrival>,
    /// How many of them came with the last frame.
    last_frame: usize,
    woken: Arc<Woken>,
}

/// An event or gap that arrived and was not lost.
#[derive(Debug)]
struct Arrival {
    /// `None` for a gap.
    event: Option<usize>,
    id: Option<String>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One connection.
struct Stream {
    handle: ClientHandle,
    id: ClientId,
    body: SseBody<Empty>,
    subscribed: Vec<Subscribed>,
    /// The id that the client resumed from, and the progress that the id encodes.
    resumed: Option<(String, Progress)>,
    /// The events that it got on earlier streams.
    had: BTreeSet<usize>,
    /// The events that came, and when.
    came: BTreeMap<usize, usize>,
    /// How many events it has seen, by its ids.
    seen: usize,
    /// Since when its ids include the progress of catching up.
    catches_up_since: Option<usize>,
    /// The last poll found nothing, so the reader waits for a wake-up.
    waits: bool,
}

/// One block of a frame.
enum Block {
    Event { number: usize, topic: String, id: String },
    Gap { names: Vec<String>, after: String, id: Option<String> },
    Retry(u64),
}

impl Reader {
    pub(crate) fn new(name: usize) -> Self {
        Self {
            name,
            wants: Vec::new(),
            asked: Vec::new(),
            stream: None,
            arrivals: Vec::new(),
            last_frame: 0,
            woken: Arc::default(),
        }
    }

    pub(crate) fn id(&self) -> Option<ClientId> {
        self.stream.as_ref().map(|stream| stream.id)
    }

    /// The number of subscriptions of its stream that match a topic.
    pub(crate) fn subscriptions(&self, topic: &str) -> usize {
        let subscribed = self.stream.iter().flat_map(|stream| &stream.subscribed);
        subscribed.filter(|it| matches(it.name, topic)).count()
    }

    /// Returns whether the reader waits and has not been woken.
    pub(crate) fn sleeps(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.waits) && !self.woken.0.load(Ordering::Relaxed)
    }

    pub(crate) fn subscribe(&mut self, want: Want, world: &World) {
        let is_new = self.wants.iter().all(|known| known.name != want.name);
        if let Some(stream) = &mut self.stream {
            // For a name that is subscribed already, only the name is given, which changes nothing.
            let subscription = if is_new { want.subscription() } else { Subscription::matching(want.name) };
            stream.handle.subscribe(subscription).unwrap();
            if is_new {
                stream.subscribed.push(Subscribed::new(&want, None, true, world));
            }
        }
        if is_new {
            self.asked.push(want.name);
            self.wants.push(want);
        }
    }

    /// Removes one of its subscriptions.
    pub(crate) fn unsubscribe(&mut self, which: usize, world: &World) {
        if self.wants.is_empty() {
            return;
        }
        let name = self.wants.remove(which % self.wants.len()).name;
        let Some(stream) = &mut self.stream else { return };
        assert!(stream.handle.unsubscribe(name));
        assert!(!stream.handle.unsubscribe(name));
        let at = stream.subscribed.iter().position(|it| it.name == name).unwrap();
        let left = stream.subscribed.remove(at);
        // The other subscriptions did not send these events because this one did. Note that, as this one is removed.
        let had = stream.came.iter().filter(|(number, when)| **when >= left.since || left.had.contains(number));
        let had = had.map(|(number, _)| *number);
        let gave: Vec<usize> = had.filter(|number| left.gives(&world.events[*number], stream.id)).collect();
        stream.subscribed.iter_mut().for_each(|it| it.had.extend(&gave));
    }

    /// The connection breaks, and this many blocks of the last frame never arrive. Unless the server notices, the
    /// client reconnects before the server ends the old stream.
    pub(crate) fn cut(&mut self, lost: usize, is_noticed: bool, world: &World) -> Checked {
        let lost = lost.min(self.last_frame);
        self.arrivals.truncate(self.arrivals.len() - lost);
        self.last_frame = 0;
        let old = self.stream.take();
        if !is_noticed && old.is_some() {
            self.connect(world)?;
        }
        drop(old);
        Ok(())
    }

    fn connect(&mut self, world: &World) -> Checked {
        let last_id = self.arrivals.iter().rev().find_map(|arrival| arrival.id.clone());
        let (handle, body) = open(&world.layer, last_id.as_deref(), |client| {
            self.wants.iter().for_each(|want| client.subscribe(want.subscription()).unwrap());
            // The stream stays open even without a subscription.
            drop(client.clone().into_stream());
        });
        let names = |progress: Progress| progress.for_names(self.wants.iter().map(|want| want.name));
        let resumed = last_id.map(|id| world.progress(&id).map(|progress| (id, names(progress)))).transpose()?;
        let from = |want: &Want| resumed.as_ref().map(|(_, progress)| progress.of(want.name));
        let subscribed: Vec<_> =
            self.wants.iter().map(|want| Subscribed::new(want, from(want), false, world)).collect();
        let missed = || subscribed.iter().filter(|it| it.missed).map(|it| it.name);
        match (handle.resume(), &resumed) {
            (Resume::Fresh, None) => {}
            (Resume::Continued, Some(_)) => {
                prop_assert_eq!(missed().next(), None, "{} was not told of a gap", self);
            }
            (Resume::Gap(gap), Some((id, _))) => {
                prop_assert_eq!(gap.topics(), missed().collect::<Vec<_>>(), "what {} missed after {}", self, id);
                prop_assert_eq!(gap.after(), id);
            }
            (other, _) => prop_assert!(false, "{} resumed {:?} as {:?}", self, resumed, other),
        }
        self.stream = Some(Stream {
            id: handle.id(),
            handle,
            body,
            subscribed,
            seen: resumed.as_ref().map_or(0, |(_, progress)| progress.up_to),
            catches_up_since: resumed.as_ref().filter(|(_, progress)| progress.late.is_some()).map(|_| world.now),
            resumed,
            had: self.arrivals.iter().filter_map(|arrival| arrival.event).collect(),
            came: BTreeMap::new(),
            waits: false,
        });
        Ok(())
    }

    /// Takes one frame, and reconnects before if necessary. Returns whether to poll again. With `moves`, another task
    /// polls.
    pub(crate) fn read(&mut self, moves: bool, world: &World) -> Checked<bool> {
        if self.stream.is_none() {
            self.connect(world)?;
        }
        let is_woken = self.woken.0.swap(false, Ordering::Relaxed);
        if moves {
            self.woken = Arc::default();
        }
        let waited = self.stream.as_ref().is_some_and(|stream| stream.waits);
        let Some(mut blocks) = self.poll()? else {
            self.expect_no_gap(world)?;
            return self.expect_nothing(world);
        };
        prop_assert!(is_woken || !waited, "{} was not woken for what it gets now", self);
        if let [Block::Retry(delay)] = blocks[..] {
            return self.end(delay, world);
        }
        let ends = self.stream.iter().flat_map(|stream| &stream.subscribed).flat_map(|it| self.lost(it, world));
        let ends = ends
            .map(|event| (event.number, event.policy))
            .find(|(_, policy)| matches!(policy, SlowClientPolicy::Disconnect { .. }));
        prop_assert_eq!(ends, None, "{} lost this and goes on", self);
        let had_all = if let [Block::Gap { .. }] = blocks[..] {
            // The events that came with the gap are sent now.
            match self.poll()? {
                Some(events) => {
                    blocks.extend(events);
                    false
                }
                None => true,
            }
        } else {
            self.expect_no_gap(world)?;
            false
        };
        self.last_frame = blocks.len();
        for (at, block) in blocks.into_iter().enumerate() {
            match block {
                Block::Event { number, topic, id } => self.event(number, &topic, id, world)?,
                Block::Gap { names, after, id } if at == 0 => self.gap(&names, &after, id, world)?,
                Block::Gap { names, .. } => prop_assert!(false, "{} is told of {:?} too late", self, names),
                Block::Retry(_) => prop_assert!(false, "{} is told to reconnect after a frame had begun", self),
            }
        }
        if had_all {
            self.expect_nothing(world)?;
        }
        Ok(true)
    }

    /// The blocks of the next frame, if there is one.
    fn poll(&mut self) -> Checked<Option<Vec<Block>>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        let stream = self.stream.as_mut().unwrap();
        let poll = Pin::new(&mut stream.body).poll_frame(&mut Context::from_waker(&waker));
        stream.waits = poll.is_pending();
        match poll {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = frame.into_data().unwrap();
                let text = std::str::from_utf8(&frame).unwrap();
                Ok(Some(text.strip_suffix("\n\n").unwrap().split("\n\n").map(block).collect()))
            }
            Poll::Ready(_) => Err(TestCaseError::fail(format!("{self} has ended"))),
            Poll::Pending => Ok(None),
        }
    }

    fn event(&mut self, number: usize, topic: &str, id: String, world: &World) -> Checked {
        let event = &world.events[number];
        let progress = world.progress(&id)?;
        let stream = self.stream.as_ref().unwrap();
        let giving: Vec<&Subscribed> = stream.subscribed.iter().filter(|it| it.gives(event, stream.id)).collect();
        prop_assert_eq!(topic, event.topic);
        prop_assert!(!giving.is_empty(), "{} got {} ({}), which is not for it", self, number, topic);
        if let Some(when) = stream.came.get(&number) {
            // A subscription that waited while another one sent the event does not know that once the other is removed.
            let is_excused = |it: &Subscribed| it.had.contains(&number) && number >= it.next;
            let twice = giving.iter().find(|it| it.since <= *when && !is_excused(it));
            prop_assert!(twice.is_none(), "{} got {} ({}) twice on one stream", self, number, topic);
        }
        if stream.had.contains(&number) && giving.iter().all(|it| !it.is_late) {
            // The client resumed while it was catching up: an event that several subscriptions match may come twice.
            let late = stream.resumed.as_ref().and_then(|(_, progress)| progress.late.as_ref());
            let several = self.asked.iter().filter(|name| matches(name, topic)).count() > 1;
            let may = late.is_some_and(|(_, names)| names.is_none() || several);
            prop_assert!(may, "{} got {} ({}) again after it resumed with {:?}", self, number, topic, stream.resumed);
        }
        let stands_at = progress.late.as_ref().map_or(progress.up_to, |(late, _)| *late);
        prop_assert_eq!(stands_at, number + 1, "{} got {} ({}) with the id {}", self, number, topic, id);
        self.stream.as_mut().unwrap().came.insert(number, world.now);
        self.arrivals.push(Arrival { event: Some(number), id: Some(id) });
        self.expect_all(&progress, world)
    }

    fn gap(&mut self, names: &[String], after: &str, id: Option<String>, world: &World) -> Checked {
        let unique: BTreeSet<&String> = names.iter().collect();
        prop_assert_eq!(unique.len(), names.len(), "{} is told of {:?}", self, names);
        let stream = self.stream.as_ref().unwrap();
        for name in names {
            let of = stream.subscribed.iter().find(|it| it.name == name);
            prop_assert!(
                of.is_some_and(|it| it.may_tell(world)),
                "{} is told of a gap in {}, but nothing is missing",
                self,
                name
            );
        }
        let resumes = stream.subscribed.iter().any(|it| it.missed && !it.is_late);
        if let (true, Some((id, _))) = (resumes, &stream.resumed) {
            prop_assert_eq!(after, id, "{} is told of a gap after another id than it came with", self);
        }
        for it in stream.subscribed.iter().filter(|it| names.iter().all(|name| name != it.name)) {
            self.expect_told(it, world)?;
        }
        let stream = self.stream.as_mut().unwrap();
        let told = stream.subscribed.iter_mut().filter(|it| names.iter().any(|name| name == it.name));
        told.for_each(|it| it.tell(world));
        let progress = id.as_ref().map(|id| world.progress(id)).transpose()?;
        self.arrivals.push(Arrival { event: None, id });
        progress.map_or(Ok(()), |progress| self.expect_all(&progress, world))
    }

    /// The stream ends, as the client fell behind. The client reconnects when it next reads.
    fn end(&mut self, delay: u64, world: &World) -> Checked<bool> {
        let stream = self.stream.as_ref().unwrap();
        let Some(SlowClientPolicy::Disconnect { reconnect_delay: retry }) =
            stream.subscribed.iter().find_map(|it| it.may_end(world))
        else {
            return Err(TestCaseError::fail(format!("{self} is ended and missed nothing for that")));
        };
        let retry = retry.as_millis() as u64;
        prop_assert!((retry / 2..=retry * 3 / 2).contains(&delay), "{} is to wait {} ms", self, delay);
        let mut stream = self.stream.take().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let end = Pin::new(&mut stream.body).poll_frame(&mut cx);
        prop_assert!(matches!(end, Poll::Ready(None)), "{} goes on after its end", self);
        prop_assert_eq!(pin!(stream.handle.closed()).poll(&mut cx), Poll::Ready(CloseReason::FellBehind));
        self.last_frame = 0;
        Ok(true)
    }

    /// Checks that the client needs no gap event.
    fn expect_no_gap(&self, world: &World) -> Checked {
        self.stream.iter().flat_map(|stream| &stream.subscribed).try_for_each(|it| self.expect_told(it, world))
    }

    /// Checks that the client was told of all lost events of this subscription.
    fn expect_told(&self, it: &Subscribed, world: &World) -> Checked {
        prop_assert!(!it.missed, "{} is not told that some of {} was gone before it came", self, it.name);
        let lost = self.lost(it, world).next();
        if let Some(event) = lost {
            prop_assert!(false, "{} is not told that it lost {} ({}) in {}", self, event.number, event.topic, it.name);
        }
        Ok(())
    }

    /// The events of this subscription that were evicted before the client read them.
    fn lost<'a>(&'a self, it: &'a Subscribed, world: &'a World) -> impl Iterator<Item = &'a Published> {
        let stream = self.stream.as_ref().unwrap();
        let had = |number| stream.had.contains(number) || stream.came.contains_key(number);
        it.lost(world).filter(move |event| it.gives(event, stream.id) && !had(&event.number))
    }

    /// Checks that nothing is left to read. Returns whether to poll again nevertheless.
    fn expect_nothing(&mut self, world: &World) -> Checked<bool> {
        if self.woken.0.load(Ordering::Relaxed) {
            // The reader skipped many events that were not for it, and yields to other tasks.
            return Ok(true);
        }
        let stream = self.stream.as_ref().unwrap();
        for it in &stream.subscribed {
            self.expect_read(it, world.events.len(), "there is nothing to read", world)?;
        }
        let subscribed = self.stream.iter_mut().flat_map(|stream| &mut stream.subscribed);
        subscribed.for_each(|it| it.next = world.events.len());
        Ok(false)
    }

    /// Checks that a client that resumes with this progress has all events up to there.
    fn expect_all(&mut self, progress: &Progress, world: &World) -> Checked {
        let stream = self.stream.as_ref().unwrap();
        prop_assert!(progress.up_to >= stream.seen, "{} goes back from {} to {:?}", self, stream.seen, progress);
        // A subscription that was made after the catching up began waits for it. No id includes that.
        let since = stream.catches_up_since.unwrap_or(world.now);
        let waits = |it: &Subscribed| it.is_late && (it.since > since || !progress.catches_up(it.name));
        let is_known = |it: &Subscribed| progress.late.is_none() || !waits(it);
        for it in stream.subscribed.iter().filter(|it| is_known(it)) {
            self.expect_read(it, progress.of(it.name), &format!("its id is {progress:?}"), world)?;
        }
        let stream = self.stream.as_mut().unwrap();
        stream.seen = progress.up_to;
        stream.catches_up_since = progress.late.as_ref().map(|_| since);
        let known = stream.subscribed.iter_mut().filter(|it| is_known(it));
        known.for_each(|it| it.next = it.next.max(progress.of(it.name)));
        Ok(())
    }

    /// Checks that every event of this subscription up to a number has come.
    fn expect_read(&self, it: &Subscribed, up_to: usize, why: &str, world: &World) -> Checked {
        let stream = self.stream.as_ref().unwrap();
        let gives = |it: &Subscribed, number: usize| it.gives(&world.events[number], stream.id);
        for event in world.events_of(it.name, it.next).take_while(|event| event.number < up_to) {
            let number = event.number;
            let came = stream.came.get(&number).is_some_and(|when| {
                it.since <= *when
                    || stream
                        .subscribed
                        .iter()
                        .any(|other| gives(other, number) && (other.since <= *when || other.had.contains(&number)))
            });
            let had = it.had.contains(&number) || (!it.is_late && stream.had.contains(&number));
            let gone = event.evicted.is_some()
                && (event.policy == SlowClientPolicy::SkipSilently || it.told.contains(&number));
            let read = came || had || gone || !gives(it, number);
            prop_assert!(read, "{} did not get {} ({}) of {}, and {}", self, number, event.topic, it.name, why);
        }
        Ok(())
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = match &self.stream {
            Some(stream) => stream.subscribed.iter().map(ToString::to_string).collect(),
            None => self.wants.iter().map(|want| want.name.to_owned()).collect(),
        };
        write!(f, "client {} [{}]", self.name, all.join("; "))
    }
}

fn block(text: &str) -> Block {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if let Some(delay) = field("retry") {
        return Block::Retry(delay.parse().unwrap());
    }
    let (data, id) = (field("data").unwrap(), field("id").map(str::to_owned));
    if field("event") == Some("gap") {
        let gap: serde_json::Value = serde_json::from_str(data).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let names = gap["topics"].as_array().unwrap().iter().map(text).collect();
        return Block::Gap { names, after: gap["after"].as_str().unwrap_or_default().to_owned(), id };
    }
    let mut words = data.split(' ');
    let mut word = || words.next().unwrap();
    Block::Event { number: word().parse().unwrap(), topic: word().to_owned(), id: id.unwrap() }
}
