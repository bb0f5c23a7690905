//! A client's subscriptions, and the events that they must send.

use std::{collections::BTreeSet, fmt};

use tower_sse::{ClientId, SlowClientPolicy, Start, Subscription};

use crate::world::{Level, Published, World, matches};

/// The events that a subscription's filter accepts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Filter {
    /// By an attribute, which is not sent: at least this level.
    Level(u8),
    /// By the event's data: every second number.
    Even,
}

impl Filter {
    fn passes(self, event: &Published) -> bool {
        match self {
            Self::Level(least) => event.level >= Level(least),
            Self::Even => event.number % 2 == 0,
        }
    }

    fn put_on(self, subscription: Subscription) -> Subscription {
        match self {
            Self::Level(least) => subscription.filter(move |event, _| event.attribute() >= Some(&Level(least))),
            Self::Even => subscription.filter(|event, _| {
                let data = event.data().unwrap();
                data.split(' ').next().unwrap().parse::<usize>().unwrap() % 2 == 0
            }),
        }
    }
}

/// The start of a subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Now,
    Oldest,
    Last(usize),
    /// After the event that was this many before the newest.
    Back(usize),
}

impl From {
    pub(crate) fn start(self, world: &World) -> Start {
        match self {
            Self::Now => Start::Now,
            Self::Oldest => Start::Oldest,
            Self::Last(events) => Start::Last(events),
            Self::Back(events) => {
                let at = world.events.len().checked_sub(events + 1).and_then(|at| world.events.get(at));
                Start::After(at.map_or(world.registry.position(), |event| event.position))
            }
        }
    }
}

/// A subscription that a client's handler makes each time the client connects.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) name: &'static str,
    pub(crate) filter: Option<Filter>,
    pub(crate) start: Start,
}

impl Want {
    pub(crate) fn subscription(&self) -> Subscription {
        let subscription = Subscription::matching(self.name).from(self.start);
        self.filter.map_or(subscription.clone(), |filter| filter.put_on(subscription))
    }

    /// The number of the first event that it gets without a resume.
    fn first(&self, world: &World) -> usize {
        let mut there = world.events_of(self.name, 0).filter(|event| event.evicted.is_none());
        let first = match self.start {
            Start::Oldest | Start::Last(usize::MAX) => there.next(),
            Start::Last(0) => None,
            Start::Last(events) => {
                let all: Vec<&Published> = there.collect();
                all.iter().rev().nth(events - 1).or(all.first()).copied()
            }
            Start::After(position) => return world.up_to(position),
            _ => None,
        };
        first.map_or(world.events.len(), |event| event.number)
    }
}

/// One subscription of an open stream.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) name: &'static str,
    filter: Option<Filter>,
    /// The number of the first event that it must send.
    pub(crate) first: usize,
    /// The subscription was made after the stream began.
    pub(crate) is_late: bool,
    /// When the subscription was made.
    pub(crate) since: usize,
    /// The number of the first event that may not have been read yet.
    pub(crate) next: usize,
    /// The client must be told that events were evicted before it connected.
    pub(crate) missed: bool,
    /// The events that were evicted before, or that the client was told are missing.
    pub(crate) told: BTreeSet<usize>,
    /// Events that need not come, as the client got them by another subscription that it has removed.
    pub(crate) had: BTreeSet<usize>,
}

impl Subscribed {
    /// `resumes` is the number of the first event that its client has not seen, if it has an id.
    pub(crate) fn new(want: &Want, resumes: Option<usize>, is_late: bool, world: &World) -> Self {
        let first = resumes.unwrap_or_else(|| want.first(world));
        let asks_for_all = resumes.is_some() || matches!(want.start, Start::After(_));
        let gone = world.events_of(want.name, first).filter(|event| event.evicted.is_some());
        Self {
            name: want.name,
            filter: want.filter,
            first,
            is_late,
            since: world.now,
            next: first,
            missed: asks_for_all && world.events_of(want.name, first).any(Published::is_missed),
            told: gone.map(|event| event.number).collect(),
            had: BTreeSet::new(),
        }
    }

    /// Whether the subscription accepts an event.
    pub(crate) fn gives(&self, event: &Published, client: ClientId) -> bool {
        let passes = self.filter.is_none_or(|filter| filter.passes(event));
        self.is_for(event) && passes && event.excluded != Some(client)
    }

    fn is_for(&self, event: &Published) -> bool {
        event.number >= self.first && matches(self.name, event.topic)
    }

    /// The events that are known to be evicted before they were read.
    pub(crate) fn lost<'a>(&self, world: &'a World) -> impl Iterator<Item = &'a Published> {
        let lost = world.events_of(self.name, self.next).filter(|event| event.is_missed());
        lost.filter(|event| !self.told.contains(&event.number))
    }

    pub(crate) fn may_tell(&self, world: &World) -> bool {
        self.missed || self.lost(world).next().is_some()
    }

    pub(crate) fn may_end(&self, world: &World) -> Option<SlowClientPolicy> {
        self.lost(world).map(|event| event.policy).find(|policy| matches!(policy, SlowClientPolicy::Disconnect { .. }))
    }

    pub(crate) fn tell(&mut self, world: &World) {
        let lost: Vec<usize> = self.lost(world).map(|event| event.number).collect();
        self.told.extend(lost);
        self.missed = false;
    }
}

impl fmt::Display for Subscribed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.name, self.first)?;
        if self.next > self.first {
            write!(f, ", read to {}", self.next)?;
        }
        self.filter.map_or(Ok(()), |filter| write!(f, ", {filter:?}"))
    }
}
