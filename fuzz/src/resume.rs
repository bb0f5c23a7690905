//! For any last event id in a header or a query, the client gets every later event that is retained, once and in order.
//! It is told of a gap exactly if some events are not retained.

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::{task::coop::unconstrained, time::advance};
use tower_sse::{
    ClientHandle, Event, Heartbeat, Position, Registry, RegistryConfig, Resume, Retention, SlowClientPolicy, SseBody,
    SseLayer, Start, Subscription,
};

use super::{answer::answer, input::Input, polled::wire, spec};

const TOPICS: [&str; 3] = ["a/1", "a/2", "b"];
const NAMES: [&str; 6] = ["a/1", "a/2", "b", "a/*", "**", "nobody/*"];
const QUERY_NAMES: [&str; 3] = ["lastEventId", "last_event_id", "evs_last_event_id"];

fn is_for(name: &str, topic: &str) -> bool {
    match name {
        "a/*" => topic.starts_with("a/"),
        "**" => true,
        _ => name == topic,
    }
}

struct Published {
    topic: &'static str,
    position: Position,
    own_id: Option<String>,
    is_evicted: bool,
}

/// The retention of each topic, and whether the topic reports gaps.
#[derive(Clone, Copy)]
struct Kept {
    events: usize,
    policy: SlowClientPolicy,
}

struct World {
    registry: Registry,
    layer: SseLayer,
    kept: [Kept; TOPICS.len()],
    of_all: usize,
    begin: Position,
    events: Vec<Published>,
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let some = |input: &mut Input<'_>| if input.flag() { 1 + input.below(4) } else { usize::MAX };
        let kept = TOPICS.map(|_| Kept {
            events: some(input),
            policy: if input.below(4) == 1 { SlowClientPolicy::SkipSilently } else { SlowClientPolicy::NotifyGap },
        });
        let of_all = some(input).saturating_mul(2);
        let of_topic = move |name: &str| {
            let kept = TOPICS.iter().position(|topic| *topic == name).map(|at| kept[at]);
            kept.map_or(Retention::default(), |kept| {
                Retention::default().events(kept.events).slow_client_policy(kept.policy)
            })
        };
        let config = RegistryConfig::default().total_retention(Retention::default().events(of_all));
        let registry = Registry::with_config(config.topic_retention_by(of_topic));
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off());
        Self { begin: registry.position(), registry, layer, kept, of_all, events: Vec::new() }
    }

    fn publish(&mut self, at: usize, is_large: bool, has_own_id: bool) {
        let number = self.events.len();
        let own_id = has_own_id.then(|| format!("own-{number}"));
        let padding = "x".repeat(if is_large { 40_000 } else { 0 });
        let event = Event::data(format!("{number} {padding}"));
        let event = own_id.as_ref().map_or(event.clone(), |id| event.id(id).unwrap());
        let position = self.registry.publish(TOPICS[at], event).unwrap().position().unwrap();
        assert!(position > self.events.last().map_or(self.begin, |last| last.position));
        self.events.push(Published { topic: TOPICS[at], position, own_id, is_evicted: false });
        let limits = [(Some(TOPICS[at]), self.kept[at].events), (None, self.of_all)];
        for (topic, most) in limits {
            let is_kept = |it: &&mut Published| !it.is_evicted && topic.is_none_or(|topic| it.topic == topic);
            self.events.iter_mut().rev().filter(is_kept).skip(most).for_each(|it| it.is_evicted = true);
        }
    }

    fn newest(&self) -> Position {
        self.registry.position()
    }

    fn has_issued(&self, position: Position) -> bool {
        era(position) == era(self.begin) && position <= self.newest()
    }

    fn policy(&self, topic: &str) -> Option<SlowClientPolicy> {
        TOPICS.iter().position(|known| *known == topic).map(|at| self.kept[at].policy)
    }

    /// Whether a client that must get every event of this name after a position must be told of a gap.
    fn is_missed(&self, name: &str, after: Option<Position>) -> bool {
        let is_lost = |it: &Published| it.is_evicted && self.policy(it.topic) != Some(SlowClientPolicy::SkipSilently);
        match after {
            // A topic's own policy decides whether a gap is reported. For a pattern, the policies of its topics decide.
            _ if self.policy(name) == Some(SlowClientPolicy::SkipSilently) => false,
            Some(after) if after >= self.begin && self.has_issued(after) => {
                self.events.iter().any(|it| is_for(name, it.topic) && it.position > after && is_lost(it))
            }
            _ => true,
        }
    }

    /// The numbers of the retained events of this name after a position. A position that was never issued comes before
    /// all events.
    fn retained(&self, name: &str, after: Option<Position>) -> impl Iterator<Item = usize> {
        let after = after.filter(|after| self.has_issued(*after));
        let is_to_come = move |it: &Published| !it.is_evicted && after.is_none_or(|after| it.position > after);
        let all = self.events.iter().enumerate().filter(|(_, it)| is_for(name, it.topic));
        all.filter(move |(_, it)| is_to_come(it)).map(|(number, _)| number)
    }

    fn some_position(&self, input: &mut Input<'_>) -> Position {
        let known = match self.events.len() {
            0 => self.begin,
            events => self.events[input.below(events)].position,
        };
        let (ms, seq) = (known.ms(), known.seq());
        let like = |ms: u64, seq: u32, era: &str| format!("{ms}-{seq}-{era}").parse().unwrap();
        let own = era(known);
        match input.below(14) {
            0 => like(ms, seq + 1, &own),
            1 => like(ms, seq.saturating_sub(1), &own),
            2 => like(ms + 1, seq, &own),
            3 => like(ms - 1, seq, &own),
            4 => like(input.number() >> 16, input.number() as u32, &own),
            5 => self.begin,
            6 => self.newest(),
            // A position of another registry, at a time that the clocks allow.
            7 => like(ms, seq, "0f9zk3v7m"),
            _ => known,
        }
    }

    /// An id that a client may have, or one that looks similar.
    fn some_id(&self, input: &mut Input<'_>) -> String {
        let position = self.some_position(input);
        match input.below(12) {
            0 => input.text(),
            1 => format!("own-{}", input.below(self.events.len() + 2)),
            2 => format!("{position}{}", input.text()),
            3 => format!("{position};{};*", without_era(self.some_position(input))),
            4 | 5 => {
                let late = self.some_position(input);
                let hashes: Vec<String> = (0..=input.below(3)).map(|_| hash(NAMES[input.below(NAMES.len())])).collect();
                format!("{position};{};{}", without_era(late), hashes.join(","))
            }
            6 => "1".repeat(250 + input.below(16)),
            _ => position.to_string(),
        }
    }
}

