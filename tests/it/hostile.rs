//! Clients that do not speak the protocol, or speak it to do harm. After each of them the broker serves as before, and has given back what it
//! held for them.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest};
use ottla::record::batch::Header;

use super::checker::rng::Stream;
use super::process::{Launch, PATIENCE, Process, block_on, temp_dir};
use super::traffic::{self, PULSE};

/// What the broker may have more than before, for its own reasons: reused buffers, the allocator's.
const MORE_RESIDENT_BYTES: u64 = 64 << 20;
/// Connections that the system has not told the broker of yet.
const MORE_FILES: usize = 2;

/// A broker to be attacked.
struct Target {
    broker: Process,
    files: usize,
    resident_bytes: u64,
    _home: tempfile::TempDir,
}

impl Target {
    fn new() -> Self {
        Self::with(|launch| launch)
    }

    fn with(options: impl FnOnce(Launch) -> Launch) -> Self {
        let home = temp_dir();
        let broker = options(Launch::new(home.path())).start();
        block_on(async {
            traffic::create_topic(broker.port, PULSE, 1, &[]).await;
            for _ in 0..20 {
                traffic::round_trip(broker.port, "warm").await;
            }
        });
        Self { files: broker.open_files(), resident_bytes: broker.resident_bytes(), broker, _home: home }
    }

    fn port(&self) -> u16 {
        self.broker.port
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port())).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and returns what comes until the broker ends the connection, as it must.
    fn send_until_closed(&self, bytes: &[u8], what: &str) -> Vec<u8> {
        let mut stream = self.connect();
        // It may end the connection before it has read everything.
        let _ = stream.write_all(bytes);
        read_to_end(&mut stream, what)
    }

    fn serves(&self) {
        block_on(traffic::round_trip(self.port(), "served"));
    }

    /// It serves, and holds no more than before.
    fn assert_as_before(mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.serves();
            let (files, resident_bytes) = (self.broker.open_files(), self.broker.resident_bytes());
            if files <= self.files + MORE_FILES && resident_bytes <= self.resident_bytes + MORE_RESIDENT_BYTES {
                break;
            }
            assert!(Instant::now() < deadline, "{files} open files after {}, {resident_bytes} bytes resident after {}", self.files, self.resident_bytes);
        }
        assert!(!self.broker.text().contains("panicked"), "{}", self.broker.text());
        self.broker.stop();
    }
}

fn read_to_end(stream: &mut TcpStream, what: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return answer,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("{what}: the broker did not end the connection in {PATIENCE:?}")
            }
            // A reset.
            Err(_) => return answer,
        }
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// A request with a whole header.
fn request(api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(api_key);
    bytes.put_i16(version);
    bytes.put_i32(77);
    bytes.put_i16(2);
    bytes.put_slice(b"it");
    let flexible = ApiKey::try_from(api_key).is_ok_and(|key| key.request_header_version(version) >= 2);
    if flexible {
        bytes.put_u8(0);
    }
    bytes.put_slice(body);
    framed(&bytes)
}

#[test]
fn bytes_that_are_no_frames() {
    let target = Target::new();
    let mut draws = Stream::new(1, "garbage", 0);
    for length in [8usize, 14, 50, 200, 3_000, 100_000] {
        for _ in 0..20 {
            let mut body = vec![0; length];
            draws.fill(&mut body);
            let mut stream = target.connect();
            let _ = stream.write_all(&framed(&body));
            // What by chance is a request may be answered; then the end of this side is the end.
            let _ = stream.shutdown(Shutdown::Write);
            read_to_end(&mut stream, "a frame of random bytes");
        }
    }
    target.assert_as_before();
}

#[test]
fn lengths_that_no_frame_may_have() {
    let target = Target::new();
    for length in [0x7fff_ffff_u32, 0x8000_0000, 0xffff_ffff, 104_857_601] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(b"some of it");
        let answer = target.send_until_closed(&bytes, &format!("a frame of {length:#x} bytes"));
        assert!(answer.is_empty());
    }
    for length in 0..8usize {
        let answer = target.send_until_closed(&framed(&vec![0; length]), &format!("a frame of {length} bytes"));
        assert!(answer.is_empty());
    }
    let told = target.broker.stderr().join("\n");
    assert!(told.contains("socket.request.max.bytes"), "{told}");
    target.assert_as_before();
}

