//! `quorate gov`: people govern a mesh. Reads the mesh of this home or an exported file, writes what
//! is carried by hand, and signs where the key is.

mod acts;
pub(super) mod args;
pub(super) mod audit;
mod carry;
mod drill;
mod follow;
mod hand;
mod home;
mod mesh;
mod names;
mod policy;
mod read;
mod render;

use super::context::Context;
use crate::error::Outcome;
use args::Gov;
use quorate_core::governance::Author;

/// Public keys of people, as typed: in hex, or in a file.
pub(super) fn people(typed: &[String]) -> Outcome<Vec<Author>> {
    home::all(typed, names::person)
}

pub(super) fn gov(context: &Context, verb: &Gov) -> Outcome {
    match verb {
        Gov::Keygen(args) => hand::keygen(context, args),
        Gov::Init(args) => home::init(context, args),
        Gov::Propose(args) => acts::propose(context, args),
        Gov::Vote(args) => acts::vote(context, args),
        Gov::Halt(args) => acts::halt(context, args),
        Gov::Resume(args) => acts::resume(context, args),
        Gov::Revoke(args) => acts::revoke(context, args),
        Gov::Sign(args) => hand::sign(context, args),
        Gov::Import(args) => home::import(context, args),
        Gov::Export(args) => home::export(context, args),
        Gov::Verify(args) => read::verify(args),
        Gov::Show(args) => read::show(context, args),
        Gov::Log(args) => read::log(context, args),
        Gov::Status(args) => read::status(context, args),
        Gov::Audit(args) => audit::audit(context, args),
        Gov::Policy(verb) => policy::policy(context, verb),
        Gov::Drill(args) => drill::drill(context, args),
        Gov::DrillNode => drill::node(context),
    }
}
