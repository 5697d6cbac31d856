//! Which weights: the words of a law.

use crate::limits::{TEAM_MAX, WEIGHT_LAG_MAX};
use std::fmt;

/// A weight below this, of a mixture that is frozen, asks nobody: the law moves by less than this in
/// total variation for each expert that is left out.
pub const FLOOR_DEFAULT: f64 = 1.0 / 128.0;

/// Where weights come from. Closed: a law names one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strategy {
    /// Everybody weighs the same.
    #[default]
    Uniform,
    /// All on whoever is ahead.
    Single,
    /// Posterior of "one expert wrote all of it".
    Bayes,
    /// Posterior of "experts take turns"; how often they do is mixed over a small grid.
    Share,
    /// The convex mixture that explains the given text best (EM), refitted when it has doubled.
    Convex,
    /// Nearness of the text to what experts publish about theirs.
    Gate,
    /// Bayes over all of the others.
    Meta,
}

impl Strategy {
    pub const ALL: [Strategy; 7] = [
        Strategy::Uniform,
        Strategy::Single,
        Strategy::Bayes,
        Strategy::Share,
        Strategy::Convex,
        Strategy::Gate,
        Strategy::Meta,
    ];

    pub fn named(name: &str) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|s| s.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Strategy::Uniform => "uniform",
            Strategy::Single => "single",
            Strategy::Bayes => "bayes",
            Strategy::Share => "share",
            Strategy::Convex => "convex",
            Strategy::Gate => "gate",
            Strategy::Meta => "meta",
        }
    }

    /// What is mixed. Without profiles there is no gate.
    pub(super) fn parts(self, has_gate: bool) -> Vec<Strategy> {
        let all = Strategy::ALL.into_iter();
        match self {
            Strategy::Meta => all
                .filter(|s| *s != Strategy::Meta && (*s != Strategy::Gate || has_gate))
                .collect(),
            one => vec![one],
        }
    }
}

/// The weight rule of a law.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    pub strategy: Strategy,
    /// Given text: what was said of the last so many positions is not used yet.
    pub lag: u32,
    /// Generated text: a weight below this is zero.
    pub floor: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Rule {
            strategy: Strategy::Meta,
            lag: 0,
            floor: FLOOR_DEFAULT,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.strategy.name())?;
        match self.lag {
            0 => Ok(()),
            lag => write!(f, " lag={lag}"),
        }
    }
}

/// Whose text a position belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Situation {
    /// Somebody else's: prompt, user's turn, tool's output. Evidence, always.
    Given,
    /// Drawn from the mixture. It carries no evidence about which expert is right, so weights are
    /// frozen unless somebody asks for the other law.
    Sampled(Following),
    /// The mixture's most likely tokens.
    Greedy(Following),
}

/// What generated tokens do to weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Following {
    #[default]
    Frozen,
    /// The law of a hidden expert that speaks alone and is drawn anew, from the frozen weights, with
    /// this chance at every token; uses what was said up to `lag` positions ago.
    Follow { share: f64, lag: u32 },
}

impl Following {
    pub fn check(self) -> Result<(), BadRule> {
        match self {
            Following::Follow { share, .. } if !(share > 0.0 && share <= 1.0) => {
                Err(BadRule::Share)
            }
            Following::Follow { lag, .. } if lag > WEIGHT_LAG_MAX => Err(BadRule::Lag),
            Following::Frozen | Following::Follow { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Following::Frozen => f.write_str("frozen"),
            Following::Follow { share, lag } => write!(f, "follow({share},{lag})"),
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Situation::Given => f.write_str("given"),
            Situation::Sampled(following) => write!(f, "sampled:{following}"),
            Situation::Greedy(following) => write!(f, "greedy:{following}"),
        }
    }
}

/// How a law weighs experts: what it learns of given text, and what generated text does to that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weighing {
    pub strategy: Strategy,
    pub following: Following,
}

/// The share of a law that follows and does not say it: the pilot's.
const SHARE_DEFAULT: f64 = 0.02;

impl Weighing {
    pub const SPELLINGS: &str = "uniform, single, bayes, share, convex or meta, alone or with \
         \":follow\" or \":follow(SHARE,LAG)\" behind it; \"follow\" is \"meta:follow\"";

    pub fn follows(self) -> bool {
        self.following != Following::Frozen
    }

    /// As people spell it. The gate has no name here: it needs profiles, which nobody publishes yet.
    pub fn named(text: &str) -> Option<Weighing> {
        let (strategy, following) = match text.split_once(':') {
            Some((strategy, following)) => (strategy, following),
            None if text.starts_with("follow") => (Strategy::Meta.name(), text),
            None => (text, "frozen"),
        };
        let strategy = Strategy::named(strategy).filter(|s| *s != Strategy::Gate)?;
        let following = match following {
            "frozen" => Following::Frozen,
            "follow" => Following::Follow {
                share: SHARE_DEFAULT,
                lag: 0,
            },
            given => {
                let inside = given.strip_prefix("follow(")?.strip_suffix(')')?;
                let (share, lag) = inside.split_once(',')?;
                Following::Follow {
                    share: share.trim().parse().ok()?,
                    lag: lag.trim().parse().ok()?,
                }
            }
        };
        following.check().ok()?;
        Some(Weighing {
            strategy,
            following,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    #[error("weights are of 1 to {TEAM_MAX} experts")]
    Experts,
    #[error("a lag is at most {WEIGHT_LAG_MAX} tokens")]
    Lag,
    #[error("a share is above 0 and at most 1")]
    Share,
    #[error("a floor is from 0 to one half")]
    Floor,
    #[error("a prior weight is above zero")]
    Prior,
    #[error("one profile for each expert")]
    Profiles,
}
