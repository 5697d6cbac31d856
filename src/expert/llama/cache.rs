//! The key-value cache: which sequence holds what, and whose prefix can be had for nothing.
//!
//! Sequences of running sessions and of closed ones lie in one unified cache. A closed session's
//! sequence stays as a *prefix* until its cells are needed, or until it has cost the others as
//! much time as computing it again would: without flash attention every row pays for every cell.

use super::cells::{Cells, Ledger};
use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use quorate_core::ids::Token;
use quorate_core::limits::SEQUENCES_MAX;
use quorate_core::opinion::Scope;

/// A shorter prefix is not worth a sequence: the first chunk computes it anyway.
const PREFIX_TOKENS_MIN: usize = 8;

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

/// A closed session's text, still in the cache.
#[derive(Debug)]
struct Prefix {
    scope: Scope,
    text: Vec<Token>,
    sequence: Sequence,
    /// The clock of uses: larger is later.
    used: u64,
    /// What a cell had cost others when this one was last of use.
    rent_us: f64,
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
    /// Recurrent models cannot forget a part of a sequence, nor share one.
    whole_only: bool,
    uses: u64,
    /// What one cell has cost the rows of all steps so far.
    rent_us: f64,
}

impl<'model> Cache<'model> {
    pub(super) fn new(context: LlamaContext<'model>, whole_only: bool) -> Cache<'model> {
        let cells = context.n_ctx();
        Cache {
            context,
            ledger: Ledger::new(cells),
            spare: (0..SEQUENCES_MAX as i32).rev().collect(),
            prefixes: Vec::new(),
            pinned: None,
            whole_only,
            uses: 0,
            rent_us: 0.0,
        }
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

    /// Cells that are free once every prefix is gone.
    pub(super) fn reclaimable<'a>(&'a self, running: impl Iterator<Item = &'a Sequence>) -> usize {
        let pinned = self.pinned.iter().map(|(_, sequence)| sequence);
        let kept = running.chain(pinned).map(|sequence| &sequence.cells);
        self.total() - self.ledger.distinct(kept)
    }

    // --- sequences ------------------------------------------------------------------------------

    /// An empty sequence; the oldest prefix makes way if there is none left.
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
            let old = self.prefixes.swap_remove(index);
            self.release(old.sequence);
        }
        self.uses += 1;
        let (used, rent_us) = (self.uses, self.rent_us);
        self.prefixes.push(Prefix {
            scope,
            text,
            sequence,
            used,
            rent_us,
        });
    }

    /// The prefix that has most of `text`, with how much of it.
    pub(super) fn longest(&self, scope: Scope, text: &[Token]) -> Option<(Source, usize)> {
        let candidates = self
            .prefixes
            .iter()
            .enumerate()
            .filter(|(_, old)| old.scope == scope);
        let common = candidates.map(|(index, old)| {
            let len = self.usable(common_prefix(&old.text, text), old.sequence.len());
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

    /// A sequence that begins with `len` tokens of a prefix. A prefix used up whole is handed over.
    pub(super) fn take_prefix(&mut self, index: usize, len: usize) -> Option<Sequence> {
        if self.prefixes[index].sequence.len() == len {
            return Some(self.prefixes.swap_remove(index).sequence);
        }
        self.uses += 1;
        self.prefixes[index].used = self.uses;
        self.prefixes[index].rent_us = self.rent_us;
        if self.spare.is_empty() {
            // Not the one that is wanted: it was just used, and there are others.
            self.evict();
        }
        let id = self.spare.pop()?;
        let wanted = self
            .prefixes
            .iter()
            .find(|prefix| prefix.used == self.uses)?;
        let (from, cells) = (
            wanted.sequence.id,
            self.ledger.share(&wanted.sequence.cells, len),
        );
        Some(self.copied(from, id, cells))
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
        // Cannot fail: positions fit 31 bits, both ids are below SEQUENCES_MAX.
        let copied = self.context.copy_kv_cache_seq(from, id, None, until);
        debug_assert!(copied.is_ok());
        Sequence { id, cells }
    }

    /// Lets the least recently used prefix go. False if there is none.
    pub(super) fn evict(&mut self) -> bool {
        let oldest = (0..self.prefixes.len()).min_by_key(|&i| self.prefixes[i].used);
        let Some(index) = oldest else {
            return false;
        };
        let old = self.prefixes.swap_remove(index);
        self.release(old.sequence);
        true
    }

    /// A step made each cell cost `cell_us`. Prefixes whose cells have now cost as much as a token
    /// of prefill, `row_us`, without being of use are let go: at worst the time lost is twice the
    /// least possible (rent or buy).
    pub(super) fn charge(&mut self, cell_us: f64, row_us: f64) {
        self.rent_us += cell_us;
        let total_us = self.rent_us;
        let due = |prefix: &Prefix| total_us - prefix.rent_us > row_us;
        while let Some(index) = self.prefixes.iter().position(due) {
            let old = self.prefixes.swap_remove(index);
            self.release(old.sequence);
        }
    }
}

pub(super) fn common_prefix(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
