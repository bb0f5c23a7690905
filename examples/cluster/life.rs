//! Where a node lives: in a thread of this process, or in a process of its own.

use std::{env, future::pending, io, process::Stdio, thread};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    runtime,
    sync::{oneshot, watch},
    task::{JoinHandle, spawn_blocking},
};
use tower_sse::backplane::Memory;

use crate::{BoxError, node, node::Node};

/// What kind of life the nodes have.
pub(crate) enum Kind {
    Threads(Memory),
    Processes { redis: String },
}

/// A node that was started.
pub(crate) enum Life {
    Thread {
        /// `true` stops the node. Without it, the node is killed.
        stops: watch::Sender<bool>,
        ended: JoinHandle<()>,
    },
    Process(Child),
}

impl Kind {
    /// Starts a node. Returns it with its port as soon as it accepts requests.
    pub(crate) async fn start(&self, node: Node) -> Result<(Life, u16), BoxError> {
        match self {
            Self::Threads(engine) => in_a_thread(node, engine.clone()).await,
            Self::Processes { redis } => in_a_process(node, redis).await,
        }
    }
}

/// The thread has a runtime of its own. When the node is killed, the runtime is dropped, with all connections and the registry.
async fn in_a_thread(node: Node, engine: Memory) -> Result<(Life, u16), BoxError> {
    let n = node.n;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (stops, mut stop) = watch::channel(false);
    let (ready, is_ready) = oneshot::channel();
    let ended = spawn_blocking(move || {
        let mut supervisor = stop.clone();
        let stopped = async move {
            match stop.wait_for(|stop| *stop).await {
                Ok(_) => {}
                Err(_) => pending().await,
            }
        };
        let ready = |port| _ = ready.send(port);
        let ended = runtime.block_on(async {
            tokio::select! {
                ended = node.run(node::config().backplane(engine), ready, stopped) => ended,
                // An error says that the sender was dropped.
                _ = supervisor.wait_for(|_| false) => Ok(()),
            }
        });
        if let Err(error) = ended {
            eprintln!("node {n} ended: {error}");
        }
    });
    let port = is_ready.await.map_err(|_| format!("node {n} did not start"))?;
    Ok((Life::Thread { stops, ended }, port))
}

async fn in_a_process(node: Node, redis: &str) -> Result<(Life, u16), BoxError> {
    let n = node.n;
    let mut command = Command::new(env::current_exe()?);
    command.args(["--redis", redis, "--node", &n.to_string()]);
    command.env("PORT", node.port.to_string()).env("PAGE_PORT", node.page_port.to_string());
    // The standard input ends when this process does, however it does. No node is left then: see `supervisor_ends`.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn()?;
    let did_not_start = || format!("node {n} did not start");
    let output = process.stdout.take().ok_or_else(did_not_start)?;
    let ready = BufReader::new(output).lines().next_line().await?.ok_or_else(did_not_start)?;
    let port = ready.rsplit(':').next().and_then(|port| port.parse().ok()).ok_or_else(did_not_start)?;
    Ok((Life::Process(process), port))
}

/// For a node that is a process: waits until its standard input has ended.
pub(crate) async fn supervisor_ends() {
    let (over, is_over) = oneshot::channel::<()>();
    // No task of the runtime, as the end of the runtime would wait for what it reads.
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(over);
    });
    let _ = is_over.await;
}

impl Life {
    /// Lets the node end its streams, and finish what it answers.
    pub(crate) async fn stop(self) -> Result<(), BoxError> {
        match self {
            Self::Thread { stops, ended } => {
                stops.send_replace(true);
                ended.await?;
            }
            Self::Process(mut process) => {
                drop(process.stdin.take());
                process.wait().await?;
            }
        }
        Ok(())
    }

    /// Ends the node at once.
    pub(crate) async fn kill(self) -> Result<(), BoxError> {
        match self {
            Self::Thread { stops, ended } => {
                drop(stops);
                ended.await?;
            }
            Self::Process(mut process) => process.kill().await?,
        }
        Ok(())
    }

    /// Whether it has ended by itself, or somebody else has ended it.
    pub(crate) fn has_ended(&mut self) -> bool {
        match self {
            Self::Thread { ended, .. } => ended.is_finished(),
            Self::Process(process) => !matches!(process.try_wait(), Ok(None)),
        }
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        match self {
            Self::Thread { .. } => None,
            Self::Process(process) => process.id(),
        }
    }
}
