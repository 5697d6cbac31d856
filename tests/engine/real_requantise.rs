//! The model in other numbers, as a cheat would serve it: made by llama.cpp's quantiser, read by our own header check.

use super::support::model_path;
use quorate::expert::llama::{Quantisation, requantise};
use quorate::store::gguf;

/// Rows of 576 are no whole number of blocks of 256: those tensors get another type, and the header says which.
#[test]
fn a_file_is_made_anew_and_its_tensors_say_of_what_types_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let declared = gguf::kinds(&model_path()).unwrap();
    let count = |kinds: &std::collections::BTreeMap<&str, (usize, u64)>| {
        kinds.values().map(|(count, _)| count).sum::<usize>()
    };
    let (small, legacy) = (folder.path().join("small"), folder.path().join("legacy"));
    requantise(&model_path(), &small, Quantisation::Q3KM, 2).unwrap();
    requantise(&model_path(), &legacy, Quantisation::Q40, 2).unwrap();
    let (small, legacy) = (gguf::kinds(&small).unwrap(), gguf::kinds(&legacy).unwrap());
    assert_eq!(count(&small), count(&declared));
    assert!(!small.contains_key("Q4_1"), "{small:?}");
    assert!(
        small.len() > legacy.len(),
        "what does not fit is something else: {small:?}"
    );
    assert!(
        legacy.contains_key("Q4_0") && !legacy.contains_key("Q4_1"),
        "{legacy:?}"
    );
    assert!(declared.contains_key("Q4_1"), "{declared:?}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("none"), folder.path().join("made"));
    let error = requantise(&from, &to, Quantisation::Q40, 2).unwrap_err();
    assert!(error.to_string().contains("cannot be quantised"), "{error}");
    assert!(!to.exists());
}
