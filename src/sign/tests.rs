//! A key on a stick: it opens for its owner, it never signs two histories, and nothing that it
//! signed is lost.

use super::*;
use quorate_core::config::{Key, MeshConfig, Patch, Set};
use quorate_core::governance::{
    Act, Ballot, Body, Choice, Consent, Genesis, Origin, Phase, Proposal, Replica, fold,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const NOW_S: u64 = 1_800_000_000;

fn words(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

struct Stick {
    _dir: tempfile::TempDir,
    key: PathBuf,
    genesis: Genesis,
}

impl Stick {
    fn new() -> Stick {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("ada.key");
        let author = keygen(&key, &words("four good words"), Strength::ThrowAway).unwrap();
        let genesis = Genesis::new(vec![author], MeshConfig::default()).unwrap();
        Stick {
            _dir: dir,
            key,
            genesis,
        }
    }

    fn open(&self) -> Outcome<Signer> {
        Signer::open(&self.key, &words("four good words"))
    }

    fn file(&self, suffix: &str) -> PathBuf {
        beside(&self.key, suffix)
    }

    fn said(&self) -> PathBuf {
        self.open().unwrap().said_file(self.genesis.network_id())
    }

    fn request(&self, wish: Wish) -> Request {
        Request {
            network: self.genesis.network_id(),
            epoch: 0,
            refs: vec![],
            wish,
        }
    }

    fn proposal(&self, value: u32) -> Proposal {
        let standing = fold(&self.genesis, &Default::default());
        let op = Set {
            key: Key::ServingGatherUs,
            value,
            expect_old: 500,
        };
        Proposal {
            height: 1,
            parent: standing.tip().link,
            round: 0,
            epoch: 0,
            phase: Phase::ReadOnly,
            consent: Consent::Minor,
            expiry: NOW_S + 60,
            origin: Origin::People,
            config: standing.snapshot().config.hash(),
            act: Act::Patch(Patch::new(vec![op]).unwrap()),
        }
    }

    fn sign(&self, wish: Wish) -> Outcome<Vec<Record>> {
        self.open()?.sign(&self.request(wish), NOW_S)
    }
}

fn lower() -> Wish {
    Wish::Lower(Phase::ReadOnly)
}

#[track_caller]
fn fails<T>(outcome: Outcome<T>, kind: Kind, word: &str) {
    let Err(failure) = outcome else {
        panic!("it was done: {word}")
    };
    assert!(
        failure.kind == kind && failure.to_string().contains(word),
        "{failure}"
    );
}

#[test]
fn a_key_opens_for_its_owner_alone_and_is_never_overwritten() {
    let stick = Stick::new();
    for suffix in ["", ".pub", ".memory"] {
        let mode = fs::metadata(stick.file(suffix))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
    let author = stick.open().unwrap().author();
    assert_eq!(
        fs::read_to_string(stick.file(".pub")).unwrap().trim(),
        hex(&author)
    );
    // The format of the `age` program, which opens it as well.
    let secret = fs::read(&stick.key).unwrap();
    assert!(secret.starts_with(b"age-encryption.org/v1\n-> scrypt "));
    fails(
        Signer::open(&stick.key, &words("four bad words")),
        Kind::Usage,
        "passphrase",
    );
    let again = keygen(&stick.key, &words("four good words"), Strength::ThrowAway);
    fails(again, Kind::Taken, "never overwritten");
    assert_eq!(fs::read(&stick.key).unwrap(), secret);
    for short in ["", "1234567"] {
        assert!(Passphrase::new(short.into()).is_err());
    }
    assert!(Passphrase::new("x".repeat(PASSPHRASE_BYTES_MAX)).is_ok());
    assert!(Passphrase::new("x".repeat(PASSPHRASE_BYTES_MAX + 1)).is_err());
}

#[test]
fn a_readable_key_a_foreign_file_and_a_damaged_one_are_refused() {
    let stick = Stick::new();
    fs::set_permissions(&stick.key, fs::Permissions::from_mode(0o644)).unwrap();
    fails(stick.open(), Kind::Config, "chmod 600");
    fs::set_permissions(&stick.key, fs::Permissions::from_mode(0o600)).unwrap();
    let good = fs::read(&stick.key).unwrap();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 4;
        fs::write(&stick.key, &changed).unwrap();
        assert!(stick.open().is_err(), "byte {at}");
        fs::write(&stick.key, &good[..at]).unwrap();
        assert!(stick.open().is_err(), "cut at {at}");
    }
    fs::write(&stick.key, vec![0; 17 << 10]).unwrap();
    fails(stick.open(), Kind::Config, "longer");
    fs::remove_file(&stick.key).unwrap();
    fails(stick.open(), Kind::Config, "keygen");
}

#[test]
fn what_was_signed_follows_and_is_kept_for_everybody() {
    let stick = Stick::new();
    let first = stick.sign(Wish::Propose(stick.proposal(600))).unwrap();
    assert_eq!(first.len(), 2, "who proposes says yes");
    let halt = stick
        .sign(Wish::Halt {
            reason: "smoke".into(),
        })
        .unwrap();
    let twice = stick
        .sign(Wish::Halt {
            reason: "smoke".into(),
        })
        .unwrap();
    assert_ne!(
        halt[0].id(),
        twice[0].id(),
        "a second halt with the same words is another halt"
    );
    let last = stick.sign(lower()).unwrap();
    // Whatever of the files on the way was lost: this one makes good for it.
    let said = Parcel::decode(&fs::read(stick.said()).unwrap()).unwrap();
    assert_eq!(said.records, [first, halt, twice, last].concat());
    let (replica, unused) = Replica::gather(stick.genesis.clone(), said.records);
    assert!(unused.is_empty() && replica.standing().is_halted());
    assert_eq!(replica.standing().tip().height, 1);
    assert!(replica.standing().faults().is_empty());
}

#[test]
fn a_second_opinion_in_one_place_is_not_signed() {
    let stick = Stick::new();
    stick.sign(Wish::Propose(stick.proposal(600))).unwrap();
    let before = (
        fs::read(stick.said()).unwrap(),
        fs::read(stick.file(".memory")).unwrap(),
    );
    let (choice, proposal) = (Choice::Yes, stick.proposal(700));
    fails(
        stick.sign(Wish::Vote { choice, proposal }),
        Kind::Failed,
        "later round",
    );
    assert_eq!(
        before,
        (
            fs::read(stick.said()).unwrap(),
            fs::read(stick.file(".memory")).unwrap()
        )
    );
}

#[test]
fn without_its_memory_a_key_signs_nothing() {
    let stick = Stick::new();
    stick.sign(lower()).unwrap();
    let good = fs::read(stick.file(".memory")).unwrap();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(stick.file(".memory"), &changed).unwrap();
        fails(stick.open(), Kind::Config, "cannot be trusted");
    }
    fs::remove_file(stick.file(".memory")).unwrap();
    fails(stick.open(), Kind::Config, "two histories");
    fs::write(stick.file(".memory"), good).unwrap();
    let said = stick.said();
    fs::write(&said, b"quorate parcel v1\0").unwrap();
    fails(stick.sign(lower()), Kind::Config, "cannot be trusted");
}

#[test]
fn a_crash_before_the_memory_was_written_makes_no_fork() {
    let stick = Stick::new();
    stick.sign(lower()).unwrap();
    let before = fs::read(stick.file(".memory")).unwrap();
    let second = stick.sign(lower()).unwrap();
    fs::write(stick.file(".memory"), before).unwrap();
    let third = stick.sign(lower()).unwrap();
    let [Record::Entry(second), Record::Entry(third)] = [&second[0], &third[0]] else {
        panic!("entries")
    };
    assert_eq!((third.draft().seq, third.draft().prev), (2, second.id()));
}

#[test]
fn a_copy_from_a_backup_is_caught_by_what_others_have_heard() {
    let stick = Stick::new();
    stick.sign(lower()).unwrap();
    let backup = [".memory".to_owned(), said_suffix(&stick)]
        .map(|s| (stick.file(&s), fs::read(stick.file(&s)).unwrap()));
    stick.sign(lower()).unwrap();
    let network = stick.genesis.network_id();
    let heard = Parcel::decode(&fs::read(stick.said()).unwrap())
        .unwrap()
        .records;
    let entries = || {
        heard.iter().filter_map(|r| match r {
            Record::Entry(entry) => Some(entry),
            _ => None,
        })
    };
    stick.open().unwrap().has_heard(network, entries()).unwrap();
    for (path, bytes) in &backup {
        fs::write(path, bytes).unwrap();
    }
    fails(
        stick.open().unwrap().has_heard(network, entries()),
        Kind::Failed,
        "liar",
    );
    // With another last word, too.
    let other = stick
        .open()
        .unwrap()
        .sign(&stick.request(Wish::Lower(Phase::Suggest)), NOW_S)
        .unwrap();
    assert!(
        matches!(&other[0], Record::Entry(e) if matches!(e.draft().body, Body::Lower(Phase::Suggest)))
    );
    fails(
        stick.open().unwrap().has_heard(network, entries()),
        Kind::Failed,
        "liar",
    );
}

fn said_suffix(stick: &Stick) -> String {
    let said = stick.said().to_string_lossy().into_owned();
    said.strip_prefix(&*stick.key.to_string_lossy())
        .unwrap()
        .to_owned()
}

#[test]
fn one_command_at_a_time_signs_with_a_key() {
    let stick = Stick::new();
    let open = stick.open().unwrap();
    fails(stick.open(), Kind::Taken, "another command");
    drop(open);
    stick.open().unwrap();
}

#[test]
fn a_vote_binds_all_of_the_proposal() {
    let stick = Stick::new();
    let proposal = stick.proposal(600);
    let (choice, network) = (Choice::Yes, stick.genesis.network_id());
    let signed = stick
        .sign(Wish::Vote {
            choice,
            proposal: proposal.clone(),
        })
        .unwrap();
    let Record::Entry(entry) = &signed[0] else {
        panic!("an entry")
    };
    let ballot = Ballot::of(&proposal, network);
    assert_eq!(entry.draft().body, Body::Vote { choice, ballot });
}
