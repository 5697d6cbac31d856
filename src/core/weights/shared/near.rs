//! What is known of one expert on one topic, and what follows of it.

/// A gain is believed to be about this large, in nats a token, before anything is known.
const USUAL_GAIN: f64 = 0.2;
/// Of the gain of one request, whatever the expert.
const VARIANCE: f64 = 0.25;

/// Requests that were near a topic, the sum of what an expert gained in them, and the variance of the noise in that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Near {
    pub(super) requests: f64,
    pub(super) gained: f64,
    pub(super) variance: f64,
}

impl Near {
    /// The middle one of many nodes, each number by itself. None: nobody says anything.
    pub(super) fn middle(said: &[Near]) -> Option<Near> {
        let numbers = |of: fn(&Near) -> f64| said.iter().map(of).collect();
        let noise = sorted(numbers(|near| near.variance));
        let variance = noise.get(noise.len() / 2)?;
        Some(Near {
            requests: middle(numbers(|near| near.requests)).max(0.0),
            gained: middle(numbers(|near| near.gained)),
            // That of a median of so many.
            variance: variance * std::f64::consts::FRAC_PI_2 / said.len() as f64,
        })
    }

    /// The gain per token that all of these say together, each by how certain it is: without noise, gained / requests;
    /// with much of it, nothing.
    pub(super) fn gain(said: impl Iterator<Item = Near>) -> f64 {
        let (mut certain, mut sum) = (1.0 / (USUAL_GAIN * USUAL_GAIN), 0.0);
        for near in said {
            let variance = (near.variance + VARIANCE * near.requests).max(1.0);
            certain += near.requests * near.requests / variance;
            sum += near.gained * near.requests / variance;
        }
        (sum / certain).clamp(-1.0, 1.0)
    }
}

fn sorted(mut all: Vec<f64>) -> Vec<f64> {
    all.sort_by(f64::total_cmp);
    all
}

/// The middle of all that is said and of one voice that says nothing, zero; of two middle ones what is nearer to zero.
/// While liars are no more than the honest, it is never beyond what some honest voice said, or zero.
pub(super) fn middle(mut all: Vec<f64>) -> f64 {
    all.push(0.0);
    let all = sorted(all);
    let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
    0.0f64.clamp(low, high)
}
