//! The compression codecs of records, each as Kafka's clients frame it, and none without an output limit: a batch of a megabyte may be a bomb of
//! gigabytes.

use bytes::Bytes;
use std::io::{Read, Write};
use thiserror::Error;

/// A codec, with its number in the attributes of batches and messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// None.
    #[default]
    None = 0,
    /// gzip (RFC 1952), members one after the other.
    Gzip = 1,
    /// Snappy: in blocks under snappy-java's header as Java's client writes it, or raw as librdkafka does.
    Snappy = 2,
    /// The LZ4 frame format, independent blocks.
    Lz4 = 3,
    /// Zstandard (KIP-110).
    Zstd = 4,
}

/// Why records cannot be decompressed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompressionError {
    /// A codec number that Kafka does not have.
    #[error("compression codec {id} is unknown: known are 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd")]
    UnknownCodec {
        /// The number.
        id: u8,
    },
    /// More output than allowed.
    #[error("{compressed_bytes} bytes of {codec} decompress to more than {limit_bytes} bytes")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// What went in.
        compressed_bytes: usize,
        /// What may come out.
        limit_bytes: usize,
    },
    /// Not what the codec writes.
    #[error("damaged {codec} data: {reason}")]
    Damaged {
        /// The codec.
        codec: Codec,
        /// The decoder's words.
        reason: String,
    },
}

impl Codec {
    /// All codecs.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec of a number.
    ///
    /// # Errors
    /// [`CompressionError::UnknownCodec`].
    pub fn from_id(id: u8) -> Result<Self, CompressionError> {
        Self::ALL.get(usize::from(id)).copied().ok_or(CompressionError::UnknownCodec { id })
    }

    /// Its number.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The codec of a name as `compression.type` has it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Its name, as `compression.type` has it for producers (for topics, no compression is called `uncompressed`).
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What snappy-java writes before its blocks: magic, version 1, compatible version 1.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_MAGIC: &[u8] = XERIAL_HEADER.split_at(8).0;
/// snappy-java's block.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// A copy of three bytes makes 64: Snappy cannot compress better than this.
const SNAPPY_MAX_RATIO: usize = 22;
/// The window of zstd's highest level, which is what Kafka's clients accept too (a decoder reserves a window before it has read anything).
const ZSTD_MAX_WINDOW_LOG: u32 = 27;
/// The window that a limit, however low, leaves to zstd: that of level 19.
const ZSTD_MIN_WINDOW_LOG: u32 = 23;

/// Decompresses what [`compress`] or a Kafka client compressed. The output is at most `limit_bytes`; memory beyond it is a block or a window (8 MiB for lz4,
/// up to 128 MiB, untouched unless used, for zstd). [`Codec::None`] returns a slice of the same buffer.
///
/// # Errors
/// [`CompressionError`].
pub fn decompress(codec: Codec, data: &Bytes, limit_bytes: usize) -> Result<Bytes, CompressionError> {
    let input: &[u8] = data;
    let too_large = CompressionError::TooLarge { codec, compressed_bytes: input.len(), limit_bytes };
    match codec {
        Codec::None if input.len() > limit_bytes => Err(too_large),
        Codec::None => Ok(data.clone()),
        Codec::Gzip => read_limited(codec, flate2::bufread::MultiGzDecoder::new(input), input.len(), limit_bytes),
        Codec::Lz4 => read_limited(codec, lz4_flex::frame::FrameDecoder::new(input), input.len(), limit_bytes),
        Codec::Zstd => {
            let damaged = |error: std::io::Error| CompressionError::Damaged { codec, reason: error.to_string() };
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(damaged)?;
            let window_log = limit_bytes.max(1).ilog2() + 1;
            decoder.window_log_max(window_log.clamp(ZSTD_MIN_WINDOW_LOG, ZSTD_MAX_WINDOW_LOG)).map_err(damaged)?;
            read_limited(codec, decoder, input.len(), limit_bytes)
        }
        Codec::Snappy => {
            let mut out = Vec::new();
            if !input.starts_with(XERIAL_MAGIC) {
                snappy_block(input, &mut out, limit_bytes, &too_large)?;
                return Ok(out.into());
            }
            let mut rest = input;
            while !rest.is_empty() {
                // Streams may follow one another, each with its header.
                if rest.starts_with(XERIAL_MAGIC) {
                    rest = rest.get(XERIAL_HEADER.len()..).ok_or_else(|| damaged(codec, "the header is cut off"))?;
                    continue;
                }
                let (length, after) = rest.split_first_chunk().ok_or_else(|| damaged(codec, "a block's length is cut off"))?;
                let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| damaged(codec, "a block's length is negative"))?;
                let (block, after) = after.split_at_checked(length).ok_or_else(|| damaged(codec, "a block is cut off"))?;
                snappy_block(block, &mut out, limit_bytes, &too_large)?;
                rest = after;
            }
            Ok(out.into())
        }
    }
}

