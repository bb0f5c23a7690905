//! What a node knows of the log: the era, the sessions, and how far it has read.
//!
//! It is pure: no clock, no lock, no task. Every node that reads the same blocks comes to the same state.

use std::collections::{HashMap, HashSet};

use super::{
    carried::{Carried, RecordPlace},
    record::{Head, Spot},
    volume::Volume,
};
use crate::{
    backplane::{BlockKey, Mark, Place, Stored},
    log::{Era, Position},
    topics::ProductionId,
};

/// How many records a block may have, because the index of a record is a part of its position.
pub(crate) const MOST_RECORDS: usize = 1000;
const RECORDS: u64 = 1024;

/// How many losses are remembered.
const LOSSES: usize = 16;
/// How many sessions are remembered. If there are more, those that have been silent for longest are forgotten.
const SESSIONS: usize = 10_000;
/// After how many beats of this node a silent session counts as gone: thirty seconds.
///
/// They are counted when they come back, so while the engine is away nobody grows older, and no clock counts.
const GONE_AFTER_BEATS: u64 = 15;
/// The same, by the engine's time.
const GONE_AFTER_MS: u64 = 30_000;

#[derive(Debug, Default)]
pub(crate) struct State {
    era: Option<KnownEra>,
    /// Events were read before the log had an era, so they have positions of the chosen one.
    has_named_events: bool,
    sessions: HashMap<u64, Session>,
    /// How many beats of this node have come back.
    beats: u64,
    /// The last block that was read.
    last: Option<Mark>,
    /// When the engine took it.
    last_at_ms: u64,
    /// The greatest place that was ever read.
    highest: Place,
    is_loaded: bool,
    /// The producers that end in the log which is being loaded.
    ending: HashSet<ProductionId>,
    /// All that is retained has to be read again and compared.
    is_doubtful: bool,
    /// The losses that are known.
    losses: Vec<Loss>,
    /// How many losses were ever noted.
    losses_noted: u64,
    carried: Carried,
    /// Before this place, every retained event was said again.
    repeated: Place,
    /// From this place on, this node needs the log for what it retains.
    needed: Place,
    volume: Volume,
}

#[derive(Debug, Clone, Copy)]
struct KnownEra {
    era: Era,
    standing: EraStanding,
}

/// How sure it is that an era is the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EraStanding {
    /// This node has chosen it for a log without one.
    Chosen,
    /// A proposal of it was read.
    Proposed,
    /// A node that has read the log has said so.
    Established,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    /// Its records were read from this number on, without a hole.
    first: u64,
    /// The number of the next record.
    next: u64,
    /// The beat of this node at which it was last read.
    last_beat: u64,
    /// The last of its blocks that was read.
    last: Place,
    /// Before this place, the node needs nothing.
    oldest: Place,
}

impl Session {
    fn has_beaten(&self) -> bool {
        self.oldest > Place::default()
    }
}

/// What a block means for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The block was read before.
    Duplicate,
    /// The block is the next one of its session.
    Next,
    /// The block is new, and blocks of its session before it are missing.
    AfterHole,
}

/// What became of the log while it was not read.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The places of the blocks that were read and that the log has still. Another block may have got the place of one that is lost.
    places: HashSet<Place>,
    oldest: Option<Place>,
    /// What was lost, if the log has lost blocks that were read.
    pub(crate) loss: Option<Loss>,
    /// The log begins after the last block that was read, so blocks between may be missing. The numbers of the sessions would say so too, but
    /// only when each session appends again.
    pub(crate) begins_later: Option<Place>,
}

/// What the engine has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The last block before the loss.
    pub(crate) kept: Place,
    /// The greatest place that was read.
    pub(crate) to: Place,
}

impl State {
    /// Returns the log's era, if it is known or chosen.
    pub(crate) fn era(&self) -> Option<Era> {
        self.era.map(|known| known.era)
    }

    /// Chooses an era, if the log has none. Events of programs without this crate may stand before the first proposal.
    pub(crate) fn choose_era(&mut self, chosen: impl FnOnce() -> Era) -> Era {
        self.era.get_or_insert_with(|| KnownEra { era: chosen(), standing: EraStanding::Chosen }).era
    }

    /// Returns what stands before the records of the next block, if the log was read.
    pub(crate) fn head(&self) -> Option<Head> {
        self.era.map(|KnownEra { era, standing }| Head { era, proposes: standing == EraStanding::Chosen })
    }

