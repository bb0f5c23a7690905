//! Gives an open stream exactly the topics that its client asks for and may have.

use serde_json::{Value, json};

use super::{error::TopicsError, service::Rules};
use crate::{
    client::{ClientHandle, SubscribeError, Subscription},
    topics::Start,
};

/// What became of a request.
#[derive(Debug, Default)]
struct Changes {
    /// The topics of the request that the stream has now, by the names of the request.
    topics: Vec<String>,
    refused: Vec<Value>,
}

impl Changes {
    fn refuse(&mut self, topic: &str, why: &str) {
        self.refused.push(json!({ "topic": topic, "why": why }));
    }

    /// Notes what became of one topic. Fails if the stream has ended.
    fn note(&mut self, topic: String, result: Result<(), SubscribeError>) -> Result<(), TopicsError> {
        match result {
            Ok(()) => self.topics.push(topic),
            Err(SubscribeError::StreamEnded { .. }) => return Err(TopicsError::Gone),
            Err(refused) => self.refuse(&topic, &refused.to_string()),
        }
        Ok(())
    }
}

/// Changes the subscriptions of the client. Returns the body of the response.
pub(super) fn set(rules: &Rules, client: &ClientHandle, wanted: Vec<String>) -> Result<Value, TopicsError> {
    let mut changes = Changes::default();
    let mut allowed: Vec<(String, Subscription)> = Vec::with_capacity(wanted.len());
    for topic in wanted {
        match rules.allows(client, &topic) {
            Ok(subscription) => allowed.push((topic, subscription)),
            Err(why) => changes.refuse(&topic, &why),
        }
    }
    let had = client.subscriptions();
    let is_kept = |name: &String| allowed.iter().any(|(_, it)| it.name == *name) || rules.keeps(client, name);
    let mut left = had.iter().filter(|name| !is_kept(name)).collect::<Vec<_>>().into_iter();
    // The new topics come before the others leave, because a stream may end with its last topic. At a limit, one leaves for
    // each that comes.
    for (topic, subscription) in allowed {
        let result = loop {
            match client.subscribe(new_for(&subscription, &had)) {
                Err(
                    refused @ (SubscribeError::TooManySubscriptions { .. } | SubscribeError::TooManyPatterns { .. }),
                ) => {
                    match left.next() {
                        Some(name) => client.unsubscribe(name),
                        None => break Err(refused),
                    };
                }
                result => break result,
            }
        };
        changes.note(topic, result)?;
    }
    // The client gets every later event of its new topics.
    let position = client.registry().position();
    for name in left {
        client.unsubscribe(name);
    }
    let Changes { topics, refused } = changes;
    Ok(json!({ "topics": topics, "refused": refused, "position": position.to_string() }))
}

/// A topic that the client has already only gets the filter: with the start, events would come again.
fn new_for(subscription: &Subscription, had: &[String]) -> Subscription {
    let subscription = subscription.clone();
    match had.contains(&subscription.name) {
        true => Subscription { start: Start::Now, must_exist: false, ..subscription },
        false => subscription,
    }
}
