//! Starts and pins the server process, and sends it commands.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::server::{Behind, Side};

/// The two cores of the plan: the server's and the load's. They are the same if there is only one.
pub(crate) fn cores() -> (usize, usize) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the cores that it may use");
    let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or_default());
    let first = cores.next().expect("a core");
    (first, cores.next().unwrap_or(first))
}

/// From now on, this process and its children run on one core.
pub(crate) fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core).expect("a core that there is");
    sched_setaffinity(Pid::from_raw(0), &cores).expect("a core that it may use");
}

/// A server process. It ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

/// The resources that a server process has used so far.
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// How long the server waited for its core while something else used the core.
    pub(crate) waited: Duration,
    pub(crate) resident: u64,
}

impl Server {
    /// Starts this program again, as a server on this core.
    pub(crate) fn start(side: Side, behind: Behind, core: usize) -> Self {
        let program = env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--serve", side.name(), behind.name(), &core.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = child.stdin.take().expect("the input is piped");
        let output = BufReader::new(child.stdout.take().expect("the output is piped"));
        let mut server = Self { child, input, output, address: (Ipv4Addr::LOCALHOST, 0).into() };
        let port = server.answer()[0].parse().expect("a port");
        server.address.set_port(port);
        server
    }

    pub(crate) fn usage(&mut self) -> Usage {
        self.say("usage");
        let answer = self.answer();
        let [user, system, waited, resident] = [0, 1, 2, 3].map(|at| answer[at].parse().expect("a number"));
        Usage {
            user: Duration::from_micros(user),
            system: Duration::from_micros(system),
            waited: Duration::from_nanos(waited),
            resident,
        }
    }

    /// Makes the server publish by itself. Returns when the first event is due.
    pub(crate) fn publish(&mut self, rate: u32, events: u64) -> Duration {
        self.say(&format!("publish {rate} {events}"));
        Duration::from_nanos(self.answer()[0].parse().expect("a time"))
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the server reads its input");
    }

    fn answer(&mut self) -> Vec<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the server answers");
        assert!(!line.is_empty(), "the server process has ended");
        line.split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
