//! Is what an expert says of a token moved by the key? An alarm, not a proof: the proof is to
//! compute its lists again.
//!
//! An honest expert lists v when E_v <= p_v/tau, and its p_v does not know E_v. So, of what it
//! lists, u = (1 - e^-E) / (1 - e^(-p/tau)) is uniform, each for itself. Who raises p where E is
//! small, to have his token drawn, lists too many small u. A bettor who starts with one coin and
//! bets on that can be rich only by a liar: in all of an honest expert's life he owns a million
//! coins with a chance of at most one in a million.
//!
//! Plain lists have no key. There an expert is only compared with the others, and standing apart is
//! no lie: it is shown, nothing more.

use crate::aggregate::Voice;
use crate::lnp::LnP;
use crate::opinion::List;
use crate::seeded::PositionKey;
use std::collections::BTreeMap;
use std::fmt;

/// ln of a million: the wealth at which the alarm sounds.
pub const ALARM_NATS: f64 = 13.815_510_557_964_274;
/// An expert that is so much further from the others than their median stands apart...
pub const APART: f64 = 0.4;
/// ...over this many positions; the mean reaches back as far.
const APART_SPAN: u32 = 64;
/// Bets of one bettor.
pub(crate) const BETS_COUNT: usize = 6;
/// Bets: with this share of the coins, on u having density a u^(a-1). Below one small u win, above
/// one large u; small shares win from a liar who is mostly honest.
const BETS: [(f64, f64); BETS_COUNT] = [
    (1.0, 0.25),
    (1.0, 0.5),
    (0.3, 0.5),
    (0.1, 0.5),
    (0.3, 0.25),
    (0.5, 4.0),
];
/// Nobody wins more from one value than from this one.
const LEAST_U: f64 = 1e-9;

/// What one list says about its expert.
#[derive(Clone, Debug, PartialEq)]
pub enum Sign {
    /// u of every entry, the heaviest first.
    Keyed(Vec<f64>),
    /// Its distance from the mean of the others, less the median of all such distances.
    Apart(f64),
}

/// Why an expert should be looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Suspicion {
    /// Its probabilities follow the keys: e^nats to one against an honest expert.
    Keyed { nats: f64 },
    /// It stands apart from the others. A specialist does, too.
    Apart { excess: f64 },
    /// Computed again, its opinions came out differently: e^nats to one against its model file.
    Computed { nats: f64, positions: u64 },
    /// So differently that it is not asked any more.
    Swapped { positions: u64 },
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suspicion::Keyed { nats } => write!(
                f,
                "its probabilities follow the keys that it was given (e^{nats:.0} to one)"
            ),
            Suspicion::Apart { excess } => write!(
                f,
                "its lists are {:.0} % further from the others' than usual",
                100.0 * excess
            ),
            Suspicion::Computed { nats, positions } => write!(
                f,
                "of {positions} positions that were computed again some came out differently (e^{nats:.0} to one)"
            ),
            Suspicion::Swapped { positions } => write!(
                f,
                "it does not compute with the model file that it names ({positions} positions were computed again); its node is not asked any more"
            ),
        }
    }
}

/// u of every entry of a list that obeys its bound. `asked` is the tau of the question: an expert
/// that found nothing there went on to a lower one, so E lies above what it had found.
pub fn keyed(key: PositionKey, asked: f64, list: &List) -> Sign {
    let mut entries: Vec<_> = list.entries.iter().collect();
    entries.sort_by_key(|entry| (std::cmp::Reverse(entry.ln_p), entry.token));
    let above = list.tau_before(asked);
    let u = |token, ln_p: LnP| {
        let p = ln_p.p();
        let least = above.map_or(0.0, |tau| p / tau);
        let range = if list.bound > 0.0 {
            -libm::expm1(least - p / list.bound)
        } else {
            1.0
        };
        let is = -libm::expm1(least - key.exponential(token));
        let u = is / range;
        // A list that did not obey its bound gives anything.
        if u.is_nan() {
            return 1.0;
        }
        u.clamp(LEAST_U, 1.0)
    };
    Sign::Keyed(entries.iter().map(|e| u(e.token, e.ln_p)).collect())
}

