//! A very small language model. It answers every prompt with a text about lighthouses. If the prompt contains the word
//! `break`, the answer fails in the middle.

use std::{collections::hash_map::RandomState, hash::BuildHasher, iter::once, time::Duration};

use tokio::time::sleep;
use tokio_stream::{Stream, StreamExt, iter};

/// The model failed in the middle of an answer.
#[derive(Debug)]
pub(crate) struct Broken;

/// The tokens of an answer. Each token takes `mean` on average. The same prompt gets a different answer each time.
pub(crate) fn tokens(prompt: &str, mean: Duration) -> impl Stream<Item = Result<String, Broken>> + Send + use<> {
    const BEFORE_IT_BREAKS: usize = 20;
    let mut random = Random::new();
    let tokens = split(&answer(prompt, &mut random)).into_iter().map(Ok);
    let tokens: Vec<_> = match prompt.to_lowercase().split_whitespace().any(|word| word == "break") {
        true => tokens.take(BEFORE_IT_BREAKS).chain(once(Err(Broken))).collect(),
        false => tokens.collect(),
    };
    iter(tokens).then(move |token| {
        let time = mean.mul_f64(2.0 * random.fraction());
        async move {
            // A timer takes at least a millisecond.
            if !time.is_zero() {
                sleep(time).await;
            }
            token
        }
    })
}

fn answer(prompt: &str, random: &mut Random) -> String {
    let subject = shortened(prompt);
    let opening = match random.below(3) {
        0 => format!(
            "“{subject}”: a good thing to ask. I am a very small model, though, and know one thing only. Let me come at it by way of lighthouses."
        ),
        1 => format!(
            "You ask: “{subject}”. Nobody has ever told me, so I shall do what I always do and tell you about lighthouses instead. You may find that it fits."
        ),
        _ => format!(
            "On “{subject}” I have read nothing at all. Of lighthouses I have read everything that fits into a few lines of Rust, and I am happy to share it."
        ),
    };
    let mut paragraphs = vec![opening];
    for paragraph in random.pick(&PARAGRAPHS, 4) {
        paragraphs.push(paragraph.join(" "));
    }
    paragraphs.push(CLOSINGS[random.below(CLOSINGS.len())].to_owned());
    paragraphs.join("\n\n")
}

/// The beginning of the prompt, on one line.
fn shortened(prompt: &str) -> String {
    const SHOWN: usize = 80;
    let line = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", line[..cut].trim_end()),
        None => line,
    }
}

/// Splits a text into tokens as language models do. A word includes the space before it, and a long word becomes
/// several tokens. All tokens together are the text.
fn split(text: &str) -> Vec<String> {
    const PIECE: usize = 5;
    let mut tokens = Vec::new();
    let (mut token, mut letters) = (String::new(), 0);
    for letter in text.chars() {
        let begins = (letter.is_whitespace() && letters > 0) || letters == PIECE;
        if begins {
            tokens.push(std::mem::take(&mut token));
            letters = 0;
        }
        token.push(letter);
        letters += usize::from(!letter.is_whitespace());
    }
    tokens.push(token);
    tokens
}

/// Random numbers without a dependency. They are good enough for an example.
struct Random {
    state: RandomState,
    drawn: u64,
}

impl Random {
    fn new() -> Self {
        Self { state: RandomState::new(), drawn: 0 }
    }

    /// Between 0 and 1.
    fn fraction(&mut self) -> f64 {
        self.drawn += 1;
        self.state.hash_one(self.drawn) as f64 / u64::MAX as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.fraction() * bound as f64) as usize % bound
    }

    /// Picks `count` of them at random, and keeps their order.
    fn pick<T: Copy>(&mut self, all: &[T], count: usize) -> Vec<T> {
        let mut left = all.to_vec();
        while left.len() > count {
            left.remove(self.below(left.len()));
        }
        left
    }
}

const PARAGRAPHS: [&[&str]; 6] = [
    &[
        "The first one that everybody has heard of stood on the island of Pharos (Φάρος), before Alexandria.",
        "It gave its name to the thing itself: phare in French, faro in Spanish and Italian, far in Romanian.",
        "By day it was a tower of pale stone, by night a fire that had to be fed by somebody on the stairs.",
        "The Tower of Hercules at A Coruña, which the Romans built, is still at work.",
    ],
    &[
        "For most of their history they burned what was at hand: wood, coal, then oil.",
        "At Kõpu in Estonia a fire has been kept since 1531, and it ate the forest around it.",
        "A coal fire on an open tower is bright in a storm, when the wind feeds it, and dull in a calm.",
        "An oil lamp behind glass is steadier, but somebody has to trim its wick every few hours, all night, all winter.",
    ],
    &[
        "Then came Augustin Fresnel, an engineer of roads with poor health and a good idea.",
        "He cut a lens into rings, threw away the glass that did nothing, and put the rest around the flame.",
        "In 1823 the first of his lenses was lit at Cordouan, in the mouth of the Gironde, and what had been a glow became a beam.",
        "Thin rings instead of one thick lens: that is less glass and less weight, and nearly all of the light goes out to sea.",
    ],
    &[
        "Some of them were very hard to build.",
        "Ar-Men, off the Île de Sein, stands on a rock that is hardly ever dry: in the first year there was time to drill fifteen holes.",
        "It took fourteen years, from 1867 to 1881, and the keepers called it l’Enfer des enfers.",
        "At Bell Rock the men worked between two tides, and rowed away when the water came over their boots.",
    ],
    &[
        "A light must say which light it is, so each has a rhythm of its own.",
        "“Fl(2) 10s” on a chart is two flashes every ten seconds; whoever counts them knows where he is.",
        "In Japan they are called 灯台, a stand for a lamp, and the white one at Inubōsaki has been at it since 1874.",
        "A ship that lost sight of it in the fog for a while needs no one to start over: it waits, counts, and goes on.",
    ],
    &[
        "Hardly any has a keeper now.",
        "A lamp the size of a thumb is watched from an office two hundred sea miles away, and a café has moved in downstairs.",
        "The last keepers of Norway came ashore in 2006, and some of them say that they still wake up at four.",
        "What they wrote into their logbooks was mostly weather: “wind NW 7, sea rough, all well” – and then the same again. 🌊",
    ],
];

const CLOSINGS: [&str; 3] = [
    "So that is the whole of it: keep the light going whether or not anybody is looking, and let those who come late count from where they are.",
    "If you take one thing from this, take the rhythm. A light that is seen again after the fog is the same light, and nobody on board has to ask what they missed.",
    "I could go on, but a good light knows when its night is over. Ask me something else – it will be about lighthouses.",
];
