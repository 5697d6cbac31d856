//! What the owner of a node gives to others, and when: policy as data.

use crate::limits::DONOR_WINDOWS_MAX;
use std::fmt;

const MINUTES_A_DAY: u16 = 24 * 60;

/// Minutes of the local day from `from` up to `until`; over midnight if that comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    from: u16,
    until: u16,
}

/// Whom the node serves besides its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Donor {
    /// Until the owner says otherwise.
    paused: bool,
    /// Nobody is served while the owner asks, nor for a while after.
    pause_when_busy: bool,
    /// Share of an expert's slots that others may fill, in percent.
    share_percent: u8,
    windows: Vec<Window>,
}

/// Why nobody is served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    Paused,
    OwnerBusy,
    OutsideHours { opens_in_min: u16 },
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Paused => f.write_str("paused by the owner"),
            Closed::OwnerBusy => f.write_str("the owner is asking"),
            Closed::OutsideHours { opens_in_min } => {
                write!(
                    f,
                    "outside the owner's hours, for {opens_in_min} more minutes"
                )
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDonor {
    #[error("the share must be from 0 to 100 percent")]
    Share,
    #[error("hours run from one minute of the day to another, like 22:00-07:00")]
    Window,
    #[error("at most {DONOR_WINDOWS_MAX} spans of hours")]
    TooManyWindows,
}

impl Window {
    pub fn new(from: u16, until: u16) -> Result<Window, BadDonor> {
        if from < MINUTES_A_DAY && until < MINUTES_A_DAY && from != until {
            Ok(Window { from, until })
        } else {
            Err(BadDonor::Window)
        }
    }

    fn holds(&self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }

    fn opens_in(&self, minute: u16) -> u16 {
        (self.from + MINUTES_A_DAY - minute % MINUTES_A_DAY) % MINUTES_A_DAY
    }
}

impl Default for Donor {
    /// Everything that the owner does not need.
    fn default() -> Donor {
        Donor {
            paused: false,
            pause_when_busy: false,
            share_percent: 100,
            windows: Vec::new(),
        }
    }
}

impl Donor {
    /// No windows: at all hours.
    pub fn new(
        pause_when_busy: bool,
        share_percent: u8,
        windows: Vec<Window>,
    ) -> Result<Donor, BadDonor> {
        if share_percent > 100 {
            return Err(BadDonor::Share);
        }
        if windows.len() > DONOR_WINDOWS_MAX {
            return Err(BadDonor::TooManyWindows);
        }
        Ok(Donor {
            paused: false,
            pause_when_busy,
            share_percent,
            windows,
        })
    }

    /// The same, paused by hand or no longer.
    #[must_use]
    pub fn paused(mut self, paused: bool) -> Donor {
        self.paused = paused;
        self
    }

    /// `minute` of the local day.
    pub fn closed(&self, minute: u16, owner_busy: bool) -> Option<Closed> {
        if self.paused {
            return Some(Closed::Paused);
        }
        if !self.windows.is_empty() && !self.windows.iter().any(|w| w.holds(minute)) {
            let opens = self.windows.iter().map(|w| w.opens_in(minute)).min();
            let opens_in_min = opens.unwrap_or(0);
            return Some(Closed::OutsideHours { opens_in_min });
        }
        (self.pause_when_busy && owner_busy).then_some(Closed::OwnerBusy)
    }

    /// How many of an expert's slots others may fill; a share above zero is at least one.
    pub fn slots_of(&self, all: usize) -> usize {
        (all * usize::from(self.share_percent)).div_ceil(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nightly() -> Donor {
        let window = Window::new(22 * 60, 7 * 60).unwrap();
        Donor::new(false, 50, vec![window]).unwrap()
    }

    #[test]
    fn hours_run_over_midnight_and_say_when_they_open() {
        let closed = |hour: u16, minute| nightly().closed(hour * 60 + minute, false);
        assert_eq!(closed(22, 0), None);
        assert_eq!(closed(0, 0), None);
        assert_eq!(closed(6, 59), None);
        let opens_in = |opens_in_min| Some(Closed::OutsideHours { opens_in_min });
        assert_eq!(closed(7, 0), opens_in(15 * 60));
        assert_eq!(closed(21, 59), opens_in(1));
        let day = Window::new(9 * 60, 17 * 60).unwrap();
        let both = Donor::new(false, 50, vec![Window::new(1320, 420).unwrap(), day]).unwrap();
        assert_eq!(both.closed(8 * 60, false), opens_in(60));
        assert_eq!(both.closed(9 * 60, false), None);
    }

    #[test]
    fn a_pause_is_stronger_than_hours_and_the_owner_counts_only_if_asked() {
        let paused = nightly().paused(true);
        assert_eq!(paused.closed(0, false), Some(Closed::Paused));
        assert_eq!(nightly().closed(0, true), None);
        let shy = Donor::new(true, 100, vec![]).unwrap();
        assert_eq!(shy.closed(0, true), Some(Closed::OwnerBusy));
        assert_eq!(shy.closed(0, false), None);
    }

    #[test]
    fn a_share_is_of_slots_and_what_makes_no_sense_is_refused() {
        let share = |percent| Donor::new(false, percent, vec![]).unwrap().slots_of(16);
        assert_eq!((share(0), share(1), share(50), share(100)), (0, 1, 8, 16));
        assert_eq!(Donor::new(false, 101, vec![]), Err(BadDonor::Share));
        for (from, until) in [(0, 0), (1440, 0), (0, 1440)] {
            assert_eq!(Window::new(from, until), Err(BadDonor::Window));
        }
        let many = vec![Window::new(0, 1).unwrap(); DONOR_WINDOWS_MAX + 1];
        assert_eq!(Donor::new(false, 1, many[1..].to_vec()).map(|_| ()), Ok(()));
        assert_eq!(Donor::new(false, 1, many), Err(BadDonor::TooManyWindows));
    }
}
