//! A server that only greets, for what a real one cannot be made to say.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tower_sse::backplane::Redis;

pub(crate) struct Fake {
    port: u16,
    task: JoinHandle<()>,
}

impl Fake {
    /// A master of this version, which answers everything but greetings with `answer`.
    pub(crate) async fn start(version: &str, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let greeting = format!("%2\r\n+version\r\n+{version}\r\n+role\r\n+master\r\n");
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let greeting = greeting.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer).await.inspect(|&read| buffer[read..].fill(0)) {
                        let text = String::from_utf8_lossy(&buffer).into_owned();
                        // Each command is an array: `*3\r\n$6\r\nCLIENT\r\n..`
                        for command in text.split('*').skip(1) {
                            let answer = if command.contains("HELLO") { &greeting } else { answer };
                            let _ = stream.write_all(answer.as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { port, task }
    }

    pub(crate) fn engine(&self) -> Redis {
        Redis::at(&format!("redis://127.0.0.1:{}", self.port)).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}
