//! A node's own history: what requests of today said, exactly, and what all days before said, with noise. Only the
//! noised part ever leaves; the exact one is gone at the end of its day.

use super::near::Near;
use super::noise::{Noise, variance};
use super::topic::{Observation, Topic, UNIT};
use super::voice::{Row, Said, Voice};
use crate::governance::codec::{Author, Malformed, Reader, Writer, hash};
use crate::ids::{ExpertId, Fingerprint, NetworkId};
use crate::limits::{
    GATE_DAYS_MAX, GATE_EXPERTS_MAX, GATE_FILE_BYTES_MAX, GATE_TOPIC_BUCKETS, GATE_VOCABULARIES_MAX,
};
use std::collections::BTreeMap;

const TAG: &[u8] = b"quorate gate 1\0";
const TRAILER: &str = "quorate 2026 gate";
/// Of what was known a part of 1/32 is forgotten each day: half of it in three weeks.
pub(super) const FORGETS: i64 = 32;
/// More than any sum can be that comes of counting.
const SUM_MAX: i64 = 1 << 48;

type Sums = [i64; GATE_TOPIC_BUCKETS];

/// One sum for each bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Track {
    fresh: Sums,
    told: Sums,
}

impl Track {
    const EMPTY: Track = Track {
        fresh: [0; GATE_TOPIC_BUCKETS],
        told: [0; GATE_TOPIC_BUCKETS],
    };

    fn add(&mut self, topic: &Topic, gain: i64) {
        for (sum, x) in self.fresh.iter_mut().zip(&topic.0) {
            *sum += x * gain / UNIT; // towards zero: never longer than it may be
        }
    }

    fn close(&mut self, days: u32, noise: &mut Noise) {
        for (told, fresh) in self.told.iter_mut().zip(&mut self.fresh) {
            for _ in 0..days.min(GATE_DAYS_MAX) {
                *told -= *told / FORGETS;
            }
            let drawn = std::mem::take(fresh) + noise.draw();
            *told = told.saturating_add(drawn).clamp(-SUM_MAX, SUM_MAX);
        }
    }

    fn known(&self) -> Sums {
        std::array::from_fn(|at| self.fresh[at] + self.told[at])
    }

    fn write(&self, out: &mut Writer) {
        for sum in self.fresh.iter().chain(&self.told) {
            out.u64(*sum as u64);
        }
    }

    fn read(read: &mut Reader) -> Result<Track, Malformed> {
        let mut track = Track::EMPTY;
        for sum in track.fresh.iter_mut().chain(&mut track.told) {
            *sum = read.u64()? as i64;
            if !(-SUM_MAX..=SUM_MAX).contains(sum) {
                return Err(Malformed::Range("a sum"));
            }
        }
        Ok(track)
    }
}

/// Of one vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
struct History {
    topics: Track,
    experts: BTreeMap<ExpertId, (u32, Track)>,
}

/// Which experts are in it depends on what others advertise, never on a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Days since 1970; that of the last close, 0 before the first.
    day: u32,
    /// How often noise was added: how much of it there is.
    closes: u16,
    histories: BTreeMap<Fingerprint, History>,
}

impl Own {
    /// These are advertised today. Who was not for a month has no place any more; beyond the bounds nobody gets one.
    pub fn list(&mut self, today: u32, adverts: &[(Fingerprint, ExpertId)]) {
        for (vocabulary, expert) in adverts {
            let is_full = self.histories.len() >= GATE_VOCABULARIES_MAX;
            if !self.histories.contains_key(vocabulary) && is_full {
                continue;
            }
            let history = self.histories.entry(*vocabulary).or_insert(History {
                topics: Track::EMPTY,
                experts: BTreeMap::new(),
            });
            let is_full = history.experts.len() >= GATE_EXPERTS_MAX;
            match history.experts.get_mut(expert) {
                Some((seen, _)) => *seen = today,
                None if is_full => {}
                None => {
                    history.experts.insert(*expert, (today, Track::EMPTY));
                }
            }
        }
        for history in self.histories.values_mut() {
            let is_fresh = |seen: u32| today.abs_diff(seen) <= GATE_DAYS_MAX;
            history.experts.retain(|_, (seen, _)| is_fresh(*seen));
        }
        self.histories
            .retain(|_, history| !history.experts.is_empty());
    }