/// The era in a position.
fn era(position: Position) -> String {
    position.to_string().rsplit('-').next().unwrap().to_owned()
}

fn without_era(position: Position) -> String {
    format!("{}-{}", position.ms(), position.seq())
}

/// FNV-1a. Ids contain the hashes of names.
fn hash(name: &str) -> String {
    let add = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", name.bytes().fold(0xcbf2_9ce4_8422_2325, add))
}

/// The last event id in a client's request.
#[derive(Default)]
struct Asks {
    header: Option<Vec<u8>>,
    query: Option<String>,
}

impl Asks {
    fn new(input: &mut Input<'_>, world: &World) -> Self {
        let mut asks = Self::default();
        match input.below(8) {
            0 => asks.header = Some(input.pieces()),
            1 => asks.query = Some(String::from_utf8_lossy(&input.pieces()).into_owned()),
            2 | 3 => {
                let name =
                    ["lastEventId", "last_event_id", "evs_last_event_id", "other", "lastEvent%49d"][input.below(5)];
                let all_escaped = input.flag();
                let escape = |byte: u8| match byte {
                    byte if byte.is_ascii_alphanumeric() && !all_escaped => char::from(byte).to_string(),
                    byte => format!("%{byte:02x}"),
                };
                let id: String = world.some_id(input).bytes().map(escape).collect();
                let before = ["", "a=b&", "lastEventId=&", "&&last_event_id&"][input.below(4)];
                asks.query = Some(format!("{before}{name}={id}"));
                asks.header = (input.below(8) == 1).then(Vec::new);
            }
            _ => {
                asks.header = Some(world.some_id(input).into_bytes());
                asks.query = input.flag().then(|| "lastEventId=1-0".to_owned());
            }
        }
        asks
    }

    fn request(&self) -> Option<Request<()>> {
        let uri = self.query.as_ref().map_or("/".to_owned(), |query| format!("/path?{query}"));
        let mut request = Request::builder().uri(uri);
        if let Some(header) = &self.header {
            request = request.header("last-event-id", HeaderValue::from_bytes(header).ok()?);
        }
        // Text that is no valid URI or header does not reach a layer.
        request.body(()).ok()
    }

