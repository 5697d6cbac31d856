//! `/quorate/sync/1`: who lacks a signed record asks for it. Two that agree say so in 32 bytes;
//! two that differ go through the record names in pages, in order, so that any number of records
//! is synced in messages of bounded size.

use super::advert::Advert;
use crate::governance::codec::{Author, Malformed, Reader, Writer, hash};
use crate::governance::{RecordId, Records};
use crate::ids::NetworkId;
use crate::limits::{
    RECORD_BYTES_MAX, SYNC_BYTES_MAX, SYNC_HEARD_MAX, SYNC_IDS_MAX, SYNC_PAGES_MAX,
};
use crate::weights::Voice;
use std::collections::{BTreeMap, BTreeSet};

const TAG: &[u8] = b"quorate sync v1\0";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub network: NetworkId,
    pub question: Question,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Have you the same records? This is the hash of the names of mine.
    Same([u8; 32]),
    /// Of the names from `first` to `last` I have these: send me the others.
    Page(Page),
    /// Who is there? Nodes were heard up to these numbers: tell what is newer.
    Adverts(Vec<Heard>),
    /// What do nodes say of experts? Each was heard up to this day.
    Voices(Vec<Heard>),
    /// Take these: the admissions that lead to me, my advert, or news. `Same`: you are known here.
    /// `Differ`: you are now; connect anew, for this connection began as a stranger's.
    Take(Vec<Vec<u8>>),
}

/// The beginning of a node's key, and the number of its last advert. Nobody gains by a key that
/// begins like another one: of two, one is told later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard {
    pub node: [u8; 8],
    pub seq: u64,
}

impl Heard {
    pub fn of(node: &Author, seq: u64) -> Heard {
        let node = *node.first_chunk().expect("a key is longer");
        Heard { node, seq }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub first: RecordId,
    pub last: RecordId,
    pub have: Vec<RecordId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Same,
    Differ,
    /// Records or adverts, as many as fit; `more`: ask again for the rest.
    Some {
        items: Vec<Vec<u8>>,
        more: bool,
    },
    /// Another mesh, or no member.
    Refused,
}

impl Ask {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(TAG).raw(&self.network.0);
        match &self.question {
            Question::Same(digest) => out.u8(1).raw(digest),
            Question::Page(Page { first, last, have }) => {
                out.u8(2).raw(first).raw(last).list(have.iter())
            }
            Question::Adverts(heard) => write_heard(heard, out.u8(3)),
            Question::Voices(heard) => write_heard(heard, out.u8(5)),
            Question::Take(items) => {
                out.u8(4);
                write_items(items, &mut out)
            }
        };
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Ask, Malformed> {
        let mut read = Reader::open(bytes, SYNC_BYTES_MAX, TAG)?;
        let network = NetworkId(read.array()?);
        let question = match read.u8()? {
            1 => Question::Same(read.array()?),
            2 => Question::Page(Page {
                first: read.array()?,
                last: read.array()?,
                have: read.list(SYNC_IDS_MAX, "the records")?,
            }),
            3 => Question::Adverts(read_heard(&mut read)?),
            4 => Question::Take(read_items(&mut read)?),
            5 => Question::Voices(read_heard(&mut read)?),
            _ => return Err(Malformed::Range("the question")),
        };
        read.end()?;
        Ok(Ask { network, question })
    }
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Answer::Refused => out.u8(0),
            Answer::Same => out.u8(1),
            Answer::Differ => out.u8(2),
            Answer::Some { items, more } => {
                out.u8(3).u8(u8::from(*more));
                write_items(items, &mut out)
            }
        };
        out.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Answer, Malformed> {
        let mut read = Reader::open(bytes, SYNC_BYTES_MAX, &[])?;
        let answer = match read.u8()? {
            0 => Answer::Refused,
            1 => Answer::Same,
            2 => Answer::Differ,
            3 => {
                let more = match read.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed::Range("a flag")),
                };
                let items = read_items(&mut read)?;
                Answer::Some { items, more }
            }
            _ => return Err(Malformed::Range("the answer")),
        };
        read.end()?;
        Ok(answer)
    }
}

fn write_heard<'a>(heard: &[Heard], out: &'a mut Writer) -> &'a mut Writer {
    out.u16(heard.len() as u16);
    for Heard { node, seq } in heard {
        out.raw(node).u64(*seq);
    }
    out
}

fn read_heard(read: &mut Reader) -> Result<Vec<Heard>, Malformed> {
    let n = usize::from(read.u16()?);
    if n > SYNC_HEARD_MAX {
        return Err(Malformed::Range("the nodes"));
    }
    let one = |read: &mut Reader| {
        Ok(Heard {
            node: read.array()?,
            seq: read.u64()?,
        })
    };
    (0..n).map(|_| one(read)).collect()
}

/// An advert as it is told to others: its age in whole seconds, and its bytes. The age is rounded up,
/// so that no chain of tellers keeps a node alive that is gone.
fn told(advert: &Advert, age_us: u64) -> Vec<u8> {
    let age_s = u32::try_from(age_us.div_ceil(1_000_000)).unwrap_or(u32::MAX);
    let mut out = Writer::default();
    out.u32(age_s).raw(&advert.encode());
    out.0
}

/// The age in microseconds of an advert that was told, and its bytes.
pub fn untold(item: &[u8]) -> Option<(u64, &[u8])> {
    let (age_s, advert) = item.split_first_chunk()?;
    Some((u64::from(u32::from_le_bytes(*age_s)) * 1_000_000, advert))
}

fn write_items<'a>(items: &[Vec<u8>], out: &'a mut Writer) -> &'a mut Writer {
    out.u16(items.len() as u16);
    for item in items {
        out.u32(item.len() as u32).raw(item);
    }
    out
}

