//! What a client is subscribed to, and what it is to get for that.

use std::{collections::BTreeSet, fmt};

use tower_sse::{ClientId, SlowClientPolicy, Start, Subscription};

use crate::world::{Level, Published, World, matches};

/// Which events a subscription lets through.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Filter {
    /// By what is not sent: at least this level.
    Level(u8),
    /// By what is sent: every second number.
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

/// Where a step says that a subscription starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Now,
    Oldest,
    Last(usize),
    /// After the event that was so many before the newest.
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

/// What a client's handler subscribes it to each time it comes.
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

    /// The number of the first event that it gets if it does not resume.
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
    /// The number of the first event that it is for.
    pub(crate) first: usize,
    /// It was made after the stream began.
    pub(crate) is_late: bool,
    /// When it was made.
    pub(crate) since: usize,
    /// The number of the first event of which it is not known yet that it was read.
    pub(crate) next: usize,
    /// The client is to be told that something was gone before it came.
    pub(crate) missed: bool,
    /// What was gone before, or was told to be.
    pub(crate) told: BTreeSet<usize>,
    /// What need not come, as the client had it by another subscription that it has left.
    pub(crate) had: BTreeSet<usize>,
}

impl Subscribed {
    /// `resumes`: the number of the first event that its client has not seen, if it came with an id.
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

    /// Whether an event is one that it lets through.
    pub(crate) fn gives(&self, event: &Published, client: ClientId) -> bool {
        let passes = self.filter.is_none_or(|filter| filter.passes(event));
        self.is_for(event) && passes && event.excluded != Some(client)
    }

    fn is_for(&self, event: &Published) -> bool {
        event.number >= self.first && matches(self.name, event.topic)
    }

    /// What went away before it was read, as far as is known.
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