    /// Returns the block behind which reading continues.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.last.filter(|_| !self.is_doubtful)
    }

    pub(crate) fn loaded(&mut self) {
        self.is_loaded = true;
        self.ending = HashSet::new();
    }

    /// Notes which producers end in a log, before it is loaded.
    pub(crate) fn note_ending(&mut self, ending: HashSet<ProductionId>) {
        self.ending = ending;
    }

    /// Whether a log that is being loaded says nowhere that a topic has this producer. A log says so of each one that lives, so for the other
    /// nodes it has failed.
    pub(crate) fn counts_as_failed(&self, topic: &str, producer: ProductionId) -> bool {
        let is_in_log = || self.has_read_begin(producer) || self.ending.contains(&producer);
        !self.is_loaded && self.carried.stands(topic).is_none() && !is_in_log()
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// All that is retained has to be read again and compared with what was read.
    pub(crate) fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// Forgets everything but the era, and how topics stand: the log has to be loaded as at the start.
    pub(crate) fn restart(&mut self) {
        let mut carried = std::mem::take(&mut self.carried);
        carried.lose(|_| true);
        *self = Self { era: self.era, carried, losses_noted: self.losses_noted + 1, ..Self::default() };
    }

    /// Notes a loss. Returns `false` if it was known.
    pub(crate) fn add_loss(&mut self, loss: Loss) -> bool {
        let is_new = !self.losses.contains(&loss);
        if is_new {
            self.losses_noted += 1;
            // What was said again stood at the end of the log, and may be lost. So until the other nodes have looked, too, none knows
            // what it needs.
            self.repeated = Place::default();
            for session in self.sessions.values_mut().filter(|session| session.has_beaten()) {
                session.oldest = Carried::FIRST;
            }
            self.losses.push(loss);
            if self.losses.len() > LOSSES {
                self.losses.remove(0);
            }
        }
        is_new
    }

    /// Returns how many losses were noted, ever.
    pub(crate) fn losses(&self) -> u64 {
        self.losses_noted
    }

    pub(crate) fn carried(&mut self) -> &mut Carried {
        &mut self.carried
    }

    /// Notes that the log begins at a place, or that every retained event before it was said again.
    pub(crate) fn needs_nothing_before(&mut self, place: Place) {
        self.repeated = self.repeated.max(place);
    }

    /// Notes that every retained event from one place on, and before another, was said again.
    pub(crate) fn note_repeated(&mut self, from: Place, to: Place) {
        // What was said before the log fell back does not count: what stood before `from` would have to be said again, too.
        if from <= self.repeated.max(self.needed) {
            self.needs_nothing_before(to.min(self.highest));
        }
    }

    /// Returns the place before which every retained event was said again.
    pub(crate) fn repeated(&self) -> Place {
        self.repeated
    }

    /// Returns the greatest place that was ever read.
    pub(crate) fn highest(&self) -> Place {
        self.highest
    }

    /// Returns from which place on this node needs the log. `oldest`: where its oldest retained event stood at first. `None`: nothing was
    /// read.
    pub(crate) fn needed(&self, oldest: Option<Place>) -> Option<Place> {
        let last = self.mark()?.place;
        Some(oldest.map_or(last, |oldest| oldest.max(self.repeated)).min(last))
    }

    /// Returns before which place it has to be said again how topics stand, so that it does not hold more than some bytes of the log, or
    /// because the log has lost it. `needed`: from where on this node needs the log for all else.
    pub(crate) fn carried_before(&self, needed: Place, slack: u64) -> Place {
        let held = self.carried.first_in_log().map_or(0, |first| self.volume_from(first));
        let is_due = held.saturating_sub(self.volume_from(needed)) > slack;
        if is_due { needed } else { Carried::FIRST }
    }

    /// Whether the node of this session says again how a topic stands. What the log has lost, each node says that knows it, and one node says
    /// what only holds the log.
    pub(crate) fn says_again(&self, topic: &str, session: u64) -> bool {
        self.carried.is_lost(topic) || self.is_first(session)
    }

    /// Notes from which place on this node needs the log for what it retains.
    pub(crate) fn note_needed(&mut self, needed: Place) {
        self.needed = needed;
    }

    /// Returns how many bytes the log has from a place on, about.
    pub(crate) fn volume_from(&self, place: Place) -> u64 {
        self.volume.from(place)
    }

    /// Whether of all nodes that are there, this is the one that does what only one has to do.
    pub(crate) fn is_first(&self, session: u64) -> bool {
        self.there().map(|(id, _)| id).min() == Some(session)
    }

    /// Returns the sessions of the nodes that are there. A node that has not beaten yet has read the whole log a moment ago, or is gone.
    fn there(&self) -> impl Iterator<Item = (u64, &Session)> {
        let there = self.sessions.iter().filter(move |(id, session)| session.has_beaten() && !self.is_gone(**id));
        there.map(|(id, session)| (*id, session))
    }

    /// Reads a block's key and place.
    pub(crate) fn read(&mut self, stored: &Stored) -> Arrival {
        let arrival = self.arrival_of(stored);
        if arrival != Arrival::Duplicate {
            self.volume.add(stored.place, Self::bytes(stored));
        }
        arrival
    }

    fn arrival_of(&mut self, stored: &Stored) -> Arrival {
        let was_read = stored.place <= self.highest;
        if self.highest == Place::default() {
            // Nothing before the first block is in the log.
            self.needs_nothing_before(stored.place);
        }
        (self.last, self.last_at_ms) = (Some(stored.mark()), stored.at_ms);
        self.highest = self.highest.max(stored.place);
        if stored.block.records == 0 {
            self.has_named_events |= self.era.is_none_or(|known| known.standing == EraStanding::Chosen);
            // It has no number. One at a place that was read before a loss is taken for a duplicate, and clients are told of that loss.
            return if was_read { Arrival::Duplicate } else { Arrival::Next };
        }
        let BlockKey { session, number } = stored.block.key;
        let end = number.saturating_add(stored.block.records.into());
        let last_beat = self.beats;
        let Some(known) = self.sessions.get_mut(&session) else {
            self.forget_silent();
            let begins_late = number > 0 && self.is_loaded;
            // What a session that was silent in all of the log began before is over, unless the log says it again.
            let first = if begins_late { 0 } else { number };
            let session_now = Session { first, next: end, last_beat, last: stored.place, oldest: Place::default() };
            self.sessions.insert(session, session_now);
            return if begins_late { Arrival::AfterHole } else { Arrival::Next };
        };
        known.last_beat = last_beat;
        known.last = known.last.max(stored.place);
        if number < known.next {
            return Arrival::Duplicate;
        }
        let is_next = number == known.next;
        known.next = end;
        if !is_next {
            known.first = number;
        }
        if is_next { Arrival::Next } else { Arrival::AfterHole }
    }

    /// Returns about how many bytes an engine needs for a block.
    fn bytes(stored: &Stored) -> u64 {
        let bookkeeping = 64;
        bookkeeping + u64::try_from(stored.block.encoded_len()).unwrap_or(u64::MAX)
    }

    /// Reads the head of a block's body. Returns `true` if the log has another era now, so that nothing that was read before can be named.
    ///
    /// Two nodes that find an empty log at once may propose two eras. The first proposal counts, until a node that has read the log says
    /// which one counted. Where two eras have been established, after somebody deleted the log, all nodes take the smaller one.
    pub(crate) fn read_head(&mut self, head: Head) -> bool {
        let standing = if head.proposes { EraStanding::Proposed } else { EraStanding::Established };
        let (era, before) = match self.era {
            None => (head.era, None),
            Some(known) => (known.era, Some(known.standing)),
        };
        let counts = match (before, head.proposes) {
            (None | Some(EraStanding::Chosen), _) | (Some(EraStanding::Proposed), false) => true,
            (Some(EraStanding::Proposed | EraStanding::Established), true) => false,
            (Some(EraStanding::Established), false) => head.era.to_bits() < era.to_bits(),
        };
        if counts {
            self.era = Some(KnownEra { era: head.era, standing });
        }
        let has_named = before != Some(EraStanding::Chosen) || std::mem::take(&mut self.has_named_events);
        counts && era != head.era && has_named
    }

    fn forget_silent(&mut self) {
        if self.sessions.len() >= SESSIONS {
            let mut last: Vec<Place> = self.sessions.values().map(|session| session.last).collect();
            let (_, median, _) = last.select_nth_unstable(SESSIONS / 2);
            let median = *median;
            self.sessions.retain(|_, session| session.last > median);
        }
    }

    /// A beat of this node has come back.
    pub(crate) fn tick(&mut self) {
        self.beats += 1;
    }

    fn is_gone(&self, session: u64) -> bool {
        let last_beat = self.sessions.get(&session).map_or(0, |session| session.last_beat);
        self.beats - last_beat > GONE_AFTER_BEATS
    }

    /// Returns the position of a record. `None`: the log has no era yet, or the engine gave a place out of bounds.
    pub(crate) fn position(&self, place: Place, index: usize) -> Option<Position> {
        let Spot { ms, seq } = Self::spot(place, index)?;
        Some(Position::new(self.era()?, ms, seq))
    }

    /// Returns the position of a record, without the era. `None`: the engine gave a place out of bounds.
    pub(crate) fn spot(place: Place, index: usize) -> Option<Spot> {
        let seq = place.seq.checked_mul(RECORDS)?.checked_add(u64::try_from(index).ok()?)?;
        Some(Spot { ms: place.ms, seq: u32::try_from(seq).ok()? })
    }

    /// Returns where the record of a position stands.
    pub(crate) fn record_place(spot: Spot) -> RecordPlace {
        (Self::place_of(spot.ms, spot.seq), usize::try_from(u64::from(spot.seq) % RECORDS).unwrap_or_default())
    }

    /// Returns the last position before a loss, and the greatest one that may mean a lost event.
    pub(crate) fn positions(&self, loss: Loss) -> Option<(Position, Position)> {
        let last = RECORDS as usize - 1;
        self.position(loss.kept, last).zip(self.position(loss.to, last))
    }

    /// Returns where the block of a position stands.
    pub(crate) fn place(position: Position) -> Place {
        Self::place_of(position.ms(), position.seq())
    }

    pub(crate) fn place_of(ms: u64, seq: u32) -> Place {
        Place { ms, seq: u64::from(seq) / RECORDS }
    }

    /// Whether a record of this session was read.
    pub(crate) fn has_read(&self, key: BlockKey) -> bool {
        self.sessions.get(&key.session).is_some_and(|session| key.number < session.next)
    }

    /// Whether a producer's begin was read, so that it is known what became of it.
    pub(crate) fn has_read_begin(&self, ProductionId { session, number }: ProductionId) -> bool {
        self.sessions.get(&session).is_some_and(|session| (session.first..session.next).contains(&number))
    }

    /// Compares what was read with what the log has now, after the last block that was read was not found in it.
    pub(crate) fn compare(&mut self, log: &[Stored]) -> Comparison {
        self.is_doubtful = false;
        let was_read = |stored: &&Stored| stored.block.records == 0 || self.has_read(stored.block.key);
        let places: HashSet<Place> = log.iter().filter(was_read).map(|stored| stored.place).collect();
        let oldest = log.first().map(|stored| stored.place);
        let last = self.last.map(|mark| mark.place).unwrap_or_default();
        let is_trimmed = oldest.is_some_and(|oldest| oldest > last);
        let is_there = log.iter().any(|stored| Some(stored.mark()) == self.last);
        let kept = places.iter().copied().filter(|place| *place <= last).max().unwrap_or_default();
        let loss = (!is_trimmed && !is_there && self.last.is_some()).then_some(Loss { kept, to: self.highest });
        let begins_later = oldest.filter(|_| is_trimmed && self.last.is_some());
        if loss.is_some() || begins_later.is_some() {
            // How topics stand is said again, unless the log still says it.
            self.carried.lose(|place| !places.contains(&place));
        }
        Comparison { places, oldest, loss, begins_later }
    }

    /// For how many milliseconds of the engine's time this node counted as gone, because it read nothing. `None`: it did not, and the others have
    /// trimmed nothing that it has not read.
    pub(crate) fn was_gone_ms(&self, log: &[Stored]) -> Option<u64> {
        let now_ms = log.last().map_or(0, |stored| stored.at_ms);
        now_ms.saturating_sub(self.last_at_ms).checked_sub(GONE_AFTER_MS).filter(|gone| *gone > 0)
    }

    /// Says from which place on a node needs the log.
    pub(crate) fn needs(&mut self, session: u64, oldest: Place) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.oldest = oldest;
        }
    }

    /// Forgets what is known of the log before a place that this node does not need.
    pub(crate) fn forget_before(&mut self, place: Place) {
        self.volume.forget_before(place);
    }

    /// Returns the topics whose producers belong to nodes that are gone.
    pub(crate) fn abandoned(&self) -> Vec<(String, ProductionId)> {
        let producing = self.carried.producing().filter(|(_, id)| self.is_gone(id.session));
        producing.map(|(topic, id)| (topic.to_owned(), id)).collect()
    }

    /// Returns the place before which no node needs the log.
    pub(crate) fn needed_by_all(&self) -> Option<Place> {
        self.there().map(|(_, session)| session.oldest).min()
    }
}