    /// A day has ended since the last close.
    pub fn is_due(&self, today: u32) -> bool {
        self.day != today
    }

    pub fn observe(&mut self, vocabulary: Fingerprint, seen: &Observation) {
        let Some(history) = self.histories.get_mut(&vocabulary) else {
            return;
        };
        history.topics.add(&seen.topic, UNIT);
        for (expert, gain) in &seen.gains {
            if let Some((_, track)) = history.experts.get_mut(expert) {
                track.add(&seen.topic, *gain);
            }
        }
    }

    /// A new day: what is exact gets its noise and is not exact any more. Every request is told of once, with the
    /// noise of one day. True: this must be on the disk before it is told to anybody, for the same day with other
    /// noise would say twice as much.
    pub fn close(&mut self, today: u32, noise: &mut Noise) -> bool {
        if today == self.day {
            return false;
        }
        let days = if self.day == 0 {
            0
        } else {
            today.abs_diff(self.day)
        };
        self.day = today;
        self.closes = self.closes.saturating_add(1);
        for history in self.histories.values_mut() {
            history.topics.close(days, noise);
            for (_, track) in history.experts.values_mut() {
                track.close(days, noise);
            }
        }
        true
    }

    /// What the mesh may know, to be signed. None before the first close.
    pub fn voice(&self, network: NetworkId, node: Author) -> Option<Voice> {
        let said = |history: &History| Said {
            topics: Row::of(&history.topics.told),
            experts: history
                .experts
                .iter()
                .map(|(expert, (_, track))| (*expert, Row::of(&track.told)))
                .collect(),
        };
        let histories = self.histories.iter();
        (self.day > 0 && !self.histories.is_empty()).then(|| Voice {
            network,
            node,
            day: self.day,
            closes: self.closes,
            said: histories.map(|(v, history)| (*v, said(history))).collect(),
            signature: [0; 64],
        })
    }

    pub(super) fn near(
        &self,
        vocabulary: &Fingerprint,
        topic: &Topic,
        expert: &ExpertId,
    ) -> Option<Near> {
        let history = self.histories.get(vocabulary)?;
        let (_, track) = history.experts.get(expert)?;
        Some(Near {
            requests: topic.dot(&history.topics.known()).max(0.0),
            gained: topic.dot(&track.known()),
            variance: variance(self.closes),
        })
    }

    /// For a file of this node; it holds what requests of today said.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG).u32(self.day).u16(self.closes);
        out.u8(self.histories.len() as u8);
        for (vocabulary, history) in &self.histories {
            out.raw(&vocabulary.0);
            history.topics.write(&mut out);
            out.u8(history.experts.len() as u8);
            for (expert, (seen, track)) in &history.experts {
                out.raw(&expert.0).u32(*seen);
                track.write(&mut out);
            }
        }
        let sum = hash(TRAILER, &out.0);
        out.raw(&sum);
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Own, Malformed> {
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(Malformed::Short)?;
        let mut read = Reader::open(body, GATE_FILE_BYTES_MAX, TAG)?;
        if hash(TRAILER, body) != *sum {
            return Err(Malformed::NotCanonical);
        }
        let mut own = Own {
            day: read.u32()?,
            closes: read.u16()?,
            histories: BTreeMap::new(),
        };
        for _ in 0..read.u8()? {
            let vocabulary = Fingerprint(read.array()?);
            let topics = Track::read(&mut read)?;
            let mut experts = BTreeMap::new();
            for _ in 0..read.u8()? {
                let expert = ExpertId(read.array()?);
                experts.insert(expert, (read.u32()?, Track::read(&mut read)?));
            }
            if experts.len() > GATE_EXPERTS_MAX {
                return Err(Malformed::Range("the experts"));
            }
            own.histories
                .insert(vocabulary, History { topics, experts });
        }
        read.end()?;
        match own.histories.len() > GATE_VOCABULARIES_MAX {
            true => Err(Malformed::Range("the vocabularies")),
            false => Ok(own),
        }
    }
}
