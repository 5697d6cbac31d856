//! What is installed: listed, shown, checked at every load, removed.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use quorate::store::name::ModelName;
use quorate::store::pull::How;
use quorate::store::{Depth, Store, StoreError};

use crate::pulls::{Bench, model, name};
use crate::sample::Sample;

#[test]
fn an_empty_home_has_nothing() {
    let home = tempfile::tempdir().expect("tempdir");
    let store = Store::new(&home.path().join("not-made-yet"));
    assert!(store.list().expect("listed").models.is_empty());
    let error = store
        .resolve(&name("llama3.2:1b"))
        .expect_err("absent")
        .to_string();
    assert!(error.contains("quorate pull llama3.2:1b"), "{error}");
    assert!(matches!(
        store.rm(&model()),
        Err(StoreError::NotInstalled { .. })
    ));
    assert!(
        !home.path().join("not-made-yet").exists(),
        "reading creates nothing"
    );
}

#[test]
fn list_show_rm() {
    let bench = Bench::new(1);
    let pulled = bench.pull().0.expect("pulled");
    let listing = bench.store.list().expect("listed");
    assert_eq!((listing.models.len(), listing.broken.len()), (1, 0));
    assert_eq!(listing.models[0].name, "org/repo:Q4_K_M");

    let shown = bench.store.show(&model()).expect("shown");
    assert_eq!(
        (shown.facts.context_length, shown.kv_bytes_per_token),
        (512, 256)
    );
    bench
        .store
        .set_vocab_fingerprint(&model(), "f00d")
        .expect("stored");
    let json = serde_json::to_value(bench.store.show(&model()).expect("shown")).expect("json");
    assert_eq!(
        (&json["vocab_fingerprint"], &json["facts"]["family"]),
        (&"f00d".into(), &"chatml".into())
    );

    let removed = bench.store.rm(&model()).expect("removed");
    assert_eq!(
        (removed.freed_bytes, removed.kept),
        (bench.content.len() as u64, None)
    );
    assert!(!pulled.path.exists());
    bench.assert_nothing_installed();
}

#[test]
fn a_changed_file_is_refused_and_a_pull_mends_it() {
    let bench = Bench::new(1);
    let path = bench.pull().0.expect("pulled").path;
    let mut damaged = bench.content.clone();
    damaged[bench.content.len() - 1] ^= 1;
    fs::write(&path, &damaged).expect("write");
    // Same size: only the time has moved, which is enough to hash again.
    let later = SystemTime::now() + Duration::from_secs(5);
    File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_modified(later))
        .expect("set time");
    let error = bench.store.resolve(&model()).expect_err("damaged");
    assert!(matches!(error, StoreError::WrongHash { .. }));
    assert!(
        error.to_string().contains("quorate pull org/repo:Q4_K_M"),
        "{error}"
    );
    assert_eq!(bench.pull().0.expect("pulled").how, How::Downloaded);
    bench.store.resolve(&model()).expect("whole again");

    fs::remove_file(&path).expect("remove");
    assert!(matches!(
        bench.store.resolve(&model()),
        Err(StoreError::FileGone { .. })
    ));
    bench.pull().0.expect("pulled");
    bench.store.resolve(&model()).expect("here again");
}

#[test]
fn a_touched_file_is_hashed_once() {
    let bench = Bench::new(1);
    let path = bench.pull().0.expect("pulled").path;
    let before = bench
        .store
        .installed(&model())
        .expect("read")
        .expect("installed")
        .stamp;
    File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH))
        .expect("set time");
    bench.store.resolve(&model()).expect("same bytes");
    let after = bench
        .store
        .installed(&model())
        .expect("read")
        .expect("installed")
        .stamp;
    assert!(before != after && after.modified_ns == 0);

    // Behind an unchanged stamp only a full check sees a change; that is the documented trade.
    let mut damaged = bench.content.clone();
    damaged[bench.content.len() - 1] ^= 1;
    fs::write(&path, damaged).expect("write");
    File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH))
        .expect("set time");
    bench
        .store
        .verify(&model(), Depth::Stamp)
        .expect("stamp unchanged");
    assert!(matches!(
        bench.store.verify(&model(), Depth::Full),
        Err(StoreError::WrongHash { .. })
    ));
}

#[test]
fn local_files_are_used_where_they_lie() {
    let bench = Bench::new(1);
    let path = bench.home.path().join("mine.gguf");
    fs::write(&path, Sample::valid().build()).expect("write");
    let mine = ModelName::Path(path.clone());
    let resolved = bench.store.resolve(&mine).expect("registered on the way");
    assert_eq!(resolved.path, path);
    assert_eq!(
        bench.store.list().expect("listed").models[0].name,
        path.display().to_string()
    );

    fs::write(&path, Sample::valid().padded(64).build()).expect("write");
    let error = bench.store.resolve(&mine).expect_err("changed").to_string();
    assert!(error.contains("quorate pull"), "{error}");
    let pulled = bench
        .store
        .pull(&mine, &bench.options, &mut |_| {})
        .expect("accepted anew");
    assert_eq!(pulled.how, How::LocalFile);
    bench.store.resolve(&mine).expect("resolved");
    assert_eq!(
        bench.store.rm(&mine).expect("forgotten").kept.as_ref(),
        Some(&path)
    );
    assert!(path.exists());

    fs::write(&path, b"GGUF then nothing").expect("write");
    assert!(matches!(
        bench.store.resolve(&mine),
        Err(StoreError::Header { .. })
    ));
    assert!(
        bench
            .store
            .resolve(&ModelName::Path("nowhere/at-all.gguf".into()))
            .is_err()
    );
}

#[test]
fn one_damaged_entry_hides_nothing() {
    let bench = Bench::new(1);
    bench.pull().0.expect("pulled");
    let models = bench.home.path().join("models");
    for (dir, text) in [
        ("bad", "{"),
        ("newer", r#"{"version": 99}"#),
        ("huge", &"x".repeat(1 << 20)),
        ("half", ""),
    ] {
        fs::create_dir_all(models.join(dir)).expect("create");
        fs::write(models.join(dir).join("manifest.json"), text).expect("write");
    }
    fs::create_dir_all(models.join("no-manifest")).expect("create");
    let listing = bench.store.list().expect("listed");
    assert_eq!((listing.models.len(), listing.broken.len()), (1, 4));
    assert!(
        listing
            .broken
            .iter()
            .all(|error| error.to_string().contains("damaged"))
    );
}

#[test]
fn a_manifest_cannot_point_out_of_its_directory() {
    let bench = Bench::new(1);
    let path = bench.pull().0.expect("pulled").path;
    let manifest = path.with_file_name("manifest.json");
    let text = fs::read_to_string(&manifest)
        .expect("read")
        .replace("model-Q4_K_M.gguf\"\n", "../../x.gguf\"\n");
    fs::write(&manifest, text).expect("write");
    assert!(matches!(
        bench.store.rm(&model()),
        Err(StoreError::BadManifest { .. })
    ));
    bench.pull().0.expect("a pull mends the manifest");
    bench.store.resolve(&model()).expect("resolved");
}

#[test]
fn an_installation_cut_off_before_its_manifest_is_finished_without_a_download() {
    let bench = Bench::new(1);
    let path = bench.pull().0.expect("pulled").path;
    fs::remove_file(path.with_file_name("manifest.json")).expect("remove");
    bench.assert_nothing_installed();
    bench.pull().0.expect("pulled");
    bench.store.resolve(&model()).expect("resolved");
    assert_eq!(bench.hub.fetches().len(), 1);
}
