//! The mesh that a verb speaks about: in this home, or in a file.

use super::args::Where;
use super::names::hex;
use crate::error::{Failure, Kind, Outcome};
use crate::home::Home;
use crate::ledger;
use crate::mesh::MeshHome;
use quorate_core::governance::{
    BadParcel, Entry, LinkId, Parcel, Proposal, Record, RecordId, Refusal, Replica, Request,
    Standing, Wish,
};
use quorate_core::ids::NetworkId;
use quorate_core::limits::LEDGER_BYTES_MAX;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Home,
    File,
}

pub(super) struct Mesh {
    pub(super) replica: Replica,
    pub(super) place: Place,
    /// Of a file: what it holds and nobody can use, and what it lacks.
    pub(super) unused: Vec<(RecordId, Refusal)>,
    pub(super) missing: usize,
}

/// Where the home keeps its mesh.
pub(super) fn mesh_dir(home: &Home) -> PathBuf {
    MeshHome::of(home).dir().to_owned()
}

impl Mesh {
    pub(super) fn find(home: &Home, named: &Where) -> Outcome<Mesh> {
        match &named.log {
            Some(path) => Mesh::in_file(path),
            None => Mesh::in_home(home),
        }
    }

    pub(super) fn in_home(home: &Home) -> Outcome<Mesh> {
        let dir = mesh_dir(home);
        let stored = ledger::look(&dir).map_err(|lost| lost.at(dir))?;
        Ok(Mesh {
            replica: stored.replica,
            place: Place::Home,
            unused: stored.idle,
            missing: 0,
        })
    }

    pub(super) fn in_file(path: &Path) -> Outcome<Mesh> {
        let verified = parcel(path)?.verify().ok_or_else(|| {
            let message = format!(
                "{} holds signed records without the genesis of their mesh: every signature fits, and what they amount to is not said",
                path.display()
            );
            Failure::new(Kind::Failed, message)
                .hint("take them into a mesh: quorate gov import FILE; for strangers: quorate gov export --out FILE")
        })?;
        Ok(Mesh {
            place: Place::File,
            unused: verified.unused,
            missing: verified.missing.len(),
            replica: verified.replica,
        })
    }

    pub(super) fn standing(&self) -> &Standing {
        self.replica.standing()
    }

    pub(super) fn network(&self) -> NetworkId {
        self.standing().network()
    }

    pub(super) fn request(&self, wish: Wish) -> Request {
        Request {
            network: self.network(),
            epoch: self.standing().electorate().epoch,
            refs: vec![],
            wish,
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.replica
            .records()
            .iter()
            .filter_map(|record| match record {
                Record::Entry(entry) => Some(entry),
                _ => None,
            })
    }

    pub(super) fn open(&self) -> &[(LinkId, Proposal)] {
        self.standing().open()
    }
}

pub(super) fn read(path: &Path, max: u64) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    read.map_err(|error| {
        let failure = Failure::file("read", path, &error);
        if error.kind() == std::io::ErrorKind::NotFound {
            Failure {
                kind: Kind::NotFound,
                ..failure
            }
        } else {
            failure
        }
    })?;
    if bytes.len() as u64 > max {
        let message = format!("{} has more than {max} bytes", path.display());
        return Err(Failure::new(Kind::TooLarge, message));
    }
    Ok(bytes)
}

pub(super) fn parcel(path: &Path) -> Outcome<Parcel> {
    let bytes = read(path, LEDGER_BYTES_MAX)?;
    if Request::decode(&bytes).is_ok() {
        let message = format!("{} is a request: nobody has signed it yet", path.display());
        return Err(Failure::new(Kind::Usage, message)
            .hint(format!("quorate gov sign '{}' --key FILE", path.display())));
    }
    Parcel::decode(&bytes).map_err(|error| not_a_parcel(path, &error))
}

fn not_a_parcel(path: &Path, error: &BadParcel) -> Failure {
    let message = format!("{} does not verify: {error}", path.display());
    Failure::new(Kind::Failed, message).hint("have it sent again, and believe nothing that it says")
}

/// Writes a file that was not there. Nothing that people signed is ever overwritten.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Outcome {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    written.map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            Failure::new(Kind::Taken, format!("{} is there already", path.display()))
                .hint("name another file: --out FILE")
        } else {
            Failure::file("write", path, &error)
        }
    })
}

/// The name of a file that nobody named: its content's.
pub(super) fn named_after(bytes: &[u8], kind: &str, extension: &str) -> PathBuf {
    let hash = blake3::hash(bytes);
    format!("{kind}-{}.{extension}", hex(&hash.as_bytes()[..4])).into()
}
