//! What one expert alone would choose from its own list: how an expert that leads goes on, and how the router
//! knows where it went without being told.

use crate::aggregate::{self, Verdict, Voice};
use crate::ids::Token;
use crate::opinion::{List, Query, Said, Want};
use crate::plain;

/// None: the list chooses nothing, or the question is one from which nobody may choose but the router.
pub fn choice(query: &Query, said: &Said) -> Option<Token> {
    let Said::List(list) = said else { return None };
    match chosen(query, list) {
        Verdict::Token(token) => Some(token),
        _ => None,
    }
}

fn chosen(query: &Query, list: &List) -> Verdict {
    let voice = [Voice { weight: 1.0, list }];
    match query.want {
        Want::Perturbed { key, .. } => aggregate::seeded(key, &voice),
        // Of a plain list the likeliest: right under the greedy law, and a guess elsewhere.
        Want::Plain { .. } => plain::greedy(&voice, 0.0),
        Want::Scalars(_) => Verdict::NoMass,
    }
}