#[test]
fn other_protocols() {
    let target = Target::new();
    let http = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let tls: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for bytes in [http.as_bytes(), tls, b"SSH-2.0-OpenSSH_9.6\r\n", b"*1\r\n$4\r\nPING\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        assert!(target.send_until_closed(bytes, &String::from_utf8_lossy(bytes)).is_empty());
    }
    target.assert_as_before();
}

#[test]
fn frames_that_end_early() {
    let target = Target::new();
    let whole = request(ApiKey::Metadata as i16, 1, &0i32.to_be_bytes());
    for cut in 0..whole.len() {
        let mut stream = target.connect();
        stream.write_all(&whole[..cut]).unwrap();
        if cut % 2 == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
            assert!(read_to_end(&mut stream, "half a frame").is_empty());
        }
    }
    target.assert_as_before();
}

#[test]
fn unknown_apis_and_versions() {
    let target = Target::new();
    for api_key in [-1, 4, 5, 6, 7, 999, i16::MAX, i16::MIN] {
        assert!(target.send_until_closed(&request(api_key, 0, &[0; 20]), &format!("API {api_key}")).is_empty());
    }
    for (api, version) in [(ApiKey::Metadata, 99), (ApiKey::Fetch, 3), (ApiKey::Fetch, -1), (ApiKey::CreateTopics, i16::MAX), (ApiKey::ListOffsets, 0)] {
        assert!(target.send_until_closed(&request(api as i16, version, &[0; 20]), &format!("{api:?} version {version}")).is_empty());
    }
    // A client from the future is told, in the first version of the answer, what there is (KIP-511), and goes on.
    let mut stream = target.connect();
    stream.write_all(&request(ApiKey::ApiVersions as i16, 99, &[1, 2, 3])).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], 77i32.to_be_bytes());
    assert_eq!(answer[4..6], Error::UnsupportedVersion.code().to_be_bytes());
    stream.write_all(&request(ApiKey::ApiVersions as i16, 0, &[])).unwrap();
    stream.read_exact(&mut length).unwrap();
    drop(stream);
    target.assert_as_before();
}

#[test]
fn counts_and_lengths_beyond_the_frame_in_every_api_and_version() {
    let target = Target::new();
    let served = block_on(async {
        let connection = traffic::connect(target.port()).await;
        let request = ApiVersionsRequest::default();
        connection.call_at(0, &request, traffic::REQUEST).await.unwrap().api_keys
    });
    assert!(served.len() > 20);
    let mut draws = Stream::new(2, "counts", 0);
    let mut random = [0; 96];
    let mut sent = 0;
    for api in served {
        for version in api.min_version..=api.max_version {
            draws.fill(&mut random);
            let bodies: [&[u8]; 6] = [
                // A count of two thousand millions, then strings of 32767 bytes; a compact one as great as can be.
                &[0x7f; 64],
                &[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff],
                &[0xff, 0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0xff, 0x0f],
                &[0x80; 40],
                &[],
                &random,
            ];
            for body in bodies {
                let mut stream = target.connect();
                let _ = stream.write_all(&request(api.api_key, version, body));
                let _ = stream.shutdown(Shutdown::Write);
                read_to_end(&mut stream, &format!("API {} version {version}: {body:?}", api.api_key));
                sent += 1;
            }
        }
    }
    println!("{sent} requests");
    target.assert_as_before();
}

