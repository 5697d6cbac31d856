//! Our types to protobuf.

use super::v1;
use quorate_core::generate::TokenEvent;

pub fn ready(ready: v1::Ready) -> v1::GenerateEvent {
    event(v1::generate_event::Event::Ready(ready))
}

pub fn token(token: TokenEvent) -> v1::GenerateEvent {
    let top = token.top.into_iter();
    event(v1::generate_event::Event::Token(v1::Token {
        text: token.text,
        token: token.token,
        ln_p: token.ln_p,
        top: top
            .map(|(token, ln_p)| v1::Alternative { token, ln_p })
            .collect(),
    }))
}

pub fn finished(finished: v1::Finished) -> v1::GenerateEvent {
    event(v1::generate_event::Event::Finished(finished))
}

fn event(event: v1::generate_event::Event) -> v1::GenerateEvent {
    v1::GenerateEvent { event: Some(event) }
}
