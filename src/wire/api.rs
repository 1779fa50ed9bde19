//! The one table of the APIs that a broker serves, with their versions: dispatch, ApiVersions and the frame codec all read it. An API
//! is served when its row is here and `broker` has a handler for its [`ApiKey`].
//!
//! The versions are those of Kafka 4.1 (`common/message/*.json` of its clients), unstable ones left out.

use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, ApiVersionsResponse, api_versions_response::ApiVersion},
};

use super::frame::{self, EncodeError};

/// One API.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// Its key, and the tag by which dispatch finds the handler.
    pub key: ApiKey,
    /// Its name, as Kafka writes it in logs and metrics.
    pub name: &'static str,
    /// The first version served.
    pub min_version: i16,
    /// The last version served.
    pub max_version: i16,
    /// The first version that ApiVersions names. Below [`Api::min_version`] only where a client needs to see it.
    pub advertised_min_version: i16,
    /// The first version with tagged fields and compact lengths (KIP-482); `i16::MAX` if there is none.
    pub flexible_version: i16,
}

/// No version is flexible.
const NEVER: i16 = i16::MAX;

const fn api(key: ApiKey, name: &'static str, min_version: i16, max_version: i16, flexible_version: i16) -> Api {
    Api { key, name, min_version, max_version, advertised_min_version: min_version, flexible_version }
}

/// All APIs, in the order of their keys.
pub static APIS: &[Api] = &[
    // librdkafka picks its message format by Produce's advertised first version (KAFKA-18659); versions 0 to 2 are answered with
    // UNSUPPORTED_VERSION by `produce`.
    Api { advertised_min_version: 0, ..api(ApiKey::Produce, "Produce", 3, 13, 9) },
    api(ApiKey::Fetch, "Fetch", 4, 18, 12),
    api(ApiKey::ListOffsets, "ListOffsets", 1, 10, 6),
    api(ApiKey::Metadata, "Metadata", 0, 13, 9),
    // Version 10 of OffsetCommit and of OffsetFetch (topic ids, KIP-848) is unstable in 4.1, and kafka-protocol's structs do not have it.
    api(ApiKey::OffsetCommit, "OffsetCommit", 2, 9, 8),
    api(ApiKey::OffsetFetch, "OffsetFetch", 1, 9, 6),
    api(ApiKey::FindCoordinator, "FindCoordinator", 0, 6, 3),
    api(ApiKey::JoinGroup, "JoinGroup", 0, 9, 6),
    api(ApiKey::Heartbeat, "Heartbeat", 0, 4, 4),
    api(ApiKey::LeaveGroup, "LeaveGroup", 0, 5, 4),
    api(ApiKey::SyncGroup, "SyncGroup", 0, 5, 4),
    api(ApiKey::DescribeGroups, "DescribeGroups", 0, 6, 5),
    api(ApiKey::ListGroups, "ListGroups", 0, 5, 3),
    api(ApiKey::ApiVersions, "ApiVersions", 0, 4, 3),
    api(ApiKey::CreateTopics, "CreateTopics", 2, 7, 5),
    api(ApiKey::DeleteTopics, "DeleteTopics", 1, 6, 4),
    api(ApiKey::DeleteRecords, "DeleteRecords", 0, 2, 2),
    // Version 6 (two-phase commit, KIP-939) is unstable in 4.1.
    api(ApiKey::InitProducerId, "InitProducerId", 0, 5, 2),
    api(ApiKey::OffsetForLeaderEpoch, "OffsetForLeaderEpoch", 2, 4, 4),
    api(ApiKey::DescribeConfigs, "DescribeConfigs", 1, 4, 4),
    api(ApiKey::AlterConfigs, "AlterConfigs", 0, 2, 2),
    api(ApiKey::CreatePartitions, "CreatePartitions", 0, 3, 2),
    api(ApiKey::DeleteGroups, "DeleteGroups", 0, 2, 2),
    api(ApiKey::ElectLeaders, "ElectLeaders", 0, 2, 2),
    api(ApiKey::IncrementalAlterConfigs, "IncrementalAlterConfigs", 0, 1, 1),
    api(ApiKey::AlterPartitionReassignments, "AlterPartitionReassignments", 0, 1, 0),
    api(ApiKey::ListPartitionReassignments, "ListPartitionReassignments", 0, 0, 0),
    api(ApiKey::OffsetDelete, "OffsetDelete", 0, 0, NEVER),
    // Between brokers: Kafka's of ZooKeeper mode advertise it too.
    api(ApiKey::AlterPartition, "AlterPartition", 2, 3, 0),
    api(ApiKey::DescribeCluster, "DescribeCluster", 0, 2, 0),
    api(ApiKey::DescribeProducers, "DescribeProducers", 0, 0, 0),
    api(ApiKey::DescribeTopicPartitions, "DescribeTopicPartitions", 0, 0, 0),
];

