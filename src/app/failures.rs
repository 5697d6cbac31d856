//! The errors of the parts below, in words for a person: kind, hint, exit code.

use crate::driver::AcquireError;
use crate::error::{Failure, Kind};
use crate::store::StoreError;
use crate::store::adapter::AdapterError;
use crate::store::name::NameError;
use crate::store::pull::PullError;
use std::path::Path;

impl From<NameError> for Failure {
    fn from(error: NameError) -> Failure {
        let kind = match error {
            NameError::Unknown { .. } => Kind::NotFound,
            NameError::Empty | NameError::Part { .. } => Kind::Usage,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::Io {
                doing,
                path,
                source,
            } => file(doing, &path, &source),
            StoreError::NotInstalled { .. } | StoreError::FileGone { .. } => {
                Failure::new(Kind::NotFound, error.to_string())
            }
            StoreError::Busy { .. } => Failure::new(Kind::Taken, error.to_string()),
            StoreError::WrongHash { .. }
            | StoreError::Header { .. }
            | StoreError::BadManifest { .. } => Failure::new(Kind::Failed, error.to_string()),
        }
    }
}

/// A file that is named and not there is a model that does not exist.
fn file(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::file(doing, path, error);
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure {
            kind: Kind::NotFound,
            ..failure
        },
        _ => failure,
    }
}

impl From<AdapterError> for Failure {
    fn from(error: AdapterError) -> Failure {
        let kind = match error {
            AdapterError::Base(base) => return base.into(),
            AdapterError::Io {
                doing,
                path,
                source,
            } => return file(doing, &path, &source),
            AdapterError::NotInstalled { .. } => Kind::NotFound,
            AdapterError::Taken { .. } | AdapterError::Full => Kind::Taken,
            AdapterError::Name => Kind::Usage,
            AdapterError::TooLarge { .. } => Kind::TooLarge,
            _ => Kind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Failure {
        match error {
            PullError::Store(error) => error.into(),
            PullError::Io {
                doing,
                path,
                source,
            } => file(doing, &path, &source),
            PullError::NoRoom { .. } | PullError::DiskFull { .. } => {
                Failure::new(Kind::TooLarge, error.to_string())
            }
            PullError::Offline { .. } | PullError::Hub(_) | PullError::Wheel(_) => {
                Failure::new(Kind::Network, error.to_string())
            }
            PullError::WrongHash { .. } | PullError::Header { .. } => {
                Failure::new(Kind::Failed, error.to_string())
            }
        }
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Failure {
        let message = error.to_string();
        match error {
            AcquireError::Unknown { near, .. } => {
                let hint = match near.as_slice() {
                    [] => "`quorate list` shows what is installed".to_owned(),
                    near => format!("did you mean {}?", near.join(", ")),
                };
                Failure::new(Kind::NotFound, message).hint(hint)
            }
            AcquireError::NotInstalled { name } => {
                Failure::new(Kind::NotFound, message).hint(format!("quorate pull {name}"))
            }
            AcquireError::TooLarge { .. } => Failure::new(Kind::TooLarge, message)
                .hint("`quorate doctor` shows the plan for every installed model"),
            AcquireError::Busy { .. } => Failure::new(Kind::Taken, message)
                .hint("`quorate ps` shows what is loaded, `quorate stop MODEL` lets one go"),
            AcquireError::Load { .. } | AcquireError::ShuttingDown => {
                Failure::new(Kind::Failed, message)
            }
        }
    }
}