/// How far each voice is from the mean of the others, in total variation, less the median of all.
/// With fewer than three nobody can say who stands apart.
pub fn apart(voices: &[Voice<'_>]) -> Option<Vec<f64>> {
    let n = voices.len();
    if n < 3 {
        return None;
    }
    let mut sums: BTreeMap<u32, f64> = BTreeMap::new();
    for entry in voices.iter().flat_map(|voice| &voice.list.entries) {
        *sums.entry(entry.token).or_default() += entry.ln_p.p();
    }
    let distance = |voice: &Voice<'_>| {
        let others = |(token, sum): (&u32, &f64)| {
            let own = voice.list.ln_p(*token).map_or(0.0, LnP::p);
            (own - (sum - own) / (n - 1) as f64).abs()
        };
        0.5 * sums.iter().map(others).sum::<f64>()
    };
    let distances: Vec<f64> = voices.iter().map(distance).collect();
    let mut sorted = distances.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[n / 2];
    Some(distances.iter().map(|d| d - median).collect())
}

/// A bettor: one coin, spread over the bets and a purse. Some coins move with every value, ever
/// fewer, so that one who lies late is found as well; moving coins wins nothing.
#[derive(Clone, Debug)]
pub(crate) struct Bettor {
    bets: &'static [(f64, f64); BETS_COUNT],
    /// ln of all that it owns.
    ln_wealth: f64,
    /// Shares of it: the purse, then each bet.
    shares: [f64; BETS_COUNT + 1],
    values: u64,
}

const FIRST: [f64; BETS_COUNT + 1] = [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1];

impl Bettor {
    /// With these bets: the share of the coins, and a of the density.
    pub(crate) fn on(bets: &'static [(f64, f64); BETS_COUNT]) -> Bettor {
        Bettor {
            bets,
            ln_wealth: 0.0,
            shares: FIRST,
            values: 0,
        }
    }

    /// ln of all that it owns.
    pub(crate) fn nats(&self) -> f64 {
        self.ln_wealth
    }

    pub(crate) fn values(&self) -> u64 {
        self.values
    }

    pub(crate) fn see(&mut self, u: f64) {
        let ln_u = libm::log(u);
        for (share, (stake, a)) in self.shares[1..].iter_mut().zip(self.bets) {
            let wins = a * libm::exp((a - 1.0) * ln_u);
            *share *= 1.0 - stake + stake * wins;
        }
        let total: f64 = self.shares.iter().sum();
        self.ln_wealth += libm::log(total);
        self.values += 1;
        let moved = 1.0 / (self.values as f64 + 2.0);
        for (share, first) in self.shares.iter_mut().zip(FIRST) {
            *share = *share / total * (1.0 - moved) + first * moved;
        }
    }
}

/// What is remembered of one expert: two bettors and a mean, however long it has been asked.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// Bets on the heaviest entry only: small ones that are added for show do not hide it.
    heaviest: Bettor,
    all: Bettor,
    apart: f64,
    compared: u32,
    /// The most that both together ever owned.
    peak_nats: f64,
}

impl Default for Alarm {
    fn default() -> Alarm {
        Alarm {
            heaviest: Bettor::on(&BETS),
            all: Bettor::on(&BETS),
            apart: 0.0,
            compared: 0,
            peak_nats: 0.0,
        }
    }
}

impl Alarm {
    pub fn see(&mut self, sign: &Sign) {
        match sign {
            Sign::Keyed(values) => {
                if let Some(first) = values.first() {
                    self.heaviest.see(*first);
                }
                values.iter().for_each(|u| self.all.see(*u));
                self.peak_nats = self.peak_nats.max(self.nats());
            }
            Sign::Apart(excess) => {
                self.compared = (self.compared + 1).min(APART_SPAN);
                self.apart += (excess - self.apart) / f64::from(self.compared);
            }
        }
    }

    /// ln of what the two bettors own now, with half a coin each.
    pub fn nats(&self) -> f64 {
        let (a, b) = (self.heaviest.ln_wealth, self.all.ln_wealth);
        let (high, low) = (a.max(b), a.min(b));
        high + libm::log(0.5 * (1.0 + libm::exp(low - high)))
    }

    /// Values that it was judged by.
    pub fn values(&self) -> u64 {
        self.all.values
    }

    pub fn suspicion(&self) -> Option<Suspicion> {
        if self.peak_nats >= ALARM_NATS {
            return Some(Suspicion::Keyed {
                nats: self.peak_nats,
            });
        }
        let is_apart = self.compared >= APART_SPAN && self.apart >= APART;
        is_apart.then_some(Suspicion::Apart { excess: self.apart })
    }
}

#[cfg(test)]
#[path = "alarm_tests.rs"]
mod tests;
