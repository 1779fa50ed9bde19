//! Frames between members that have greeted each other: each carries a code that nobody else can make, over its number and its bytes, so that what
//! was changed, left out, repeated or put in another order on its way is seen at once.
//!
//! The code is the first 16 bytes of an HMAC-SHA-256 under a key of that connection and direction alone. It follows the frame.

use std::io;

use bytes::BytesMut;
use hmac::{Hmac, Mac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::peer::{self, PEER_FORMAT};
use crate::codec::{self, EncodeError};

/// The length of a frame's code in bytes.
pub const SEAL_BYTES: usize = 16;

/// The key of one direction of one connection.
pub struct SealKey(Hmac<Sha256>);

impl SealKey {
    /// From a secret that both sides have.
    pub(super) fn new(key: &[u8]) -> Self {
        Self(<Hmac<Sha256> as Mac>::new_from_slice(key).expect("a key may have any length"))
    }

    fn code(&self, number: u64, frame: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&number.to_be_bytes());
        mac.update(frame);
        mac
    }
}

/// The sending side.
pub struct Sealer {
    key: SealKey,
    next: u64,
}

impl Sealer {
    pub(super) fn new(key: SealKey) -> Self {
        Self { key, next: 0 }
    }

    /// Appends a sealed frame to `to`. It must be sent, and before any later one.
    ///
    /// # Errors
    /// [`EncodeError`]; `to` is as before then.
    pub fn seal<T: Serialize>(&mut self, to: &mut BytesMut, kind: u8, value: &T) -> Result<(), EncodeError> {
        let start = to.len();
        codec::write_frame(to, PEER_FORMAT, kind, value)?;
        let code = self.key.code(self.next, &to[start..]).finalize().into_bytes();
        to.extend_from_slice(&code[..SEAL_BYTES]);
        self.next += 1;
        Ok(())
    }

    /// Seals one frame and writes it.
    ///
    /// # Errors
    /// The connection's.
    pub async fn write<W: AsyncWrite + Unpin, T: Serialize>(&mut self, write: &mut W, kind: u8, value: &T) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        self.seal(&mut bytes, kind, value).map_err(|error| peer::invalid(error.to_string()))?;
        write.write_all(&bytes).await
    }
}

/// The receiving side.
pub struct Opener {
    key: SealKey,
    next: u64,
}

impl Opener {
    pub(super) fn new(key: SealKey) -> Self {
        Self { key, next: 0 }
    }

    /// Reads the next frame, which must be of that kind and have a body of at most `max_bytes`. What comes after an error means nothing.
    ///
    /// # Errors
    /// The connection's; `InvalidData` for anything but what the other side sent next.
    pub async fn read<S: AsyncRead + Unpin, T: DeserializeOwned>(&mut self, read: &mut S, kind: u8, max_bytes: usize) -> io::Result<T> {
        let bytes = peer::read_frame_bytes(read, max_bytes, SEAL_BYTES).await?;
        let frame = bytes.slice(..bytes.len() - SEAL_BYTES);
        let is_right = self.key.code(self.next, &frame).verify_truncated_left(&bytes[frame.len()..]).is_ok();
        if !is_right {
            return Err(peer::invalid("a frame is not what the other member sent next: something on the way between the members changes bytes"));
        }
        self.next += 1;
        let frame = codec::read_frame(&frame).map_err(|error| peer::invalid(error.to_string()))?;
        peer::decode_frame(&frame, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tokio::run;

    const KIND: u8 = 4;

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(SealKey::new(b"a key")), Opener::new(SealKey::new(b"a key")))
    }

    async fn open(opener: &mut Opener, mut bytes: &[u8]) -> io::Result<String> {
        opener.read(&mut bytes, KIND, 1 << 20).await
    }

    #[test]
    fn a_frame_is_taken_once_in_its_turn_and_unchanged() {
        run(1, |_| async {
            let (mut sealer, mut opener) = pair();
            let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
            sealer.seal(&mut first, KIND, &"first").unwrap();
            sealer.seal(&mut second, KIND, &"second").unwrap();
            assert!(open(&mut pair().1, &second).await.is_err(), "out of turn");
            assert_eq!(open(&mut opener, &first).await.unwrap(), "first");
            assert!(open(&mut opener, &first).await.is_err(), "repeated");
            for bit in (0..second.len() * 8).step_by(7) {
                let mut changed = second.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                let (_, mut opener) = pair();
                open(&mut opener, &first).await.unwrap();
                assert!(open(&mut opener, &changed).await.is_err(), "bit {bit}");
            }
            assert_eq!(open(&mut opener, &second).await.unwrap(), "second");
            let mut other = Opener::new(SealKey::new(b"b key"));
            assert!(open(&mut other, &first).await.is_err(), "another key");
        })
        .unwrap();
    }
}