    fn id(&self, request: &Request<()>) -> Option<String> {
        if let Some(header) = &self.header {
            return Some(String::from_utf8_lossy(header).into_owned()).filter(|id| !id.is_empty());
        }
        let pairs = request.uri().query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut pairs = pairs.map(|(name, value)| (unescaped(name), unescaped(value)));
        let is_it = |name: &String, value: &String| QUERY_NAMES.contains(&name.as_str()) && !value.is_empty();
        pairs.find(|(name, value)| is_it(name, value)).map(|(_, value)| value)
    }
}

/// Decodes a part of a query: <https://url.spec.whatwg.org/#urlencoded-parsing>.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut out) = (text.as_bytes(), Vec::new());
    while let Some((first, rest)) = bytes.split_first() {
        let digit = |at: usize| rest.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (byte, length) = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => ((high * 16 + low) as u8, 3),
            (b'+', ..) => (b' ', 1),
            (other, ..) => (*other, 1),
        };
        out.push(byte);
        bytes = &bytes[length..];
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How far a client has read, by its id.
#[derive(Debug, Clone)]
enum Progress {
    Seen(Position),
    /// The client was catching up on some names.
    Late(Position, Position, Vec<String>),
    /// The position is unknown.
    Unknown,
    /// An id similar to the above that the registry never wrote. It may be read in either way.
    Unclear,
}

