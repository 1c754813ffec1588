//! Seals: what is written into Redis, readable only with a key of `store.key_file`.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::rand;

use crate::store::codec::Fields;
use crate::store::key_file::StoreKeys;
use crate::store::seal::{KeyId, RunId, RunKey};

/// The kind of a sealed text. It opens as no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Names = 1,
    Record = 2,
    Event = 3,
}

/// The version, the id of the master key, the run and the counter come before the sealed text.
const VERSION: u8 = 1;
const HEADER: usize = 1 + size_of::<KeyId>() + size_of::<RunId>() + 8;

/// Seals with the first key and opens with both. The process is one run.
pub struct Sealer {
    keys: StoreKeys,
    run: RunId,
    key: RunKey,
    next: AtomicU64,
}

impl Sealer {
    /// Draws a run; `None` if the system has no randomness.
    pub fn new(keys: StoreKeys) -> Option<Self> {
        let mut run = RunId::default();
        rand::fill(&mut run).ok()?;
        let key = keys.first().of_run(&run);
        Some(Self { keys, run, key, next: AtomicU64::new(0) })
    }

    /// The number of this process.
    pub const fn run(&self) -> &RunId {
        &self.run
    }

    /// Seals a text. It opens only with the same kind and place.
    pub fn seal(&self, kind: Kind, place: &[u8], text: &[u8]) -> Vec<u8> {
        let counter = self.next.fetch_add(1, Ordering::Relaxed);
        let mut sealed = Vec::with_capacity(HEADER + text.len() + RunKey::OVERHEAD);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.keys.first().id());
        sealed.extend_from_slice(&self.run);
        sealed.extend_from_slice(&counter.to_be_bytes());
        let associated = associated(&sealed, kind, place);
        sealed.extend_from_slice(text);
        self.key.seal(counter, &associated, &mut sealed, HEADER);
        sealed
    }

    /// Opens what any process sealed with one of the keys; `None` if it is nothing of the kind, or of another place.
    pub fn open(&self, kind: Kind, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (header, text) = sealed.split_at_checked(HEADER)?;
        let mut fields = Fields(header);
        let (version, id, run) = (fields.u8()?, fields.array()?, fields.array()?);
        let key = self.keys.by_id(id).filter(|_| version == VERSION)?;
        let mut text = text.to_vec();
        let opened = key.of_run(&run).open(fields.u64()?, &associated(header, kind, place), &mut text)?.len();
        text.truncate(opened);
        Some(text)
    }

    /// Whether this was sealed with the first key.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.get(1..).is_some_and(|rest| rest.starts_with(&self.keys.first().id()))
    }
}

fn associated(header: &[u8], kind: Kind, place: &[u8]) -> Vec<u8> {
    [header, &[kind as u8], place].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(lines: &[u8]) -> Sealer {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let keys: Vec<_> = lines.iter().map(|byte| hex::encode([*byte; 32])).collect();
        std::fs::write(file.path(), keys.join("\n")).expect("written");
        Sealer::new(StoreKeys::read(file.path()).expect("keys")).expect("randomness")
    }

    #[test]
    fn sealed_text_opens_only_as_its_kind_in_its_place() {
        let one = sealer(&[1]);
        let sealed = one.seal(Kind::Record, b"place", b"text");
        assert_eq!(sealer(&[1]).open(Kind::Record, b"place", &sealed), Some(b"text".to_vec()), "in another process");
        assert_eq!(one.open(Kind::Event, b"place", &sealed), None);
        assert_eq!(one.open(Kind::Record, b"other", &sealed), None);
        assert_eq!(sealer(&[2]).open(Kind::Record, b"place", &sealed), None);
        for end in 0..sealed.len() {
            assert_eq!(one.open(Kind::Record, b"place", &sealed[..end]), None, "{end}");
        }
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(one.open(Kind::Record, b"place", &changed), None, "bit {bit}");
        }
    }

    #[test]
    fn both_keys_open_and_the_first_one_seals() {
        let (old, both, new) = (sealer(&[1]), sealer(&[2, 1]), sealer(&[2]));
        let sealed = old.seal(Kind::Names, b"", b"text");
        assert_eq!(both.open(Kind::Names, b"", &sealed), Some(b"text".to_vec()));
        assert!(old.is_current(&sealed) && !both.is_current(&sealed));
        let again = both.seal(Kind::Names, b"", b"text");
        assert!(both.is_current(&again) && new.open(Kind::Names, b"", &again).is_some());
    }

    #[test]
    fn no_two_texts_are_sealed_alike() {
        let sealer = sealer(&[1]);
        assert_ne!(sealer.seal(Kind::Event, b"", b"text"), sealer.seal(Kind::Event, b"", b"text"));
    }
}
