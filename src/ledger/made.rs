//! A disk made for tests: it remembers every call, so that a crash can be tried at each of them and
//! within each of them, and it fails at the call that it is told to fail at.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// One call that changed something, or made sure of it.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write {
        name: String,
        at: u64,
        bytes: Vec<u8>,
    },
    Cut {
        name: String,
        len: u64,
    },
    Sync(String),
    Replace {
        name: String,
        bytes: Vec<u8>,
    },
    Remove(String),
    SyncNames,
    /// Not a call: the ledger said yes to this.
    Acknowledged(usize),
}

/// What of a call that was under way has reached the disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Torn {
    /// The first bytes of it.
    Head(usize),
    /// All but the first bytes: disks write in any order.
    Tail(usize),
}

#[derive(Debug, Default)]
struct State {
    image: Image,
    steps: Vec<Step>,
    calls: usize,
    fails: Option<(usize, ErrorKind)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Made(Arc<Mutex<State>>);

impl Made {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(super) fn holding(image: Image) -> Made {
        let made = Made::default();
        made.state().image = image;
        made
    }

    /// The call with this number fails, when half of its work is done.
    pub(super) fn failing(at: usize, kind: ErrorKind) -> Made {
        let made = Made::default();
        made.state().fails = Some((at, kind));
        made
    }

    pub(super) fn failing_with(at: usize, image: Image) -> Made {
        let made = Made::failing(at, ErrorKind::Other);
        made.state().image = image;
        made
    }

    pub(super) fn image(&self) -> Image {
        self.state().image.clone()
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        self.state().steps.clone()
    }

    pub(super) fn calls(&self) -> usize {
        self.state().calls
    }

    pub(super) fn acknowledge(&self, what: usize) {
        self.state().steps.push(Step::Acknowledged(what));
    }

    /// Counts a call. Does it fail?
    fn call(&self) -> io::Result<()> {
        let mut state = self.state();
        state.calls += 1;
        match state.fails {
            Some((at, kind)) if state.calls == at => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn step(&self, step: Step) {
        let mut state = self.state();
        apply(&mut state.image, &step, None);
        state.steps.push(step);
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.call()?;
        let state = self.state();
        state
            .image
            .get(name)
            .cloned()
            .ok_or(ErrorKind::NotFound.into())
    }

    pub(super) fn put(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let write = |bytes: &[u8]| Step::Write {
            name: name.into(),
            at,
            bytes: bytes.to_vec(),
        };
        if let Err(error) = self.call() {
            self.step(write(&bytes[..bytes.len() / 2]));
            return Err(error);
        }
        self.step(write(bytes));
        self.sync(name)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.call()?;
        self.step(Step::Sync(name.into()));
        Ok(())
    }

    pub(super) fn cut(&self, name: &str, len: u64) -> io::Result<()> {
        self.call()?;
        let name = name.to_owned();
        self.step(Step::Cut {
            name: name.clone(),
            len,
        });
        self.sync(&name)
    }

    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.call()?;
        let (name, bytes) = (name.into(), bytes.to_vec());
        self.step(Step::Replace { name, bytes });
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        self.call()?;
        self.step(Step::Remove(name.into()));
        Ok(())
    }

    pub(super) fn sync_names(&self) -> io::Result<()> {
        self.call()?;
        self.step(Step::SyncNames);
        Ok(())
    }
}

fn apply(image: &mut Image, step: &Step, torn: Option<Torn>) {
    match step {
        Step::Write { name, at, bytes } => {
            let file = image.entry(name.clone()).or_default();
            let (from, to) = match torn {
                None => (0, bytes.len()),
                Some(Torn::Head(n)) => (0, n.min(bytes.len())),
                Some(Torn::Tail(n)) => (n.min(bytes.len()), bytes.len()),
            };
            let at = *at as usize;
            if from < to {
                file.resize(file.len().max(at + to), 0);
                file[at + from..at + to].copy_from_slice(&bytes[from..to]);
            }
        }
        Step::Cut { name, len } => image
            .entry(name.clone())
            .or_default()
            .truncate(*len as usize),
        Step::Replace { name, bytes } => {
            image.insert(name.clone(), bytes.clone());
        }
        Step::Remove(name) => {
            image.remove(name);
        }
        Step::Sync(_) | Step::SyncNames | Step::Acknowledged(_) => {}
    }
}

/// The disk after a crash during step `at`, if everything before it arrived.
pub(super) fn arrived(start: &Image, steps: &[Step], at: usize, torn: Torn) -> Image {
    let mut image = start.clone();
    steps[..at]
        .iter()
        .for_each(|step| apply(&mut image, step, None));
    if let Some(step @ Step::Write { .. }) = steps.get(at) {
        apply(&mut image, step, Some(torn));
    }
    image
}

/// The disk after a crash before step `at`, if nothing arrived but what a sync made sure of.
pub(super) fn only_synced(start: &Image, steps: &[Step], at: usize) -> Image {
    let mut bytes = start.clone();
    let mut sure = start.clone();
    let mut names: BTreeSet<String> = start.keys().cloned().collect();
    for step in &steps[..at] {
        apply(&mut bytes, step, None);
        match step {
            Step::Sync(name) => {
                sure.insert(name.clone(), bytes[name].clone());
            }
            // A rename may arrive or not; its bytes were synced before it.
            Step::Replace { name, .. } => {
                sure.insert(name.clone(), bytes[name].clone());
            }
            Step::SyncNames => {
                names = bytes.keys().cloned().collect();
                sure.retain(|name, _| names.contains(name));
            }
            Step::Write { .. } | Step::Cut { .. } | Step::Remove(_) | Step::Acknowledged(_) => {}
        }
    }
    sure.retain(|name, _| names.contains(name));
    sure
}

pub(super) fn acknowledged(steps: &[Step]) -> impl Iterator<Item = usize> + '_ {
    steps.iter().filter_map(|step| match step {
        Step::Acknowledged(what) => Some(*what),
        _ => None,
    })
}