#[test]
fn batches_that_are_damaged_get_kafkas_errors_and_leave_nothing_behind() {
    let target = Target::new();
    block_on(async {
        let connection = traffic::connect(target.port()).await;
        let good = traffic::batch(&["one", "two", "three"]);
        let end = traffic::range(&connection, PULSE, 0).await.unwrap().1;
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.to_vec();
            change(&mut bytes);
            Bytes::from(bytes)
        };
        // The checksum is over everything from the attributes (21) on.
        let sealed = |change: &dyn Fn(&mut Vec<u8>)| {
            with(&|bytes: &mut Vec<u8>| {
                change(bytes);
                let crc = crc32c::crc32c(&bytes[21..]);
                bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            })
        };
        let (corrupt, invalid) = (Error::CorruptMessage.code(), Error::InvalidRecord.code());
        let cases: Vec<(&str, Bytes, Vec<i16>)> = vec![
            ("a flipped bit in a value", with(&|bytes| *bytes.last_mut().unwrap() ^= 1), vec![corrupt]),
            ("a wrong checksum", with(&|bytes| bytes[17] ^= 1), vec![corrupt]),
            ("magic 3", with(&|bytes| bytes[16] = 3), vec![corrupt, invalid]),
            ("magic -1", with(&|bytes| bytes[16] = 0xff), vec![corrupt, invalid]),
            ("magic 0 in a batch", with(&|bytes| bytes[16] = 0), vec![corrupt, invalid, Error::UnsupportedForMessageFormat.code()]),
            ("a batch without its end", with(&|bytes| bytes.truncate(bytes.len() - 1)), vec![corrupt, invalid]),
            ("half a header", with(&|bytes| bytes.truncate(30)), vec![corrupt, invalid]),
            ("no bytes at all", Bytes::new(), vec![corrupt, invalid]),
            ("bytes behind the batch", with(&|bytes| bytes.extend_from_slice(&[1; 40])), vec![corrupt, invalid]),
            ("two batches", with(&|bytes| bytes.extend_from_slice(&good)), vec![invalid]),
            ("a length of minus one", with(&|bytes| bytes[8..12].copy_from_slice(&[0xff; 4])), vec![corrupt, invalid]),
            ("a length beyond the frame", with(&|bytes| bytes[8..12].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff])), vec![corrupt, invalid]),
            ("a count of records beyond all bounds", sealed(&|bytes| bytes[57..61].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff])), vec![corrupt, invalid]),
            ("a negative count of records", sealed(&|bytes| bytes[57..61].copy_from_slice(&[0xff; 4])), vec![corrupt, invalid]),
            ("a last offset that the count contradicts", sealed(&|bytes| bytes[23..27].copy_from_slice(&[0, 0, 0, 9])), vec![corrupt, invalid]),
            ("a codec that nobody knows", sealed(&|bytes| bytes[22] |= 7), vec![corrupt, invalid, Error::UnsupportedCompressionType.code()]),
            ("a control batch", sealed(&|bytes| bytes[22] |= 0x20), vec![corrupt, invalid]),
        ];
        for (what, bytes, allowed) in cases {
            let (code, _) = traffic::produce(&connection, PULSE, 0, bytes).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            println!("{what}: {:?}", Error::try_from_code(code));
            assert!(allowed.contains(&code), "{what}: {:?}", Error::try_from_code(code));
        }
        assert_eq!(traffic::range(&connection, PULSE, 0).await.unwrap().1, end, "nothing of it is in the log");
        // The same connection goes on, and what was not damaged is taken.
        assert!(Header::whole(&good).is_ok());
        assert_eq!(traffic::produce(&connection, PULSE, 0, good.clone()).await.unwrap(), (0, end));
        assert_eq!(traffic::read_from(&connection, PULSE, 0, end).await.unwrap().len(), 3);
    });
    target.assert_as_before();
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let target = Target::new();
    block_on(async {
        let connection = traffic::connect(target.port()).await;
        let (code, _) = traffic::produce(&connection, PULSE, 0, traffic::batch(&[vec![b'x'; 2 << 20]])).await.unwrap();
        assert_eq!(code, Error::MessageTooLarge.code());
        traffic::produce_ok(&connection, PULSE, 0, &["small"]).await;
    });
    target.assert_as_before();
}

/// How many connections this process may have open at a time, with room for the other tests'.
fn connections_at_a_time() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 8).min(1_000) as usize
}

#[test]
fn ten_thousand_connections_come_and_go() {
    const CONNECTIONS: usize = 10_000;
    let target = Target::new();
    let mut opened = 0;
    while opened < CONNECTIONS {
        let wave: Vec<TcpStream> = (0..connections_at_a_time()).map(|_| target.connect()).collect();
        opened += wave.len();
        target.serves();
    }
    println!("{opened} connections, {} at a time", connections_at_a_time());
    target.assert_as_before();
}

