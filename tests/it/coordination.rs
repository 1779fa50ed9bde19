//! The coordination service of a real broker on `clientPort`: sessions over `kill -9`, the port's errors, and `ottla coordination`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use bytes::Bytes;
use ottla::coordination::acl::Acl;
use ottla::coordination::jute::{Reader, Writer};
use ottla::coordination::protocol::{ConnectRequest, ConnectResponse, opcode};

use super::process::{Launch, PATIENCE, Process, temp_dir};

fn launch(dir: &Path) -> Launch {
    Launch::new(dir).option("clientPort", 0).option("clientPortAddress", "127.0.0.1").option("4lw.commands.whitelist", "ruok,srvr,mntr")
}

fn client_port(broker: &Process) -> u16 {
    broker.wait_for("its clientPort", |line| line.strip_prefix("serving ZooKeeper clients on 127.0.0.1:")?.trim().parse().ok())
}

fn socket(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub fn say(port: u16, word: &str) -> String {
    let mut socket = socket(port);
    socket.write_all(word.as_bytes()).unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).unwrap();
    said
}

fn frame(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    socket.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_be_bytes(head) as usize];
    socket.read_exact(&mut body)?;
    Ok(body)
}

/// Begins a session, or comes back to one. An error is the connection's.
pub fn connect(socket: &mut TcpStream, session: i64, password: [u8; 16], timeout_ms: i32) -> io::Result<ConnectResponse> {
    let mut out = Writer::default();
    ConnectRequest { last_zxid_seen: 0, timeout_ms, session, password: Bytes::copy_from_slice(&password), read_only: Some(false) }.encode(&mut out);
    socket.write_all(&out.finish())?;
    Ok(ConnectResponse::decode(&frame(socket)?).unwrap())
}

/// Sends a request; its error and the body of its answer. An error is the connection's.
pub fn try_ask(socket: &mut TcpStream, opcode: i32, body: impl FnOnce(&mut Writer)) -> io::Result<(i32, Vec<u8>)> {
    let mut out = Writer::default();
    out.frame(|to| {
        to.int(1);
        to.int(opcode);
        body(to);
    });
    socket.write_all(&out.finish())?;
    let answer = frame(socket)?;
    let mut reader = Reader::new(&answer);
    assert_eq!(reader.int(), Ok(1));
    reader.long().unwrap();
    Ok((reader.int().unwrap(), answer[16..].to_vec()))
}

fn ask(socket: &mut TcpStream, opcode: i32, body: impl FnOnce(&mut Writer)) -> (i32, Vec<u8>) {
    try_ask(socket, opcode, body).unwrap()
}

fn exists(socket: &mut TcpStream, path: &str) -> bool {
    ask(socket, opcode::EXISTS, |to| (to.string(path), to.bool(false)).1).0 == 0
}

#[test]
fn a_clients_session_and_its_ephemerals_outlive_kill_9_and_end_when_it_does_not_come_back() {
    let home = temp_dir();
    let launch = launch(home.path()).option("tickTime", 200).option("maxSessionTimeout", 60_000);
    let mut broker = launch.start();
    let port = client_port(&broker);
    assert_eq!(say(port, "ruok"), "imok");
    assert!(say(port, "srvr").contains("Mode: standalone"));
    assert!(say(port, "stat").contains("not in the whitelist"));
    let (mut lasting, mut short) = (socket(port), socket(port));
    let session = connect(&mut lasting, 0, [0; 16], 60_000).unwrap();
    let gone = connect(&mut short, 0, [0; 16], 400).unwrap();
    assert_eq!((session.timeout_ms, gone.timeout_ms), (60_000, 400));
    for (socket, path) in [(&mut lasting, "/lasting"), (&mut short, "/short")] {
        let create = |to: &mut Writer| {
            to.string(path);
            to.buffer(b"");
            to.acl(&[Acl::open()]);
            to.int(1);
        };
        assert_eq!(ask(socket, opcode::CREATE, create).0, 0);
    }
    assert!(exists(&mut lasting, "/brokers/ids/0"), "the broker's own registration is in the same tree");
    broker.kill();

    let broker = launch.start();
    let port = client_port(&broker);
    let mut lasting = socket(port);
    assert_eq!(connect(&mut lasting, session.session, session.password, 60_000).unwrap(), session);
    assert!(exists(&mut lasting, "/lasting") && exists(&mut lasting, "/brokers/ids/0"));
    // The other one has its full time-out from the start on, and does not come back in it.
    while exists(&mut lasting, "/short") {
        assert!(broker.since().elapsed() < PATIENCE, "its session never ends");
        std::thread::yield_now();
    }
    assert_eq!(connect(&mut socket(port), gone.session, gone.password, 400).unwrap().session, 0);
    assert!(exists(&mut lasting, "/lasting"));
}

