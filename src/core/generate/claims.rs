//! What an expert may claim of a token once it knows it. Its own list, said before, is its word: where weights follow
//! the text, no score counts for more than the list allowed. So whoever wants weight must put it into the mixture as
//! well, where the alarm sees lists that follow the keys.

use super::Generate;
use crate::ids::Token;
use crate::law::Transforms;
use crate::lnp::LnP;
use crate::opinion::{List, Query, Want};

/// Every value was rounded down by less than this.
const ROUNDING_NATS: f64 = 1.0 / 1024.0;

impl Generate {
    /// A position is decided by the lists of the set: what each of them can say of the token from now on.
    pub(super) fn hold_to_lists(&mut self, token: Token) {
        if !self.team.follows() {
            return;
        }
        for i in 0..self.parts.len() {
            let decided = self.set.contains(&i);
            let query = self.first_question.as_ref().filter(|_| decided);
            let list = query.and_then(|query| Some((query, self.list_of(i)?)));
            let transforms = &self.spec.law.transforms;
            let most = list.and_then(|(query, list)| most(transforms, query, list, token));
            self.parts[i].ceiling = most;
        }
    }

    /// What a member says of the last token, as far as its list bears it out.
    pub(super) fn borne_out(&self, i: usize, mut scored: Vec<LnP>) -> Vec<LnP> {
        if let (Some(last), Some(ceiling)) = (scored.last_mut(), self.parts[i].ceiling) {
            *last = lower(*last, ceiling);
        }
        scored
    }
}

/// The less probable of two.
pub(crate) fn lower(a: LnP, b: LnP) -> LnP {
    a.max(b) // in steps below certain
}

/// The most that untransformed ln p of a token can be, by a list at a temperature T of at most one. There
/// p_T = p^(1/T) / Z with Z <= 1, so p <= p_T^T. None: nothing follows from it.
fn most(transforms: &Transforms, query: &Query, list: &List, token: Token) -> Option<LnP> {
    let temperature = f64::from(transforms.temperature);
    let is_clear =
        !transforms.truncates() && !transforms.touches_history() && transforms.bias.is_empty();
    if !is_clear || temperature > 1.0 || query.mask.is_some() {
        return None;
    }
    let ln_p = match (list.ln_p(token), &query.want) {
        (Some(listed), _) => listed.ln(),
        (None, Want::Perturbed { key, .. }) => libm::log(list.bound * key.exponential(token)),
        (None, Want::Plain { .. }) => libm::log(list.bound),
        (None, Want::Scalars(_)) => return None,
    };
    Some(LnP::floor((ln_p + ROUNDING_NATS).min(0.0) * temperature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{Distribution, History, score};
    use crate::generate::Spec;
    use crate::generate::net_tests::{CALM, Ways, live, long, plan};
    use crate::ids::Position;
    use crate::law::ListLaw;
    use crate::opinion::Said;
    use crate::seeded::Secret;
    use proptest::prelude::*;

    proptest! {
        /// No honest expert is ever held back, whichever token was drawn and however it listed.
        #[test]
        fn an_honest_score_is_borne_out_by_its_list(
            logits in prop::collection::vec(-30.0f32..10.0, 40),
            token in 0u32..40,
            temperature in 0.3f32..=1.0,
            seed: u64,
            is_plain: bool,
        ) {
            let query = match is_plain {
                true => Query::plain(0.9, 8),
                false => Query::perturbed(Secret::from_seed(seed, 0).key(7), 1.0 / 16.0),
            };
            let transforms = Transforms { temperature, ..Transforms::NEUTRAL };
            let mut row = Distribution::new();
            row.measure(&logits, &transforms, History { tokens: &[], prompt: 0 }, true).unwrap();
            let Said::List(list) = row.answer(&query).0 else { panic!("asked for a list") };
            let said = score(&logits, token).unwrap();
            let most = most(&transforms, &query, &list, token).unwrap();
            prop_assert_eq!(lower(said, most), said, "{:?} above {:?}", said, most);
            prop_assert_eq!(lower(LnP::CERTAIN, most), most, "and nobody claims more");
        }
    }

    /// Through the whole router: what counted of its words is what its lists had said before.
    #[test]
    fn whoever_boasts_of_the_answer_gains_nothing() {
        let weights = crate::weights::Weighing::named("follow(0.1,0)").expect("a name");
        for seed in 0..10 {
            let plain = long(seed);
            let spec = Spec {
                law: plain.law.clone().weighed(weights),
                ..plain
            };
            let mut boaster = CALM;
            boaster.mischief.knew_it_all = true;
            let ways: [(u8, Ways); 3] = [(1, CALM), (2, CALM), (3, boaster)];
            let story = live(spec.clone(), plan(&[1, 2, 3], 3, 0), &ways, seed);
            let mut held = 0;
            for two in story.decided.windows(2) {
                let (before, here) = (&two[0], &two[1]);
                let key = spec.secret.key(before.position as Position);
                let query = Query::perturbed(key, ListLaw::default().tau);
                let told = here.weighed.iter().flat_map(|w| &w.told);
                for evidence in told.filter(|e| e.expert.0[0] == 3) {
                    let lists = before
                        .answers
                        .iter()
                        .filter(|(_, expert, _)| expert.0[0] == 3);
                    let mut list = lists.filter_map(|(_, _, said)| match said {
                        Said::List(list) => Some(list),
                        Said::Scalars(_) => None,
                    });
                    let list = list.next_back().expect("it decided");
                    let most = most(&Transforms::NEUTRAL, &query, list, before.token).unwrap();
                    assert_eq!(evidence.ln_p.last(), Some(&most));
                    held += 1;
                }
            }
            assert!(held >= 20, "{held}");
        }
    }

    #[test]
    fn nothing_follows_from_a_list_that_is_cut_or_bent() {
        let query = Query::plain(0.9, 8);
        let none =
            |transforms: Transforms| most(&transforms, &query, &List::default(), 3).is_none();
        assert!(none(Transforms {
            temperature: 1.5,
            ..Transforms::NEUTRAL
        }));
        assert!(none(Transforms {
            top_p: 0.9,
            ..Transforms::NEUTRAL
        }));
        assert!(none(Transforms {
            repeat_penalty: 1.1,
            ..Transforms::NEUTRAL
        }));
        assert!(none(Transforms {
            bias: vec![(3, 1.0)],
            ..Transforms::NEUTRAL
        }));
        assert!(!none(Transforms::NEUTRAL));
    }
}
