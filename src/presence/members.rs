//! The members of one topic and their changes: the data of a presence list.
//!
//! Every join and leave of a member gets a version. A watcher still has to see the members whose last change is newer
//! than what it saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    time::{Duration, Instant},
};

/// The members of one topic. Clients with the same key are one member.
///
/// `I` is a client's id, `V` the client's metadata.
#[derive(Debug)]
pub(crate) struct Members<I, V> {
    grace: Duration,
    present: BTreeMap<Arc<str>, MemberState<I, V>>,
    /// When the members without clients leave, with the version of their join.
    leaving: BTreeSet<(Instant, u64)>,
    /// The last change of each member, present or not.
    changed: BTreeMap<u64, Arc<str>>,
    /// The version of the leave of each former member.
    gone: BTreeMap<Arc<str>, u64>,
    /// The versions in `gone`, in order.
    left: BTreeSet<u64>,
    /// All leaves after this version are still known.
    floor: u64,
    version: u64,
    /// How many former members are remembered. It is the number of present members if that is greater.
    remembered: usize,
    /// The metadata of former members and clients, to be dropped later.
    values: Vec<V>,
}

#[derive(Debug)]
struct MemberState<I, V> {
    /// The version of the member's join.
    since: u64,
    clients: BTreeMap<I, V>,
    /// The metadata of the client that joined last. It may have left since.
    value: V,
    /// When the member's grace time is over.
    until: Option<Instant>,
}

/// A member that is present, with or without clients at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PresentMember<I, V> {
    pub(crate) key: Arc<str>,
    /// The metadata of the client that joined last. That client may have left.
    pub(crate) value: V,
    /// The clients in order of their ids. Empty in the grace time.
    pub(crate) clients: Vec<(I, V)>,
}

/// A change of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change<I, V> {
    /// The member joined. It is shown as it is now.
    Joined(PresentMember<I, V>),
    Left(Arc<str>),
}

/// What a watcher has seen of a topic's members. At first, nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    seen: u64,
    known: BTreeSet<Arc<str>>,
}

impl<I: Copy + Ord, V: Clone> Members<I, V> {
    /// How many former members are remembered at least.
    const REMEMBERED: usize = 1024;