impl Progress {
    fn read(id: &str, world: &World, names: &[&str]) -> Self {
        let is_it = |it: &&Published| {
            let is_subscribed = names.iter().any(|name| is_for(name, it.topic));
            !it.is_evicted && is_subscribed && it.own_id.as_deref() == Some(id)
        };
        if let Some(own) = world.events.iter().find(is_it) {
            return Self::Seen(own.position);
        }
        let issued = |text: &str| text.parse().ok().filter(|position| world.has_issued(*position));
        let late_of = |seen: Option<Position>, late: &str| {
            let seen = seen?;
            let late = format!("{late}-{}", era(seen)).parse().ok().filter(|late| *late <= seen)?;
            Some((seen, late))
        };
        match id.split(';').collect::<Vec<_>>()[..] {
            [seen] => issued(seen).map_or(Self::Unknown, Self::Seen),
            [seen, late, hashes] => match late_of(issued(seen), late) {
                Some((seen, late)) if hashes == "*" => {
                    Self::Late(seen, late, NAMES.iter().map(|name| hash(name)).collect())
                }
                Some((seen, late)) => {
                    let hashes: Vec<String> = hashes.split(',').map(str::to_owned).collect();
                    let known: Vec<String> = names.iter().map(|name| hash(name)).collect();
                    if hashes.iter().any(|it| !known.contains(it)) && hashes.iter().all(|it| it.len() == 16) {
                        // The event may come by another name now.
                        return Self::Late(seen, late, NAMES.iter().map(|name| hash(name)).collect());
                    }
                    let is_hash = |it: &String| NAMES.iter().any(|name| hash(name) == *it);
                    if hashes.iter().all(is_hash) { Self::Late(seen, late, hashes) } else { Self::Unclear }
                }
                None => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    fn of(&self, name: &str) -> Option<Position> {
        match self {
            Self::Late(_, late, hashes) if hashes.contains(&hash(name)) => Some(*late),
            Self::Seen(seen) | Self::Late(seen, ..) => Some(*seen),
            Self::Unknown | Self::Unclear => None,
        }
    }
}

/// One block of a stream.
#[derive(Debug)]
struct Block {
    /// `None`: a gap, a snapshot, or the position event.
    number: Option<usize>,
    id: Option<String>,
}

struct Client {
    handle: ClientHandle,
    body: SseBody<String>,
    names: Vec<&'static str>,
}

impl Client {
    fn open(
        world: &World,
        request: Request<()>,
        names: &[&'static str],
        start: Start,
        snapshot: Option<Position>,
    ) -> Self {
        let (handle, response) = answer(&world.layer, request, |client| {
            for name in names {
                client.subscribe(Subscription::matching(*name).from(start)).unwrap();
            }
            let stream = client.clone().into_stream();
            let event = Event::data("").event("snapshot");
            drop(match snapshot {
                Some(position) => stream.snapshot(event, position),
                None => stream,
            });
            Response::builder().header(CONTENT_TYPE, "text/event-stream").body(String::new()).unwrap()
        });
        Self { handle, body: response.into_body(), names: names.to_vec() }
    }

    fn read_all(&mut self) -> Vec<spec::Message> {
        let (wire, has_ended) = wire(&mut self.body);
        assert!(!has_ended);
        spec::parse(&wire).messages
    }

    /// The same without the position event.
    fn read(&mut self) -> Vec<spec::Message> {
        self.read_all().into_iter().filter(|message| message.event_type != "position").collect()
    }

    /// Reads everything that is ready, and checks it: a gap if there is one, then the retained events after the
    /// progress.
    fn expect(&mut self, world: &World, progress: &Progress, gap: Option<(&[&str], &str)>) -> Vec<Block> {
        let mut messages = self.read_all();
        let mut blocks = Vec::new();
        if messages.first().is_some_and(|first| first.event_type == "position") {
            blocks.push(Block { number: None, id: messages.remove(0).own_id });
        }
        if messages.first().is_some_and(|first| first.event_type == "snapshot") {
            blocks.push(Block { number: None, id: messages.remove(0).own_id });
        }
        match (messages.first().filter(|first| first.event_type == "gap"), gap) {
            (Some(told), Some((topics, after))) => {
                let told_of: serde_json::Value = serde_json::from_str(&told.data).unwrap();
                assert_eq!(told_of, serde_json::json!({ "topics": topics, "after": after }));
                blocks.push(Block { number: None, id: messages.remove(0).own_id });
            }
            (told, gap) => {
                assert!(told.is_none() && gap.is_none(), "the client was told {told:?}, and must be told {gap:?}");
            }
        }
        let number = |message: &spec::Message| message.data.split(' ').next().unwrap().parse::<usize>().unwrap();
        let came: Vec<usize> = messages.iter().map(number).collect();
        let retained = self.names.iter().flat_map(|name| world.retained(name, progress.of(name)));
        let expected: BTreeSet<usize> = retained.collect();
        if let Progress::Late(..) = progress {
            // An event that several names match may come twice.
            assert_eq!(BTreeSet::from_iter(came.iter().copied()), expected, "{progress:?}");
            let is_overlapping =
                |number: usize| self.names.iter().filter(|name| is_for(name, world.events[number].topic)).count() > 1;
            let mut seen = BTreeSet::new();
            let twice = came.iter().find(|number| !seen.insert(**number) && !is_overlapping(**number));
            assert_eq!(twice, None, "{progress:?}");
        } else {
            assert_eq!(came, Vec::from_iter(expected), "{progress:?}");
        }
        let ids = came.into_iter().zip(messages).map(|(number, it)| Block { number: Some(number), id: it.own_id });
        blocks.extend(ids);
        blocks
    }
}

/// Resumes from the id of one of the blocks. No event that was due is lost in between.
fn cut(world: &World, names: &[&'static str], blocks: &[Block], at: usize) -> Option<Client> {
    let id = blocks[..at].iter().rev().find_map(|block| block.id.clone())?;
    assert!(id.len() <= Event::MAX_ID && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id:?}");
    let request = Request::builder().header("last-event-id", &id).body(()).unwrap();
    let mut client = Client::open(world, request, names, Start::Now, None);
    let resume = client.handle.resume();
    let came = client.read();
    let came: BTreeSet<usize> =
        came.iter().filter_map(|message| message.data.split(' ').next().unwrap().parse().ok()).collect();
    let had: BTreeSet<usize> = blocks[..at].iter().filter_map(|block| block.number).collect();
    let lost = blocks[at..].iter().filter_map(|block| block.number).find(|it| !came.contains(it) && !had.contains(it));
    assert_eq!(lost, None, "the client resumed from {id}, was told {resume:?} and got {came:?}");
    // The client is told again of events that were missing before, if they come after its id.
    let progress = Progress::read(&id, world, names);
    let missed: Vec<&str> = names.iter().copied().filter(|name| world.is_missed(name, progress.of(name))).collect();
    match resume {
        Resume::Gap(gap) => assert_eq!(gap.topics(), missed, "after {progress:?}"),
        resume => assert!(resume == Resume::Continued && missed.is_empty(), "{id}: {resume:?}, not {missed:?}"),
    }
    if let Progress::Seen(_) = progress {
        assert_eq!(came.intersection(&had).next(), None, "the client resumed from {id}");
    }
    Some(client)
}

async fn run(mut input: Input<'_>) {
    let input = &mut input;
    let mut world = World::new(input);
    let early = input.flag().then(|| {
        let client = world.registry.connect();
        client.subscribe(Subscription::matching("a/*")).unwrap();
        client
    });
    for _ in 0..input.below(24) {
        let byte = input.byte();
        if byte & 0x40 != 0 {
            advance(Duration::from_millis(u64::from(byte >> 4))).await;
        }
        world.publish(usize::from(byte) % TOPICS.len(), byte & 0x30 == 0x30, byte & 0x0C == 0x0C);
    }
    let mut names: Vec<&str> = Vec::new();
    for _ in 0..input.below(4) {
        let name = NAMES[input.below(NAMES.len())];
        if !names.contains(&name) {
            names.push(name);
        }
    }

    let (mut request, mut start, mut snapshot) = (Request::new(()), Start::Now, None);
    let mut asked = None;
    let progress = match input.below(8) {
        0 => {
            // Only events from now on.
            Progress::Seen(world.newest())
        }
        1 => {
            let position = world.some_position(input);
            start = Start::After(position);
            Progress::Seen(position)
        }
        2 => {
            let position = world.some_position(input);
            snapshot = Some(position);
            Progress::Seen(position)
        }
        _ => {
            let asks = Asks::new(input, &world);
            let Some(valid) = asks.request() else { return };
            asked = asks.id(&valid);
            request = valid;
            match &asked {
                Some(id) if id.len() > Event::MAX_ID => Progress::Unknown,
                Some(id) => Progress::read(id, &world, &names),
                None => Progress::Seen(world.newest()),
            }
        }
    };
    let mut client = Client::open(&world, request, &names, start, snapshot);
    match (client.handle.last_event_id(), &asked) {
        (Some(said), Some(id)) if id.len() > Event::MAX_ID => {
            let shown: String = id.chars().take(16).collect();
            assert!(said.starts_with(&shown) && said.len() <= 2 * Event::MAX_ID, "{said}");
        }
        (said, id) => assert_eq!(said, id.as_deref()),
    }
    if let Progress::Unclear = progress {
        client.read();
        return;
    }
    let missed: Vec<&str> = names.iter().copied().filter(|name| world.is_missed(name, progress.of(name))).collect();
    let after = match (client.handle.resume(), snapshot, &progress) {
        (Resume::Continued, Some(position), _) => position.to_string(),
        (Resume::Fresh, None, Progress::Seen(after)) if asked.is_none() => after.to_string(),
        (Resume::Continued, None, _) if asked.is_some() => {
            assert!(missed.is_empty(), "the client is not told that {missed:?} are missing after {progress:?}");
            String::new()
        }
        (Resume::Gap(gap), None, _) if asked.is_some() => {
            assert_eq!(gap.topics(), missed, "after {progress:?}");
            assert_eq!(Some(gap.after()), client.handle.last_event_id());
            gap.after().to_owned()
        }
        (resume, ..) => panic!("{asked:?} resumes as {resume:?}"),
    };
    let gap = Some((&missed[..], after.as_str())).filter(|_| !missed.is_empty());
    let blocks = client.expect(&world, &progress, gap);
    let at = input.below(blocks.len() + 1);
    let again = cut(&world, &names, &blocks, at);

    // Both clients get new events.
    let mut clients: Vec<Client> = [client].into_iter().chain(again).collect();
    for _ in 0..input.below(4) {
        world.publish(input.below(TOPICS.len()), false, false);
        let number = world.events.len() - 1;
        for client in &mut clients {
            let came: Vec<String> = client.read().into_iter().map(|message| message.data).collect();
            let is_for_it = client.names.iter().any(|name| is_for(name, world.events[number].topic));
            assert_eq!(came, Vec::from_iter(is_for_it.then(|| format!("{number} "))));
        }
    }
    drop((clients, early));
    let stats = world.registry.stats();
    assert_eq!((stats.clients, stats.subscriptions), (0, 0));
    assert_eq!(stats.events, world.events.iter().filter(|it| !it.is_evicted).count());
}

/// `data` encodes the published events, the retention, and the client's last event id.
pub fn check(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(unconstrained(run(Input::new(data))));
}