fn damaged(codec: Codec, reason: &str) -> CompressionError {
    CompressionError::Damaged { codec, reason: reason.to_owned() }
}

fn read_limited(codec: Codec, reader: impl Read, input_bytes: usize, limit_bytes: usize) -> Result<Bytes, CompressionError> {
    let mut out = Vec::with_capacity(input_bytes.saturating_mul(2).min(limit_bytes));
    let mut reader = reader.take((limit_bytes as u64).saturating_add(1));
    reader.read_to_end(&mut out).map_err(|error| CompressionError::Damaged { codec, reason: error.to_string() })?;
    if out.len() > limit_bytes {
        return Err(CompressionError::TooLarge { codec, compressed_bytes: input_bytes, limit_bytes });
    }
    Ok(out.into())
}

fn snappy_block(block: &[u8], out: &mut Vec<u8>, limit_bytes: usize, too_large: &CompressionError) -> Result<(), CompressionError> {
    let reason = |error: snap::Error| CompressionError::Damaged { codec: Codec::Snappy, reason: error.to_string() };
    let length = snap::raw::decompress_len(block).map_err(reason)?;
    if length > limit_bytes.saturating_sub(out.len()) {
        return Err(too_large.clone());
    }
    // The announced length becomes a capacity only if the block could have it.
    if length > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(damaged(Codec::Snappy, "a block announces more than it can hold"));
    }
    let start = out.len();
    out.resize(start + length, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(reason)?;
    out.truncate(start + written);
    Ok(())
}

/// Compresses as Kafka's Java client does. `level` is the codec's own (`compression.gzip.level`, `compression.zstd.level`, KIP-390), clamped to what it has;
/// snappy has none, and lz4 is always its fast level.
///
/// # Panics
/// If memory for it cannot be had.
pub fn compress(codec: Codec, level: Option<i32>, data: &[u8]) -> Bytes {
    const WRITES: &str = "a write into memory succeeds";
    match codec {
        Codec::None => Bytes::copy_from_slice(data),
        Codec::Gzip => {
            let level = level.filter(|level| *level >= 0).map_or(flate2::Compression::default(), |level| flate2::Compression::new(level.min(9) as u32));
            let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(data.len() / 2 + 32), level);
            encoder.write_all(data).expect(WRITES);
            encoder.finish().expect(WRITES).into()
        }
        Codec::Snappy => {
            let mut out = Vec::with_capacity(XERIAL_HEADER.len() + snap::raw::max_compress_len(data.len().min(XERIAL_BLOCK_BYTES)) + 4);
            out.extend_from_slice(&XERIAL_HEADER);
            let mut encoder = snap::raw::Encoder::new();
            for block in data.chunks(XERIAL_BLOCK_BYTES) {
                let start = out.len() + 4;
                out.resize(start + snap::raw::max_compress_len(block.len()), 0);
                let written = encoder.compress(block, &mut out[start..]).expect("the output has room for the worst case");
                out.truncate(start + written);
                out[start - 4..start].copy_from_slice(&(written as i32).to_be_bytes());
            }
            out.into()
        }
        Codec::Lz4 => {
            // What Kafka's own reader takes: independent blocks, of 64 KiB, no content size or checksum.
            let info = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Independent).block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::with_capacity(data.len() / 2 + 32));
            encoder.write_all(data).expect(WRITES);
            encoder.finish().expect(WRITES).into()
        }
        Codec::Zstd => {
            let range = zstd::compression_level_range();
            let level = level.map_or(zstd::DEFAULT_COMPRESSION_LEVEL, |level| level.clamp(*range.start(), *range.end()));
            zstd::bulk::compress(data, level).expect("memory for zstd").into()
        }
    }
}

const LZ4_MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();

/// Clients of before 2016 hashed an LZ4 frame's magic number with its descriptor, so that the header checksum of messages of format v0 is wrong by the
/// standard (KIP-57). Rewrites it: to the standard's, or (`broken`) to what those clients write and check. Data that is no LZ4 frame is left alone, for
/// the decoder to refuse.
pub fn fix_lz4_header_checksum(data: &mut [u8], broken: bool) {
    const FLAG_CONTENT_SIZE: u8 = 0x08;
    const FLAG_DICTIONARY: u8 = 0x01;
    let Some(flags) = data.get(4).filter(|_| data.starts_with(&LZ4_MAGIC)) else { return };
    let end = 6 + if flags & FLAG_CONTENT_SIZE != 0 { 8 } else { 0 } + if flags & FLAG_DICTIONARY != 0 { 4 } else { 0 };
    if data.len() > end {
        let hashed = if broken { &data[..end] } else { &data[4..end] };
        data[end] = (xxh32(hashed) >> 8) as u8;
    }
}

