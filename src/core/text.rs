//! From tokens' bytes to text a client may see: whole characters only, and nothing that may still
//! turn out to be the beginning of a stop string.

/// A stop string came; the text before it is all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

#[derive(Clone, Debug, Default)]
pub struct Text {
    stops: Vec<Vec<u8>>,
    /// Bytes not shown yet: at most a stop string and a broken character long.
    held: Vec<u8>,
}

impl Text {
    pub fn new(stops: &[String]) -> Text {
        let stops = stops
            .iter()
            .filter(|s| !s.is_empty())
            .map(|s| s.clone().into_bytes())
            .collect();
        Text {
            stops,
            held: Vec::new(),
        }
    }

    /// Takes a token's bytes; gives the text that is certain now.
    pub fn push(&mut self, bytes: &[u8]) -> (String, Option<Stopped>) {
        self.held.extend_from_slice(bytes);
        if let Some(at) = self.first_stop() {
            self.held.truncate(at);
            return (self.flush(), Some(Stopped));
        }
        let safe = self.held.len() - self.may_begin_a_stop();
        let whole = whole_characters(&self.held[..safe]);
        let shown: Vec<u8> = self.held.drain(..whole).collect();
        (String::from_utf8_lossy(&shown).into_owned(), None)
    }

    /// The end: whatever was held back is text after all.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }

    fn first_stop(&self) -> Option<usize> {
        let find = |stop: &Vec<u8>| self.held.windows(stop.len()).position(|w| w == stop);
        self.stops.iter().filter_map(find).min()
    }

    /// Length of the longest end of the held bytes that begins some stop string.
    fn may_begin_a_stop(&self) -> usize {
        let overlap = |stop: &Vec<u8>| {
            (1..stop.len().min(self.held.len() + 1))
                .rev()
                .find(|&n| self.held.ends_with(&stop[..n]))
        };
        self.stops.iter().filter_map(overlap).max().unwrap_or(0)
    }
}

/// How many leading bytes end on a character's border. Bytes that can never become a character count
/// as whole (they are shown as U+FFFD), so the rest is at most three bytes.
fn whole_characters(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(_) => return bytes.len(),
            Err(error) => match error.error_len() {
                Some(bad) => at += error.valid_up_to() + bad,
                None => return at + error.valid_up_to(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut text = Text::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut shown = Vec::new();
        for piece in pieces {
            let (out, stopped) = text.push(piece);
            shown.push(out);
            if stopped.is_some() {
                return (shown, true);
            }
        }
        shown.push(text.flush());
        (shown, false)
    }

    #[test]
    fn characters_wait_for_their_last_byte() {
        let (shown, _) = run(&[], &[b"a\xF0\x9F", b"\xA6", b"\x80b"]);
        assert_eq!(shown, ["a", "", "\u{1F980}b", ""]);
        assert_eq!(run(&[], &[b"\xE2\x82"]).0, ["", "\u{FFFD}"]);
        assert_eq!(run(&[], &[b"\xFFok"]).0, ["\u{FFFD}ok", ""]);
    }

    #[test]
    fn stop_strings_never_show() {
        assert_eq!(
            run(&["END"], &[b"one E", b"N", b"D two"]),
            (vec!["one ".into(), "".into(), "".into()], true)
        );
        assert_eq!(run(&["END"], &[b"one EN", b"T"]).0.concat(), "one ENT");
        assert_eq!(run(&["\n\n", "b"], &[b"a\n", b"\nb"]).0.concat(), "a");
        assert_eq!(
            run(&["aab"], &[b"a", b"a", b"a", b"b"]),
            (vec!["".into(), "".into(), "a".into(), "".into()], true)
        );
    }

    proptest! {
        /// However the bytes are cut into tokens, the client sees the same text.
        #[test]
        fn borders_do_not_matter(text in "[abé€🦀\n]{0,40}", cuts in prop::collection::vec(0usize..100, 0..10), stop in "[ab\n]{0,3}") {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % (bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            let (shown, _) = run(&[&stop], &pieces);
            let want = if stop.is_empty() { &text[..] } else { text.split(&stop).next().unwrap_or("") };
            prop_assert_eq!(shown.concat(), want);
        }
    }
}
