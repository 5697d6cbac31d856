//! The law of a response: everything its text is a function of, declared before the first token.

use crate::ids::Token;
use crate::weights::{Situation, Strategy, Weighing};
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub struct Law {
    pub sampler: Sampler,
    pub transforms: Transforms,
    pub lists: ListLaw,
    /// So many experts may lie: no sum of weights, but a trimmed mean of plain lists.
    pub robust: Option<u8>,
    pub weights: Weighing,
}

/// A text drawn at a lower temperature is one of most likely tokens, as far as evidence goes.
const LOW_TEMPERATURE: f32 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// x = argmax_v r(v)/E_v, E_v ~ Exp(1) from (seed, position, v); experts have the keys and send
    /// perturbed lists, exact over the whole vocabulary.
    Seeded,
    /// The same choice among plain lists: no expert ever has a key.
    SeededPlain,
    /// x = argmax_v r(v) at temperature 1; ties go to the lower id.
    Greedy,
    /// Draft, accept with r(x)/q(x), else draw from the residual: needs fewer lists, and the text
    /// depends on who is quick. The distribution is the same.
    Rejection,
}

/// How experts shorten what they say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListLaw {
    /// Perturbed lists: say v with p(v)/E_v >= tau; about 1/tau entries at most, exact all the same.
    pub tau: f64,
    /// Plain lists: say top tokens until this mass...
    pub mass: f64,
    /// ...and never more than this many.
    pub max_entries: u16,
}

impl Default for ListLaw {
    fn default() -> Self {
        ListLaw {
            tau: 1.0 / 16.0,
            mass: 0.999,
            max_entries: crate::limits::LIST_ENTRIES_MAX,
        }
    }
}

/// What each expert does to its own logits, in this order. The neutral value turns a step off.
#[derive(Clone, Debug, PartialEq)]
pub struct Transforms {
    /// Divides (or multiplies, below zero) the logits of tokens among the last `repeat_last_n`
    /// tokens of the session, prompt included. 1 is off.
    pub repeat_penalty: f32,
    pub repeat_last_n: u32,
    /// Subtracted once for each time the token was generated in this response. 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted if the token was generated in this response at all. 0 is off.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens; sorted by token.
    pub bias: Vec<(Token, f32)>,
    /// Divides the logits. 0 asks for the greedy sampler, which runs at 1.
    pub temperature: f32,
    /// Keep tokens at least as likely as the k-th. 0 is off.
    pub top_k: u32,
    /// Keep the fewest top tokens that reach this mass (after top_k). 1 is off.
    pub top_p: f32,
    /// Keep tokens with at least this share of the top token's probability. 0 is off.
    pub min_p: f32,
}

impl Transforms {
    pub const NEUTRAL: Transforms = Transforms {
        repeat_penalty: 1.0,
        repeat_last_n: 64,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        bias: Vec::new(),
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };

