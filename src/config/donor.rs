//! `[donor]`: what this node gives to its mesh, and when.

use super::{bad, checked};
use crate::error::Outcome;
use quorate_core::donor::{Donor, Window};
use serde::Deserialize;
use std::str::FromStr;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDonor {
    pause_when: Option<String>,
    hours: Vec<String>,
    share: Option<u8>,
}

/// When others are not served, besides the hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseWhen {
    Never,
    /// Requests of the owner run, or ended a moment ago.
    OwnerBusy,
}

impl FromStr for PauseWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<PauseWhen, String> {
        match text {
            "never" => Ok(PauseWhen::Never),
            "owner-busy" => Ok(PauseWhen::OwnerBusy),
            other => Err(format!("'{other}' is neither owner-busy nor never")),
        }
    }
}

/// "22:00-07:00", on the clock of this machine.
struct Hours(Window);

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Hours, String> {
        let minute = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let ends = text.split_once('-');
        let ends = ends.and_then(|(from, until)| Some((minute(from)?, minute(until)?)));
        let window = ends.and_then(|(from, until)| Window::new(from, until).ok());
        let wrong = || format!("'{text}' are no hours; write them like 22:00-07:00");
        window.map(Hours).ok_or_else(wrong)
    }
}

impl RawDonor {
    pub(super) fn resolve(self, flag: Option<PauseWhen>) -> Outcome<Donor> {
        let pause_when = match (flag, self.pause_when) {
            (Some(when), _) => when,
            (None, Some(text)) => checked("donor.pause_when", &text)?,
            (None, None) => PauseWhen::Never,
        };
        let hours = self.hours.iter();
        let hours = hours.map(|text| checked::<Hours>("donor.hours", text).map(|hours| hours.0));
        let windows = hours.collect::<Outcome<_>>()?;
        let busy = pause_when == PauseWhen::OwnerBusy;
        Donor::new(busy, self.share.unwrap_or(100), windows)
            .map_err(|why| bad(format!("donor: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Overrides, PauseWhen, Settings};
    use quorate_core::donor::{Closed, Donor, Window};

    fn parse(lines: &str, flags: &Overrides) -> Result<Donor, String> {
        let text = format!("version = 1\n[donor]\n{lines}");
        let settings = Settings::parse(&text, flags);
        settings
            .map(|s| s.donor)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn hours_and_shares_are_read_as_people_write_them() {
        let flags = Overrides::default();
        assert_eq!(parse("", &flags), Ok(Donor::default()));
        let night = parse(
            "hours = [\"22:00-07:00\", \"12:30 - 13:00\"]\nshare = 25",
            &flags,
        );
        let windows = [(1320, 420), (750, 780)].map(|(a, b)| Window::new(a, b).unwrap());
        assert_eq!(night, Ok(Donor::new(false, 25, windows.to_vec()).unwrap()));
        for wrong in [
            "hours = [\"22-7\"]",
            "hours = [\"25:00-07:00\"]",
            "hours = [\"07:00-07:00\"]",
            "share = 101",
            "pause_when = \"full moon\"",
        ] {
            assert!(parse(wrong, &flags).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_flag_wins() {
        let flags = Overrides {
            pause_when: Some(PauseWhen::OwnerBusy),
            ..Overrides::default()
        };
        let donor = parse("pause_when = \"never\"", &flags).unwrap();
        assert_eq!(donor.closed(0, true), Some(Closed::OwnerBusy));
    }
}
