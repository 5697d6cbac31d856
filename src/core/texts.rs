//! The texts of one session, as experts without a model keep them: the session's own, and side branches, each under
//! an epoch of its own.

use crate::ids::{Position, Token};
use crate::limits::{BRANCH_TOKENS_MAX, BRANCHES_MAX};

/// One of them, with what its expert notes about it.
#[derive(Clone, Debug)]
pub struct Text<T> {
    pub tokens: Vec<Token>,
    pub notes: T,
    epoch: u32,
    /// Tokens: a branch is short.
    at_most: usize,
}

/// A router sent something twice, or left something out, or more than it may: no router of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("in epoch {epoch}: the text is {has} tokens long, and {position} was said about it")]
pub struct OutOfOrder {
    epoch: u32,
    has: usize,
    position: Position,
}

#[derive(Clone, Debug)]
pub struct Texts<T> {
    pub own: Text<T>,
    branches: Vec<Text<T>>,
    /// The last epoch that began.
    newest: u32,
}

impl<T: Default> Texts<T> {
    pub fn new(tokens: Vec<Token>) -> Texts<T> {
        Texts {
            own: Text {
                tokens,
                notes: T::default(),
                epoch: 0,
                at_most: usize::MAX,
            },
            branches: Vec::new(),
            newest: 0,
        }
    }

    pub fn epoch(&self) -> u32 {
        self.own.epoch
    }

    /// The text of an epoch.
    pub fn of(&mut self, epoch: u32) -> Result<&mut Text<T>, OutOfOrder> {
        let lost = self.out_of_order(epoch, 0);
        match epoch == self.own.epoch {
            true => Ok(&mut self.own),
            false => self
                .branches
                .iter_mut()
                .find(|b| b.epoch == epoch)
                .ok_or(lost),
        }
    }

    /// Appends to the text of an epoch, about whose last positions so many questions are asked: from which one on?
    pub fn draft(
        &mut self,
        epoch: u32,
        position: Position,
        tokens: &[Token],
        questions: usize,
    ) -> Result<Position, OutOfOrder> {
        let text = self.of(epoch)?;
        let has = text.tokens.len();
        let is_asked = questions <= tokens.len() + 1;
        if position as usize != has || !is_asked || has + tokens.len() > text.at_most {
            return Err(OutOfOrder {
                epoch,
                has,
                position,
            });
        }
        text.tokens.extend(tokens);
        Ok((text.tokens.len() + 1 - questions) as Position)
    }

    /// Begins a branch: the session's own text up to a position, then a token.
    pub fn branch(
        &mut self,
        epoch: u32,
        position: Position,
        token: Token,
    ) -> Result<(), OutOfOrder> {
        let is_new = epoch > self.newest && self.branches.len() < BRANCHES_MAX;
        let before = self.own.tokens.get(..position as usize).filter(|_| is_new);
        let before = before.ok_or(self.out_of_order(epoch, position))?;
        self.branches.push(Text {
            tokens: [before, &[token]].concat(),
            notes: T::default(),
            epoch,
            at_most: before.len() + BRANCH_TOKENS_MAX,
        });
        self.newest = epoch;
        Ok(())
    }

    /// The branch is the session's own text from now on, and there is no other.
    pub fn settle(&mut self, epoch: u32) -> Result<(), OutOfOrder> {
        self.own = self.taken(epoch)?;
        self.own.at_most = usize::MAX;
        self.branches.clear();
        Ok(())
    }

    pub fn forget(&mut self, epoch: u32) -> Result<(), OutOfOrder> {
        self.taken(epoch).map(|_| ())
    }

    /// Forgets every branch, and the end of the text, which goes on in a new epoch.
    pub fn truncate(&mut self, epoch: u32, position: Position) -> Result<(), OutOfOrder> {
        if position as usize > self.own.tokens.len() || epoch <= self.newest {
            return Err(self.out_of_order(epoch, position));
        }
        (self.own.epoch, self.newest) = (epoch, epoch);
        self.own.tokens.truncate(position as usize);
        self.branches.clear();
        Ok(())
    }

    fn taken(&mut self, epoch: u32) -> Result<Text<T>, OutOfOrder> {
        let at = self.branches.iter().position(|b| b.epoch == epoch);
        let at = at.ok_or(self.out_of_order(epoch, 0))?;
        Ok(self.branches.swap_remove(at))
    }

    pub(crate) fn out_of_order(&self, epoch: u32, position: Position) -> OutOfOrder {
        let has = self.own.tokens.len();
        OutOfOrder {
            epoch,
            has,
            position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Texts<()> {
        Texts::new(vec![1, 2])
    }

    #[test]
    fn a_branch_leaves_the_text_and_takes_its_place() {
        let mut texts = texts();
        assert_eq!(texts.draft(0, 2, &[3, 4], 3), Ok(2));
        texts.branch(1, 3, 9).unwrap();
        texts.branch(2, 2, 8).unwrap();
        assert_eq!(texts.draft(1, 4, &[7], 1), Ok(5));
        assert_eq!(texts.draft(0, 4, &[], 1), Ok(4));
        assert_eq!(texts.of(1).unwrap().tokens, [1, 2, 3, 9, 7]);
        texts.forget(2).unwrap();
        assert!(texts.of(2).is_err());
        texts.settle(1).unwrap();
        assert!(texts.of(0).is_err());
        assert_eq!(
            (texts.epoch(), &texts.own.tokens[..]),
            (1, &[1, 2, 3, 9, 7][..])
        );
        texts.branch(3, 5, 6).unwrap();
        texts.truncate(4, 3).unwrap();
        assert_eq!((texts.epoch(), &texts.own.tokens[..]), (4, &[1, 2, 3][..]));
        assert!(texts.of(3).is_err());
    }

    #[test]
    fn what_no_router_sends_changes_nothing() {
        let mut texts = texts();
        texts.branch(5, 2, 9).unwrap();
        assert!(texts.draft(0, 1, &[3], 1).is_err());
        assert!(texts.draft(0, 2, &[3], 3).is_err());
        assert!(texts.draft(4, 2, &[3], 1).is_err());
        assert!(texts.branch(5, 2, 8).is_err(), "an epoch that began");
        assert!(texts.branch(6, 3, 8).is_err(), "behind the end");
        assert!(texts.truncate(5, 1).is_err() && texts.truncate(6, 3).is_err());
        assert!(texts.settle(0).is_err() && texts.forget(6).is_err());
        assert_eq!(texts.own.tokens, [1, 2]);
        assert_eq!(texts.of(5).unwrap().tokens, [1, 2, 9]);
    }

    #[test]
    fn branches_are_few_and_short_until_they_are_the_text() {
        let mut texts = texts();
        for epoch in 1..=BRANCHES_MAX as u32 {
            texts.branch(epoch, 2, epoch).unwrap();
        }
        assert!(texts.branch(9, 2, 9).is_err());
        let rest = [7; BRANCH_TOKENS_MAX - 1];
        assert!(texts.draft(1, 3, &[&rest[..], &[7]].concat(), 1).is_err());
        let end = texts.draft(1, 3, &rest, 1).unwrap();
        assert!(texts.draft(1, end, &[7], 1).is_err());
        texts.settle(1).unwrap();
        assert!(texts.draft(1, end, &[7], 1).is_ok());
    }
}
