//! `[[expert]]` tables: what this node serves besides plain models, and whom.

use super::{bad, read_bounded};
use crate::error::{Failure, Outcome, nearest};
use crate::identity;
use quorate_core::host::Allow;
use quorate_core::limits::{
    ALLOWED_PEERS_MAX, EXPERT_NAME_BYTES_MAX, EXPERTS_MAX, PREFIX_BYTES_MAX,
};
use quorate_core::mesh::Pass;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// In an allow list: every member of the mesh.
const ANYBODY: &str = "mesh";

/// One expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertSettings {
    /// What requests of the owner ask for.
    pub name: String,
    /// As typed: an alias, a name of the store's grammar, a path.
    pub model: String,
    /// The name of an installed adapter for that model.
    pub adapter: Option<String>,
    pub prefix: Option<Prefix>,
    /// None: for the owner alone.
    pub share: Option<Allow>,
}

/// Who answers for an expert: `model` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Model,
    /// `mesh`: all of the mesh that this node belongs to, for nodes of other meshes.
    Mesh,
    /// The pass of another mesh.
    AnotherMesh(Box<Pass>),
}

impl ExpertSettings {
    pub fn source(&self) -> Source {
        match self.model.as_str() {
            ANYBODY => Source::Mesh,
            text if Pass::is_one(text) => {
                Pass::parse(text).map_or(Source::Model, |pass| Source::AnotherMesh(Box::new(pass)))
            }
            _ => Source::Model,
        }
    }
}

/// Text that stands before every session, and that nobody is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefix {
    Text(String),
    File(PathBuf),
}

impl Prefix {
    /// A file is read anew whenever the expert is looked for: it may have changed.
    pub fn text(&self) -> Result<String, String> {
        let path = match self {
            Prefix::Text(text) => return Ok(text.clone()),
            Prefix::File(path) => path,
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| {
                file.take(PREFIX_BYTES_MAX as u64 + 1)
                    .read_to_string(&mut text)
            })
            .map_err(|error| format!("cannot read the prefix {}: {error}", path.display()))?;
        match text.len() {
            0 => Err(format!("the prefix {} is empty", path.display())),
            bytes if bytes > PREFIX_BYTES_MAX => Err(format!(
                "the prefix {} is longer than {PREFIX_BYTES_MAX} bytes",
                path.display()
            )),
            _ => Ok(text),
        }
    }
}

/// The table, as typed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawExpert {
    pub name: String,
    pub model: String,
    pub adapter: Option<String>,
    pub prefix: Option<String>,
    pub prefix_file: Option<PathBuf>,
    pub allow: Option<Vec<String>>,
    pub share: Option<bool>,
}

/// Checks all of them together: names are unique, and no alias is hidden.
pub(super) fn checked(
    raw: Vec<RawExpert>,
    aliases: &BTreeMap<String, String>,
) -> Outcome<Vec<ExpertSettings>> {
    if raw.len() > EXPERTS_MAX {
        return Err(bad(format!("at most {EXPERTS_MAX} [[expert]] tables")));
    }
    let mut experts: Vec<ExpertSettings> = Vec::new();
    for raw in raw {
        let expert = raw.checked()?;
        let name = &expert.name;
        if experts.iter().any(|other| other.name == *name) {
            return Err(bad(format!("two experts are called '{name}'")));
        }
        if aliases.contains_key(name) {
            return Err(bad(format!(
                "'{name}' is the name of an expert and of an alias"
            )));
        }
        experts.push(expert);
    }
    Ok(experts)
}

/// A file of `[[expert]]` tables, and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawList {
    expert: Vec<RawExpert>,
}

impl ExpertSettings {
    /// Experts for a purpose of the owner: nobody else may ask them unless their table says so. A
    /// prefix's file is named from where the list is.
    pub fn read_list(path: &Path) -> Outcome<Vec<ExpertSettings>> {
        let text = read_bounded(path).map_err(|error| Failure::file("read", path, &error))?;
        let list = toml::from_str(&text).map_err(|error| bad(error.to_string().trim_end()));
        let experts = list.and_then(|RawList { mut expert }| {
            for raw in &mut expert {
                raw.share = raw.share.or(raw.allow.is_none().then_some(false));
                let beside = |file: &PathBuf| path.parent().map(|folder| folder.join(file));
                let file = raw.prefix_file.as_ref().and_then(beside);
                let file = file.and_then(|file| std::path::absolute(file).ok());
                raw.prefix_file = file.or(raw.prefix_file.take());
            }
            checked(expert, &BTreeMap::new())
        });
        experts.map_err(|failure| Failure {
            message: format!("{}: {}", path.display(), failure.message),
            ..failure
        })
    }
}

