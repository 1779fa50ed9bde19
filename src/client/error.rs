//! What can go wrong between a client and its brokers. The one question that matters after an error is whether the broker may have
//! done what was asked; [`ClientError::maybe_executed`] answers it.

use std::io;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use thiserror::Error;

use crate::runtime::HostPort;

/// Why a request has no good answer. Cheap to clone: the error that closes a connection is that of every request on it.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// No connection could be made. Nothing was asked.
    #[error("{}", connect_text(peer, source))]
    Connect {
        /// The broker.
        peer: HostPort,
        /// Why.
        source: Arc<io::Error>,
    },
    /// No connection was made in time. Nothing was asked.
    #[error("cannot connect to {peer}: no answer in {after_ms} ms")]
    ConnectTimedOut {
        /// The broker.
        peer: HostPort,
        /// How long it was tried.
        after_ms: u64,
    },
    /// The connection was gone before the request was handed to it. Nothing was asked.
    #[error("the connection to {peer} is closed: {why}")]
    Closed {
        /// The broker.
        peer: HostPort,
        /// Why it closed.
        why: Arc<str>,
    },
    /// The connection was lost while the request was on its way or being worked on.
    #[error("the connection to {peer} was lost before {api} was answered: {why}")]
    Lost {
        /// The broker.
        peer: HostPort,
        /// The request's name.
        api: &'static str,
        /// Why it was lost.
        why: Arc<str>,
    },
    /// No answer came in time. The connection is closed then, since answers come in order.
    #[error("{peer} did not answer {api} in {after_ms} ms")]
    TimedOut {
        /// The broker.
        peer: HostPort,
        /// The request's name.
        api: &'static str,
        /// How long it was waited for.
        after_ms: u64,
    },
    /// The answer is not what the protocol says.
    #[error("{peer} answered {api} with bytes that are no such answer: {what}")]
    Malformed {
        /// The broker.
        peer: HostPort,
        /// The request's name.
        api: &'static str,
        /// What is wrong.
        what: Arc<str>,
    },
    /// Broker and client have no version of this request in common, or the request cannot be written. Nothing was asked.
    #[error("{peer} cannot be asked {api}: {what}")]
    Unsupported {
        /// The broker.
        peer: HostPort,
        /// The request's name.
        api: &'static str,
        /// Why.
        what: Arc<str>,
    },
    /// The broker answered with an error code.
    #[error("{what}: {}", broker_text(*code, message.as_deref()))]
    Broker {
        /// The code.
        code: ResponseError,
        /// What was asked, of what.
        what: Arc<str>,
        /// The broker's own words, if it sent any.
        message: Option<Arc<str>>,
    },
    /// The cluster does not know the topic or partition, or it has no leader now.
    #[error("{what}")]
    Unavailable {
        /// What is not there.
        what: Arc<str>,
    },
    /// It was not done within the time that the caller gave it, and `last` was the reason.
    #[error("{what} was not done in {after_ms} ms; last: {last}")]
    DeadlinePassed {
        /// What was to be done.
        what: Arc<str>,
        /// The time it had.
        after_ms: u64,
        /// The last error.
        last: Box<ClientError>,
    },
    /// The producer or consumer was dropped or closed.
    #[error("the {what} was closed")]
    Dropped {
        /// Which.
        what: &'static str,
    },
    /// The caller asks for something that makes no sense.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: Arc<str>,
    },
    /// A record batch in an answer cannot be read.
    #[error("the records of {partition} at offset {offset} cannot be read: {what}")]
    BadRecords {
        /// The partition, `topic-0`.
        partition: Arc<str>,
        /// The offset that was asked for.
        offset: i64,
        /// What is wrong.
        what: Arc<str>,
    },
}

/// The production runtime's errors name the address already.
fn connect_text(peer: &HostPort, source: &io::Error) -> String {
    let source = source.to_string();
    if source.starts_with("cannot connect") { source } else { format!("cannot connect to {peer}: {source}") }
}

fn broker_text(code: ResponseError, message: Option<&str>) -> String {
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{message} ({})", kafka_name(code)),
        None => format!("{} ({})", code.to_string().trim_end_matches('.'), kafka_name(code)),
    }
}