#[test]
fn clients_that_send_a_little_and_wait_do_not_stop_the_others() {
    let target = Target::new();
    let count = connections_at_a_time();
    let announced = request(ApiKey::Metadata as i16, 1, &[0; 40]);
    let mut waiting = Vec::new();
    for at in 0..count {
        let mut stream = target.connect();
        // From one byte of the length to most of the frame.
        stream.write_all(&announced[..1 + at % (announced.len() - 1)]).unwrap();
        waiting.push(stream);
        if at % 100 == 0 {
            target.serves();
        }
    }
    target.serves();
    println!("{count} connections with a part of a frame each: {} MiB resident, {} before", target.broker.resident_bytes() >> 20, target.resident_bytes >> 20);
    drop(waiting);
    target.assert_as_before();
}

#[test]
fn clients_that_announce_much_and_send_little_do_not_stop_the_others() {
    let target = Target::new();
    let mut waiting = Vec::new();
    for _ in 0..connections_at_a_time().min(100) {
        let mut stream = target.connect();
        stream.write_all(&(90u32 << 20).to_be_bytes()).unwrap();
        // More than is kept apart for a frame that has only begun.
        stream.write_all(&[0; 6_000]).unwrap();
        waiting.push(stream);
        target.serves();
    }
    println!("{} connections that announce 90 MiB each: {} MiB resident", waiting.len(), target.broker.resident_bytes() >> 20);
    drop(waiting);
    target.assert_as_before();
}

#[test]
fn clients_that_do_not_read_do_not_stop_the_others() {
    let target = Target::new();
    block_on(async {
        let connection = traffic::connect(target.port()).await;
        for _ in 0..16 {
            traffic::produce_ok(&connection, PULSE, 0, &[vec![b'x'; 1_000_000]]).await;
        }
    });
    // Requests for 16 MB each, whose answers nobody takes.
    let mut body = BytesMut::new();
    body.put_i32(-1); // replica
    body.put_i32(0); // wait
    body.put_i32(1); // least
    body.put_i32(i32::MAX); // most
    body.put_i8(0); // isolation
    body.put_i32(1);
    body.put_i16(PULSE.len() as i16);
    body.put_slice(PULSE.as_bytes());
    body.put_i32(1);
    body.put_i32(0); // partition
    body.put_i64(0); // offset
    body.put_i32(i32::MAX);
    let fetch = request(ApiKey::Fetch as i16, 4, &body);
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut stream = target.connect();
        for _ in 0..20 {
            stream.write_all(&fetch).unwrap();
        }
        waiting.push(stream);
    }
    target.serves();
    let resident = target.broker.resident_bytes();
    println!("50 connections that read nothing: {} MiB resident, {} before", resident >> 20, target.resident_bytes >> 20);
    assert!(resident < target.resident_bytes + (256 << 20));
    drop(waiting);
    target.assert_as_before();
}

#[test]
fn more_connections_than_are_allowed_are_turned_away_and_the_others_served() {
    let target = Target::with(|launch| launch.option("max.connections.per.ip", 20));
    let mut held: Vec<TcpStream> = (0..40).map(|_| target.connect()).collect();
    // All of its places are taken once one was turned away and those before are counted.
    target.broker.wait_for_text("max.connections.per.ip is reached");
    let (mut turned_away, mut taken_in) = (0, 0);
    while turned_away < 10 {
        let mut stream = target.connect();
        let _ = stream.write_all(&request(ApiKey::ApiVersions as i16, 0, &[]));
        match stream.read(&mut [0; 1]) {
            // A connection of the time before had ended, and is counted no more only now: this one has its place, and keeps it.
            Ok(1) => {
                taken_in += 1;
                assert!(taken_in <= 20, "more than there are places");
                held.push(stream);
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("one too many: neither served nor turned away in {PATIENCE:?}")
            }
            _ => turned_away += 1,
        }
    }
    drop(held);
    // It learns of their ends one by one.
    let deadline = Instant::now() + PATIENCE;
    while block_on(traffic::try_connect(target.port())).is_err() {
        assert!(Instant::now() < deadline, "nobody is let in any more");
    }
    target.assert_as_before();
}
