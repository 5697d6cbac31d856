//! What followed when the same tokens stood here before: texts quote themselves.

use crate::ids::Token;
use crate::limits::REPEAT_TOKENS_MIN;
use std::collections::BTreeMap;

type Before = [Token; REPEAT_TOKENS_MIN];

/// Of every few tokens in a row, what followed them the last time. At most one entry for a token of the text.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    next: BTreeMap<Before, Token>,
    /// The last tokens of the text, oldest first, and how long it is.
    end: Before,
    read: usize,
}

impl Repeats {
    /// Tokens of the text that it knows.
    pub(super) fn known(&self) -> usize {
        self.read
    }

    pub(super) fn read(&mut self, text: impl Iterator<Item = Token>) {
        for token in text {
            if self.read >= REPEAT_TOKENS_MIN {
                self.next.insert(self.end, token);
            }
            self.end = after(self.end, token);
            self.read += 1;
        }
    }

    /// What follows the text and these guesses, if it did before. The guesses are ours, so that what they hold
    /// twice the text holds too.
    pub(super) fn guess(&self, guesses: impl Iterator<Item = Token>) -> Option<Token> {
        if self.read < REPEAT_TOKENS_MIN {
            return None;
        }
        self.next.get(&guesses.fold(self.end, after)).copied()
    }
}

fn after(mut before: Before, token: Token) -> Before {
    before.rotate_left(1);
    before[REPEAT_TOKENS_MIN - 1] = token;
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guess(text: &[Token], guesses: &[Token]) -> Option<Token> {
        let mut repeats = Repeats::default();
        repeats.read(text.iter().copied());
        repeats.guess(guesses.iter().copied())
    }

    #[test]
    fn a_text_that_repeats_itself_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 9, 1, 2, 3], &[]), Some(4));
        assert_eq!(guess(&[1, 2, 3, 4, 9, 1, 2, 3], &[4, 9]), Some(1));
        assert_eq!(
            guess(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], &[]),
            Some(5),
            "the last time counts"
        );
        assert_eq!(guess(&[7, 7, 7, 7], &[]), Some(7), "the end may overlap");
        assert_eq!(guess(&[1, 2, 3], &[]), None);
        assert_eq!(guess(&[], &[]), None);
        assert_eq!(guess(&[0, 0], &[]), None, "nothing stood before the text");
        assert_eq!(guess(&[1, 2, 3, 4, 5, 6, 7], &[]), None);
    }

    /// Looks through the whole text.
    fn searched(text: &[Token]) -> Option<Token> {
        let start = text.len().checked_sub(REPEAT_TOKENS_MIN)?;
        let end = &text[start..];
        let before = text.get(..text.len() - 1)?;
        let at = before.windows(REPEAT_TOKENS_MIN).rposition(|w| w == end)?;
        text.get(at + REPEAT_TOKENS_MIN).copied()
    }

    proptest! {
        /// A guess after a guess is what a search through the text and all its guesses finds.
        #[test]
        fn it_finds_what_a_search_finds(text in prop::collection::vec(0u32..3, 0..60), cut in 0usize..60) {
            let mut repeats = Repeats::default();
            let cut = cut.min(text.len());
            repeats.read(text[..cut].iter().copied());
            repeats.read(text[cut..].iter().copied());
            prop_assert_eq!(repeats.known(), text.len());
            let mut all = text.clone();
            for _ in 0..20 {
                let guesses = all[text.len()..].iter().copied();
                let guess = repeats.guess(guesses);
                prop_assert_eq!(guess, searched(&all));
                let Some(guess) = guess else { break };
                all.push(guess);
            }
        }
    }
}
