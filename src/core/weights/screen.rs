//! Claims about a prompt that no honest expert makes.
//!
//! Who is asked what it thinks of a prompt knows the prompt, so nothing holds it to the truth but a twin that computes
//! it again. One claim needs no twin: to have been hardly surprised by anything in a text that surprised everybody
//! else. Who claims less is not found here.

use crate::lnp::LnP;
use crate::weights::table::nats;

/// Fewer tokens say nothing: a short formula may be known by heart.
const TOKENS_MIN: usize = 16;
/// Less than this of the surprise of the best of the others, chosen token by token with hindsight.
const SHARE: f64 = 0.125;
/// Others that were hardly surprised either leave nothing to claim: a text that repeats itself.
const SURPRISE_MIN_NATS: f64 = 0.25;
/// One token counts at most so much: a rare word that one expert alone knows.
const TOKEN_NATS_MAX: f64 = 8.0;

/// What everybody said of a prompt, and whose word counts.
#[derive(Clone, Debug)]
pub struct Screen {
    claims: Vec<Option<Vec<LnP>>>,
    incredible: Vec<bool>,
}

impl Screen {
    pub fn new(experts: usize) -> Screen {
        Screen {
            claims: vec![None; experts],
            incredible: vec![false; experts],
        }
    }

    /// An expert's ln p of the prompt's tokens but the first. True: whose word counts has changed.
    pub fn heard(&mut self, expert: usize, ln_p: &[LnP]) -> bool {
        let Some(claim) = self.claims.get_mut(expert) else {
            return false;
        };
        *claim = Some(ln_p.to_vec());
        let incredible: Vec<bool> = (0..self.claims.len())
            .map(|k| self.is_incredible(k))
            .collect();
        let has_changed = incredible != self.incredible;
        self.incredible = incredible;
        has_changed
    }

    pub fn is_credible(&self, expert: usize) -> bool {
        !self.incredible.get(expert).copied().unwrap_or(true)
    }

    /// What an expert said, whether it counts or not.
    pub fn claim(&self, expert: usize) -> Option<&[LnP]> {
        self.claims.get(expert)?.as_deref()
    }

    /// What counts, by expert.
    pub fn credible(&self) -> impl Iterator<Item = (usize, &[LnP])> {
        let claims = self.claims.iter().enumerate();
        let claims = claims.filter_map(|(k, claim)| Some((k, claim.as_deref()?)));
        claims.filter(|(k, _)| self.is_credible(*k))
    }

    fn is_incredible(&self, expert: usize) -> bool {
        let Some(own) = &self.claims[expert] else {
            return false;
        };
        let others = self.claims.iter().enumerate().filter(|(k, _)| *k != expert);
        let others: Vec<&Vec<LnP>> = others.filter_map(|(_, claim)| claim.as_ref()).collect();
        if own.len() < TOKENS_MIN || others.is_empty() {
            return false;
        }
        let surprise = |ln_p: LnP| (-nats(ln_p)).min(TOKEN_NATS_MAX);
        let least = |at: usize| {
            let said = others.iter().filter_map(|claim| claim.get(at).copied());
            said.map(surprise).fold(TOKEN_NATS_MAX, f64::min)
        };
        let total = own.len() as f64;
        let claimed = own.iter().copied().map(surprise).sum::<f64>() / total;
        let best = (0..own.len()).map(least).sum::<f64>() / total;
        best >= SURPRISE_MIN_NATS && claimed < SHARE * best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(nats: f64, tokens: usize) -> Vec<LnP> {
        vec![LnP::floor(-nats); tokens]
    }

    fn credible(claims: &[Vec<LnP>]) -> Vec<usize> {
        let mut screen = Screen::new(claims.len());
        for (k, claim) in claims.iter().enumerate() {
            screen.heard(k, claim);
        }
        screen.credible().map(|(k, _)| k).collect()
    }

    #[test]
    fn whoever_claims_to_have_known_it_all_does_not_count() {
        let honest = [claim(2.5, 40), claim(2.0, 40), claim(3.0, 40)];
        let [a, b, c] = honest.clone();
        assert_eq!(credible(&[a, b, c, claim(0.0, 40)]), [0, 1, 2]);
        let [a, b, c] = honest;
        assert_eq!(credible(&[claim(0.2, 40), a, b, c]), [1, 2, 3]);
        assert_eq!(credible(&[claim(2.0, 40), claim(0.0, 40)]), [0]);
    }

    #[test]
    fn a_specialist_a_short_prompt_and_a_text_that_repeats_itself_are_believed() {
        assert_eq!(credible(&[claim(2.0, 40), claim(0.3, 40)]), [0, 1]);
        assert_eq!(credible(&[claim(2.0, 15), claim(0.0, 15)]), [0, 1]);
        assert_eq!(credible(&[claim(0.2, 40), claim(0.0, 40)]), [0, 1]);
        assert_eq!(
            credible(&[claim(0.0, 40)]),
            [0],
            "nobody else has said anything"
        );
    }

    #[test]
    fn no_mass_and_lists_of_another_length_are_numbers_like_others() {
        let none = vec![LnP::ZERO_MASS; 40];
        assert_eq!(credible(&[none.clone(), none, claim(0.0, 20)]), [0, 1]);
    }
}