    /// `grace`: how long a member stays after its last client has left.
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            grace,
            present: BTreeMap::new(),
            leaving: BTreeSet::new(),
            changed: BTreeMap::new(),
            gone: BTreeMap::new(),
            left: BTreeSet::new(),
            floor: 0,
            version: 0,
            remembered: Self::REMEMBERED,
            values: Vec::new(),
        }
    }

    /// Adds a client with this key, or replaces its metadata. Returns whether a member joined.
    pub(crate) fn join(&mut self, key: &str, client: I, value: V) -> bool {
        if let Some(presence) = self.present.get_mut(key) {
            self.values.extend(presence.clients.insert(client, value.clone()));
            self.values.push(mem::replace(&mut presence.value, value));
            if let Some(until) = presence.until.take() {
                self.leaving.remove(&(until, presence.since));
            }
            return false;
        }
        let key = match self.gone.remove_entry(key) {
            Some((key, left)) => {
                self.left.remove(&left);
                self.changed.remove(&left);
                key
            }
            None => Arc::from(key),
        };
        self.version += 1;
        self.changed.insert(self.version, Arc::clone(&key));
        let clients = BTreeMap::from([(client, value.clone())]);
        self.present.insert(key, MemberState { since: self.version, clients, value, until: None });
        true
    }

    /// Removes a client. Without a grace time, the member leaves with its last client. With one,
    /// [`expire`](Self::expire) removes the member after that time, unless a client joins before.
    pub(crate) fn leave(&mut self, key: &str, client: I, now: Instant) {
        let Some(presence) = self.present.get_mut(key) else { return };
        let Some(value) = presence.clients.remove(&client) else { return };
        self.values.push(value);
        if !presence.clients.is_empty() {
            return;
        }
        let since = presence.since;
        if self.grace.is_zero() {
            return self.remove(since);
        }
        // A time that the clock cannot represent is never over.
        presence.until = now.checked_add(self.grace);
        self.leaving.extend(presence.until.map(|until| (until, since)));
    }

    /// Removes the members whose grace time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(until, since)) = self.leaving.first() {
            if until > now {
                return;
            }
            self.leaving.pop_first();
            self.remove(since);
        }
    }

    /// Takes the metadata of former members and clients. It must be dropped when nothing is locked, because that may
    /// run user code.
    pub(crate) fn take_gone(&mut self) -> Vec<V> {
        mem::take(&mut self.values)
    }

    /// Returns when the next member [expires](Self::expire).
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.leaving.first().map(|(until, _)| *until)
    }

    /// Returns how many members are present, with those in their grace time.
    pub(crate) fn count(&self) -> usize {
        self.present.len()
    }

    /// Returns the present members, in order of their keys.
    pub(crate) fn list(&self) -> Vec<PresentMember<I, V>> {
        self.present.iter().map(|(key, presence)| presence.member(key)).collect()
    }

    /// Returns how many joins and leaves there were. If it has not grown, no watcher has anything to see.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Returns what changed since the watcher's last call, in order. At the first call, all present members joined.
    ///
    /// The changes are net: a member that joined and left in between is not in them, nor one that left and joined
    /// again. Cost: the number of changes.
    pub(crate) fn changes(&self, watch: &mut Watch) -> Vec<Change<I, V>> {
        let mut changes = Vec::new();
        if watch.seen < self.floor {
            // The members whose leave is no longer remembered left longest ago, so they come first.
            watch.known.retain(|key| {
                let remembered = self.present.contains_key(key) || self.gone.contains_key(key);
                if !remembered {
                    changes.push(Change::Left(Arc::clone(key)));
                }
                remembered
            });
        }
        for key in self.changed.range((Excluded(watch.seen), Unbounded)).map(|(_, key)| key) {
            if let Some(presence) = self.present.get(key) {
                if watch.known.insert(Arc::clone(key)) {
                    changes.push(Change::Joined(presence.member(key)));
                }
            } else if watch.known.remove(key) {
                changes.push(Change::Left(Arc::clone(key)));
            }
        }
        watch.seen = self.version;
        changes
    }

    /// Removes the member that joined at this version.
    fn remove(&mut self, since: u64) {
        let Some(key) = self.changed.remove(&since) else { return };
        if let Some(presence) = self.present.remove(&key) {
            self.values.push(presence.value);
            self.values.extend(presence.clients.into_values());
        }
        self.version += 1;
        self.changed.insert(self.version, Arc::clone(&key));
        self.gone.insert(key, self.version);
        self.left.insert(self.version);
        while self.left.len() > self.present.len().max(self.remembered) {
            let Some(oldest) = self.left.pop_first() else { return };
            if let Some(key) = self.changed.remove(&oldest) {
                self.gone.remove(&key);
            }
            self.floor = oldest;
        }
    }
}

