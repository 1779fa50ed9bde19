//! The contract of the boundary on tokio and the operating system; the rules are in `tests/contract.rs`. Besides, what only this side can show:
//! a panic in a task and `halt` end the process.

#[path = "../contract.rs"]
mod contract;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use ottla::runtime::tokio::TokioRuntime;

/// No rule waits for anything but its own work, so that one which lasts that long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// A loopback address for one rule alone: a port that a rule frees and takes again, or finds closed, must not be drawn by another test in between.
fn own_address() -> IpAddr {
    // tidy-allow: static, the addresses are those of the whole test process
    static CALLS: AtomicU16 = AtomicU16::new(0);
    if !cfg!(target_os = "linux") {
        // Elsewhere only one address is loopback.
        return IpAddr::V4(Ipv4Addr::LOCALHOST);
    }
    let [high, low] = CALLS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 + (std::process::id() % 128) as u8, high, low.saturating_add(1)))
}

fn in_a_world<F, Fut>(rule: F)
where
    F: FnOnce(contract::World<TokioRuntime>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // In `block_on`, not in a task of the runtime: a panic there would end the whole test process.
    tokio.block_on(async move {
        let world = contract::World { rt: TokioRuntime::new(), dir: path, address: own_address() };
        tokio::time::timeout(HANGS_AFTER, rule(world)).await.expect("the rule hangs");
    });
}

macro_rules! tests {
    ($($rule:ident)*) => {
        $(
            #[test]
            fn $rule() {
                in_a_world(contract::$rule);
            }
        )*
    };
}
contract::for_each_rule!(tests);

// ------------------------------------------------------------------------------------------------- what needs a process of its own

/// Names the scene that a child process plays.
const SCENE: &str = "OTTLA_TEST_SCENE";

/// Runs this test binary again to play `scene`; its exit status and what it said on standard error.
fn play(scene: &str) -> (std::process::ExitStatus, String) {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "contract_tokio::the_child_plays_its_scene", "--ignored", "--nocapture"])
        .env(SCENE, scene)
        .output()
        .unwrap();
    (child.status, String::from_utf8_lossy(&child.stderr).into_owned())
}

#[test]
// tidy-allow: unfinished
#[ignore = "started by the tests below in a process of its own"]
fn the_child_plays_its_scene() {
    use ottla::runtime::{Disk, HostPort, Listener, Runtime, Task};
    let scene = std::env::var(SCENE).expect("only as a child of another test");
    ottla::runtime::tokio::run(2, |rt| async move {
        match scene.as_str() {
            "halt" => {
                struct Loud;
                impl Drop for Loud {
                    fn drop(&mut self) {
                        eprintln!("a destructor ran");
                    }
                }
                let _loud = Loud;
                match rt.halt("the disk said no").await {}
            }
            "panic in a task" => {
                rt.spawn("clumsy", async { panic!("stumbled") }).join().await;
            }
            "panic in blocking work" => rt.blocking(|| panic!("stumbled")).await,
            "descriptors run out" => {
                let listener = rt.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
                let to = HostPort { host: "127.0.0.1".to_owned(), port: listener.local_addr().port() };
                let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
                let _ours = rt.connect(&to).await.unwrap();
                let mut held = Vec::new();
                while let Ok(fd) = rustix::io::dup(std::io::stdin()) {
                    held.push(fd);
                    if held.len() == 100 {
                        let few = rustix::process::Rlimit { current: Some(held.len() as u64), maximum: before.maximum };
                        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
                    }
                }
                let start = rt.now();
                for _ in 0..3 {
                    assert!(listener.accept().await.is_err());
                }
                assert!(rt.now() - start >= Duration::from_millis(200), "accept spins");
                drop(held);
                listener.accept().await.expect("the connection was still queued");
                let _ = rt.disk().free_bytes(std::path::Path::new("/")).await.unwrap();
            }
            other => panic!("no scene '{other}'"),
        }
    })
    .unwrap();
}

#[test]
fn halt_says_why_and_ends_the_process_without_destructors() {
    let (status, said) = play("halt");
    assert_eq!(status.code(), Some(ottla::runtime::tokio::HALT_EXIT_CODE), "{said}");
    assert!(said.contains("ottla: halted: the disk said no"), "{said}");
    assert!(!said.contains("a destructor ran"), "{said}");
}

#[test]
fn a_panic_in_any_task_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    for scene in ["panic in a task", "panic in blocking work"] {
        let (status, said) = play(scene);
        assert_eq!(status.signal(), Some(6), "{said}");
        assert!(said.contains("stumbled"), "{said}");
    }
}

#[test]
fn accept_pauses_while_descriptors_have_run_out() {
    let (status, said) = play("descriptors run out");
    assert!(status.success(), "{said}");
}
