//! Jute: ZooKeeper's serialisation. Big-endian integers; a length of 32 bits before buffers, strings and lists, −1 for null.
//!
//! No length from the wire becomes a capacity: it is checked against the bytes that are there.

use bytes::{BufMut, Bytes, BytesMut};

use super::acl::{Acl, Identity};
use super::op::Stat;

/// Why bytes are not the record that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JuteError {
    /// The record ends early.
    #[error("the record ends {missing_bytes} bytes early")]
    Short {
        /// How many bytes are missing, at least.
        missing_bytes: usize,
    },
    /// A length is negative and not −1, or null stands where something must be.
    #[error("the length {length} stands where a value must be")]
    Length {
        /// The length.
        length: i32,
    },
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Text,
    /// A number stands for nothing that is known.
    #[error("{what} {number} is not known")]
    Unknown {
        /// What the number is to be.
        what: &'static str,
        /// The number.
        number: i32,
    },
}

/// Reads a record from its start to its end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Bytes that are left.
    pub fn left_bytes(&self) -> usize {
        self.left.len()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], JuteError> {
        let (taken, left) = self.left.split_at_checked(len).ok_or_else(|| JuteError::Short { missing_bytes: len - self.left.len() })?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], JuteError> {
        self.take(N).map(|bytes| bytes.try_into().expect("as many were taken"))
    }

    /// An `int`.
    ///
    /// # Errors
    /// [`JuteError::Short`].
    pub fn int(&mut self) -> Result<i32, JuteError> {
        self.array().map(i32::from_be_bytes)
    }

    /// A `long`.
    ///
    /// # Errors
    /// [`JuteError::Short`].
    pub fn long(&mut self) -> Result<i64, JuteError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A `boolean`.
    ///
    /// # Errors
    /// [`JuteError::Short`].
    pub fn bool(&mut self) -> Result<bool, JuteError> {
        self.array::<1>().map(|[byte]| byte != 0)
    }

    /// A length; `None` for null.
    fn length(&mut self) -> Result<Option<usize>, JuteError> {
        match self.int()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| JuteError::Length { length }),
        }
    }

    /// A `buffer`; `None` for null.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, JuteError> {
        self.length()?.map(|length| self.take(length)).transpose()
    }

    /// A `ustring`; `None` for null.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn optional_string(&mut self) -> Result<Option<&'a str>, JuteError> {
        self.buffer()?.map(|bytes| std::str::from_utf8(bytes).map_err(|_| JuteError::Text)).transpose()
    }

    /// A `ustring` that is not null.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn string(&mut self) -> Result<&'a str, JuteError> {
        self.optional_string()?.ok_or(JuteError::Length { length: -1 })
    }

    /// A `vector`; null is empty.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, JuteError>) -> Result<Vec<T>, JuteError> {
        let count = self.length()?.unwrap_or(0);
        // Grows with what is really there: an item has at least one byte.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// A `vector<ustring>`.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn strings(&mut self) -> Result<Vec<String>, JuteError> {
        self.list(|reader| reader.string().map(str::to_owned))
    }

    /// A `vector<ACL>`.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn acl(&mut self) -> Result<Vec<Acl>, JuteError> {
        self.list(|reader| {
            let perms = reader.int()?;
            // The scheme `auth` has no id, and there are clients that write null for that.
            let (scheme, id) = (reader.optional_string()?, reader.optional_string()?);
            Ok(Acl { perms, id: Identity::new(scheme.unwrap_or_default(), id.unwrap_or_default()) })
        })
    }

    /// A `Stat`.
    ///
    /// # Errors
    /// [`JuteError::Short`].
    pub fn stat(&mut self) -> Result<Stat, JuteError> {
        Ok(Stat {
            czxid: self.long()?,
            mzxid: self.long()?,
            ctime_ms: self.long()?,
            mtime_ms: self.long()?,
            version: self.int()?,
            cversion: self.int()?,
            aversion: self.int()?,
            ephemeral_owner: self.long()?,
            data_length: self.int()?,
            num_children: self.int()?,
            pzxid: self.long()?,
        })
    }
}

/// Writes records one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: BytesMut,
}

impl Writer {
    /// What was written.
    pub fn finish(self) -> Bytes {
        self.bytes.freeze()
    }

    /// How many bytes were written.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that are encoded already.
    pub fn append(&mut self, encoded: &[u8]) {
        self.bytes.put_slice(encoded);
    }

