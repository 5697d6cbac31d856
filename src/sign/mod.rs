//! Vote keys: the only code of this program that signs what people decide. It runs in a command
//! that a person typed, never in a node, and nothing of a node may use it (`tests/tidy.rs`).
//!
//! Beside a key `ada.key` stand
//!
//! ```text
//! ada.key.pub          the public key, in hex: what a genesis names
//! ada.key.memory       what the key has said last in each mesh (`core::governance::Memory`)
//! ada.key.said-MESH    all that it ever signed there, as a parcel that anybody may be given
//! ```
//!
//! What is signed is on disk before it is handed out: first `said`, then the memory. So a crash or
//! a lost file never makes its owner a liar, and never leaves a hole in what others know of him.

mod file;
#[cfg(test)]
mod tests;

use crate::error::{Failure, Kind, Outcome};
use age::secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use ed25519_dalek::{Signer as _, SigningKey};
use quorate_core::governance::{
    Author, Entry, Halt, Memory, Parcel, Record, Request, Revocation, Spoken, Wish, WontSign,
};
use quorate_core::ids::NetworkId;
use quorate_core::limits::{LEDGER_BYTES_MAX, PASSPHRASE_BYTES_MAX, SIGNER_FILE_BYTES_MAX};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const TAG: &[u8] = b"quorate vote key v1\0";
/// Shorter ones are guessed whatever stretches them.
const PASSPHRASE_BYTES_MIN: usize = 8;
/// A file that asks for more than this was not made here: it would take minutes and gigabytes.
const WORK_MAX: u8 = 20;

/// How hard a passphrase is to guess for somebody who has the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// About a second and 256 MiB for each guess.
    Real,
    /// A moment: for keys of tests, which nothing depends on.
    ThrowAway,
}

impl Strength {
    /// The work factor of scrypt, as a power of two.
    fn work(self) -> u8 {
        match self {
            Strength::Real => 18,
            Strength::ThrowAway => 10,
        }
    }
}

/// Wiped when it is dropped, and printed by nothing.
#[derive(Debug)]
pub struct Passphrase(SecretString);

impl Passphrase {
    pub fn new(text: String) -> Outcome<Passphrase> {
        let text = SecretString::from(text);
        let len = text.expose_secret().len();
        if (PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&len) {
            return Ok(Passphrase(text));
        }
        let message = format!(
            "a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes, and this one has {len}"
        );
        Err(Failure::new(Kind::Usage, message)
            .hint("four or five words that nobody would guess are good ones"))
    }
}

/// Makes a key, encrypted by the passphrase, and the files beside it. Never in place of another.
pub fn keygen(path: &Path, passphrase: &Passphrase, strength: Strength) -> Outcome<Author> {
    for suffix in ["", ".pub", ".memory"] {
        let path = beside(path, suffix);
        if path.exists() {
            return Err(
                Failure::new(Kind::Taken, format!("{} is there already", path.display()))
                    .hint("a key is never overwritten: choose another name"),
            );
        }
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)
        .map_err(|error| Failure::new(Kind::Failed, format!("no randomness: {error}")))?;
    let key = SigningKey::from_bytes(&seed);
    let author = key.verifying_key().to_bytes();
    let secret = encrypt(&seed, passphrase, strength)?;
    // The key last: where it is, its memory is.
    file::create(&beside(path, ".memory"), &Memory::default().encode())?;
    file::create(
        &beside(path, ".pub"),
        format!("{}\n", hex(&author)).as_bytes(),
    )?;
    file::create(path, &secret)?;
    Ok(author)
}

fn encrypt(seed: &[u8; 32], passphrase: &Passphrase, strength: Strength) -> Outcome<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Kind::Failed, format!("cannot encrypt the key: {error}"))
    };
    let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(strength.work());
    let recipients = std::iter::once(&recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(|e| failed(&e))?;
    let mut secret = Vec::new();
    let mut writer = encryptor.wrap_output(&mut secret).map_err(|e| failed(&e))?;
    let written = writer.write_all(TAG).and_then(|()| writer.write_all(seed));
    written
        .and_then(|()| writer.finish())
        .map_err(|e| failed(&e))?;
    Ok(secret)
}

