//! What administrators ask over HTTP, as of ZooKeeper's AdminServer: `GET /commands/<name>` answers JSON with the members `command` and `error`, `GET /commands`
//! links to all of them. There is no encryption and no password: it listens on the loopback interface unless it is told otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};

use super::Inner;
use super::report::{Report, version};
use super::stats::ConnectionStats;
use crate::coordination::tree::Tree;
use crate::runtime::{Listener, Runtime, Stream};

/// How many connections are served at once; more wait.
const CONNECTION_MAX_COUNT: usize = 16;

/// How long a connection may last: a question is asked and answered at once.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// The commands, each with its other names. What needs no leader is marked.
const COMMANDS: &[(&str, &[&str], bool)] = &[
    ("configuration", &["conf", "config"], false),
    ("connection_stat_reset", &["crst"], true),
    ("connections", &["cons"], true),
    ("dirs", &[], true),
    ("dump", &[], true),
    ("environment", &["env", "envi"], false),
    ("get_trace_mask", &["gtmk"], false),
    ("is_read_only", &["isro"], true),
    ("leader", &["lead"], true),
    ("monitor", &["mntr"], false),
    ("observer_connection_stat_reset", &["orst"], true),
    ("observers", &["obsr"], true),
    ("ruok", &[], false),
    ("server_stats", &["srvr"], true),
    ("stat_reset", &["srst"], true),
    ("stats", &["stat"], true),
    ("voting_view", &[], true),
    ("watch_summary", &["wchs"], true),
    ("watches", &["wchc"], true),
    ("watches_by_path", &["wchp"], true),
];

/// Serves one socket until the server stops.
pub(super) async fn serve<R: Runtime>(inner: Arc<Inner<R>>, listener: R::Listener, command_url: Arc<str>) {
    let mut stop = inner.stop.subscribe();
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTION_MAX_COUNT));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let stream: R::Stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "an administrator's connection could not be accepted");
                inner.rt().sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (serving, url) = (Arc::clone(&inner), Arc::clone(&command_url));
        inner.rt().spawn("coordination-admin-connection", async move {
            let mut stop = serving.stop.subscribe();
            let late = serving.rt().sleep(CONNECTION_MAX);
            let (read, write) = stream.into_split();
            let answering = service_fn(|request| {
                let (inner, url) = (Arc::clone(&serving), Arc::clone(&url));
                async move { Ok::<_, Infallible>(answer(&inner, &url, &request).await) }
            });
            // Without keep-alive hyper needs no timer of its own.
            let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(tokio::io::join(read, write)), answering);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                served = connection => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "an administrator's connection ended");
                    }
                }
                () = late => {}
            }
            drop(permit);
        });
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

async fn answer<R: Runtime>(inner: &Inner<R>, command_url: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let base = command_url.trim_end_matches('/');
    let Some(rest) = request.uri().path().strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return response(StatusCode::NOT_FOUND, "text/plain", format!("the commands are at {base}\n"));
    };
    if request.method() != Method::GET {
        return response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered\n".to_owned());
    }
    let name = rest.trim_matches('/');
    if name.is_empty() {
        let links: String = COMMANDS.iter().map(|(name, ..)| format!("<a href=\"{base}/{name}\">{name}</a>\n<br/>\n")).collect();
        return response(StatusCode::OK, "text/html;charset=utf-8", links);
    }
    let json = command(inner, name).await;
    // serde_json writes any value of its own.
    response(StatusCode::OK, "application/json", serde_json::to_string_pretty(&json).unwrap_or_default() + "\n")
}

