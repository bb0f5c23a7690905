//! A server of its own for each test.

use std::{
    env, fs,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader, ErrorKind},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redis::{FromRedisValue, cmd};
use tower_sse::backplane::Redis;

/// Every write is on the disk before it is acknowledged.
pub(crate) const WITH_AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// Nothing here takes nearly as long. It is the bound at which a test fails.
const LONG: Duration = Duration::from_secs(20);

/// A running redis-server, which is killed when it is dropped.
pub(crate) struct Server {
    process: Option<Child>,
    program: PathBuf,
    pub(crate) port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Server {
    /// Without files, unless the arguments say otherwise. The environment may name another program, such as a Valkey.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let program = env::var_os("TOWER_SSE_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        Self::start_program(Path::new(&program), arguments)
    }

    pub(crate) fn start_valkey(arguments: &[&str]) -> Self {
        Self::start_program(&valkey(), arguments)
    }

    fn start_program(program: &Path, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
        // A port that was free may be taken a moment later.
        for _ in 0..10 {
            let (program, port, folder) = (program.to_owned(), Self::free_port(), new_folder());
            let mut server = Self { process: None, program, port, folder, arguments: arguments.clone() };
            if server.run() {
                return server;
            }
        }
        panic!("no redis-server starts with {arguments:?}");
    }

    /// Starts it again, with the same port and files.
    pub(crate) fn start_again(&mut self) {
        assert!(self.run(), "redis-server does not start again");
    }

    /// Whether it accepts connections. It does not if its port is taken.
    fn run(&mut self) -> bool {
        let mut command = Command::new(&self.program);
        if self.arguments.iter().any(|it| it == "--sentinel") {
            let config = self.folder.join("sentinel.conf");
            if !config.exists() {
                fs::write(&config, "").unwrap();
            }
            command.arg(config);
        } else {
            // A replica has not to wait for others before it gets its data.
            command.args(["--save", "", "--repl-diskless-sync-delay", "0"]);
        }
        command.args(["--port", &self.port.to_string()]).args(["--bind", "127.0.0.1"]).arg("--dir").arg(&self.folder);
        command.args(&self.arguments).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => panic!(
                "{} is missing: scripts/test installs it on Debian, or `apt-get install redis-server`",
                self.program.display()
            ),
            Err(error) => panic!("{}: {error}", self.program.display()),
        };
        let output = BufReader::new(process.stdout.take().unwrap());
        let (is_ready, ready) = mpsc::channel();
        // The output is read to its end, so that the server never waits for a reader of it.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line.contains("Ready to accept connections") || line.contains("Sentinel ID is") {
                    let _ = is_ready.send(());
                }
            }
        });
        self.process = Some(process);
        match ready.recv_timeout(LONG) {
            Ok(()) => true,
            Err(_) => {
                self.kill();
                false
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().expect("it runs").id();
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    /// The id of its process.
    #[allow(dead_code, reason = "a bench needs it")]
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// An engine that finds out within a second that the server does not answer.
    pub(crate) fn engine(&self) -> Redis {
        Redis::at(&self.url()).unwrap().response_timeout(Duration::from_secs(1))
    }

    /// Sends a command that succeeds. Its words have single spaces between them.
    pub(crate) fn tell<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection_with_timeout(LONG).unwrap();
        command.query(&mut connection).unwrap()
    }

    /// A port below those that the system gives to connections: so nothing takes the port of a server that is down for a moment.
    pub(crate) fn free_port() -> u16 {
        let seed = RandomState::new();
        let mut candidates = (0_u32..).map(|attempt| 12_000 + u16::try_from(seed.hash_one(attempt) % 10_000).unwrap());
        // A node of a cluster also listens 10,000 ports above.
        let is_free = |port: &u16| {
            [*port, port + 10_000].into_iter().all(|it| TcpListener::bind((Ipv4Addr::LOCALHOST, it)).is_ok())
        };
        candidates.find(is_free).expect("a free port")
    }

    /// Its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // After a failure, somebody may want to look at the files.
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// On the `PATH`, or where scripts/test installs it.
fn valkey() -> PathBuf {
    let places = env::var_os("PATH").unwrap_or_default();
    let mut on_path = env::split_paths(&places).map(|place| place.join("valkey-server"));
    // target/debug/deps/TEST
    let test = env::current_exe().unwrap();
    let installed = test.ancestors().nth(3).unwrap().join("valkey/valkey-server");
    match on_path.find(|path| path.is_file()) {
        Some(path) => path,
        None if installed.is_file() => installed,
        None => panic!(
            "valkey-server is missing: scripts/test installs it, or `apt-get install valkey-server` from Debian 13 on"
        ),
    }
}

pub(crate) fn new_folder() -> PathBuf {
    let name = format!("redis-{:016x}", RandomState::new().hash_one(0));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}