    /// What was written so far, for whoever sends it; begins anew.
    pub fn take(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }

    /// Writes a frame: the length of what `body` writes, and that.
    pub fn frame(&mut self, body: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.int(0);
        body(self);
        let length = i32::try_from(self.bytes.len() - at - 4).expect("no frame reaches 2 GiB: a tree's content comes in pieces of at most 8 MiB");
        self.bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// An `int`.
    pub fn int(&mut self, value: i32) {
        self.bytes.put_i32(value);
    }

    /// A `long`.
    pub fn long(&mut self, value: i64) {
        self.bytes.put_i64(value);
    }

    /// A `boolean`.
    pub fn bool(&mut self, value: bool) {
        self.bytes.put_u8(value.into());
    }

    /// A length or a count.
    fn length(&mut self, length: usize) {
        self.int(i32::try_from(length).expect("nothing that is stored reaches 2 GiB"));
    }

    /// A `buffer`.
    pub fn buffer(&mut self, value: &[u8]) {
        self.length(value.len());
        self.bytes.put_slice(value);
    }

    /// A `buffer`, or null.
    pub fn optional_buffer(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.buffer(value),
            None => self.int(-1),
        }
    }

    /// A `ustring`.
    pub fn string(&mut self, value: &str) {
        self.buffer(value.as_bytes());
    }

    /// A `vector<ustring>`.
    pub fn strings<'s>(&mut self, values: impl ExactSizeIterator<Item = &'s str>) {
        self.length(values.len());
        values.for_each(|value| self.string(value));
    }

    /// A `vector<ACL>`.
    pub fn acl(&mut self, acl: &[Acl]) {
        self.length(acl.len());
        for entry in acl {
            self.int(entry.perms);
            self.string(&entry.id.scheme);
            self.string(&entry.id.id);
        }
    }

    /// A `Stat`.
    pub fn stat(&mut self, stat: &Stat) {
        self.long(stat.czxid);
        self.long(stat.mzxid);
        self.long(stat.ctime_ms);
        self.long(stat.mtime_ms);
        self.int(stat.version);
        self.int(stat.cversion);
        self.int(stat.aversion);
        self.long(stat.ephemeral_owner);
        self.int(stat.data_length);
        self.int(stat.num_children);
        self.long(stat.pzxid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_lengths_are_refused_and_allocate_nothing() {
        let huge = [0x7f, 0xff, 0xff, 0xff, 0, 0];
        assert_eq!(Reader::new(&huge).buffer(), Err(JuteError::Short { missing_bytes: 0x7fff_ffff - 2 }));
        assert!(matches!(Reader::new(&huge).strings(), Err(JuteError::Short { .. })));
        assert!(matches!(Reader::new(&huge).acl(), Err(JuteError::Short { .. })));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xfe]).buffer(), Err(JuteError::Length { length: -2 }));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff]).buffer(), Ok(None));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff]).string(), Err(JuteError::Length { length: -1 }));
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0xff]).string(), Err(JuteError::Text));
    }

    #[test]
    fn golden_bytes() {
        let mut writer = Writer::default();
        writer.frame(|body| {
            body.string("/a");
            body.bool(true);
            body.acl(&[Acl::open()]);
        });
        let expected = b"\0\0\0\0\0\0\0\x02/a\x01\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";
        let mut expected = expected.to_vec();
        expected[3] = (expected.len() - 4) as u8;
        assert_eq!(writer.finish(), expected);
    }

    proptest! {
        #[test]
        fn records_round_trip(texts: Vec<String>, data: Vec<u8>, numbers: (i32, i64, bool)) {
            let stat = Stat { czxid: numbers.1, cversion: numbers.0, pzxid: !numbers.1, ..Stat::default() };
            let acl = [Acl::new(numbers.0, "digest", "a:b")];
            let mut writer = Writer::default();
            writer.strings(texts.iter().map(String::as_str));
            writer.buffer(&data);
            writer.stat(&stat);
            writer.acl(&acl);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.strings().unwrap(), texts);
            prop_assert_eq!(reader.buffer().unwrap().unwrap(), &data);
            prop_assert_eq!(reader.stat().unwrap(), stat);
            prop_assert_eq!(reader.acl().unwrap(), acl);
            prop_assert_eq!(reader.left_bytes(), 0);
        }
    }
}
