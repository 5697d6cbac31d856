//! What whoever asks hears, and when; and the plainest distance there is.

use super::{BenchError, Result, rate};
use crate::driver::GenerationStream;
use quorate_core::generate::{Event, Finish, Guesses, Provenance};
use quorate_core::ids::Token;
use quorate_core::link::Link;
use quorate_core::team::Schedule;
use std::time::Instant;

/// A link without losses, as quick as a cable may be.
pub(super) fn distance(one_way_us: u32) -> Link {
    Link {
        delay_us: one_way_us,
        jitter_us: 0,
        loss_ppm: 0,
        reorder_ppm: 0,
        duplicate_ppm: 0,
        rate_bps: 1_000_000_000,
        queue_bytes: 1 << 20,
    }
}

/// When each token came, and who had part in it.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) at: Vec<Instant>,
    pub(super) tokens: Vec<Token>,
    pub(super) provenance: Vec<Provenance>,
    pub(super) text: String,
    pub(super) schedule: Schedule,
    pub(super) guesses: Guesses,
}

/// The whole answer; `on_token` hears how many there are.
pub(super) async fn listen(
    stream: &mut GenerationStream,
    mut on_token: impl FnMut(&Heard),
) -> Result<Heard> {
    let mut heard = Heard::default();
    loop {
        match stream.next().await {
            Some(Event::Token(token)) => {
                heard.at.push(Instant::now());
                heard.tokens.push(token.token);
                heard.text += &token.text;
                heard.provenance.extend(token.provenance.map(|p| *p));
                on_token(&heard);
            }
            Some(Event::Finished {
                why: Finish::Failed(why),
                ..
            }) => return Err(BenchError::new("generating", why)),
            Some(Event::Finished {
                text,
                schedule,
                guesses,
                ..
            }) => {
                heard.text += &text;
                (heard.schedule, heard.guesses) = (schedule, guesses);
                return Ok(heard);
            }
            Some(Event::Ready { .. } | Event::Decided(_)) => {}
            None => return Err(BenchError::new("generating", "the node is gone")),
        }
    }
}

/// Tokens per second after the first.
pub(super) fn tps(heard: &Heard) -> f64 {
    match (heard.at.first(), heard.at.last()) {
        (Some(first), Some(last)) => rate(heard.at.len() - 1, last.duration_since(*first)),
        _ => f64::NAN,
    }
}