/// Runs a command. As ZooKeeper, it answers with the status 200 whatever is wrong, and says so in `error`.
async fn command<R: Runtime>(inner: &Inner<R>, name: &str) -> Value {
    let Some((command, _, needs_to_serve)) = COMMANDS.iter().find(|(primary, others, _)| *primary == name || others.contains(&name)) else {
        return json!({ "command": name, "error": format!("Unknown command: {name}") });
    };
    if *needs_to_serve && !inner.coordination.is_serving() {
        return json!({ "command": command, "error": "This ZooKeeper instance is not currently serving requests" });
    }
    let report = Report::new(inner).await;
    let mut out = Map::new();
    out.insert("command".to_owned(), json!(command));
    out.insert("error".to_owned(), Value::Null);
    let values = match *command {
        "configuration" => {
            let snake = report.configuration().into_iter().map(|(name, value)| (snake_case(name), value));
            snake.chain([("membership".to_owned(), json!(report.membership()))]).collect()
        }
        "connection_stat_reset" => {
            inner.connections().iter().for_each(|connection| connection.lock().counts.reset());
            Vec::new()
        }
        "connections" => vec![("connections".to_owned(), connections(inner)), ("secure_connections".to_owned(), json!([]))],
        "dirs" => {
            let (snapshots, logs) = report.directory_bytes().await;
            vec![("datadir_size".to_owned(), json!(snapshots)), ("logdir_size".to_owned(), json!(logs))]
        }
        "dump" => dump(inner),
        "environment" => vec![
            ("zookeeper.version".to_owned(), json!(format!("{}, built on 1970-01-01 00:00 UTC", version()))),
            ("ottla.version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
            ("os.name".to_owned(), json!(std::env::consts::OS)),
            ("os.arch".to_owned(), json!(std::env::consts::ARCH)),
        ],
        "get_trace_mask" => vec![("tracemask".to_owned(), json!(0))],
        "is_read_only" => vec![("read_only".to_owned(), json!(false))],
        "leader" => match report.leader() {
            Some((is_leader, id, address)) => {
                vec![("is_leader".to_owned(), json!(is_leader)), ("leader_id".to_owned(), json!(id)), ("leader_ip".to_owned(), json!(address))]
            }
            None => vec![("error".to_owned(), json!("server is not initialized"))],
        },
        "monitor" => report.monitor().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        // There are none.
        "observers" => vec![("synced_observers".to_owned(), json!(0)), ("observers".to_owned(), json!([]))],
        "server_stats" => stats(inner, &report),
        "stat_reset" => {
            inner.stats.lock().reset();
            Vec::new()
        }
        "stats" => {
            let mut values = stats(inner, &report);
            values.extend([("connections".to_owned(), connections(inner)), ("secure_connections".to_owned(), json!([]))]);
            values
        }
        "voting_view" => vec![("current_config".to_owned(), voting_view(&report))],
        "watch_summary" => {
            let state = inner.coordination.shared.hub.lock();
            let (watchers, paths) = (state.watches.by_watcher(), state.watches.by_path());
            drop(state);
            let total: usize = watchers.values().map(BTreeSet::len).sum();
            vec![
                ("num_connections".to_owned(), json!(watchers.len())),
                ("num_paths".to_owned(), json!(paths.len())),
                ("num_total_watches".to_owned(), json!(total)),
            ]
        }
        "watches" => vec![("session_id_to_watched_paths".to_owned(), watches(inner))],
        "watches_by_path" => vec![("path_to_session_ids".to_owned(), watches_by_path(inner))],
        _ => Vec::new(),
    };
    out.extend(values);
    Value::Object(out)
}

/// `clientPort` as ZooKeeper's JSON has it: `client_port`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

fn connections<R: Runtime>(inner: &Inner<R>) -> Value {
    let one = |connection: &Arc<ConnectionStats>| {
        let known = *connection.lock();
        let counts = known.counts;
        json!({
            "remote_socket_address": connection.peer.to_string(),
            "interest_ops": 1,
            "outstanding_requests": counts.outstanding,
            "packets_received": counts.received,
            "packets_sent": counts.sent,
            "session_id": known.session,
            "session_timeout": known.timeout_ms,
            "established": connection.established_ms,
            "last_cxid": known.last_xid,
            "last_zxid": known.last_zxid,
            "last_response_time": known.last_answer_ms,
            "last_latency": known.last_latency_ms,
            "min_latency": counts.latency_min_ms.unwrap_or(0),
            "avg_latency": counts.latency_mean_ms(),
            "max_latency": counts.latency_max_ms,
        })
    };
    inner.connections().iter().map(one).collect()
}

fn stats<R: Runtime>(inner: &Inner<R>, report: &Report<'_, R>) -> Vec<(String, Value)> {
    let counts = *inner.stats.lock();
    let server_stats = json!({
        "packets_sent": counts.sent,
        "packets_received": counts.received,
        "min_latency": counts.latency_min_ms.unwrap_or(0),
        "avg_latency": counts.latency_mean_ms(),
        "max_latency": counts.latency_max_ms,
        "outstanding_requests": counts.outstanding,
        "last_processed_zxid": inner.coordination.last_zxid(),
        "server_state": report.mode(),
        "num_alive_client_connections": inner.connections().len(),
        "uptime": inner.clock_ms().saturating_sub(inner.since_ms),
        "provider_null": false,
    });
    vec![
        ("version".to_owned(), json!(format!("{}, built on 1970-01-01 00:00 UTC", version()))),
        ("read_only".to_owned(), json!(false)),
        ("server_stats".to_owned(), server_stats),
        ("node_count".to_owned(), json!(inner.coordination.read(Tree::node_count))),
    ]
}

fn dump<R: Runtime>(inner: &Inner<R>) -> Vec<(String, Value)> {
    let (now_ms, wall_ms) = (inner.clock_ms(), inner.rt().unix_ms());
    let deadlines = inner.coordination.shared.hub.lock().sessions.deadlines(now_ms);
    let expiry: Map<String, Value> =
        deadlines.into_iter().map(|(left_ms, sessions)| (wall_ms.saturating_add_unsigned(left_ms).to_string(), json!(sessions))).collect();
    let ephemerals: BTreeMap<String, Vec<String>> = inner.coordination.read(|tree| {
        let owned = |session: i64| tree.ephemerals(session).map(|path| path.to_string()).collect::<Vec<_>>();
        tree.sessions().map(|session| (session.to_string(), owned(session))).filter(|(_, paths)| !paths.is_empty()).collect()
    });
    vec![("expiry_time_to_session_ids".to_owned(), Value::Object(expiry)), ("session_id_to_ephemeral_paths".to_owned(), json!(ephemerals))]
}

fn voting_view<R: Runtime>(report: &Report<'_, R>) -> Value {
    let mut view = Map::new();
    for line in report.membership() {
        let Some((id, server)) = line.strip_prefix("server.").and_then(|line| line.split_once('=')) else { continue };
        let Ok(server) = server.parse::<crate::config::server::ServerAddress>() else { continue };
        let election = crate::runtime::HostPort { host: server.peer.host.clone(), port: server.election_port.unwrap_or(server.peer.port) };
        let client = server.client.map(|client| crate::runtime::HostPort { host: client.host, port: client.port }.to_string());
        view.insert(
            id.to_owned(),
            json!({
                "server_addresses": [server.peer.to_string()],
                "election_addresses": [election.to_string()],
                "client_address": client.unwrap_or_default(),
                "learner_type": "participant",
            }),
        );
    }
    Value::Object(view)
}

fn watches<R: Runtime>(inner: &Inner<R>) -> Value {
    let hub = &inner.coordination.shared.hub;
    let watchers = hub.lock().watches.by_watcher();
    let mut by_session = Map::new();
    for (watcher, paths) in watchers {
        let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
        for session in hub.sessions_of(&BTreeSet::from([watcher])) {
            by_session.insert(session.to_string(), json!(paths));
        }
    }
    Value::Object(by_session)
}

fn watches_by_path<R: Runtime>(inner: &Inner<R>) -> Value {
    let hub = &inner.coordination.shared.hub;
    let paths = hub.lock().watches.by_path();
    paths.into_iter().map(|(path, watchers)| (path.to_string(), json!(hub.sessions_of(&watchers)))).collect::<Map<_, _>>().into()
}
