//! People with keys on sticks govern a mesh: the whole walk by hand, with files that are carried.

use crate::harness::{Home, Ran};
use ed25519_dalek::{Signer, SigningKey};
use quorate_core::governance::{Cosignature, Head, Parcel, Record, Seen};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A drawer for sticks and letters, and a node.
pub(crate) struct Table {
    dir: tempfile::TempDir,
    pub(crate) node: Home,
}

impl Table {
    pub(crate) fn new() -> Table {
        let table = Table {
            dir: tempfile::tempdir().unwrap(),
            node: Home::new(),
        };
        std::fs::write(table.path("words"), "four good words\n").unwrap();
        table
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn at(&self, home: &Home, args: &[&str]) -> Ran {
        let args: Vec<&str> = ["gov"].into_iter().chain(args.iter().copied()).collect();
        Ran::of(
            home.command(&args)
                .current_dir(self.dir.path())
                .output()
                .unwrap(),
        )
    }

    /// On the node.
    pub(crate) fn gov(&self, args: &[&str]) -> Ran {
        self.at(&self.node, args)
    }

    /// On the node, signed with a key that is plugged in.
    pub(crate) fn signed(&self, who: &str, args: &[&str]) -> Ran {
        let key = format!("{who}.key");
        let with = ["--key", &key, "--passphrase-file", "words", "--yes"];
        self.gov(&[args, &with].concat())
    }

    pub(crate) fn person(&self, who: &str) -> Value {
        let key = format!("{who}.key");
        let made = self.gov(&[
            "keygen",
            "--out",
            &key,
            "--passphrase-file",
            "words",
            "--throw-away",
            "--json",
        ]);
        made.json()
    }

    pub(crate) fn found(&self, preset: &str, people: &[&str], witnesses: &[SigningKey]) -> String {
        let mut args = vec![
            "init".to_owned(),
            "--json".into(),
            "--preset".into(),
            preset.into(),
        ];
        for who in people {
            self.person(who);
            args.extend(["--participant".into(), format!("{who}.key.pub")]);
        }
        for key in witnesses {
            args.extend(["--witness".into(), hex(key.verifying_key().as_bytes())]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.gov(&args).json()["mesh"].as_str().unwrap().to_owned()
    }

    pub(crate) fn status(&self) -> Value {
        self.gov(&["status", "--json"]).json()
    }

    pub(crate) fn export(&self, name: &str) -> Parcel {
        self.gov(&["export", "--out", name]).works();
        Parcel::decode(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn open(status: &Value) -> (String, u64) {
    let first = &status["open"][0];
    (
        first["id"].as_str().unwrap().to_owned(),
        first["yes"].as_u64().unwrap(),
    )
}

fn witnesses() -> Vec<SigningKey> {
    (101..=103)
        .map(|n| SigningKey::from_bytes(&[n; 32]))
        .collect()
}

/// The only file in the drawer whose name begins and ends so.
fn only(dir: &Path, begin: &str, end: &str) -> String {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let found: Vec<String> = names
        .filter(|n| n.starts_with(begin) && n.ends_with(end))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// What witnesses do by themselves where nodes run: they look at all feeds, and at their clocks.
fn look(table: &Table, name: &str) {
    let mesh = table.export(&format!("{name}.log"));
    let mut heads: Vec<Head> = Vec::new();
    for record in &mesh.records {
        if let Record::Entry(entry) = record {
            let (author, seq, entry) = (entry.draft().author, entry.draft().seq, entry.id());
            match heads.iter_mut().find(|head| head.author == author) {
                Some(head) if head.seq < seq => *head = Head { author, seq, entry },
                Some(_) => {}
                None => heads.push(Head { author, seq, entry }),
            }
        }
    }
    heads.sort();
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let seen = Seen {
        network: mesh.network,
        epoch: 0,
        halted: false,
        heads,
    };
    let cosign = |key: SigningKey| {
        let witness = key.verifying_key().to_bytes();
        let signature = key.sign(&seen.attested(&witness, now_s)).to_bytes();
        Cosignature {
            witness,
            time_s: now_s,
            signature,
        }
    };
    let checkpoint = seen
        .clone()
        .cosigned(witnesses().into_iter().take(2).map(cosign).collect())
        .unwrap();
    let parcel = Parcel {
        network: mesh.network,
        genesis: None,
        records: vec![Record::Checkpoint(checkpoint)],
    };
    std::fs::write(table.path(name), parcel.encode()).unwrap();
}

#[test]
fn three_people_change_halt_and_resume_a_mesh_and_a_stranger_verifies_it() {
    let table = Table::new();
    let mesh = table.found("community", &["ada", "bob", "cyd"], &witnesses());
    assert_eq!(table.status()["halted"], false);

    // A request goes to a machine that knows nothing but the key, and comes back signed.
    let asked = table.gov(&["propose", "config", "serving.gather_us=600"]);
    assert!(
        asked.works().contains("serving.gather_us 500 -> 600"),
        "{asked:?}"
    );
    let request = only(table.dir.path(), "proposal-", ".request");
    assert!(table.gov(&["show", &request]).works().contains("by nobody"));
    let stick = Home::new();
    let with = ["--key", "ada.key", "--passphrase-file", "words", "--yes"];
    table
        .at(&stick, &[&["sign", &request][..], &with].concat())
        .works();
    let parcel = only(table.dir.path(), "proposal-", ".parcel");
    assert_eq!(table.gov(&["import", &parcel, "--json"]).json()["new"], 2);
    assert_eq!(
        table.gov(&["import", &parcel, "--json"]).json()["known"],
        2,
        "twice is once"
    );
    let (change, yes) = open(&table.status());
    assert_eq!(yes, 1);

    // The second vote is enough, once witnesses have seen it.
    table.signed("bob", &["vote", &change[..8]]).works();
    assert_eq!(
        (open(&table.status()).1, &table.status()["version"]),
        (2, &0.into())
    );
    look(&table, "seen");
    table.gov(&["import", "seen"]).works();
    assert_eq!(table.status()["config"]["serving.gather_us"], 600);

    // One person stops everything, and cannot start it again alone.
    table
        .signed("cyd", &["halt", "--reason", "it \u{1b}[2Jsmokes"])
        .works();
    let halted = table.gov(&["status"]);
    assert!(
        halted.works().contains("HALTED")
            && halted.out.contains("smokes")
            && !halted.out.contains('\u{1b}')
    );
    table.signed("ada", &["resume"]).works();
    let (resume, yes) = open(&table.status());
    assert_eq!((yes, &table.status()["halted"]), (1, &true.into()));
    table.signed("bob", &["vote", &resume]).works();
    let status = table.status();
    assert_eq!(
        (&status["halted"], &status["config"]["serving.gather_us"]),
        (&false.into(), &600.into())
    );

    // A stranger, on a machine with an empty home.
    table.export("log.parcel");
    let verified = table
        .at(
            &stick,
            &["verify", "log.parcel", "--network", &mesh, "--json"],
        )
        .json();
    assert_eq!(verified["state_hash"], status["state_hash"]);
    assert!(
        table
            .at(&stick, &["log", "--log", "log.parcel"])
            .works()
            .contains("set serving.gather_us")
    );
    let other = "00".repeat(32);
    table
        .at(&stick, &["verify", "log.parcel", "--network", &other])
        .fails(1, &["another mesh"]);
    let good = std::fs::read(table.path("log.parcel")).unwrap();
    // Each byte of it is tried in the core; here some, as a user meets it.
    for at in (0..good.len())
        .step_by(good.len() / 40)
        .chain([good.len() - 1])
    {
        let mut changed = good.clone();
        changed[at] ^= 1;
        std::fs::write(table.path("changed"), changed).unwrap();
        table
            .at(&stick, &["verify", "changed"])
            .fails(1, &["does not verify", "hint:"]);
    }
    std::fs::write(table.path("changed"), &good[..good.len() - 1]).unwrap();
    table
        .at(&stick, &["verify", "changed"])
        .fails(1, &["does not verify"]);
    assert_eq!(
        std::fs::read_dir(stick.path()).unwrap().count(),
        0,
        "a stranger's home is as it was"
    );
}

#[test]
fn one_person_alone_changes_what_is_minor_at_once() {
    let table = Table::new();
    table.found("solo", &["ada"], &[]);
    table
        .signed(
            "ada",
            &[
                "propose",
                "config",
                "serving.gather_us=700",
                "serving.queue_max=100",
            ],
        )
        .works();
    let status = table.status();
    assert_eq!(
        (&status["version"], &status["config"]["serving.queue_max"]),
        (&1.into(), &100.into())
    );
    // Small steps add up, and what is major needs witnesses.
    table
        .gov(&["propose", "config", "serving.gather_us=1300"])
        .fails(1, &["24 hours", "witnesses"]);
    table
        .gov(&["propose", "config", "router.k=5"])
        .fails(1, &["witnesses"]);
    table
        .gov(&["propose", "config", "serving.gather_us=9999"])
        .fails(2, &["largest step"]);
    table
        .gov(&["propose", "config", "serving.gather=1"])
        .fails(2, &["did you mean serving.gather_us"]);
    table
        .gov(&["propose", "config", "serving.gather_us"])
        .fails(2, &["KEY=NUMBER"]);
    table
        .gov(&["propose", "phase", "2"])
        .fails(2, &["no phase is skipped"]);
    table
        .gov(&["propose", "phase", "1"])
        .fails(2, &["exit criteria", "--evidence"]);
    std::fs::write(table.path("shown"), "all of it").unwrap();
    table
        .signed("ada", &["propose", "phase", "1", "--evidence", "shown"])
        .works();
    assert_eq!(table.status()["phase"], 1);
    table.signed("ada", &["propose", "phase", "0"]).works();
    assert_eq!(table.status()["phase"], 0);
    table.gov(&["resume"]).fails(1, &["nothing stops"]);
    table.signed("ada", &["halt", "--reason", "lunch"]).works();
    table.signed("ada", &["resume", "--restart", "0"]).works();
    let status = table.status();
    assert_eq!(
        (&status["halted"], &status["config"]["serving.queue_max"]),
        (&false.into(), &128.into())
    );
    let log = table.gov(&["log", "--json"]).json();
    let id = log[0]["id"].as_str().unwrap();
    assert!(table.gov(&["show", &id[..8]]).works().contains(id));
}

#[test]
fn a_voter_without_a_node_stops_a_mesh_from_a_file() {
    let table = Table::new();
    let mesh = table.found("lab", &["ada", "bob"], &[]);
    table.export("log.parcel");
    let away = Home::new();
    let with = [
        "--key",
        "bob.key",
        "--passphrase-file",
        "words",
        "--yes",
        "--out",
    ];
    let halt = |more: &[&str], out| {
        table.at(
            &away,
            &[&["halt", "--reason", "smoke"], more, &with, &[out]].concat(),
        )
    };
    halt(&["--log", "log.parcel"], "first").works();
    halt(&["--network", &mesh], "second").works();
    halt(&[], "third").fails(4, &["which mesh", "--network"]);
    halt(&["--network", &mesh], "second").fails(5, &["already", "--out"]);
    table.gov(&["import", "first", "second"]).works();
    assert_eq!(table.status()["causes"].as_array().unwrap().len(), 2);
    // At two, both have to agree.
    table.signed("ada", &["resume"]).works();
    assert_eq!(table.status()["halted"], true);
    table
        .signed("bob", &["vote", &open(&table.status()).0])
        .works();
    assert_eq!(table.status()["halted"], false);
}

#[test]
fn a_stolen_key_is_suspended_in_the_vote_that_resumes() {
    let table = Table::new();
    table.found("lab", &["ada", "bob", "cyd", "dan"], &[]);
    let cyd = std::fs::read_to_string(table.path("cyd.key.pub")).unwrap();
    for _ in 0..3 {
        table.signed("cyd", &["halt", "--reason", "again"]).works();
    }
    table
        .signed("ada", &["resume", "--suspend", &cyd[..8]])
        .works();
    let resume = open(&table.status()).0;
    table.signed("bob", &["vote", &resume]).works();
    table.signed("dan", &["vote", &resume]).works();
    assert_eq!(table.status()["halted"], false);
    table
        .signed("cyd", &["halt", "--reason", "again"])
        .fails(2, &["no active participant"]);
    // Old words of his, carried by somebody else, stop nothing.
    let with = [
        "--key",
        "cyd.key",
        "--passphrase-file",
        "words",
        "--yes",
        "--out",
        "late",
    ];
    let mesh = table.status()["mesh"].as_str().unwrap().to_owned();
    let away = Home::new();
    table
        .at(
            &away,
            &[
                &["halt", "--reason", "again", "--network", &mesh][..],
                &with,
            ]
            .concat(),
        )
        .works();
    table.gov(&["import", "late"]).works();
    assert_eq!(table.status()["halted"], false);
}

#[test]
fn a_key_never_votes_twice_and_never_lives_on_a_node() {
    let table = Table::new();
    table.found("lab", &["ada", "bob", "cyd"], &[]);
    table
        .signed("ada", &["propose", "config", "serving.gather_us=600"])
        .works();
    let first = open(&table.status()).0;
    table
        .signed("bob", &["propose", "config", "serving.gather_us=700"])
        .works();
    // The later round is ada's to choose; going back is not.
    let status = table.status();
    let mut ids = status["open"].as_array().unwrap().iter();
    let second = ids.find(|open| open["id"] != first.as_str()).unwrap();
    let second = second["id"].as_str().unwrap().to_owned();
    table
        .signed("bob", &["vote", &first])
        .fails(1, &["not signed", "liar", "propose again"]);
    table.signed("ada", &["vote", &second]).works();
    assert_eq!(table.status()["config"]["serving.gather_us"], 700);

    let inside = table.node.path().join("ada.key");
    let inside = inside.to_str().unwrap();
    table
        .gov(&["keygen", "--out", inside, "--passphrase-file", "words"])
        .fails(2, &["never live on nodes"]);
    std::fs::copy(table.path("ada.key"), inside).unwrap();
    let with = [
        "halt",
        "--reason",
        "x",
        "--key",
        inside,
        "--passphrase-file",
        "words",
        "--yes",
    ];
    table.gov(&with).fails(2, &["never live on nodes"]);
}

#[test]
fn keys_and_passphrases_say_what_is_wrong() {
    let table = Table::new();
    table.found("lab", &["ada"], &[]);
    table
        .gov(&["keygen", "--out", "ada.key", "--passphrase-file", "words"])
        .fails(5, &["never overwritten"]);
    table
        .gov(&["keygen", "--out", "eve.key"])
        .fails(2, &["nobody is here", "--passphrase-file"]);
    std::fs::write(table.path("short"), "abc").unwrap();
    table
        .gov(&["keygen", "--out", "eve.key", "--passphrase-file", "short"])
        .fails(2, &["8 to"]);
    std::fs::write(table.path("wrong"), "five other words").unwrap();
    let halt = ["halt", "--reason", "x", "--key", "ada.key"];
    table
        .gov(&[&halt[..], &["--passphrase-file", "wrong", "--yes"]].concat())
        .fails(2, &["does not open"]);
    table
        .gov(&[&halt[..], &["--passphrase-file", "words"]].concat())
        .fails(2, &["--yes"]);
    table
        .gov(&["halt", "--reason", " "])
        .fails(2, &["1 to 512"]);
    table.gov(&["halt"]).fails(2, &["--reason"]);
    std::fs::remove_file(table.path("ada.key.memory")).unwrap();
    table
        .signed("ada", &["halt", "--reason", "x"])
        .fails(3, &["memory", "two histories"]);
}

#[test]
fn a_home_without_a_mesh_and_a_damaged_one_say_what_to_do() {
    let table = Table::new();
    table.gov(&["status"]).fails(4, &["no mesh", "gov init"]);
    table
        .gov(&["verify", "words"])
        .fails(1, &["does not verify"]);
    table.gov(&["verify", "nothing"]).fails(4, &["nothing"]);
    table
        .gov(&["init", "--preset", "community", "--participant", "ada"])
        .fails(2, &["neither a public key"]);
    table.person("ada");
    table
        .gov(&[
            "init",
            "--preset",
            "community",
            "--participant",
            "ada.key.pub",
        ])
        .fails(2, &["community has 3"]);
    table
        .gov(&["init", "--preset", "solo", "--participant", "ada.key.pub"])
        .works();
    table
        .gov(&["init", "--preset", "solo", "--participant", "ada.key.pub"])
        .fails(5, &["already"]);
    table.signed("ada", &["halt", "--reason", "smoke"]).works();
    table
        .gov(&[
            "propose",
            "config",
            "serving.gather_us=600",
            "--out",
            "asked",
        ])
        .works();
    table
        .gov(&["import", "asked"])
        .fails(2, &["nobody has signed", "gov sign"]);
    table
        .gov(&["sign", "words", "--key", "ada.key"])
        .fails(2, &["no request"]);
    table.gov(&["vote", "abcd"]).fails(4, &["no open proposal"]);

    let log = table.node.path().join("mesh/records.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    table
        .gov(&["status"])
        .fails(3, &["stays halted", "join the mesh again"]);
    // A mesh can be stopped by whoever can name it, whatever became of the records here.
    let mesh = "07".repeat(32);
    table
        .signed("ada", &["halt", "--reason", "x", "--network", &mesh])
        .works();
}

#[test]
fn a_node_that_is_up_takes_what_is_signed_at_once() {
    let table = Table::new();
    table.found("solo", &["ada"], &[]);
    let settings =
        "version = 1\n[mesh]\nlisten = '127.0.0.1:0'\nplane_listen = '127.0.0.1:0'\nmdns = false\n";
    std::fs::write(table.node.path().join("config.toml"), settings).unwrap();
    let _node = table.node.up(&[]);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while table.node.run(&["peers"]).code != 0 {
        assert!(std::time::Instant::now() < until, "the mesh does not begin");
    }
    let halted = table.signed("ada", &["halt", "--reason", "smoke"]);
    assert!(halted.works().contains("1 new"), "{halted:?}");
    assert_eq!(table.status()["halted"], true);
    assert!(table.node.run(&["peers"]).works().contains("HALTED: smoke"));
}

#[test]
fn a_simulated_mesh_keeps_its_promises_and_says_how_quick_it_was() {
    let home = Home::new();
    let ran = home.run(&[
        "sim", "gov", "--nodes", "60", "--loss", "0.1", "--seeds", "2", "--json",
    ]);
    let page = ran.json();
    for promise in [
        "unhalted",
        "diverged",
        "running_under_halt",
        "early_major",
        "early_resume",
        "unhalted_boots",
    ] {
        assert_eq!(page[promise], 0, "{page}");
    }
    let ms = |which: &str| page["halt_ms"][which].as_u64().unwrap();
    assert!(
        0 < ms("p50") && ms("p50") <= ms("p99") && ms("p99") <= ms("max"),
        "{page}"
    );
    home.run(&["sim", "gov", "--nodes", "7"])
        .fails(2, &["8 to"]);
}
