//! Who may do what. People sign; a pure fold of all that they signed says how the mesh stands; only
//! the fold mints permits. The model side has no path to signing: nothing here makes a signature.
//!
//! From bytes to rights: [`Record::decode`] verifies one signed thing, [`Records`] is a set of them,
//! [`fold`] says what the set amounts to ([`Standing`]), and [`Rights`] says what a node may do under
//! that. [`Replica`] is one node's set, within bounds; [`Stored`] reads it back from disk, and
//! [`Memory`] says what a key may still sign. The layout of the bytes, the thresholds and
//! what can go wrong: research/decisions/0010-governance-core.md.

#![forbid(unsafe_code)]

mod act;
mod admission;
mod audit;
mod casting;
mod checkpoint;
pub(crate) mod codec;
mod config_chain;
mod entry;
mod feed;
mod fold;
mod genesis;
mod halt;
mod journal;
mod latch;
mod membership;
mod parcel;
mod permit;
mod phase;
mod records;
mod replica;
mod request;
mod revert;
mod running;
mod signer;
mod stored;
mod tier;
mod votes;
pub mod witness;

pub use act::{Act, LinkId, Origin, Proposal};
pub use admission::{Admission, AdmissionId, Admissions, Revocation, Target};
pub use audit::{
    AUDIT_HEAD_BYTES, About, AuditPart, BadTrail, Decision, Line, Noted, Ruling, Trail,
    is_torn as is_torn_line,
};
pub use casting::{Cast, Meant, Miscast, Stage, Tally};
pub use checkpoint::{
    Checkpoint, CheckpointId, Cosignature, Head, Lease, NoLease, Now, Seen, Time,
};
pub use codec::{Author, Malformed};
pub use entry::{Ballot, Body, Choice, Draft, Entry, EntryId};
pub use feed::Fault;
pub use fold::{Accepted, Cause, Snapshot, Standing, Tip, fold};
pub use genesis::{BadGenesis, Genesis, Leases, Preset, PresetRow, Terms};
pub use halt::{Halt, HaltId};
pub use journal::{End, Purpose as JournalPurpose, Scan};
pub use latch::Latch;
pub use membership::{BadMembers, Electorate, Members};
pub use parcel::{BadParcel, Parcel, Verified};
pub use permit::{Experts, Halted, Permit, Purpose, Rights, Tighten};
pub use phase::Phase;
pub use records::{Record, RecordId, Records};
pub use replica::{Refusal, Replica, Taken, TakenAll};
pub use request::{Request, Wish};
pub use revert::Interval;
pub use running::Running;
pub use signer::{Memory, Spoken, WontSign};
pub use stored::{Lost, Stored};
pub use tier::{Action, Lately, Tier, Unfit, patch_tier, tier};
pub use votes::Consent;

#[cfg(test)]
mod acts_tests;
#[cfg(test)]
mod bytes_tests;
#[cfg(test)]
mod cases_tests;
#[cfg(test)]
mod casting_tests;
#[cfg(test)]
mod edges_tests;
#[cfg(test)]
mod fold_tests;
#[cfg(test)]
mod over_tests;
#[cfg(test)]
mod people;
#[cfg(test)]
mod rights_tests;
#[cfg(test)]
mod running_tests;
#[cfg(test)]
mod signer_tests;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod sim_tests;
#[cfg(test)]
mod stored_tests;
#[cfg(test)]
mod tier_tests;
#[cfg(test)]
mod witness_tests;