impl RawExpert {
    pub fn checked(self) -> Outcome<ExpertSettings> {
        let name = self.name;
        let of = |why: &str| bad(format!("expert '{name}': {why}"));
        let simple = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if name.is_empty() || name.len() > EXPERT_NAME_BYTES_MAX || !name.chars().all(simple) {
            return Err(of(&format!(
                "a name is 1 to {EXPERT_NAME_BYTES_MAX} small letters, digits, '-', '_' and '.'"
            )));
        }
        if self.adapter.as_ref().is_some_and(String::is_empty) {
            return Err(of("the adapter is empty"));
        }
        let prefix = match (self.prefix, self.prefix_file) {
            (None, None) => None,
            (Some(_), Some(_)) => return Err(of("write prefix or prefix_file, not both")),
            (Some(text), None) if text.is_empty() => return Err(of("the prefix is empty")),
            (Some(text), None) if text.len() > PREFIX_BYTES_MAX => {
                return Err(of(&format!(
                    "the prefix is longer than {PREFIX_BYTES_MAX} bytes"
                )));
            }
            (Some(text), None) => Some(Prefix::Text(text)),
            (None, Some(path)) if path.is_absolute() => Some(Prefix::File(path)),
            (None, Some(_)) => return Err(of("prefix_file must be a whole path, from /")),
        };
        let share = match (self.share.unwrap_or(true), self.allow) {
            (false, _) => None,
            (true, Some(peers)) => Some(allow(&peers).map_err(|why| of(&why))?),
            (true, None) if prefix.is_none() => Some(Allow::Mesh),
            (true, None) => {
                return Err(of(
                    "what it says can leak its private prefix, so it needs a list of who may ask",
                )
                .hint(
                    "allow = [\"<node id>\", ...] names peers, allow = [\"mesh\"] every member, \
                     share = false keeps it to yourself",
                ));
            }
        };
        check_mesh(&self.model, prefix.is_some(), share.as_ref())
            .map_err(|(why, hint)| of(&why).hint(hint))?;
        Ok(ExpertSettings {
            name,
            model: self.model,
            adapter: self.adapter,
            prefix,
            share,
        })
    }
}

/// What holds where a whole mesh answers: what is wrong, and what to do.
fn check_mesh(
    model: &str,
    has_prefix: bool,
    share: Option<&Allow>,
) -> Result<(), (String, &'static str)> {
    if Pass::is_one(model)
        && let Err(bad) = Pass::parse(model)
    {
        let why = format!("its model is no pass of a mesh: {bad}");
        return Err((
            why,
            "copy all that `quorate expert add ... --model mesh` printed there",
        ));
    }
    if model != ANYBODY && !Pass::is_one(model) {
        return Ok(());
    }
    if has_prefix {
        let why = "a whole mesh takes no private prefix".to_owned();
        return Err((why, "give the prefix to an expert of its own"));
    }
    match share {
        Some(Allow::Mesh) | None if model == ANYBODY => {
            let why = "the mesh itself is an expert for nodes of other meshes only".to_owned();
            Err((why, "allow = [\"<node id>\"] names those that may ask it"))
        }
        _ => Ok(()),
    }
}

fn allow(peers: &[String]) -> Result<Allow, String> {
    if peers.iter().any(|peer| peer == ANYBODY) {
        return match peers.len() {
            1 => Ok(Allow::Mesh),
            _ => Err(format!("\"{ANYBODY}\" is everybody: it stands alone")),
        };
    }
    if peers.is_empty() {
        return Err("an empty list allows nobody: write share = false".into());
    }
    if peers.len() > ALLOWED_PEERS_MAX {
        return Err(format!("at most {ALLOWED_PEERS_MAX} peers"));
    }
    let key = |peer: &String| {
        identity::peer_key(peer).ok_or_else(|| {
            let hint = nearest(peer, [ANYBODY]).map_or(String::new(), |meant| {
                format!("; did you mean \"{meant}\"?")
            });
            format!("'{peer}' is not the id of a node, which `quorate status` shows there{hint}")
        })
    };
    peers
        .iter()
        .map(key)
        .collect::<Result<_, _>>()
        .map(Allow::Listed)
}

#[cfg(test)]
mod tests {
    use crate::config::{ExpertSettings, Overrides, Prefix, Settings, Source};
    use crate::error::Outcome;
    use crate::identity;
    use quorate_core::host::Allow;
    use quorate_core::limits::{ALLOWED_PEERS_MAX, EXPERTS_MAX, PREFIX_BYTES_MAX};

    fn parse(tables: &str) -> Outcome<Vec<ExpertSettings>> {
        let text = format!("version = 1\n{tables}");
        Settings::parse(&text, &Overrides::default()).map(|settings| settings.experts)
    }

    fn one(lines: &str) -> Result<ExpertSettings, String> {
        let table = format!("[[expert]]\nname = \"law\"\nmodel = \"m\"\n{lines}");
        match parse(&table) {
            Ok(mut experts) => Ok(experts.remove(0)),
            Err(failure) => Err(format!("{failure}")),
        }
    }

