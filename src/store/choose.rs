//! Which file of a repository a quantisation means.

use super::hub::HubError;
use super::name::HubName;

/// Index of the one GGUF file whose name ends in the quantisation.
pub(super) fn choose(names: &[&str], name: &HubName) -> Result<usize, HubError> {
    let (repo, quant) = (name.repository(), name.quant.clone());
    let stems: Vec<(usize, String)> = names
        .iter()
        .enumerate()
        .filter_map(|(i, path)| Some((i, path.rsplit('/').next()?.to_ascii_uppercase())))
        .filter_map(|(i, file)| Some((i, file.strip_suffix(".GGUF")?.to_owned())))
        // Vision projectors and importance matrices are not models.
        .filter(|(_, stem)| !stem.starts_with("MMPROJ") && !stem.contains("IMATRIX"))
        .collect();
    let wanted = quant.strip_suffix(".GGUF").unwrap_or(&quant);
    let fits = |stem: &str| match stem.strip_suffix(wanted) {
        // `Q4_K_M` must not match inside `IQ4_K_M`.
        Some(before) => before.is_empty() || before.ends_with(['-', '.', '_']),
        None => false,
    };
    let whole: Vec<usize> = stems
        .iter()
        .filter(|(_, stem)| fits(stem))
        .map(|&(i, _)| i)
        .collect();
    let shown = |indices: &[usize]| {
        indices
            .iter()
            .map(|&i| names[i].to_owned())
            .collect::<Vec<_>>()
    };
    match whole.as_slice() {
        [one] => Ok(*one),
        [] => match stems
            .iter()
            .find(|(_, stem)| without_part_number(stem).is_some_and(fits))
        {
            Some(&(i, _)) => Err(HubError::Split {
                repo,
                quant,
                file: names[i].to_owned(),
            }),
            None => {
                let all: Vec<usize> = stems.iter().map(|&(i, _)| i).collect();
                Err(HubError::NoSuchQuant {
                    repo,
                    quant,
                    files: shown(&all),
                })
            }
        },
        several => Err(HubError::Ambiguous {
            repo,
            quant,
            files: shown(several),
        }),
    }
}

/// `X` for `X-00001-OF-00003`.
fn without_part_number(stem: &str) -> Option<&str> {
    let (before, last) = stem.rsplit_once("-OF-")?;
    let (before, first) = before.rsplit_once('-')?;
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (number(first) && number(last)).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(quant: &str) -> HubName {
        HubName {
            org: "o".into(),
            repo: "r".into(),
            quant: quant.to_ascii_uppercase(),
            rev: None,
        }
    }

    #[test]
    fn chooses_by_the_end_of_the_name() {
        let files = [
            "README.md",
            "m-IQ4_XS.gguf",
            "m-Q4_K_M.gguf",
            "sub/m-q8_0.GGUF",
            "mmproj-m-Q6_K.gguf",
        ];
        assert_eq!(choose(&files, &name("q4_k_m")).ok(), Some(2));
        assert_eq!(choose(&files, &name("Q8_0")).ok(), Some(3));
        assert_eq!(choose(&files, &name("m-Q4_K_M.gguf")).ok(), Some(2));
        assert!(matches!(
            choose(&files, &name("Q4_XS")),
            Err(HubError::NoSuchQuant { .. })
        ));
        let error = choose(&files, &name("Q6_K"))
            .expect_err("a projector is no model")
            .to_string();
        assert!(
            error.contains("m-IQ4_XS.gguf") && !error.contains("mmproj"),
            "{error}"
        );
    }

    #[test]
    fn split_and_ambiguous_files_are_refused_with_advice() {
        let files = [
            "m-Q8_0/m-Q8_0-00001-of-00002.gguf",
            "m-Q8_0/m-Q8_0-00002-of-00002.gguf",
            "a-Q4_0.gguf",
            "b-Q4_0.gguf",
        ];
        assert!(
            choose(&files, &name("Q8_0"))
                .expect_err("split")
                .to_string()
                .contains("--merge")
        );
        assert!(
            choose(&files, &name("Q4_0"))
                .expect_err("two fit")
                .to_string()
                .contains("b-Q4_0.gguf")
        );
        assert_eq!(choose(&files, &name("b-Q4_0")).ok(), Some(3));
    }
}
