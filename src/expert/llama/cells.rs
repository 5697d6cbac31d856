//! A ledger of cache cells: what llama.cpp does inside its unified cache, counted outside it.
//!
//! llama.cpp answers "no slot" only after the batch is built, and never says how much is free.
//! The ledger knows before: a cell is taken by the first sequence that holds it and free again
//! when the last lets go, exactly as `seq_cp` and `seq_rm` do it.

/// The cells of one sequence, in text order. Give it back with [`Ledger::truncate`] to length 0;
/// a forgotten list is a leak of cells, so it is neither `Clone` nor made outside this file.
#[derive(Debug, Default)]
pub(super) struct Cells(Vec<u32>);

impl Cells {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[derive(Debug)]
pub(super) struct Ledger {
    /// How many sequences hold each cell.
    holders: Vec<u16>,
    free: Vec<u32>,
}

impl Ledger {
    pub(super) fn new(cells: u32) -> Ledger {
        Ledger {
            holders: vec![0; cells as usize],
            free: (0..cells).rev().collect(),
        }
    }

    pub(super) fn total(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn used(&self) -> usize {
        self.total() - self.free()
    }

    /// Takes `count` new cells. The caller has made room.
    pub(super) fn append(&mut self, cells: &mut Cells, count: usize) {
        assert!(count <= self.free.len(), "room was made for the step");
        for _ in 0..count {
            if let Some(cell) = self.free.pop() {
                self.holders[cell as usize] = 1;
                cells.0.push(cell);
            }
        }
    }

    /// Another sequence holds the first `len` of these cells too: no copy, no new cell.
    pub(super) fn share(&mut self, cells: &Cells, len: usize) -> Cells {
        let shared = cells.0[..len].to_vec();
        for &cell in &shared {
            self.holders[cell as usize] += 1;
        }
        Cells(shared)
    }

    pub(super) fn truncate(&mut self, cells: &mut Cells, len: usize) {
        for cell in cells.0.drain(len.min(cells.0.len())..) {
            let holders = &mut self.holders[cell as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.push(cell);
            }
        }
    }

    /// Cells that all these sequences hold together.
    pub(super) fn distinct<'a>(&self, lists: impl Iterator<Item = &'a Cells>) -> usize {
        let mut seen = vec![false; self.total()];
        let mut count = 0;
        for cell in lists.flat_map(|cells| &cells.0) {
            count += usize::from(!std::mem::replace(&mut seen[*cell as usize], true));
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_cell_is_free_when_the_last_lets_go() {
        let mut ledger = Ledger::new(10);
        let mut a = Cells::default();
        ledger.append(&mut a, 6);
        let mut b = ledger.share(&a, 4);
        ledger.append(&mut b, 2);
        assert_eq!((ledger.used(), b.len()), (8, 6));
        assert_eq!(ledger.distinct([&a, &b].into_iter()), 8);
        ledger.truncate(&mut a, 0);
        assert_eq!(ledger.used(), 6);
        ledger.truncate(&mut b, 3);
        assert_eq!(ledger.used(), 3);
        ledger.truncate(&mut b, 0);
        assert_eq!(ledger.free(), 10);
    }

    #[test]
    fn truncating_past_the_end_changes_nothing() {
        let mut ledger = Ledger::new(4);
        let mut a = Cells::default();
        ledger.append(&mut a, 2);
        ledger.truncate(&mut a, 9);
        assert_eq!(ledger.used(), 2);
        ledger.truncate(&mut a, 0);
    }
}