impl<I: Copy, V: Clone> MemberState<I, V> {
    fn member(&self, key: &Arc<str>) -> PresentMember<I, V> {
        let clients = self.clients.iter().map(|(client, value)| (*client, value.clone())).collect();
        PresentMember { key: Arc::clone(key), value: self.value.clone(), clients }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn members(grace: Duration) -> (Members<u32, &'static str>, Watch, Instant) {
        (Members::new(grace), Watch::default(), Instant::now())
    }

    fn come(members: &mut Members<u32, &'static str>, keys: &[&str]) {
        keys.iter().for_each(|key| assert!(members.join(key, 1, "")));
    }

    /// Returns the changes as `+key` and `-key`.
    fn read(members: &Members<u32, &'static str>, watch: &mut Watch) -> Vec<String> {
        let show = |change| match change {
            Change::Joined(member) => format!("+{}", member.key),
            Change::Left(key) => format!("-{key}"),
        };
        members.changes(watch).into_iter().map(show).collect()
    }

    fn rows(members: &Members<u32, &'static str>) -> usize {
        assert_eq!(members.changed.len(), members.present.len() + members.gone.len());
        assert_eq!(members.left.len(), members.gone.len());
        assert!(members.leaving.len() <= members.present.len());
        members.changed.len()
    }

    #[test]
    fn a_user_with_two_tabs_is_one_member_until_the_last_tab_leaves() {
        let (mut members, mut watch, now) = members(Duration::ZERO);
        assert!(members.join("ann", 1, "phone"));
        assert!(!members.join("ann", 2, "desk"));
        assert!(!members.join("ann", 2, "desk"), "the same client joins again");
        assert_eq!((members.count(), read(&members, &mut watch)), (1, vec!["+ann".to_owned()]));
        members.leave("ann", 1, now);
        assert_eq!(members.list(), [PresentMember { key: "ann".into(), value: "desk", clients: vec![(2, "desk")] }]);
        assert!(read(&members, &mut watch).is_empty());
        members.leave("ann", 2, now);
        assert_eq!((members.count(), read(&members, &mut watch)), (0, vec!["-ann".to_owned()]));
    }

    #[test]
    fn a_member_that_returns_in_the_grace_time_neither_leaves_nor_joins() {
        let (mut members, mut watch, now) = members(GRACE);
        members.join("ann", 1, "train");
        read(&members, &mut watch);
        members.leave("ann", 1, now);
        assert_eq!(members.next_expiry(), Some(now + GRACE));
        members.expire(now + GRACE - Duration::from_nanos(1));
        assert_eq!(members.list(), [PresentMember { key: "ann".into(), value: "train", clients: vec![] }]);
        assert!(!members.join("ann", 2, "home"));
        assert_eq!(members.next_expiry(), None);
        members.expire(now + 9 * GRACE);
        assert_eq!(members.list(), [PresentMember { key: "ann".into(), value: "home", clients: vec![(2, "home")] }]);
        assert_eq!((members.version(), read(&members, &mut watch)), (1, vec![]));
    }

    #[test]
    fn a_member_that_does_not_return_leaves_after_the_grace_time() {
        let (mut members, mut watch, now) = members(GRACE);
        come(&mut members, &["ann", "bob", "cid"]);
        read(&members, &mut watch);
        members.leave("bob", 1, now + Duration::from_secs(1));
        members.leave("ann", 1, now + Duration::from_secs(2));
        members.leave("bob", 1, now + Duration::from_secs(5));
        assert_eq!(
            members.next_expiry(),
            Some(now + GRACE + Duration::from_secs(1)),
            "a member that has left cannot leave again"
        );
        members.expire(now + 2 * GRACE);
        assert_eq!(read(&members, &mut watch), ["-bob", "-ann"], "in the order in which they left");
        assert_eq!((members.count(), members.next_expiry()), (1, None));
    }

    #[test]
    fn a_member_that_joins_and_leaves_between_two_reads_is_not_reported() {
        let (mut members, mut watch, now) = members(Duration::ZERO);
        members.join("ann", 1, "");
        read(&members, &mut watch);
        members.join("bob", 2, "");
        members.leave("bob", 2, now);
        assert!(read(&members, &mut watch).is_empty());
        members.leave("ann", 1, now);
        members.join("ann", 3, "");
        assert!(read(&members, &mut watch).is_empty(), "a member that left and rejoined is not reported either");
    }

    #[test]
    fn the_first_read_returns_all_members_in_the_order_of_joining() {
        let (mut members, mut watch, now) = members(Duration::ZERO);
        come(&mut members, &["cid", "ann", "bob"]);
        members.leave("ann", 1, now);
        assert_eq!(read(&members, &mut watch), ["+cid", "+bob"]);
    }

    #[test]
    fn a_client_that_never_joined_cannot_leave() {
        let (mut members, _, now) = members(Duration::ZERO);
        members.leave("ann", 1, now);
        members.join("ann", 1, "");
        members.leave("ann", 2, now);
        members.leave("bob", 1, now);
        assert_eq!((members.count(), members.version()), (1, 1));
    }

    #[test]
    fn a_clock_that_goes_back_and_endless_times_are_accepted() {
        let (mut members, _, now) = members(GRACE);
        come(&mut members, &["ann", "bob"]);
        members.leave("ann", 1, now + GRACE);
        members.expire(now);
        members.leave("bob", 1, now);
        members.expire(now + GRACE);
        assert_eq!(members.list().iter().map(|member| &*member.key).collect::<Vec<_>>(), ["ann"]);

        let (mut forever, _, _) = self::members(Duration::MAX);
        forever.join("ann", 1, "");
        forever.leave("ann", 1, now);
        forever.expire(now + GRACE);
        assert_eq!((forever.count(), forever.next_expiry()), (1, None));
    }

    #[test]
    fn a_watcher_sees_leaves_that_are_no_longer_remembered() {
        let (mut members, mut watch, now) = members(Duration::ZERO);
        come(&mut members, &["ann", "bob", "cid"]);
        read(&members, &mut watch);
        ["bob", "ann"].iter().for_each(|key| members.leave(key, 1, now));
        let mut through = |key: &str| {
            members.join(key, 1, "");
            members.leave(key, 1, now);
        };
        (0..5000).for_each(|number| through(&format!("visitor {number}")));
        assert_eq!(rows(&members), 1 + 1024);
        members.join("dee", 1, "");
        members.leave("cid", 1, now);
        assert_eq!(read(&members, &mut watch), ["-ann", "-bob", "+dee", "-cid"]);
        assert!(read(&members, &mut watch).is_empty());
    }

    #[test]
    fn the_remembered_changes_shrink_with_the_number_of_members() {
        let (mut members, mut watch, now) = members(Duration::ZERO);
        let keys: Vec<String> = (0..5000).map(|number| number.to_string()).collect();
        keys.iter().for_each(|key| assert!(members.join(key, 1, "")));
        keys[..2000].iter().for_each(|key| members.leave(key, 1, now));
        assert_eq!(rows(&members), 5000, "as many changes are remembered as members are present");
        read(&members, &mut watch);
        keys.iter().for_each(|key| members.leave(key, 1, now));
        assert_eq!((members.count(), rows(&members)), (0, 1024));
        assert_eq!(read(&members, &mut watch).len(), 3000);
        assert!(watch.known.is_empty());
    }

    const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    #[derive(Debug, Clone)]
    enum Step {
        Join(usize, u32, &'static str),
        Leave(usize, u32),
        Expire,
        /// Moves the clock by so many seconds.
        Time(i8),
        Look(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..KEYS.len(), 0..3u32, prop::sample::select(&["x", "y"][..])).prop_map(|(key, client, value)| Step::Join(key, client, value)),
            6 => (0..KEYS.len(), 0..3u32).prop_map(|(key, client)| Step::Leave(key, client)),
            2 => Just(Step::Expire),
            2 => (-3..9i8).prop_map(Step::Time),
            2 => (0..3usize).prop_map(Step::Look),
        ]
    }

    /// The present members, and the key of every change ever.
    #[derive(Default)]
    struct Model {
        present: BTreeMap<&'static str, Here>,
        history: Vec<&'static str>,
    }

    #[derive(Default)]
    struct Here {
        clients: BTreeMap<u32, &'static str>,
        value: &'static str,
        until: Option<Instant>,
    }

    impl Model {
        fn go(&mut self, key: &'static str) {
            self.present.remove(key);
            self.history.push(key);
        }

        /// Returns the keys that changed since then, in the order of their last change.
        fn changed(&self, seen: usize) -> Vec<&'static str> {
            let since = &self.history[seen..];
            let last = |(at, key): &(usize, &&str)| !since[at + 1..].contains(*key);
            since.iter().enumerate().filter(last).map(|(_, key)| *key).collect()
        }

        fn list(&self) -> Vec<PresentMember<u32, &'static str>> {
            let member = |(key, here): (&&'static str, &Here)| PresentMember {
                key: (*key).into(),
                value: here.value,
                clients: here.clients.iter().map(|(client, value)| (*client, *value)).collect(),
            };
            self.present.iter().map(member).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn a_watcher_knows_the_exact_members_at_each_read(steps in prop::collection::vec(step(), 0..200), grace in prop_oneof![Just(0), Just(5u64)], remembered in 0..4usize) {
            let grace = Duration::from_secs(grace);
            let mut members = Members { remembered, ..Members::new(grace) };
            let mut model = Model::default();
            let mut watchers: [(Watch, usize, BTreeSet<Arc<str>>); 3] = Default::default();
            let mut now = Instant::now() + Duration::from_secs(10_000);
            for step in steps {
                match step {
                    Step::Join(key, client, value) => {
                        let key = KEYS[key];
                        let new = !model.present.contains_key(key);
                        if new {
                            model.history.push(key);
                        }
                        let here = model.present.entry(key).or_default();
                        here.clients.insert(client, value);
                        (here.value, here.until) = (value, None);
                        prop_assert_eq!(members.join(key, client, value), new);
                    }
                    Step::Leave(key, client) => {
                        members.leave(KEYS[key], client, now);
                        if let Some(here) = model.present.get_mut(KEYS[key]) {
                            if here.clients.remove(&client).is_some() && here.clients.is_empty() {
                                here.until = Some(now + grace);
                                if grace.is_zero() {
                                    model.go(KEYS[key]);
                                }
                            }
                        }
                    }
                    Step::Expire => {
                        members.expire(now);
                        let mut over: Vec<(Instant, usize, &str)> = Vec::new();
                        for (key, here) in &model.present {
                            let since = model.history.iter().rposition(|of| of == key);
                            over.extend(here.until.filter(|until| *until <= now).zip(since).map(|(until, since)| (until, since, *key)));
                        }
                        over.sort_unstable();
                        over.into_iter().for_each(|(_, _, key)| model.go(key));
                    }
                    Step::Time(seconds) if seconds < 0 => now -= Duration::from_secs(seconds.unsigned_abs().into()),
                    Step::Time(seconds) => now += Duration::from_secs(seconds.unsigned_abs().into()),
                    Step::Look(watcher) => {
                        let (watch, seen, known) = &mut watchers[watcher];
                        let in_order = watch.seen >= members.floor;
                        let changes = members.changes(watch);
                        let mut expected = model.changed(*seen);
                        expected.retain(|key| model.present.contains_key(key) != known.contains(*key));
                        let mut keys = Vec::new();
                        for change in changes {
                            match change {
                                Change::Joined(member) => {
                                    prop_assert!(members.list().contains(&member));
                                    prop_assert!(known.insert(Arc::clone(&member.key)), "a join of a known member");
                                    keys.push(member.key);
                                }
                                Change::Left(key) => {
                                    prop_assert!(known.remove(&key), "a leave of an unknown member");
                                    keys.push(key);
                                }
                            }
                        }
                        if !in_order {
                            keys.sort_unstable();
                            expected.sort_unstable();
                        }
                        prop_assert_eq!(keys.iter().map(|key| &**key).collect::<Vec<_>>(), expected);
                        prop_assert!(known.iter().map(|key| &**key).eq(model.present.keys().copied()));
                        prop_assert_eq!(watch.seen, members.version(), "the watcher would read the same changes again");
                        *seen = model.history.len();
                    }
                }
                prop_assert_eq!(members.list(), model.list());
                prop_assert_eq!(members.count(), model.present.len());
                prop_assert_eq!(members.version(), model.history.len() as u64);
                prop_assert_eq!(members.next_expiry(), model.present.values().filter_map(|here| here.until).min());
                prop_assert!(rows(&members) <= members.count() + members.count().max(remembered));
            }
        }
    }
}
