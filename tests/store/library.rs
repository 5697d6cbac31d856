//! From a typed name to a model that may be loaded: whose paths count, and what a model is said to take.

use crate::pulls::options;
use crate::sample::Sample;
use quorate::config::{Overrides, Settings};
use quorate::driver::AcquireError;
use quorate::expert::hardware;
use quorate::node::{Audience, Library, NodeKeys};
use quorate::store::Store;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Desk {
    _home: tempfile::TempDir,
    store: Store,
    /// A sound model that nobody has told the store of.
    file: PathBuf,
}

fn desk() -> Desk {
    let home = tempfile::tempdir().expect("tempdir");
    let file = home.path().join("mine.gguf");
    std::fs::write(&file, Sample::valid().build()).expect("written");
    Desk {
        store: Store::new(&home.path().join("data")),
        file,
        _home: home,
    }
}

impl Desk {
    fn library(&self, settings: &str, audience: Audience) -> Library {
        let settings = Settings::parse(&format!("version = 1\n{settings}"), &Overrides::default());
        let keys = NodeKeys {
            key: [7; 32],
            prefix_secret: [7; 32],
        };
        Library::new(
            self.store.clone(),
            Arc::new(settings.expect("settings")),
            Arc::new(hardware::probe()),
            audience,
            keys,
        )
    }

    fn path(&self) -> &str {
        self.file.to_str().expect("text")
    }
}

#[test]
fn a_client_of_a_node_opens_no_file_by_its_path() {
    let desk = desk();
    let library = desk.library("", Audience::Node);
    for path in [
        desk.path(),
        "/etc/passwd",
        "/dev/zero",
        "../../x.gguf",
        "~/x.gguf",
    ] {
        let refused = library.find(path).expect_err(path);
        // The same for a file that is there and one that is not: nothing is told of either.
        assert!(
            matches!(refused, AcquireError::Unknown { .. }),
            "{path}: {refused}"
        );
    }
    assert!(
        desk.store.list().expect("listed").models.is_empty(),
        "nothing was registered on the way"
    );
}

#[test]
fn the_owners_words_open_files_and_registered_ones_are_models() {
    let desk = desk();
    let path = desk.path();
    let alias = format!("[aliases]\nmine = \"{path}\"\n");
    desk.library(&alias, Audience::Node)
        .find("mine")
        .expect("an alias");

    let other = self::desk();
    let default = format!("[models]\ndefault = \"{}\"\n", other.path());
    let library = other.library(&default, Audience::Node);
    library.find(other.path()).expect("the default model");

    // `quorate pull PATH` and `quorate run PATH` register.
    let third = self::desk();
    let name = third.path().parse().expect("a name");
    let pulled = third
        .store
        .pull(&name, &options("http://127.0.0.1:9"), &mut |_| {});
    pulled.expect("registered");
    let library = third.library("", Audience::Node);
    library.find(third.path()).expect("a registered file");

    let alone = self::desk();
    let library = alone.library("", Audience::Alone);
    library
        .find(alone.path())
        .expect("a process of the owner's");
}

/// Runs `work` beside the test: opening a pipe that nobody writes into waits for ever.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || done.send(work()));
    wait.recv_timeout(Duration::from_secs(20))
        .expect("it hangs")
}

fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo").success());
}

#[test]
fn a_pipe_is_no_model_and_nobody_waits_for_it() {
    let desk = desk();
    let pipe_path = desk.file.with_file_name("pipe.gguf");
    pipe(&pipe_path);
    let name: quorate::store::name::ModelName =
        pipe_path.to_str().expect("text").parse().expect("a name");
    let store = desk.store.clone();
    let error = in_time({
        let name = name.clone();
        move || store.resolve(&name).expect_err("a pipe").to_string()
    });
    assert!(error.contains("not a regular file"), "{error}");
    let store = desk.store.clone();
    let error = in_time(move || {
        let pulled = store.pull(&name, &options("http://127.0.0.1:9"), &mut |_| {});
        pulled.expect_err("a pipe").to_string()
    });
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn a_registered_file_that_became_a_pipe_is_gone() {
    let desk = desk();
    let library = desk.library("", Audience::Alone);
    let path = desk.path().to_owned();
    library.find(&path).expect("a model");
    std::fs::remove_file(&desk.file).expect("removed");
    pipe(&desk.file);
    let refused = in_time(move || library.find(&path).expect_err("a pipe"));
    assert!(matches!(refused, AcquireError::Load { .. }), "{refused}");
}

/// Weights and keys are not all: parked prefixes, the scores of plain attention, a batch's activations
/// and logits were once left out, and a model that was said to fit did not.
#[test]
fn the_plan_counts_what_the_engine_takes_beyond_weights_and_keys() {
    let desk = desk();
    let library = desk.library("", Audience::Alone);
    let found = library.find(desk.path()).expect("a model").bytes;
    let cells = 512; // one context
    let keys_and_values = 256; // of one token: 2 layers, 2 heads, 16 wide, key and value, 2 bytes
    let scores = 128 * 4 * 4; // rows of a batch, heads, f32
    let activations = 128 * 64 * 16 * 4; // rows, embedding, widths, f32
    let logits = 64 * 8 * 4; // rows, vocabulary, f32
    let weights = std::fs::metadata(&desk.file).expect("there").len();
    let least = weights + cells * (keys_and_values / 4 * 5 + scores) + activations + logits;
    assert!(found >= least, "{found} is less than {least}");
    assert!(found < least + (64 << 20), "{found} is far from {least}");
}

#[test]
fn experts_with_adapters_share_what_their_model_takes() {
    let desk = desk();
    let file = desk.path().to_owned();
    std::fs::write(&desk.file, crate::adapters::model().build()).expect("written");
    let base = desk.store.resolve(&file.parse().expect("a name"));
    let base = base.expect("sound");
    let adapters = desk.store.adapters();
    for name in ["one", "two"] {
        let folder = desk.file.with_file_name(name);
        let unit = if name == "one" { 1.0 } else { 0.5 };
        crate::adapters::folder(unit).write(&folder);
        adapters.add(name, &folder, &base).expect("added");
    }
    let table = |name: &str, adapter: &str| {
        format!("[[expert]]\nname = \"{name}\"\nmodel = \"{file}\"\nadapter = \"{adapter}\"\n")
    };
    let settings = table("a", "one") + &table("b", "two") + &table("c", "none");
    let library = desk.library(&settings, Audience::Node);
    let (a, b) = (library.find("a").expect("a"), library.find("b").expect("b"));
    let plain = library.find(&file).expect("registered");
    assert_eq!(a.shared, plain.shared);
    assert_eq!(b.shared, plain.shared);
    let weights = plain.shared.map_or(0, |shared| shared.bytes);
    assert!(
        weights < a.bytes && a.bytes < plain.bytes,
        "one conversation, not two"
    );
    let missing = library.find("c").expect_err("no such adapter");
    assert!(
        missing.to_string().contains("quorate adapter list"),
        "{missing}"
    );
    let ids: std::collections::BTreeSet<_> = library.offers().iter().map(|o| o.offer.id).collect();
    assert_eq!(ids.len(), 2, "each is an expert of its own");
}
