//! What the tests of `zookeeper-client` ask of containers with Apache ZooKeeper, done with processes of ours.
//!
//! `OTTLA_BINARY` is the path of `ottla`. The file that a test mounts as /conf/zoo.cfg, and the system properties in SERVER_JVMFLAGS, become the configuration of
//! a coordinator; keys that it does not have are left out. The port 2181 of a container is a free one of 127.0.0.1.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
/// System properties of Apache ZooKeeper's that are keys of ours. That ACLs are checked eagerly, which a test asks for, holds here always.
const PROPERTIES: [&str; 4] = ["DigestAuthenticationProvider.superDigest", "extendedTypesEnabled", "znode.container.checkIntervalMs", "jute.maxbuffer"];
/// Keys that are set here.
const OWN: [&str; 4] = ["dataDir", "clientPort", "initLimit", "syncLimit"];

pub mod clients {
    //! Who starts them.
    use super::core::{Container, RunnableImage};

    #[derive(Debug, Default)]
    pub struct Cli;

    impl Cli {
        pub fn run<I>(&self, image: impl Into<RunnableImage<I>>) -> Container<'_, I> {
            Container::begin(image.into())
        }
    }
}

pub mod images {
    pub mod generic {
        //! What is started.
        use crate::core::{Healthcheck, RunnableImage, WaitFor};

        #[derive(Debug)]
        pub struct GenericImage {
            pub(crate) tag: String,
            pub(crate) env: Vec<(String, String)>,
        }

        impl GenericImage {
            pub fn new(_name: impl Into<String>, tag: impl Into<String>) -> Self {
                Self { tag: tag.into(), env: Vec::new() }
            }

            pub fn with_env_var(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
                self.env.push((key.into(), value.into()));
                self
            }

            pub fn with_healthcheck(self, _check: Healthcheck) -> Self {
                self
            }

            pub fn with_wait_for(self, _wait: WaitFor) -> Self {
                self
            }
        }

        impl From<GenericImage> for RunnableImage<GenericImage> {
            fn from(image: GenericImage) -> Self {
                Self { tag: image.tag, env: image.env, volumes: Vec::new(), kind: std::marker::PhantomData }
            }
        }
    }
}

pub mod core {
    //! The rest.
    use super::*;
    use std::marker::PhantomData;

    #[derive(Debug, Default)]
    pub struct Healthcheck;

    impl Healthcheck {
        pub fn with_cmd<T>(self, _words: impl Iterator<Item = T>) -> Self {
            self
        }

        pub fn with_interval(self, _every: Duration) -> Self {
            self
        }

        pub fn with_retries(self, _count: u32) -> Self {
            self
        }
    }

    #[derive(Debug)]
    pub enum WaitFor {
        Healthcheck,
    }

    #[derive(Debug)]
    pub struct RunnableImage<I> {
        pub(crate) tag: String,
        pub(crate) env: Vec<(String, String)>,
        pub(crate) volumes: Vec<(String, String)>,
        pub(crate) kind: PhantomData<I>,
    }

    impl<I> RunnableImage<I> {
        pub fn with_volume(mut self, (from, to): (impl Into<String>, impl Into<String>)) -> Self {
            self.volumes.push((from.into(), to.into()));
            self
        }

        pub fn with_network(self, _network: impl Into<String>) -> Self {
            panic!("not applicable: a container in the host's network")
        }
    }

    pub struct Container<'d, I> {
        directory: tempfile::TempDir,
        port: u16,
        process: Mutex<Option<Child>>,
        kind: PhantomData<(&'d (), I)>,
    }

    impl<I> Container<'_, I> {
        pub(crate) fn begin(image: RunnableImage<I>) -> Self {
            assert!(image.tag.starts_with("3.9"), "not applicable: Apache ZooKeeper {}", image.tag);
            let directory = tempfile::tempdir().expect("a directory");
            let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port();
            let mut keys = BTreeMap::new();
            for (_, flags) in image.env.iter().filter(|(key, _)| key == "SERVER_JVMFLAGS") {
                for (key, value) in flags.split_whitespace().filter_map(|flag| flag.strip_prefix("-D")?.split_once('=')) {
                    let key = key.strip_prefix("zookeeper.").unwrap_or(key);
                    if PROPERTIES.contains(&key) {
                        keys.insert(key.to_owned(), value.to_owned());
                    }
                }
            }
            for (from, _) in image.volumes.iter().filter(|(_, to)| to == "/conf/zoo.cfg") {
                let text = std::fs::read_to_string(from).expect("the file that is mounted");
                for (key, value) in text.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| !OWN.contains(key)) {
                    keys.insert(key.to_owned(), value.to_owned());
                }
            }
            keys.insert("dataDir".into(), directory.path().join("data").display().to_string());
            keys.insert("clientPort".into(), port.to_string());
            keys.insert("clientPortAddress".into(), "127.0.0.1".into());
            // As Apache ZooKeeper's image has it.
            keys.insert("tickTime".into(), "2000".into());
            let text: String = keys.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            std::fs::write(directory.path().join("zoo.cfg"), text).expect("the configuration");
            let it = Self { directory, port, process: Mutex::new(None), kind: PhantomData };
            it.start();
            it
        }

        fn log(&self) -> PathBuf {
            self.directory.path().join("log")
        }

        pub fn start(&self) {
            let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("the log");
            let binary = std::env::var_os("OTTLA_BINARY").expect("OTTLA_BINARY, the path of ottla");
            let mut command = Command::new(binary);
            command.arg("coordinator").arg(self.directory.path().join("zoo.cfg")).stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
            *self.process.lock().unwrap() = Some(command.spawn().expect("ottla"));
            let start = Instant::now();
            while !self.serves() {
                let ended = self.process.lock().unwrap().as_mut().and_then(|process| process.try_wait().ok().flatten());
                assert!(ended.is_none() && start.elapsed() < LIMIT, "it does not serve: {}", std::fs::read_to_string(self.log()).unwrap_or_default());
                std::thread::sleep(Duration::from_millis(5));
            }
        }

        fn serves(&self) -> bool {
            let mut said = String::new();
            TcpStream::connect(("127.0.0.1", self.port))
                .is_ok_and(|mut stream| stream.write_all(b"srvr").is_ok() && stream.read_to_string(&mut said).is_ok() && said.contains("Mode: "))
        }

        pub fn stop(&self) {
            if let Some(mut process) = self.process.lock().unwrap().take() {
                // SIGTERM, as Docker does it.
                let _ = Command::new("kill").arg(process.id().to_string()).status();
                let start = Instant::now();
                while process.try_wait().ok().flatten().is_none() {
                    if start.elapsed() > LIMIT {
                        let _ = process.kill();
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }

        pub fn get_host_port(&self, _port: u16) -> u16 {
            self.port
        }

        pub fn stdout(&self) -> LogStream {
            LogStream
        }
    }

    impl<I> Drop for Container<'_, I> {
        fn drop(&mut self) {
            if let Some(mut process) = self.process.lock().unwrap().take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }

    pub struct LogStream;

    impl LogStream {
        pub fn wait_for_message(&self, message: &str) -> Result<(), String> {
            Err(format!("not applicable: the message '{message}' of Apache ZooKeeper's"))
        }
    }
}