#[test]
fn a_client_port_in_use_is_told_with_its_key_and_nothing_is_made() {
    let home = temp_dir();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let mut broker = Launch::new(home.path()).option("clientPort", port).option("clientPortAddress", "127.0.0.1").spawn();
    broker.wait_exit_code(1);
    let told = broker.stderr().join("\n");
    assert!(told.contains(&format!("127.0.0.1:{port}")) && told.contains("clientPort") && told.contains("in use"), "{told}");
    assert!(!home.path().join("ottla-data").exists(), "the port comes first");
}

#[test]
fn without_client_port_there_is_none() {
    let home = temp_dir();
    let mut broker = Launch::new(home.path()).start();
    assert!(!broker.stdout().iter().any(|line| line.contains("ZooKeeper")), "{}", broker.text());
    broker.stop();
}

/// Runs `ottla coordination` to its end: its exit code, output and errors.
fn command(dir: &Path, port: u16, args: &[&str]) -> (i32, Vec<String>, String) {
    let mut launch = Launch::bare(dir).arg("coordination");
    for arg in args {
        launch = launch.arg(*arg);
    }
    let mut process = launch.arg("--server").arg(format!("127.0.0.1:{port}")).spawn();
    let code = process.wait_exit().code().unwrap_or(-1);
    (code, process.stdout(), process.stderr().join("\n"))
}

#[test]
fn the_command_line_looks_into_the_tree_and_changes_it() {
    let home = temp_dir();
    let mut broker = launch(home.path()).start();
    let port = client_port(&broker);
    let run = |args: &[&str]| command(home.path(), port, args);
    let ok = |args: &[&str]| {
        let (code, out, errors) = run(args);
        assert_eq!((code, errors.as_str()), (0, ""), "{args:?}");
        out
    };
    assert!(ok(&["ls"]).contains(&"brokers".to_owned()));
    assert!(ok(&["get", "/brokers/ids/0"])[0].contains("\"endpoints\""));
    let mut watching = Launch::bare(home.path()).arg("coordination").arg("watch").arg("/").arg("-r").arg("--server").arg(format!("127.0.0.1:{port}")).spawn();
    // It watches when the member says so.
    while say(port, "mntr").contains("zk_watch_count\t0\n") {
        assert!(watching.is_running(), "{}", watching.text());
    }
    ok(&["set", "/mine", "one", "--create"]);
    ok(&["set", "/mine", "two", "--if-version", "0"]);
    ok(&["set", "/mine/below", "", "--create"]);
    assert_eq!(ok(&["get", "/mine"]), ["two"]);
    assert_eq!(ok(&["ls", "/mine", "-r"]), ["/mine/below"]);
    let stat = ok(&["stat", "/mine"]);
    assert!(stat.contains(&"version = 1".to_owned()) && stat.contains(&"acl = world:anyone:cdrwa".to_owned()), "{stat:?}");
    let (code, _, errors) = run(&["set", "/mine", "three", "--if-version", "0"]);
    assert!(code == 1 && errors.contains("/mine") && errors.contains("another version"), "{errors}");
    let (code, _, errors) = run(&["rm", "/mine"]);
    assert!(code == 1 && errors.contains("has children"), "{errors}");
    ok(&["rm", "-r", "/mine"]);
    let (code, _, errors) = run(&["get", "/mine"]);
    assert!(code == 1 && errors.contains("does not exist"), "{errors}");
    watching.wait_for_text("/mine deleted");
    assert_eq!(watching.stdout(), ["/mine created", "/mine changed", "/mine/below created", "/mine/below deleted", "/mine deleted"]);
    watching.stop();
    broker.stop();
    let (code, _, errors) = run(&["ls"]);
    assert!(code == 1 && errors.contains(&port.to_string()) && errors.contains("clientPort"), "{errors}");
}
