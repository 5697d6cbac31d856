//! What one expert alone would choose from its own list: how an expert that leads goes on, and how the router
//! knows where it went without being told.

use crate::aggregate::{self, Verdict, Voice};
use crate::ids::Token;
use crate::opinion::{Entry, List, Query, Said, Want};
use crate::plain;
use crate::seeded::PositionKey;

/// None: the list chooses nothing, or the question is one from which nobody may choose but the router.
pub fn choice(query: &Query, said: &Said) -> Option<Token> {
    let Said::List(list) = said else { return None };
    match chosen(query, list) {
        Verdict::Token(token) => Some(token),
        _ => None,
    }
}

/// The one that would win without `first`, and by how many nats it lost: by the key of the draw, or by
/// probability alone.
pub fn second(list: &List, key: Option<PositionKey>, first: Token) -> Option<(Token, f64)> {
    let score = |entry: &Entry| {
        let chance = key.map_or(1.0, |key| key.exponential(entry.token));
        (entry.token, entry.ln_p.p() / chance)
    };
    let (_, best) = list.entries.iter().map(score).find(|s| s.0 == first)?;
    let others = list.entries.iter().map(score).filter(|s| s.0 != first);
    let (token, next) = aggregate::leader(others)?;
    (next > 0.0).then(|| (token, libm::log(best / next)))
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