/// A code's name as Kafka writes it: `NOT_LEADER_OR_FOLLOWER`.
pub fn kafka_name(code: ResponseError) -> String {
    if let ResponseError::Unknown(code) = code {
        return format!("error code {code}");
    }
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

impl ClientError {
    /// The error of a code that an answer carries; `Ok` for 0.
    ///
    /// # Errors
    /// [`ClientError::Broker`] for every other code.
    pub fn check(code: i16, message: Option<&str>, what: impl FnOnce() -> String) -> Result<(), Self> {
        match ResponseError::try_from_code(code) {
            None => Ok(()),
            Some(code) => Err(Self::Broker { code, what: what().into(), message: message.map(Arc::from) }),
        }
    }

    /// Whether the broker may have done what was asked although there is no good answer. `false` is a promise that it has not.
    pub fn maybe_executed(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimedOut { .. } | Self::Closed { .. } | Self::Unsupported { .. } | Self::Unavailable { .. } => false,
            Self::Invalid { .. } => false,
            Self::Lost { .. } | Self::TimedOut { .. } | Self::Malformed { .. } | Self::Dropped { .. } | Self::BadRecords { .. } => true,
            Self::Broker { code, .. } => code_maybe_executed(*code),
            Self::DeadlinePassed { last, .. } => last.maybe_executed(),
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimedOut { .. } | Self::Closed { .. } | Self::Lost { .. } | Self::TimedOut { .. } => true,
            Self::Unavailable { .. } => true,
            Self::Broker { code, .. } => code.is_retriable(),
            Self::Malformed { .. } | Self::Unsupported { .. } | Self::DeadlinePassed { .. } | Self::Dropped { .. } | Self::Invalid { .. } => false,
            Self::BadRecords { .. } => false,
        }
    }

    /// Whether what is known of the cluster's leaders, coordinators and addresses may be out of date.
    pub fn wants_metadata(&self) -> bool {
        match self {
            Self::Broker { code, .. } => matches!(
                code,
                ResponseError::UnknownTopicOrPartition
                    | ResponseError::LeaderNotAvailable
                    | ResponseError::NotLeaderOrFollower
                    | ResponseError::ReplicaNotAvailable
                    | ResponseError::KafkaStorageError
                    | ResponseError::FencedLeaderEpoch
                    | ResponseError::UnknownLeaderEpoch
                    | ResponseError::UnknownTopicId
                    | ResponseError::InconsistentTopicId
                    | ResponseError::NotController
                    | ResponseError::NotCoordinator
                    | ResponseError::CoordinatorNotAvailable
                    | ResponseError::ListenerNotFound
            ),
            _ => self.is_retriable(),
        }
    }

    /// The broker's code, if it answered with one.
    pub fn code(&self) -> Option<ResponseError> {
        match self {
            Self::Broker { code, .. } => Some(*code),
            Self::DeadlinePassed { last, .. } => last.code(),
            _ => None,
        }
    }

    /// Whether no broker could be reached at all.
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimedOut { .. } => true,
            Self::DeadlinePassed { last, .. } => last.is_connect(),
            _ => false,
        }
    }
}

/// Codes after which a record, commit or command may have taken effect all the same. A produce request that waits for replicas can be
/// answered with an error of leadership after its append.
fn code_maybe_executed(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::UnknownServerError
            | ResponseError::RequestTimedOut
            | ResponseError::NetworkException
            | ResponseError::NotEnoughReplicasAfterAppend
            | ResponseError::NotLeaderOrFollower
            | ResponseError::LeaderNotAvailable
            | ResponseError::ReplicaNotAvailable
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::UnknownTopicId
            | ResponseError::KafkaStorageError
            | ResponseError::FencedLeaderEpoch
            | ResponseError::NotCoordinator
            | ResponseError::CoordinatorNotAvailable
            | ResponseError::NotController
            | ResponseError::Unknown(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kafkas_names() {
        assert_eq!(kafka_name(ResponseError::NotLeaderOrFollower), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(kafka_name(ResponseError::Unknown(999)), "error code 999");
        let error = ClientError::check(36, Some("Topic 'a' already exists."), || "topic a".to_owned()).unwrap_err();
        assert_eq!(error.to_string(), "topic a: Topic 'a' already exists. (TOPIC_ALREADY_EXISTS)");
        assert!(ClientError::check(0, None, String::new).is_ok());
    }

    #[test]
    fn an_ambiguous_answer_is_never_a_refusal() {
        let broker = |code| ClientError::Broker { code, what: "".into(), message: None };
        assert!(broker(ResponseError::RequestTimedOut).maybe_executed());
        assert!(!broker(ResponseError::MessageTooLarge).maybe_executed());
        assert!(!broker(ResponseError::NotEnoughReplicas).maybe_executed());
        let deadline = ClientError::DeadlinePassed { what: "".into(), after_ms: 1, last: Box::new(broker(ResponseError::NotLeaderOrFollower)) };
        assert!(deadline.maybe_executed() && !deadline.is_retriable());
    }
}