/// XXH32 with seed 0. The headers that it is for have at most 18 bytes.
fn xxh32(bytes: &[u8]) -> u32 {
    const P1: u32 = 0x9E37_79B1;
    const P2: u32 = 0x85EB_CA77;
    const P3: u32 = 0xC2B2_AE3D;
    const P4: u32 = 0x27D4_EB2F;
    const P5: u32 = 0x1656_67B1;
    let (stripes, rest) = bytes.as_chunks::<16>();
    let mut hash = if stripes.is_empty() {
        P5
    } else {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0u32.wrapping_sub(P1)];
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<4>().0) {
                *lane = lane.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(P2)).rotate_left(13).wrapping_mul(P1);
            }
        }
        lanes.iter().zip([1, 7, 12, 18]).fold(0u32, |sum, (lane, bits)| sum.wrapping_add(lane.rotate_left(bits)))
    };
    hash = hash.wrapping_add(bytes.len() as u32);
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        hash = hash.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(P3)).rotate_left(17).wrapping_mul(P4);
    }
    for byte in rest {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 13)).wrapping_mul(P3);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// Something that compresses, but not to nothing.
    fn data() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(any::<u8>(), 0..2000), (vec(any::<u8>(), 1..50), 1..4000usize).prop_map(|(piece, times)| piece.repeat(times))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_codec_goes_round_up_to_the_limit_and_no_further(data in data(), codec in prop::sample::select(&Codec::ALL[..])) {
            let compressed = compress(codec, None, &data);
            prop_assert_eq!(&decompress(codec, &compressed, data.len()).unwrap()[..], &data[..]);
            if !data.is_empty() {
                let error = decompress(codec, &compressed, data.len() - 1).unwrap_err();
                prop_assert!(matches!(error, CompressionError::TooLarge { .. }), "{error}");
            }
        }

        #[test]
        fn damage_is_an_error_or_other_bytes_but_no_panic(
            data in data(),
            codec in prop::sample::select(&Codec::ALL[1..]),
            at: prop::sample::Index,
            byte: u8,
            cut: prop::sample::Index,
        ) {
            let mut compressed = compress(codec, None, &data).to_vec();
            let at = at.index(compressed.len());
            compressed[at] = byte;
            let _ = decompress(codec, &compressed.clone().into(), 1 << 20);
            compressed.truncate(cut.index(compressed.len()));
            let _ = decompress(codec, &compressed.into(), 1 << 20);
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 64 << 20];
        for codec in &Codec::ALL[1..] {
            let bomb = compress(*codec, None, &zeros);
            let error = decompress(*codec, &bomb, 1 << 20).unwrap_err();
            assert!(matches!(error, CompressionError::TooLarge { limit_bytes: 1_048_576, .. }), "{error}");
        }
        // A raw snappy block that says it is 4 GiB long.
        let announced = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]);
        assert!(decompress(Codec::Snappy, &announced, usize::MAX).is_err());
    }

    #[test]
    fn snappy_is_read_raw_and_in_streams_one_after_the_other() {
        let raw = Bytes::from(snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap());
        assert_eq!(&decompress(Codec::Snappy, &raw, 100).unwrap()[..], b"hello hello hello");
        let twice = [compress(Codec::Snappy, None, b"one "), compress(Codec::Snappy, None, b"two")].concat();
        assert_eq!(&decompress(Codec::Snappy, &twice.into(), 100).unwrap()[..], b"one two");
    }

    #[test]
    fn levels_are_clamped() {
        let data = b"abcdefgh".repeat(1000);
        for codec in Codec::ALL {
            for level in [None, Some(i32::MIN), Some(-1), Some(1), Some(9), Some(i32::MAX)] {
                let compressed = compress(codec, level, &data);
                assert_eq!(decompress(codec, &compressed, data.len()).unwrap(), data, "{codec} {level:?}");
            }
        }
    }

    /// Known answers of xxHash with seed 0, from its specification's reference tool.
    #[test]
    fn xxh32_has_its_known_answers() {
        assert_eq!(xxh32(b""), 0x02CC_5D05);
        assert_eq!(xxh32(b"a"), 0x550D_7456);
        assert_eq!(xxh32(b"abc"), 0x32D1_53FF);
        assert_eq!(xxh32(b"Nobody inspects the spammish repetition"), 0xE229_3B2F);
    }

    #[test]
    fn lz4_header_checksums_are_broken_and_mended() {
        let good = compress(Codec::Lz4, None, b"some data, some data").to_vec();
        let mut data = good.clone();
        fix_lz4_header_checksum(&mut data, true);
        assert_ne!(data, good);
        assert!(decompress(Codec::Lz4, &data.clone().into(), 100).is_err());
        fix_lz4_header_checksum(&mut data, false);
        assert_eq!(data, good);
        fix_lz4_header_checksum(&mut data[..6], false);
        assert_eq!(data, good);
    }
}
