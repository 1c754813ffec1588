//! Sealing: authenticated encryption of what a store holds.
//!
//! AES-256-GCM allows each pair of key and nonce once. Random nonces would reach their limit of 2^32 in ten
//! days at 5,000 records a second, so each *run* (a file of the disk store) draws a random id, has a key of
//! its own by HKDF (RFC 5869), and counts its nonces.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

/// A key of `store.key_file`. It seals nothing itself: the key of each run is derived from it.
#[derive(Clone)]
pub struct MasterKey {
    id: KeyId,
    prk: Prk,
}

/// Tells the keys of a key file apart; reveals nothing of the key.
pub type KeyId = [u8; 8];

/// The random number of a run.
pub type RunId = [u8; 16];

impl MasterKey {
    /// The length of a key, in bytes.
    pub const LEN: usize = 32;

    pub(super) fn new(key: &[u8]) -> Self {
        let prk = Salt::new(HKDF_SHA256, b"courier-token-broker store 1").extract(key);
        let mut okm = [0; 32];
        prk.expand(&[b"key id"], HKDF_SHA256).and_then(|okm_of| okm_of.fill(&mut okm)).expect("the length is allowed");
        let [a, b, c, d, e, f, g, h, ..] = okm;
        Self { id: [a, b, c, d, e, f, g, h], prk }
    }

    pub(super) const fn id(&self) -> KeyId {
        self.id
    }

    /// The key of a run.
    pub(super) fn of_run(&self, run: &RunId) -> RunKey {
        let info: [&[u8]; 2] = [b"run", run];
        let key = self.prk.expand(&info, &AES_256_GCM).expect("the length is allowed");
        RunKey(LessSafeKey::new(UnboundKey::from(key)))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("MasterKey")
    }
}

/// The key of one run.
pub(super) struct RunKey(LessSafeKey);

impl RunKey {
    /// How many bytes sealing adds.
    pub const OVERHEAD: usize = 16;

    /// Seals `buffer` from `start` to its end in place. No two calls may have the same counter.
    pub fn seal(&self, counter: u64, associated: &[u8], buffer: &mut Vec<u8>, start: usize) {
        let tag = self.0.seal_in_place_separate_tag(nonce(counter), Aad::from(associated), &mut buffer[start..]);
        buffer.extend_from_slice(tag.expect("the text is shorter than 64 GiB").as_ref());
    }

    /// Opens what was sealed with this counter and associated data; `None` if anything was changed.
    pub fn open<'a>(&self, counter: u64, associated: &[u8], sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        self.0.open_in_place(nonce(counter), Aad::from(associated), sealed).ok().map(|text| &*text)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (MasterKey, Vec<u8>) {
        let master = MasterKey::new(&[7; 32]);
        let mut buffer = b"before:text".to_vec();
        master.of_run(&[1; 16]).seal(5, b"header", &mut buffer, 7);
        let sealed = buffer.split_off(7);
        assert_eq!((buffer.as_slice(), sealed.len()), (&b"before:"[..], 4 + RunKey::OVERHEAD));
        (master, sealed)
    }

    #[test]
    fn sealed_text_opens_only_with_its_key_run_counter_and_associated_data() {
        let (master, sealed) = sealed();
        let open = |master: &MasterKey, run: u8, counter, associated: &[u8]| {
            master.of_run(&[run; 16]).open(counter, associated, &mut sealed.clone()).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&master, 1, 5, b"header"), Some(b"text".to_vec()));
        assert_eq!(open(&MasterKey::new(&[8; 32]), 1, 5, b"header"), None);
        assert_eq!(open(&master, 2, 5, b"header"), None);
        assert_eq!(open(&master, 1, 6, b"header"), None);
        assert_eq!(open(&master, 1, 5, b"other"), None);
    }

    #[test]
    fn sealed_text_with_a_flipped_bit_does_not_open() {
        let (master, sealed) = sealed();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(master.of_run(&[1; 16]).open(5, b"header", &mut changed), None, "bit {bit}");
        }
        assert_eq!(master.of_run(&[1; 16]).open(5, b"header", &mut []), None, "shorter than the tag");
    }
}
