//! The key-value cache: which sequence holds what, and whose prefix can be had for nothing.
//!
//! Sequences of running sessions lie in one unified cache. A closed session's sequence stays as a
//! *prefix*: in its cells while nobody computes, so that the next turn of a conversation costs
//! nothing, and *parked* in memory outside the cache as soon as somebody does. Without flash
//! attention every row of every session pays for every cell in use; a copy costs microseconds a
//! token, computing it again milliseconds.

use super::cells::{Cells, Ledger};
use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use quorate_core::ids::Token;
use quorate_core::opinion::Scope;

/// A shorter prefix is not worth a sequence: the first chunk computes it anyway.
const PREFIX_TOKENS_MIN: usize = 8;
/// Every new session is compared with all of them.
const PREFIXES_MAX: usize = 256;

/// A llama.cpp sequence with the cells that it holds.
#[derive(Debug)]
pub(super) struct Sequence {
    id: i32,
    cells: Cells,
}

impl Sequence {
    pub(super) fn id(&self) -> i32 {
        self.id
    }

    /// Tokens in the cache.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }
}

/// A closed session's text, computed.
#[derive(Debug)]
struct Prefix {
    scope: Scope,
    text: Vec<Token>,
    place: Place,
    /// The clock of uses: larger is later.
    used: u64,
}

#[derive(Debug)]
enum Place {
    /// In the cache, where every row of others pays for it.
    Cells(Sequence),
    /// Outside the cache.
    Parked(SeqState),
}

impl Place {
    fn parked_bytes(&self) -> usize {
        match self {
            Place::Cells(_) => 0,
            Place::Parked(state) => state.byte_len(),
        }
    }
}

/// Where a new session's beginning can come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Prefix(usize),
    /// The expert's own beginning of every text.
    Pinned,
    /// A running session, by whatever index the caller uses.
    Session(usize),
}

pub(super) struct Cache<'model> {
    context: LlamaContext<'model>,
    ledger: Ledger,
    spare: Vec<i32>,
    prefixes: Vec<Prefix>,
    /// What every session of this expert begins with: no router's text, so in nobody's scope, and
    /// never let go.
    pinned: Option<(Vec<Token>, Sequence)>,
    /// Bytes that parked prefixes may take.
    parked_bytes_max: usize,
    /// Recurrent models cannot forget a part of a sequence, nor share one.
    whole_only: bool,
    uses: u64,
}

