//! What experts said of the tokens of a text.

use crate::ids::Position;
use crate::limits::PLANE_TOKENS_MAX;
use crate::lnp::LnP;

/// "No mass" in nats, as evidence. Finite, so that one token never ends an expert for good: whoever
/// says it of every eighth token still loses by it.
const NO_MASS_NATS: f64 = -64.0;

pub(super) fn nats(ln_p: LnP) -> f64 {
    ln_p.ln().max(NO_MASS_NATS)
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    experts: usize,
    cells: Vec<Option<LnP>>,
}

impl Table {
    pub(super) fn new(experts: usize) -> Table {
        Table {
            experts,
            cells: Vec::new(),
        }
    }

    /// False if it is outside, or was said before.
    pub(super) fn put(&mut self, position: Position, expert: usize, ln_p: LnP) -> bool {
        let position = position as usize;
        if position >= PLANE_TOKENS_MAX || expert >= self.experts {
            return false;
        }
        let at = position * self.experts + expert;
        if at >= self.cells.len() {
            self.cells.resize((position + 1) * self.experts, None);
        }
        let is_new = self.cells[at].is_none();
        if is_new {
            self.cells[at] = Some(ln_p);
        }
        is_new
    }

    /// What was said becomes unsaid; false if it never was.
    pub(super) fn take(&mut self, position: Position, expert: usize) -> bool {
        let at = position as usize * self.experts + expert;
        let cell = self.cells.get_mut(at).filter(|_| expert < self.experts);
        cell.is_some_and(|said| said.take().is_some())
    }

    /// One entry for each expert; none at all if nothing was said of this position or behind it.
    pub(super) fn row(&self, position: Position) -> &[Option<LnP>] {
        let from = position as usize * self.experts;
        self.cells.get(from..from + self.experts).unwrap_or(&[])
    }

    /// Who said something of it.
    pub(super) fn known(&self, position: Position) -> Vec<usize> {
        let row = self.row(position).iter().enumerate();
        row.filter(|(_, said)| said.is_some())
            .map(|(k, _)| k)
            .collect()
    }
}