    pub fn touches_history(&self) -> bool {
        self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    pub fn truncates(&self) -> bool {
        self.top_k != 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Is p the model's own distribution?
    pub fn is_neutral(&self) -> bool {
        !self.touches_history()
            && self.bias.is_empty()
            && self.temperature == 1.0
            && !self.truncates()
    }
}

/// A parameter outside its range, named as the user typed it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} must be {expected}, not {got}")]
pub struct OutOfRange {
    pub name: &'static str,
    pub expected: &'static str,
    pub got: f32,
}

impl Law {
    /// Checks every number; temperature 0 is the greedy law.
    pub fn new(transforms: Transforms, lists: ListLaw) -> Result<Law, OutOfRange> {
        let t = &transforms;
        let check = |name, value: f32, low: f32, high: f32, expected| {
            let inside = value >= low && value <= high; // false for NaN
            if inside {
                Ok(())
            } else {
                Err(OutOfRange {
                    name,
                    expected,
                    got: value,
                })
            }
        };
        check("temperature", t.temperature, 0.0, 100.0, "from 0 to 100")?;
        check(
            "top_p",
            t.top_p,
            f32::MIN_POSITIVE,
            1.0,
            "above 0 and at most 1",
        )?;
        check("min_p", t.min_p, 0.0, 1.0, "from 0 to 1")?;
        check(
            "repeat_penalty",
            t.repeat_penalty,
            0.01,
            100.0,
            "from 0.01 to 100",
        )?;
        check(
            "frequency_penalty",
            t.frequency_penalty,
            -2.0,
            2.0,
            "from -2 to 2",
        )?;
        check(
            "presence_penalty",
            t.presence_penalty,
            -2.0,
            2.0,
            "from -2 to 2",
        )?;
        for &(_, bias) in &t.bias {
            check("logit_bias", bias, -100.0, 100.0, "from -100 to 100")?;
        }
        let greedy = t.temperature == 0.0;
        let sampler = if greedy {
            Sampler::Greedy
        } else {
            Sampler::Seeded
        };
        let temperature = if greedy { 1.0 } else { t.temperature };
        Ok(Law {
            sampler,
            transforms: Transforms {
                temperature,
                ..transforms
            },
            lists,
            robust: None,
            weights: Weighing::default(),
        })
    }

    /// Refuses what cannot be: a trimmed mean has no early decision and needs lists without keys.
    #[must_use]
    pub fn robust(self, f: u8) -> Law {
        let sampler = match self.sampler {
            Sampler::Seeded | Sampler::Rejection => Sampler::SeededPlain,
            same => same,
        };
        let law = Law {
            sampler,
            robust: Some(f),
            ..self
        };
        law.weighs_liars_alike()
    }

    /// Who may lie may lie about the prompt: nobody's word gets it more weight than another's.
    fn weighs_liars_alike(mut self) -> Law {
        if self.robust.is_some() {
            self.weights.strategy = Strategy::Uniform;
        }
        self
    }

    /// Fewer experts cannot decide anything under this law.
    pub fn voices_needed(&self) -> usize {
        self.robust.map_or(1, |liars| 2 * usize::from(liars) + 1)
    }

    /// Why so few voices cannot speak under this law.
    pub fn outvoted(&self, voices: usize) -> Option<String> {
        let (liars, needed) = (self.robust?, self.voices_needed());
        let count = if liars == 1 {
            "a liar".to_owned()
        } else {
            format!("{liars} liars")
        };
        (voices < needed).then(|| {
            format!(
                "a law that withstands {count} needs {needed} experts, and {voices} can be asked"
            )
        })
    }

    #[must_use]
    pub fn weighed(self, weights: Weighing) -> Law {
        Law { weights, ..self }.weighs_liars_alike()
    }

    /// Whose text the response is, as evidence about its experts.
    pub fn situation(&self) -> Situation {
        let following = self.weights.following;
        let is_low = self.transforms.temperature < LOW_TEMPERATURE;
        match self.sampler {
            Sampler::Greedy => Situation::Greedy(following),
            _ if is_low => Situation::Greedy(following),
            _ => Situation::Sampled(following),
        }
    }

    /// No list is needed of those whose weight cannot change the decision. Where weights follow, what every
    /// one of them says is evidence.
    pub fn decides_early(&self) -> bool {
        self.robust.is_none()
            && !self.weights.follows()
            && matches!(self.sampler, Sampler::Greedy | Sampler::Rejection)
    }

    /// With another sampler, for a law that draws at all: greedy stays greedy.
    #[must_use]
    pub fn sampled(self, sampler: Sampler) -> Law {
        match self.sampler {
            Sampler::Greedy => self,
            _ => Law { sampler, ..self },
        }
    }
}

/// One line, shown with every response: who has it, the seed, and the set schedule can check the text.
impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.transforms;
        match self.sampler {
            Sampler::Seeded => write!(f, "seeded tau={}", self.lists.tau)?,
            sampler => {
                let name = match sampler {
                    Sampler::Seeded | Sampler::SeededPlain => "seeded-plain",
                    Sampler::Greedy => "greedy",
                    Sampler::Rejection => "rejection",
                };
                let ListLaw {
                    mass, max_entries, ..
                } = self.lists;
                write!(f, "{name} mass={mass} max={max_entries}")?;
            }
        }
        if let Some(liars) = self.robust {
            write!(f, " robust={liars}")?;
        }
        f.write_str(" weights=")?;
        let Weighing {
            strategy,
            following,
        } = self.weights;
        match (strategy, self.weights.follows()) {
            (Strategy::Uniform, false) => write!(f, "{following}")?,
            (_, false) => write!(f, "{}:{following}", strategy.name())?,
            (_, true) => write!(f, "{}:{}", strategy.name(), self.situation())?,
        }
        write!(f, " temperature={}", t.temperature)?;
        let mut step = |name: &str, value: f32, off: f32| {
            if value == off {
                Ok(())
            } else {
                write!(f, " {name}={value}")
            }
        };
        step("top_k", t.top_k as f32, 0.0)?;
        step("top_p", t.top_p, 1.0)?;
        step("min_p", t.min_p, 0.0)?;
        step("repeat_penalty", t.repeat_penalty, 1.0)?;
        step("frequency_penalty", t.frequency_penalty, 0.0)?;
        step("presence_penalty", t.presence_penalty, 0.0)?;
        step("biases", t.bias.len() as f32, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_zero_is_the_greedy_law_at_one() {
        let law = Law::new(
            Transforms {
                temperature: 0.0,
                ..Transforms::NEUTRAL
            },
            ListLaw::default(),
        )
        .unwrap();
        assert_eq!(
            (law.sampler, law.transforms.temperature),
            (Sampler::Greedy, 1.0)
        );
    }

    /// Whatever is said first.
    #[test]
    fn where_one_may_lie_nobody_is_given_weight_for_its_word() {
        let law = Law::new(Transforms::NEUTRAL, ListLaw::default()).unwrap();
        let meta = Weighing::named("meta").unwrap();
        for law in [
            law.clone().robust(1).weighed(meta),
            law.weighed(meta).robust(1),
        ] {
            assert_eq!(law.weights, Weighing::default(), "{law}");
        }
    }

    #[test]
    fn nan_and_out_of_range_are_named() {
        for (transforms, name) in [
            (
                Transforms {
                    temperature: f32::NAN,
                    ..Transforms::NEUTRAL
                },
                "temperature",
            ),
            (
                Transforms {
                    temperature: -0.1,
                    ..Transforms::NEUTRAL
                },
                "temperature",
            ),
            (
                Transforms {
                    top_p: 0.0,
                    ..Transforms::NEUTRAL
                },
                "top_p",
            ),
            (
                Transforms {
                    min_p: 1.5,
                    ..Transforms::NEUTRAL
                },
                "min_p",
            ),
            (
                Transforms {
                    repeat_penalty: 0.0,
                    ..Transforms::NEUTRAL
                },
                "repeat_penalty",
            ),
            (
                Transforms {
                    bias: vec![(1, f32::INFINITY)],
                    ..Transforms::NEUTRAL
                },
                "logit_bias",
            ),
        ] {
            assert_eq!(
                Law::new(transforms, ListLaw::default()).unwrap_err().name,
                name
            );
        }
    }

    #[test]
    fn the_declaration_names_what_is_on() {
        let transforms = Transforms {
            temperature: 0.8,
            top_k: 40,
            ..Transforms::NEUTRAL
        };
        let law = Law::new(transforms, ListLaw::default()).unwrap();
        assert_eq!(
            law.to_string(),
            "seeded tau=0.0625 weights=frozen temperature=0.8 top_k=40"
        );
    }

    #[test]
    fn the_declaration_names_how_experts_are_weighed_and_whose_text_it_is() {
        let named = |temperature, weights: &str| {
            let transforms = Transforms {
                temperature,
                ..Transforms::NEUTRAL
            };
            let law = Law::new(transforms, ListLaw::default()).unwrap();
            let law = law.weighed(Weighing::named(weights).unwrap()).to_string();
            let from = law.find("weights=").unwrap();
            law[from..].split(' ').next().unwrap().to_owned()
        };
        assert_eq!(named(1.0, "uniform"), "weights=frozen");
        assert_eq!(named(1.0, "meta"), "weights=meta:frozen");
        assert_eq!(named(1.0, "follow"), "weights=meta:sampled:follow(0.02,0)");
        assert_eq!(
            named(0.0, "bayes:follow(0.1,8)"),
            "weights=bayes:greedy:follow(0.1,8)"
        );
        assert_eq!(
            named(0.4, "uniform:follow"),
            "weights=uniform:greedy:follow(0.02,0)"
        );
        for bad in [
            "",
            "gate",
            "gate:follow",
            "follow(",
            "follow(0,1)",
            "follow(1.5,1)",
            "follow(NaN,1)",
            "follow(0.1,257)",
            "follow(0.1,-1)",
            "follow(0.1)",
            "meta:follow:follow",
            "meta:",
            ":follow",
        ] {
            assert_eq!(Weighing::named(bad), None, "{bad}");
        }
    }
}