    #[test]
    fn a_private_prefix_needs_a_word_on_who_may_ask() {
        let refused = one("prefix = \"x\"").unwrap_err();
        assert!(refused.contains("leak its private prefix"), "{refused}");
        assert!(refused.contains("allow = [\"mesh\"]"), "{refused}");
        let anybody = one("prefix = \"x\"\nallow = [\"mesh\"]").unwrap();
        assert_eq!(anybody.share, Some(Allow::Mesh));
        assert_eq!(anybody.prefix, Some(Prefix::Text("x".into())));
        assert_eq!(one("prefix = \"x\"\nshare = false").unwrap().share, None);
        assert_eq!(one("").unwrap().share, Some(Allow::Mesh));
        let specialist = one("adapter = \"python\"").unwrap();
        assert_eq!(specialist.adapter.as_deref(), Some("python"));
    }

    #[test]
    fn a_list_is_for_its_owner_and_names_files_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("experts.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            ExpertSettings::read_list(&path).map_err(|failure| failure.to_string())
        };
        let tables = "[[expert]]\nname = \"a\"\nmodel = \"m\"\nprefix_file = \"a.txt\"\n\
                      [[expert]]\nname = \"b\"\nmodel = \"m\"\n";
        let list = read(tables).unwrap();
        let file = Prefix::File(folder.path().join("a.txt"));
        assert_eq!((list.len(), &list[0].prefix), (2, &Some(file)));
        assert!(list.iter().all(|expert| expert.share.is_none()));
        for (wrong, word) in [
            ("version = 1", "version"),
            ("[[expert]]\nname = \"a\"", "model"),
            ("[[expert]]\nname = \"A!\"\nmodel = \"m\"", "small letters"),
            ("", "expert"),
        ] {
            let refused = read(wrong).unwrap_err();
            assert!(
                refused.contains(word) && refused.contains("experts.toml"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_mesh_as_an_expert_is_for_nodes_that_are_named() {
        let mesh = |lines: &str| {
            let table = format!("[[expert]]\nname = \"all\"\nmodel = \"mesh\"\n{lines}");
            parse(&table).map(|mut experts| experts.remove(0))
        };
        for lines in ["", "share = false", "allow = [\"mesh\"]"] {
            let refused = mesh(lines).unwrap_err();
            assert!(
                refused.message.contains("nodes of other meshes"),
                "{refused}"
            );
        }
        let id = identity::peer_id(&[7; 32]);
        let named = format!("allow = [\"{id}\"]");
        assert_eq!(mesh(&named).unwrap().source(), Source::Mesh);
        let refused = mesh(&format!("{named}\nprefix = \"x\"")).unwrap_err();
        assert!(refused.message.contains("prefix"), "{refused}");
        let model = format!("mesh1{}", "q".repeat(80));
        let table = format!("[[expert]]\nname = \"all\"\nmodel = \"{model}\"\n");
        let refused = parse(&table).unwrap_err();
        assert!(refused.message.contains("no pass of a mesh"), "{refused}");
    }

    #[test]
    fn peers_are_named_by_their_ids() {
        let id = identity::peer_id(&[7; 32]);
        let expert = one(&format!("allow = [\"{id}\"]")).unwrap();
        let Some(Allow::Listed(peers)) = &expert.share else {
            panic!("{expert:?}")
        };
        assert!(peers.contains(&[7; 32]));
        for wrong in ["[\"ada\"]", "[]", &format!("[\"mesh\", \"{id}\"]")] {
            assert!(one(&format!("allow = {wrong}")).is_err(), "{wrong}");
        }
        let many = vec![format!("\"{id}\""); ALLOWED_PEERS_MAX + 1].join(",");
        assert!(
            one(&format!("allow = [{many}]"))
                .unwrap_err()
                .contains("at most")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (lines, why) in [
            ("prefix = \"a\"\nprefix_file = \"/b\"", "not both"),
            ("prefix = \"\"", "empty"),
            ("prefix_file = \"b\"\nshare = false", "whole path"),
            ("colour = 1", "colour"),
            ("adapter = \"\"", "adapter is empty"),
            (
                &format!("prefix = \"{}\"", "x".repeat(PREFIX_BYTES_MAX + 1)),
                "longer",
            ),
        ] {
            assert!(one(lines).unwrap_err().contains(why), "{why}");
        }
        let table = |name: &str| format!("[[expert]]\nname = \"{name}\"\nmodel = \"m\"\n");
        assert!(parse(&table("Law & Order")).is_err());
        assert!(parse(&(table("a") + &table("a"))).is_err());
        assert!(parse(&(table("a") + "[aliases]\na = \"b\"")).is_err());
        let many = |n: usize| (0..n).map(|i| table(&format!("e{i}"))).collect::<String>();
        assert_eq!(parse(&many(EXPERTS_MAX)).unwrap().len(), EXPERTS_MAX);
        assert!(parse(&many(EXPERTS_MAX + 1)).is_err());
    }
}