impl Comparison {
    /// Whether the log still has the event of this position, or has trimmed it.
    pub(crate) fn has(&self, position: Position) -> bool {
        let place = State::place(position);
        self.places.contains(&place) || self.oldest.is_some_and(|oldest| place < oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backplane::Block, cluster::carried::Stands};

    fn stored(place: u64, session: u64, number: u64) -> Stored {
        let block = Block { key: BlockKey { session, number }, records: 1, body: "".into() };
        Stored { place: Place { ms: place, seq: 0 }, at_ms: place, block }
    }

    fn at(ms: u64) -> Place {
        Place { ms, seq: 0 }
    }

    fn after(blocks: &[Stored]) -> State {
        let mut state = State::default();
        state.loaded();
        blocks.iter().for_each(|block| _ = state.read(block));
        state
    }

    #[test]
    fn each_number_of_a_session_is_new_once_and_a_jump_is_a_hole() {
        let mut state = after(&[stored(1, 7, 0)]);
        let arrivals =
            [(2, 7, 1), (3, 7, 1), (4, 7, 0), (5, 8, 0), (6, 7, 2), (7, 7, 9), (8, 7, 3), (9, 7, 10), (10, 9, 4)]
                .map(|(place, session, number)| state.read(&stored(place, session, number)));
        use Arrival::{AfterHole, Duplicate, Next};
        assert_eq!(arrivals, [Next, Duplicate, Duplicate, Next, Next, AfterHole, Duplicate, Next, AfterHole]);
    }

    #[test]
    fn what_was_trimmed_before_the_start_is_no_hole() {
        let mut state = State::default();
        assert_eq!(state.read(&stored(5, 7, 40)), Arrival::Next);
        state.loaded();
        assert_eq!(state.read(&stored(6, 7, 41)), Arrival::Next);
    }

    #[test]
    fn a_log_that_went_back_is_a_loss_after_the_last_block_that_is_still_there() {
        let log: Vec<_> = (1..=6).map(|number| stored(number, 7, number - 1)).collect();
        let mut state = after(&log);
        assert_eq!(state.compare(&log[..4]).loss, Some(Loss { kept: at(4), to: at(6) }));
        assert_eq!(state.compare(&[]).loss, Some(Loss { kept: at(0), to: at(6) }));
        // Another node has appended at a place that was used before.
        let mut other = log[..4].to_vec();
        other.push(stored(5, 8, 0));
        let comparison = state.compare(&other);
        assert_eq!(comparison.loss, Some(Loss { kept: at(4), to: at(6) }));
        let position = |ms| Position::new(Era::random(), ms, 3);
        assert!(comparison.has(position(4)) && !comparison.has(position(6)));
    }

    #[test]
    fn a_log_that_was_trimmed_has_lost_nothing() {
        let log: Vec<_> = (1..=6).map(|number| stored(number, 7, number - 1)).collect();
        let mut state = after(&log[..3]);
        let comparison = state.compare(&log[4..]);
        assert_eq!((comparison.loss, comparison.begins_later), (None, Some(at(5))));
        assert!(comparison.has(Position::new(Era::random(), 2, 0)));
    }

    #[test]
    fn the_first_proposal_counts_until_a_node_that_has_read_it_says_so() {
        let [small, great] = {
            let mut eras = [Era::random(), Era::random()];
            eras.sort_unstable_by_key(|era| era.to_bits());
            eras
        };
        let head = |era, proposes| Head { era, proposes };
        let mut state = State::default();
        assert!(!state.read_head(head(great, true)) && !state.read_head(head(small, true)));
        assert_eq!(state.era(), Some(great));
        assert!(!state.read_head(head(great, false)));
        // Both are established: all nodes take the smaller one.
        assert!(state.read_head(head(small, false)) && !state.read_head(head(great, false)));
        assert_eq!(state.era(), Some(small));
        // A node that starts later, when the first proposal is trimmed.
        let mut late = State::default();
        assert!(!late.read_head(head(small, true)) && late.read_head(head(great, false)));
        assert_eq!(late.era(), Some(great));
    }

    #[test]
    fn the_log_is_needed_from_where_the_neediest_living_node_needs_it() {
        let mut state = after(&[stored(10_000, 7, 0), stored(10_000, 8, 0)]);
        state.needs(7, at(5));
        state.needs(8, at(9));
        assert_eq!(state.needed_by_all(), Some(at(5)));
        (0..=GONE_AFTER_BEATS).for_each(|_| state.tick());
        state.read(&stored(20_000, 8, 1));
        assert_eq!(state.needed_by_all(), Some(at(9)));
    }

    #[test]
    fn a_node_is_gone_when_it_was_silent_for_many_beats_whatever_the_clocks_say() {
        let mut state = after(&[stored(1, 7, 0), stored(2, 8, 0)]);
        state.carried().note("t", (at(1), 0), Stands::Produced(ProductionId { session: 7, number: 0 }));
        state.read(&stored(1_000_000, 8, 1));
        (0..GONE_AFTER_BEATS).for_each(|_| state.tick());
        assert!(state.abandoned().is_empty());
        state.tick();
        assert_eq!(state.abandoned().len(), 1);
        state.read(&stored(1_000_001, 7, 1));
        assert!(state.abandoned().is_empty());
    }

    #[test]
    fn the_sessions_that_are_silent_for_longest_are_forgotten() {
        let mut state = after(&[]);
        for session in 0..SESSIONS as u64 + 10 {
            state.read(&stored(session + 1, session, 0));
        }
        assert!((SESSIONS / 2..=SESSIONS).contains(&state.sessions.len()));
        assert_eq!(state.read(&stored(20_000, SESSIONS as u64, 1)), Arrival::Next);
    }

    #[test]
    fn how_a_topic_stands_is_said_again_if_the_log_has_lost_it() {
        let log: Vec<_> = (1..=6).map(|number| stored(number, 7, number - 1)).collect();
        let mut state = after(&log);
        for (topic, place) in [("kept", 3), ("lost", 5), ("lost too", 6)] {
            state.carried().note(topic, (at(place), 0), Stands::Ended(None));
        }
        state.compare(&log[..4]);
        let mut again: Vec<_> = state.carried().before(at(1)).map(str::to_owned).collect();
        again.sort();
        assert_eq!(again, ["lost", "lost too"]);
        state.restart();
        assert_eq!(state.carried().before(at(1)).count(), 3);
        state.carried().note("lost", (at(9), 0), Stands::Ended(None));
        assert_eq!(state.carried().before(at(1)).count(), 2);
    }

    #[test]
    fn of_the_nodes_that_are_there_one_is_the_first() {
        let mut state = after(&[stored(1, 7, 0), stored(2, 8, 0)]);
        assert!(!state.is_first(7), "it may have ended before its first beat");
        [7, 8].iter().for_each(|session| state.needs(*session, at(1)));
        assert!(state.is_first(7) && !state.is_first(8) && !state.is_first(9));
        (0..=GONE_AFTER_BEATS).for_each(|_| state.tick());
        state.read(&stored(3, 8, 1));
        assert!(state.is_first(8) && !state.is_first(7));
    }

    #[test]
    fn a_retained_event_that_was_said_again_does_not_hold_the_log() {
        let mut state = after(&[stored(10, 7, 0), stored(20, 7, 1), stored(30, 7, 2)]);
        assert_eq!((state.needed(None), state.needed(Some(at(10)))), (Some(at(30)), Some(at(10))));
        state.note_repeated(at(10), at(20));
        assert_eq!((state.needed(Some(at(10))), state.needed(Some(at(25)))), (Some(at(20)), Some(at(25))));
        // A part that is not said again.
        state.note_repeated(at(25), at(30));
        assert_eq!(state.needed(Some(at(10))), Some(at(20)));
        // What another node claims of places that do not exist counts for nothing.
        state.note_repeated(at(20), at(90));
        assert_eq!(state.needed(Some(at(10))), Some(at(30)));
        // The log has lost what was said again, and what is still on its way does not count.
        state.add_loss(Loss { kept: at(25), to: at(30) });
        state.note_repeated(at(20), at(30));
        assert_eq!(state.needed(Some(at(10))), Some(at(10)));
    }

    #[test]
    fn after_a_loss_the_log_is_needed_until_each_living_node_has_said_again_what_it_needs() {
        let mut state = after(&[stored(1, 7, 0), stored(2, 8, 0), stored(3, 9, 0)]);
        [7, 8].iter().for_each(|session| state.needs(*session, at(2)));
        state.add_loss(Loss { kept: at(2), to: at(3) });
        assert!(state.needed_by_all() < Some(at(1)));
        state.needs(7, at(2));
        assert!(state.needed_by_all() < Some(at(1)));
        state.needs(8, at(1));
        assert_eq!(state.needed_by_all(), Some(at(1)));
    }
}
