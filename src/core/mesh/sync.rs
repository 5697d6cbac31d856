//! `/quorate/sync/1`: who lacks a signed record asks for it. Two that agree say so in 32 bytes;
//! two that differ go through the record names in pages, in order, so that any number of records
//! is synced in messages of bounded size.

use super::advert::Advert;
use crate::governance::codec::{Author, Malformed, Reader, Writer, hash};
use crate::governance::{RecordId, Records};
use crate::ids::NetworkId;
use crate::limits::{RECORD_BYTES_MAX, SYNC_BYTES_MAX, SYNC_IDS_MAX, SYNC_PAGES_MAX};
use std::collections::BTreeSet;

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
    /// Who is there, after this key?
    Adverts { after: Author },
    /// Take these: the admissions that lead to me, my advert, or news. `Same`: you are known here.
    /// `Differ`: you are now; connect anew, for this connection began as a stranger's.
    Take(Vec<Vec<u8>>),
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
            Question::Adverts { after } => out.u8(3).raw(after),
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
            3 => Question::Adverts {
                after: read.array()?,
            },
            4 => Question::Take(read_items(&mut read)?),
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

/// What a member is told. `adverts` are in the order of their nodes; `own` is this node's, which
/// counts as fresh only from itself.
pub fn answer<'a>(
    records: &Records,
    own: Option<&Advert>,
    adverts: impl Iterator<Item = &'a Advert>,
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
        Question::Adverts { after } => {
            let first = own.filter(|_| *after == [0; 32]).map(Advert::encode);
            let others = adverts.filter(|advert| advert.node > *after);
            fill(first.into_iter().chain(others.map(Advert::encode)))
        }
        // Whoever keeps the records takes them; here is only what is told.
        Question::Take(_) => Answer::Refused,
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
