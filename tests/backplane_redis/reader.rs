//! Blocks, and a reader that reads until it has them.

use std::time::Duration;

use tokio::time::timeout;
use tower_sse::backplane::{AppendError, Backplane, Block, BlockKey, FollowError, Mark, Stored, Tail};

/// Nothing here takes nearly as long. It is the bound at which a test fails.
const LONG: Duration = Duration::from_secs(20);

/// How long to wait before trying again.
const PAUSE: Duration = Duration::from_millis(20);

/// The block of this number, of a session that all tests share.
pub(crate) fn block(number: u64) -> Block {
    Block { key: BlockKey { session: 7, number }, records: 1, body: format!("body of {number}").into() }
}

/// Appends, and tries again when the engine is away or does not know.
pub(crate) async fn append_at_last(engine: &dyn Backplane, block: &Block) {
    let trying = async {
        while let Err(error) = engine.append(block).await {
            assert!(matches!(error, AppendError::Away(_) | AppendError::Unknown(_)), "{error}");
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(LONG, trying).await.expect("it can be appended at last");
}

pub(crate) struct Reader {
    pub(crate) continues: bool,
    pub(crate) tail: Box<dyn Tail>,
    pub(crate) mark: Option<Mark>,
}

impl Reader {
    /// Begins to read. The engine must work.
    pub(crate) async fn follow(engine: &dyn Backplane, after: Option<Mark>) -> Self {
        let following = timeout(LONG, engine.follow(after.as_ref())).await.expect("in time").expect("it can be read");
        Self { continues: following.continues, tail: following.tail, mark: after }
    }

    /// Begins to read, and tries again while the engine is away.
    pub(crate) async fn follow_at_last(engine: &dyn Backplane, after: Option<Mark>) -> Self {
        let trying = async {
            loop {
                match engine.follow(after.as_ref()).await {
                    Ok(following) => break Self { continues: following.continues, tail: following.tail, mark: after },
                    Err(error) => assert!(matches!(error, FollowError::Away(_)), "{error}"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        timeout(LONG, trying).await.expect("it can be read at last")
    }

    /// Reads once.
    pub(crate) async fn next(&mut self) -> Result<Vec<Stored>, FollowError> {
        let read = timeout(LONG, self.tail.next()).await.expect("it returns in time")?;
        self.mark = read.blocks.last().map(Stored::mark).or(self.mark);
        Ok(read.blocks)
    }

    /// Reads as many blocks. No more may come with them.
    pub(crate) async fn blocks(&mut self, number: usize) -> Vec<Stored> {
        let mut blocks = Vec::new();
        while blocks.len() < number {
            blocks.extend(self.next().await.expect("it can be read"));
        }
        assert_eq!(blocks.len(), number);
        blocks
    }

    /// Reads as many blocks, and returns their numbers.
    pub(crate) async fn numbers(&mut self, number: usize) -> Vec<u64> {
        self.blocks(number).await.iter().map(|stored| stored.block.key.number).collect()
    }

    /// Reads until the last block has this number. Returns the numbers without those that came before: so a reader leaves out duplicates.
    pub(crate) async fn new_numbers_to(&mut self, last: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = Vec::new();
        while numbers.last() != Some(&last) {
            for stored in self.next().await.expect("it can be read") {
                if numbers.last().is_none_or(|&last| stored.block.key.number > last) {
                    numbers.push(stored.block.key.number);
                }
            }
        }
        numbers
    }

    /// Reads until there is an error.
    pub(crate) async fn error(&mut self) -> FollowError {
        let failing = async {
            loop {
                if let Err(error) = self.tail.next().await {
                    break error;
                }
            }
        };
        timeout(LONG, failing).await.expect("an error")
    }
}