/// The row of an API key, `None` if it is not served.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.binary_search_by_key(&key, |api| api.key as i16).ok().map(|index| &APIS[index])
}

impl Api {
    /// Whether requests of this version are handled.
    pub fn serves(&self, version: i16) -> bool {
        (self.min_version..=self.max_version).contains(&version)
    }

    /// Whether this version has tagged fields and compact lengths.
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_version
    }

    /// The version of the header before a request of this version: 1, or 2 with tagged fields.
    pub fn request_header_version(&self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// The version of the header before a response of this version: 0, or 1 with tagged fields. ApiVersions always has 0, because its
    /// client does not yet know what the broker can write (KIP-511).
    pub fn response_header_version(&self, version: i16) -> i16 {
        if self.is_flexible(version) && self.key != ApiKey::ApiVersions { 1 } else { 0 }
    }
}

/// The body of the answer to ApiVersions: every row of the table. There are no features: finalized ones are empty, with epoch −1, and so
/// are supported ones, since a broker with ZooKeeper-style coordination has no `metadata.version` to negotiate.
pub fn api_versions(throttle_time_ms: i32) -> ApiVersionsResponse {
    let api_keys = APIS.iter().map(|api| row(api.key as i16, api.advertised_min_version, api.max_version)).collect();
    ApiVersionsResponse::default().with_api_keys(api_keys).with_throttle_time_ms(throttle_time_ms)
}

/// The whole frame that answers an ApiVersions request of any version. A version that is not served gets the answer that every client can
/// read: version 0, UNSUPPORTED_VERSION, and the versions of ApiVersions itself, with which the client asks again (KIP-511).
///
/// # Errors
/// [`EncodeError`], which means that the table itself cannot be written.
pub fn api_versions_frame(version: i16, correlation_id: i32, throttle_time_ms: i32) -> Result<Bytes, EncodeError> {
    let api = find(ApiKey::ApiVersions as i16).expect("ApiVersions is in the table");
    if api.serves(version) {
        return frame::encode_response(api, version, correlation_id, &api_versions(throttle_time_ms));
    }
    let body = ApiVersionsResponse::default().with_error_code(ResponseError::UnsupportedVersion.code()).with_api_keys(vec![row(
        api.key as i16,
        api.advertised_min_version,
        api.max_version,
    )]);
    frame::encode_response(api, 0, correlation_id, &body)
}

fn row(key: i16, min_version: i16, max_version: i16) -> ApiVersion {
    ApiVersion::default().with_api_key(key).with_min_version(min_version).with_max_version(max_version)
}

/// Whether ApiVersions' client software name or version is one Kafka accepts (KIP-511): letters, digits, `-` and `.`, beginning and ending with a
/// letter or digit. Others are answered INVALID_REQUEST.
pub fn is_valid_client_software(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Decodable;

    #[test]
    fn the_table_is_sorted_and_agrees_with_the_generated_messages() {
        assert!(APIS.is_sorted_by(|a, b| (a.key as i16) < b.key as i16));
        for api in APIS {
            let valid = api.key.valid_versions();
            assert!(api.min_version >= valid.min && api.max_version <= valid.max, "{}", api.name);
            assert_eq!(format!("{:?}", api.key), api.name);
            for version in api.min_version..=api.max_version {
                assert_eq!(api.request_header_version(version), api.key.request_header_version(version), "{} {version}", api.name);
                assert_eq!(api.response_header_version(version), api.key.response_header_version(version), "{} {version}", api.name);
            }
        }
        assert!(find(-1).is_none() && find(4).is_none() && find(i16::MAX).is_none());
    }

    #[test]
    fn api_versions_answers_every_version_in_a_shape_its_client_reads() {
        for version in 0..=4 {
            let mut frame = api_versions_frame(version, 7, 3).unwrap().slice(8..);
            let body = ApiVersionsResponse::decode(&mut frame, version).unwrap();
            assert_eq!((body.error_code, body.api_keys.len(), frame.len()), (0, APIS.len(), 0));
            let produce = &body.api_keys[0];
            assert_eq!((produce.api_key, produce.min_version, produce.max_version), (0, 0, 13));
            assert_eq!(body.finalized_features_epoch, -1);
        }
        let frame = api_versions_frame(99, 7, 0).unwrap();
        assert_eq!(&frame[..], [0, 0, 0, 16, 0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
    }

    #[test]
    fn client_software_names_are_kafkas() {
        for good in ["librdkafka", "apache-kafka-java", "4.1.0", "a", "2.0.0-rc.1"] {
            assert!(is_valid_client_software(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "ö", "a/b"] {
            assert!(!is_valid_client_software(bad), "{bad}");
        }
    }
}