/// A key that was unlocked, and what it may still sign. While it is open no other command signs
/// with it.
pub struct Signer {
    key: SigningKey,
    path: PathBuf,
    memory: Memory,
    /// Holds the lock.
    _file: File,
}

impl Signer {
    pub fn open(path: &Path, passphrase: &Passphrase) -> Outcome<Signer> {
        let (file, secret) = file::open_secret(path)?;
        let key = decrypt(path, &secret, passphrase)?;
        let memory = read_memory(path)?;
        let (path, _file) = (path.to_owned(), file);
        Ok(Signer {
            key,
            path,
            memory,
            _file,
        })
    }

    pub fn author(&self) -> Author {
        self.key.verifying_key().to_bytes()
    }

    /// What this key has said last in a mesh.
    pub fn spoken(&self, network: NetworkId) -> Outcome<Spoken> {
        Ok(self.remembered(network)?.1.of(network))
    }

    /// Refuses to go on from a memory that is older than what others have heard from this key: a
    /// copy from a backup would sign a second history.
    pub fn has_heard<'a>(
        &self,
        network: NetworkId,
        said: impl Iterator<Item = &'a Entry>,
    ) -> Outcome {
        let Spoken { seq, head, .. } = self.spoken(network)?;
        let mine = self.author();
        for entry in said.filter(|entry| entry.draft().author == mine) {
            let later = entry.draft().seq >= seq;
            let other = entry.draft().seq + 1 == seq && entry.id() != head;
            if later || other {
                let message = format!(
                    "the memory of {} is older than what this key has said in the mesh: going on from it would prove its owner a liar",
                    self.path.display()
                );
                return Err(Failure::new(Kind::Failed, message).hint(
                    "sign with the copy of the key that was used last, with its .memory and .said files",
                ));
            }
        }
        Ok(())
    }

    /// Signs what a request asks for. When this returns, the key will never sign against it.
    pub fn sign(&mut self, request: &Request, now_s: u64) -> Outcome<Vec<Record>> {
        let (mut said, mut memory) = self.remembered(request.network)?;
        let author = self.author();
        let mut signed = Vec::new();
        match &request.wish {
            Wish::Halt { reason } => signed.push(self.halt(request.network, reason, now_s)?),
            Wish::Revoke(target) => {
                let mut revocation = Revocation {
                    network: request.network,
                    author,
                    target: *target,
                    signature: [0; 64],
                };
                revocation.signature = self.key.sign(&revocation.body()).to_bytes();
                signed.push(Record::Revocation(revocation));
            }
            Wish::Propose(_) | Wish::Vote { .. } | Wish::Lower(_) => {
                for body in memory.bodies(request).map_err(refused)? {
                    let draft = memory.draft(author, request, body, now_s);
                    let signature = self.key.sign(&draft.bytes()).to_bytes();
                    let entry = draft.signed(signature).map_err(|error| {
                        let message =
                            format!("the request makes no entry that others would take: {error}");
                        Failure::new(Kind::Failed, message).hint(
                            "is this machine's clock right? Otherwise have the request made anew",
                        )
                    })?;
                    memory = memory.after(&entry).map_err(refused)?;
                    signed.push(Record::Entry(entry));
                }
            }
        }
        said.records.extend(signed.iter().cloned());
        file::replace(&self.said_file(request.network), &said.encode())?;
        file::replace(&beside(&self.path, ".memory"), &memory.encode())?;
        self.memory = memory;
        Ok(signed)
    }

    fn halt(&self, network: NetworkId, reason: &str, now_s: u64) -> Outcome<Record> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)
            .map_err(|error| Failure::new(Kind::Failed, format!("no randomness: {error}")))?;
        let mut halt = Halt {
            network,
            author: self.author(),
            nonce: u128::from_le_bytes(nonce),
            reason: reason.to_owned(),
            advisory_time: now_s,
            signature: [0; 64],
        };
        halt.signature = self.key.sign(&halt.body()).to_bytes();
        Ok(Record::Halt(halt))
    }

    /// All that was said in a mesh, and the memory with what a crash kept from it.
    fn remembered(&self, network: NetworkId) -> Outcome<(Parcel, Memory)> {
        let path = self.said_file(network);
        let Some(bytes) = file::read(&path, LEDGER_BYTES_MAX)? else {
            let (genesis, records) = (None, vec![]);
            return Ok((
                Parcel {
                    network,
                    genesis,
                    records,
                },
                self.memory.clone(),
            ));
        };
        let said = Parcel::decode(&bytes).map_err(|error| damaged(&path, &error))?;
        let mut memory = self.memory.clone();
        for record in &said.records {
            if let Record::Entry(entry) = record
                && let Ok(next) = memory.after(entry)
            {
                memory = next;
            }
        }
        Ok((said, memory))
    }

    fn said_file(&self, network: NetworkId) -> PathBuf {
        beside(&self.path, &format!(".said-{}", hex(&network.0[..8])))
    }
}

