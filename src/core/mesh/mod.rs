//! Who is there, who belongs, where they are. Pure: libp2p carries it, `src/net/swarm` signs.
//!
//! An [`Invite`] leads a machine in ([`join`]), [`sync`] carries signed records to those that lack
//! them, an [`Advert`] says what a node serves, and the [`Book`] knows who can be asked now.
//! research/decisions/0008-swarm.md has the protocol.

#![forbid(unsafe_code)]

mod address;
mod advert;
mod book;
mod invite;
pub mod join;
mod pass;
pub mod sync;

pub use address::{Address, Bound, Host, Place, Transport, canonical, is_announced};
pub use advert::{Advert, ExpertRow};
pub use book::{Book, Gone, Input, Moment, Output, Refusal};
pub use invite::{BadInvite, Invite, Nonce};
pub use pass::{BadPass, Pass};

#[cfg(test)]
mod book_tests;
#[cfg(test)]
mod bytes_tests;
#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod machines;
