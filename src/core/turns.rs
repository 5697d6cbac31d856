//! Hand-over: one expert speaks at a time, and the word goes round by a chain that the seed draws.
//!
//! At every position the word goes round with probability sigma; who gets it is drawn by the experts' weights,
//! the last speaker among them. A token is then the speaker's own choice. So the text is drawn from the mixture
//! that follows itself with share sigma, and asks one expert a token. Its own law: never under the greedy law,
//! where there is nothing to draw, in robust mode, where one expert alone must not decide, or under a grammar.

use crate::ids::{ExpertId, Position, Token};
use crate::seeded::Secret;

/// Positions are below this, and so are residuals but for their own bit: these keys are nobody else's.
const TURN: u32 = 1 << 30;
/// Stands for the coin: no expert is drawn by it.
const COIN: Token = Token::MAX;

#[derive(Debug)]
pub(crate) struct Chain {
    secret: Secret,
    sigma: f64,
}

impl Chain {
    pub(crate) fn new(secret: Secret, sigma_ppm: u32) -> Chain {
        Chain {
            secret,
            sigma: f64::from(sigma_ppm.min(1_000_000)) / 1e6,
        }
    }

    /// Does the word go round here?
    pub(crate) fn goes_round(&self, position: Position) -> bool {
        let key = self.secret.key(position | TURN);
        // exp(-E) is uniform.
        libm::exp(-key.exponential(COIN)) < self.sigma
    }

    /// Who gets it, of these with their weights; a weight of zero only where nobody has any.
    pub(crate) fn speaker(
        &self,
        position: Position,
        among: &[(ExpertId, f64)],
    ) -> Option<ExpertId> {
        let key = self.secret.key(position | TURN);
        let nobody = among.iter().all(|(_, weight)| *weight <= 0.0);
        let score = |(expert, weight): &(ExpertId, f64)| {
            let [a, b, c, d, ..] = expert.0;
            let name = u32::from_le_bytes([a, b, c, d]);
            let weight = if nobody { 1.0 } else { *weight };
            (*expert, weight / key.exponential(name))
        };
        let best = among.iter().map(score);
        best.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
            .map(|(expert, _)| expert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of the speakers are their weights; the word goes round as often as sigma says.
    #[test]
    fn the_chain_draws_by_weight() {
        let experts: Vec<(ExpertId, f64)> = [0.5, 0.3, 0.2]
            .iter()
            .zip(1u8..)
            .map(|(w, n)| (ExpertId([n; 32]), *w))
            .collect();
        let chain = Chain::new(Secret::from_seed(3, 0), 100_000);
        let draws = 40_000;
        let (mut count, mut rounds) = ([0u32; 3], 0u32);
        for position in 0..draws {
            rounds += u32::from(chain.goes_round(position));
            let speaker = chain.speaker(position, &experts).unwrap();
            count[usize::from(speaker.0[0] - 1)] += 1;
        }
        let draws = f64::from(draws);
        assert!((f64::from(rounds) / draws - 0.1).abs() < 0.005, "{rounds}");
        let chi: f64 = count
            .iter()
            .zip(&experts)
            .map(|(n, (_, w))| {
                let off = f64::from(*n) - w * draws;
                off * off / (w * draws)
            })
            .sum();
        assert!(chi < 13.8, "chi-square {chi} with 2 degrees of freedom"); // p = 0.001
        assert_eq!(chain.speaker(0, &[]), None);
        let idle = [(ExpertId([1; 32]), 0.0), (ExpertId([2; 32]), 0.0)];
        assert!(chain.speaker(0, &idle).is_some(), "somebody speaks");
    }

    #[test]
    fn sigma_is_a_probability() {
        let never = Chain::new(Secret::from_seed(3, 0), 0);
        let always = Chain::new(Secret::from_seed(3, 0), u32::MAX);
        assert!((0..1000).all(|p| !never.goes_round(p) && always.goes_round(p)));
    }
}