fn decrypt(path: &Path, secret: &[u8], passphrase: &Passphrase) -> Outcome<SigningKey> {
    let no_key = |why: String| {
        let message = format!("{} is no vote key of this program: {why}", path.display());
        Failure::new(Kind::Config, message).hint("make one: quorate gov keygen --out FILE")
    };
    let decryptor = age::Decryptor::new(secret).map_err(|error| no_key(error.to_string()))?;
    if !decryptor.is_scrypt() {
        return Err(no_key("no passphrase opens it".to_owned()));
    }
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(WORK_MAX);
    let identities = std::iter::once(&identity as &dyn age::Identity);
    let mut plain = Zeroizing::new(Vec::with_capacity(TAG.len() + 32));
    let reader = match decryptor.decrypt(identities) {
        Ok(reader) => reader,
        Err(age::DecryptError::DecryptionFailed | age::DecryptError::NoMatchingKeys) => {
            let message = format!("the passphrase does not open {}", path.display());
            return Err(Failure::new(Kind::Usage, message).hint("try again"));
        }
        Err(error) => return Err(no_key(error.to_string())),
    };
    reader
        .take(TAG.len() as u64 + 33)
        .read_to_end(&mut plain)
        .map_err(|error| no_key(error.to_string()))?;
    let seed = plain
        .strip_prefix(TAG)
        .and_then(|seed| seed.try_into().ok());
    let seed: &[u8; 32] = seed.ok_or_else(|| no_key("it holds something else".to_owned()))?;
    Ok(SigningKey::from_bytes(seed))
}

fn read_memory(path: &Path) -> Outcome<Memory> {
    let path = beside(path, ".memory");
    let Some(bytes) = file::read(&path, SIGNER_FILE_BYTES_MAX)? else {
        let message = format!(
            "{} is gone, and without its memory a key could sign two histories",
            path.display()
        );
        return Err(Failure::new(Kind::Config, message)
            .hint("copy it from where this key last signed: the files belong together"));
    };
    Memory::decode(&bytes).map_err(|error| damaged(&path, &error))
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Kind::Config,
        format!(
            "{} cannot be trusted, so nothing is signed: {error}",
            path.display()
        ),
    )
    .hint("copy it from a backup that was made after this key last signed")
}

fn refused(why: WontSign) -> Failure {
    let failure = Failure::new(Kind::Failed, format!("not signed: {why}"));
    match why {
        WontSign::Forks { .. } => failure
            .hint("change your mind in a later round: propose again (quorate gov propose --help)"),
        WontSign::Full | WontSign::Meshes => {
            failure.hint("make a new key, and have people vote it in")
        }
        WontSign::NotNext => failure,
    }
}

/// The file that stands beside a key.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