fn read_items(read: &mut Reader) -> Result<Vec<Vec<u8>>, Malformed> {
    let n = read.u16()?;
    let mut items = Vec::new(); // no room is made on the word of a peer
    for _ in 0..n {
        items.push(read.bytes(RECORD_BYTES_MAX, "a record")?.to_vec());
    }
    Ok(items)
}

/// As many messages as it takes to hand all these over.
pub fn parcels(items: Vec<Vec<u8>>) -> Vec<Question> {
    let (mut parcels, mut parcel, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        bytes += item.len() + 4;
        if bytes > RECORD_BYTES_MAX && !parcel.is_empty() {
            bytes = item.len() + 4;
            parcels.push(Question::Take(std::mem::take(&mut parcel)));
        }
        parcel.push(item);
    }
    if !parcel.is_empty() {
        parcels.push(Question::Take(parcel));
    }
    parcels
}

/// The hash of all names, whatever their order of arrival.
pub fn digest(ids: &BTreeSet<RecordId>) -> [u8; 32] {
    let mut all = Writer::default();
    ids.iter().for_each(|id| {
        all.raw(id);
    });
    hash("quorate 2026 sync", &all.0)
}

/// What a member is told. `adverts` are those of others, and their ages.
pub fn answer<'a>(
    records: &Records,
    own: Option<&'a Advert>,
    adverts: impl Iterator<Item = (&'a Advert, u64)>,
    question: &Question,
) -> Answer {
    match question {
        Question::Same(theirs) if digest(&names(records)) == *theirs => Answer::Same,
        Question::Same(_) => Answer::Differ,
        Question::Page(Page { first, last, .. }) if first > last => Answer::Refused,
        Question::Page(Page { first, last, have }) => {
            let ids = names(records);
            let lacks = ids
                .range(*first..=*last)
                .filter(|id| have.binary_search(id).is_err());
            fill(lacks.filter_map(|id| Some(records.get(id)?.encode())))
        }
        Question::Adverts(heard) => {
            let is_news = news(heard);
            let is_news = |(advert, _): &(&Advert, u64)| is_news(&advert.node, advert.seq);
            let all = own.map(|own| (own, 0)).into_iter().chain(adverts);
            fill(
                all.filter(is_news)
                    .map(|(advert, age_us)| told(advert, age_us)),
            )
        }
        // Whoever keeps the records takes them; here is only what is told.
        Question::Take(_) | Question::Voices(_) => Answer::Refused,
    }
}

/// What a member is told of what nodes say of experts.
pub fn voices<'a>(said: impl Iterator<Item = &'a Voice>, heard: &[Heard]) -> Answer {
    let is_news = news(heard);
    fill(
        said.filter(|v| is_news(&v.node, v.day.into()))
            .map(Voice::encode),
    )
}

fn news(heard: &[Heard]) -> impl Fn(&Author, u64) -> bool {
    let heard: BTreeMap<[u8; 8], u64> = heard.iter().map(|h| (h.node, h.seq)).collect();
    move |node, seq| {
        let Heard { node, seq } = Heard::of(node, seq);
        heard.get(&node).is_none_or(|known| *known < seq)
    }
}

fn names(records: &Records) -> BTreeSet<RecordId> {
    records.ids().collect()
}

fn fill(found: impl Iterator<Item = Vec<u8>>) -> Answer {
    let (mut items, mut bytes) = (Vec::new(), 0);
    for item in found {
        bytes += item.len() + 4;
        // One record always fits.
        if bytes > RECORD_BYTES_MAX && !items.is_empty() {
            return Answer::Some { items, more: true };
        }
        items.push(item);
    }
    Answer::Some { items, more: false }
}

/// One side's way through the records of another: ask, hear, ask again.
#[derive(Clone, Debug)]
pub struct Pull {
    network: NetworkId,
    /// The page that was asked for last begins here; None before the first.
    page: Option<RecordId>,
    pages: u32,
}

impl Pull {
    pub fn start(network: NetworkId, records: &Records) -> (Pull, Ask) {
        let ids = names(records);
        let pull = Pull {
            network,
            page: None,
            pages: 0,
        };
        let ask = pull.ask(Question::Same(digest(&ids)));
        (pull, ask)
    }

    /// The next question after an answer whose items were taken into `records`; None: done.
    pub fn next(&mut self, records: &Records, answer: &Answer) -> Option<Ask> {
        let first = match (answer, self.page) {
            (Answer::Differ, None) => [0; 32],
            // The same page again: what just came is now among what we have.
            (Answer::Some { more: true, items }, Some(first)) if !items.is_empty() => first,
            (Answer::Some { .. }, Some(first)) => after(&page(records, first).last)?,
            _ => return None,
        };
        self.pages += 1;
        if self.pages > SYNC_PAGES_MAX {
            return None;
        }
        self.page = Some(first);
        Some(self.ask(Question::Page(page(records, first))))
    }

    fn ask(&self, question: Question) -> Ask {
        let network = self.network;
        Ask { network, question }
    }
}

/// Our names from `first` on, and how far they reach: to the end if they fit.
fn page(records: &Records, first: RecordId) -> Page {
    let ids = names(records);
    let mut have: Vec<RecordId> = ids.range(first..).take(SYNC_IDS_MAX + 1).copied().collect();
    let last = match have.get(SYNC_IDS_MAX) {
        Some(_) => have[SYNC_IDS_MAX - 1],
        None => [0xff; 32],
    };
    have.truncate(SYNC_IDS_MAX);
    Page { first, last, have }
}

/// The next name; None after the last one.
fn after(id: &RecordId) -> Option<RecordId> {
    let mut next = *id;
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}