impl<'model> Cache<'model> {
    pub(super) fn new(
        context: LlamaContext<'model>,
        sequences: usize,
        whole_only: bool,
        parked_bytes_max: usize,
    ) -> Cache<'model> {
        let cells = context.n_ctx();
        Cache {
            context,
            ledger: Ledger::new(cells),
            spare: (0..sequences as i32).rev().collect(),
            prefixes: Vec::new(),
            pinned: None,
            parked_bytes_max,
            whole_only,
            uses: 0,
        }
    }

    /// The context without anything in it, for another use; None where cells are not forgotten one
    /// by one.
    pub(super) fn into_context(mut self) -> Option<LlamaContext<'model>> {
        // What the cells held stays there, and is masked as everything that nobody holds.
        let forgotten = self.context.clear_kv_cache_seq(None, None, None) == Ok(true);
        (forgotten && !self.whole_only).then_some(self.context)
    }

    pub(super) fn total(&self) -> usize {
        self.ledger.total()
    }

    pub(super) fn free(&self) -> usize {
        self.ledger.free()
    }

    pub(super) fn used(&self) -> usize {
        self.ledger.used()
    }

    pub(super) fn rows_max(&self) -> usize {
        self.context.n_batch() as usize
    }

    /// Cells that are free once every prefix is out of them.
    pub(super) fn reclaimable<'a>(&'a self, running: impl Iterator<Item = &'a Sequence>) -> usize {
        let pinned = self.pinned.iter().map(|(_, sequence)| sequence);
        let kept = running.chain(pinned).map(|sequence| &sequence.cells);
        self.total() - self.ledger.distinct(kept)
    }

    // --- sequences ------------------------------------------------------------------------------

    /// An empty sequence; the oldest prefix in the cells makes way if there is none left.
    pub(super) fn sequence(&mut self) -> Option<Sequence> {
        if self.spare.is_empty() {
            self.evict();
        }
        let id = self.spare.pop()?;
        Some(Sequence {
            id,
            cells: Cells::default(),
        })
    }

    /// Forgets the tokens from `len` on. False: this model cannot, and the sequence is empty now.
    pub(super) fn shrink(&mut self, sequence: &mut Sequence, len: usize) -> bool {
        if len >= sequence.len() {
            return true;
        }
        let kept = len == 0 || !self.whole_only && self.remove(sequence.id, len);
        if !kept || len == 0 {
            self.remove(sequence.id, 0);
        }
        self.ledger
            .truncate(&mut sequence.cells, if kept { len } else { 0 });
        kept
    }

    fn remove(&mut self, id: i32, from: usize) -> bool {
        let (id, from) = (Some(id as u32), Some(from as u32));
        self.context.clear_kv_cache_seq(id, from, None) == Ok(true)
    }

    /// Frees the sequence and every cell that nobody else holds.
    pub(super) fn release(&mut self, mut sequence: Sequence) {
        self.shrink(&mut sequence, 0);
        self.spare.push(sequence.id);
    }

    /// Puts `count` decoded tokens on the books.
    pub(super) fn grew(&mut self, sequence: &mut Sequence, count: usize) {
        self.ledger.append(&mut sequence.cells, count);
    }

    pub(super) fn decode(&mut self, batch: &mut LlamaBatch<'_>) -> Result<(), DecodeError> {
        let done = self.context.decode(batch);
        self.context.synchronize();
        done
    }

    /// Logits of the batch's row, which had its output flag set and was decoded.
    pub(super) fn logits(&self, row: i32) -> &[f32] {
        self.context.get_logits_ith(row)
    }

    /// Computes what every session begins with, once and for all.
    pub(super) fn pin(&mut self, text: Vec<Token>) -> Result<(), DecodeError> {
        let Some(mut sequence) = self.sequence() else {
            return Err(DecodeError::NoKvCacheSlot);
        };
        let mut batch = LlamaBatch::new(self.rows_max(), 1);
        let mut position = 0;
        for rows in text.chunks(self.rows_max()) {
            batch.clear();
            for &token in rows {
                // The batch has room for as many, and one sequence fits.
                let added = batch.add(
                    LlamaToken::new(token as i32),
                    position,
                    &[sequence.id],
                    false,
                );
                debug_assert!(added.is_ok());
                position += 1;
            }
            self.decode(&mut batch)?;
            self.grew(&mut sequence, rows.len());
        }
        self.pinned = Some((text, sequence));
        Ok(())
    }

    /// How much of a text the pinned beginning provides.
    pub(super) fn pinned(&self, text: &[Token]) -> usize {
        self.pinned.as_ref().map_or(0, |(pinned, sequence)| {
            self.usable(common_prefix(pinned, text), sequence.len())
        })
    }

    pub(super) fn share_pinned(&mut self, len: usize) -> Option<Sequence> {
        let mut sequence = self.sequence()?;
        let (_, pinned) = self.pinned.as_ref()?;
        sequence.cells = self.ledger.share(&pinned.cells, len);
        let from = pinned.id;
        Some(self.copied(from, sequence.id, sequence.cells))
    }

    // --- prefixes -------------------------------------------------------------------------------

    /// Keeps what a closed session left, if it is worth a sequence and not there already.
    pub(super) fn keep(&mut self, scope: Scope, mut text: Vec<Token>, sequence: Sequence) {
        text.truncate(sequence.len());
        let covered = |old: &Prefix| old.scope == scope && old.text.starts_with(&text);
        if text.len() < PREFIX_TOKENS_MIN || self.prefixes.iter().any(covered) {
            self.release(sequence);
            return;
        }
        let shorter = |old: &Prefix| old.scope == scope && text.starts_with(&old.text);
        while let Some(index) = self.prefixes.iter().position(shorter) {
            self.forget(index);
        }
        self.uses += 1;
        self.prefixes.push(Prefix {
            scope,
            text,
            place: Place::Cells(sequence),
            used: self.uses,
        });
        if self.prefixes.len() > PREFIXES_MAX {
            let oldest = (0..self.prefixes.len()).min_by_key(|&i| self.prefixes[i].used);
            oldest.into_iter().for_each(|index| self.forget(index));
        }
    }

    fn forget(&mut self, index: usize) {
        if let Place::Cells(sequence) = self.prefixes.swap_remove(index).place {
            self.release(sequence);
        }
    }

    /// The prefix that has most of `text`, with how much of it.
    pub(super) fn longest(&self, scope: Scope, text: &[Token]) -> Option<(Source, usize)> {
        let candidates = self
            .prefixes
            .iter()
            .enumerate()
            .filter(|(_, old)| old.scope == scope);
        let common = candidates.map(|(index, old)| {
            let len = self.usable(common_prefix(&old.text, text), old.text.len());
            (Source::Prefix(index), len)
        });
        common
            .filter(|&(_, len)| len > 0)
            .max_by_key(|&(_, len)| len)
    }

    /// How much of a sequence of `have` tokens can be shared if `common` of them agree.
    pub(super) fn usable(&self, common: usize, have: usize) -> usize {
        if self.whole_only && common < have {
            0
        } else {
            common.min(have)
        }
    }

    /// A sequence that begins with `len` tokens of a prefix, or with less where that fails. A prefix
    /// in the cells that is used up whole is handed over; a parked one stays for others.
    pub(super) fn take_prefix(&mut self, index: usize, len: usize) -> Option<Sequence> {
        self.uses += 1;
        let prefix = &mut self.prefixes[index];
        prefix.used = self.uses;
        match &prefix.place {
            Place::Cells(sequence) if sequence.len() == len => {
                match self.prefixes.swap_remove(index).place {
                    Place::Cells(sequence) => Some(sequence),
                    Place::Parked(_) => None,
                }
            }
            Place::Cells(_) => self.share_prefix(len),
            Place::Parked(_) => self.restore(len),
        }
    }

    fn share_prefix(&mut self, len: usize) -> Option<Sequence> {
        if self.spare.is_empty() {
            // Not the one that is wanted: it was just used, and there are others.
            self.evict();
        }
        let id = self.spare.pop()?;
        let latest = self.prefixes.iter().find(|p| p.used == self.uses)?;
        let Place::Cells(wanted) = &latest.place else {
            return None;
        };
        let (from, cells) = (wanted.id, self.ledger.share(&wanted.cells, len));
        Some(self.copied(from, id, cells))
    }

    /// Brings the parked prefix that was used last back into the cells, and keeps `len` tokens.
    fn restore(&mut self, len: usize) -> Option<Sequence> {
        let latest = self.prefixes.iter().find(|p| p.used == self.uses)?;
        let count = latest.text.len();
        while self.free() < count && self.evict() {}
        let mut sequence = self.sequence()?;
        let wanted = self.prefixes.iter().position(|p| p.used == self.uses)?;
        let Place::Parked(state) = &self.prefixes[wanted].place else {
            return Some(sequence);
        };
        if self.ledger.free() < count {
            return Some(sequence); // no room for the whole of it: it is computed again
        }
        if let Err(error) = self.context.state_seq_set(state, sequence.id) {
            tracing::warn!(target: "quorate::expert", %error, "a parked prefix does not come back");
            self.remove(sequence.id, 0);
            self.prefixes.swap_remove(wanted);
            return Some(sequence);
        }
        self.ledger.append(&mut sequence.cells, count);
        self.shrink(&mut sequence, len);
        Some(sequence)
    }

    /// A sequence that begins with `len` tokens of a running one.
    pub(super) fn share(&mut self, from: i32, cells_of: &Sequence, len: usize) -> Option<Sequence> {
        let mut sequence = self.sequence()?;
        sequence.cells = self.ledger.share(&cells_of.cells, len);
        Some(self.copied(from, sequence.id, sequence.cells))
    }

    fn copied(&mut self, from: i32, id: i32, cells: Cells) -> Sequence {
        let until = if self.whole_only {
            None
        } else {
            Some(cells.len() as u32)
        };
        // Cannot fail: positions fit 31 bits, both ids are among the context's.
        let copied = self.context.copy_kv_cache_seq(from, id, None, until);
        debug_assert!(copied.is_ok());
        Sequence { id, cells }
    }

    /// Takes the least recently used prefix out of the cells. False if there is none in them.
    pub(super) fn evict(&mut self) -> bool {
        let in_cells = |i: &usize| matches!(self.prefixes[*i].place, Place::Cells(_));
        let all = 0..self.prefixes.len();
        let oldest = all.filter(in_cells).min_by_key(|&i| self.prefixes[i].used);
        oldest.is_some_and(|index| {
            self.park(index);
            true
        })
    }

    /// Takes every prefix out of the cells.
    pub(super) fn clear_cells(&mut self) {
        while self.evict() {}
    }

    /// Copies a prefix out of the cells, or lets it go where there is no room for the copy.
    fn park(&mut self, index: usize) {
        let Place::Cells(sequence) = &self.prefixes[index].place else {
            return;
        };
        let state = self
            .context
            .state_seq_get(sequence.id, LlamaStateSeqFlags::empty());
        let fits = state.ok().filter(|s| s.byte_len() <= self.parked_bytes_max);
        let Some(state) = fits else {
            return self.forget(index);
        };
        let place = std::mem::replace(&mut self.prefixes[index].place, Place::Parked(state));
        if let Place::Cells(sequence) = place {
            self.release(sequence);
        }
        while self.parked_bytes() > self.parked_bytes_max {
            let parked = |i: &usize| self.prefixes[*i].place.parked_bytes() > 0;
            let all = 0..self.prefixes.len();
            let oldest = all.filter(parked).min_by_key(|&i| self.prefixes[i].used);
            let Some(oldest) = oldest else { return };
            self.forget(oldest);
        }
    }

    fn parked_bytes(&self) -> usize {
        self.prefixes.iter().map(|p| p.place.parked_bytes()).sum()
    }
}

pub(super) fn common_prefix(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
