//! What the operator of this node refuses, beyond what the mesh forbids: a Cedar file of `forbid` rules
//! beside the settings. It is asked when a permit of the mesh is about to be given, and has no way to
//! allow anything. What cannot be read, or judged, refuses. No other node hears of it.

use crate::error::{Failure, Kind, Outcome};
use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, EntityId, EntityTypeName, EntityUid,
    Policy as Rule, PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode,
    Validator,
};
use quorate_core::governance::{Phase, Tier};
use quorate_core::limits::{POLICY_BYTES_MAX, POLICY_RULES_MAX};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::str::FromStr;

const SCHEMA: &str = include_str!("schema.cedarschema");
/// Cedar denies what no rule permits; here the mesh has permitted it already.
const FLOOR: &str = "permit (principal, action, resource);";
const FLOOR_ID: &str = "floor";
/// Every rule, switched off, with its reason.
pub const EXAMPLE: &str = include_str!("../../deploy/policy.example.cedar");

/// Which permit is about to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A request of this node goes to the mesh.
    Ask,
    /// A session of another node runs on a model here.
    Serve,
    /// An accepted change of the mesh's config takes effect here.
    Apply,
}

/// On whose behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Own,
    Guest,
    Autonomous,
    People,
}

/// All that a rule can look at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub action: Action,
    pub source: Source,
    /// The id of the node that asks.
    pub node: &'a str,
    /// None: the mesh's config.
    pub model: Option<&'a str>,
    pub tier: Tier,
    pub phase: Phase,
    pub is_halted: bool,
}

/// What a node goes by.
#[derive(Debug, Default)]
pub enum Policy {
    /// There is no file: nothing more is refused.
    #[default]
    Nothing,
    Rules(Box<Rules>),
    /// There is a file and it cannot be used: nothing is granted.
    Unusable,
}

impl Policy {
    pub fn load(path: &Path) -> Policy {
        match Rules::read(path) {
            Ok(None) => Policy::Nothing,
            Ok(Some(rules)) => {
                tracing::info!(target: "quorate::mesh", rules = rules.len(), "the operator's policy holds");
                Policy::Rules(Box::new(rules))
            }
            Err(failure) => {
                tracing::error!(target: "quorate::mesh", %failure, "the operator's policy cannot be used: this node asks nobody, serves nobody and applies nothing");
                Policy::Unusable
            }
        }
    }

    /// Why this permit is not given. Whoever is refused reads it: it names no files.
    pub fn refusal(&self, asked: &Asked) -> Option<String> {
        match self {
            Policy::Nothing => None,
            Policy::Rules(rules) => rules.refusal(asked),
            Policy::Unusable => Some("the policy of this node cannot be used".to_owned()),
        }
    }
}

/// A file of rules that was read and checked.
#[derive(Debug)]
pub struct Rules {
    set: PolicySet,
    names: BTreeMap<PolicyId, String>,
    authorizer: Authorizer,
}

impl Rules {
    /// None: there is no file.
    pub fn read(path: &Path) -> Outcome<Option<Rules>> {
        let failed = |error: &std::io::Error| Failure::file("read", path, error);
        // A link that leads nowhere is a file that cannot be read.
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&error)),
            Ok(_) => {}
        }
        let is_file = fs::metadata(path)
            .map_err(|error| failed(&error))?
            .is_file();
        let mut bytes = Vec::new();
        if is_file {
            let file = File::open(path).map_err(|error| failed(&error))?;
            let read = file
                .take(POLICY_BYTES_MAX as u64 + 1)
                .read_to_end(&mut bytes);
            read.map_err(|error| failed(&error))?;
        }
        let rules = match (is_file, bytes.len() <= POLICY_BYTES_MAX) {
            (false, _) => Err("it is no file".to_owned()),
            (_, false) => Err(format!("it is longer than {POLICY_BYTES_MAX} bytes")),
            (true, true) => String::from_utf8(bytes)
                .map_err(|_| "it is no text".to_owned())
                .and_then(|text| Rules::parse(&text)),
        };
        rules.map(Some).map_err(|why| {
            let message = format!("the policy {} cannot be used: {why}", path.display());
            Failure::new(Kind::Config, message)
                .hint("`quorate gov policy example` shows rules that can")
        })
    }

    /// An error is for the operator to read.
    pub fn parse(text: &str) -> Result<Rules, String> {
        let mut set = PolicySet::from_str(text).map_err(|error| one_line(&error))?;
        if set.num_of_templates() > 0 {
            return Err("a rule has a slot (?principal, ?resource), which nobody fills".into());
        }
        let mut names = BTreeMap::new();
        for rule in set.policies() {
            let name = name_of(rule);
            if rule.effect() != Effect::Forbid {
                return Err(format!("{name} permits, and this file can only forbid"));
            }
            names.insert(rule.id().clone(), name);
        }
        if names.len() > POLICY_RULES_MAX {
            return Err(format!("it has more than {POLICY_RULES_MAX} rules"));
        }
        let checked = Validator::new(schema()).validate(&set, ValidationMode::Strict);
        if let Some(error) = checked.validation_errors().next() {
            let name = names
                .get(error.policy_id())
                .map_or("a rule", String::as_str);
            return Err(format!("{name}: {}", one_line(error)));
        }
        let floor = Rule::parse(Some(PolicyId::new(FLOOR_ID)), FLOOR).expect("it is written above");
        set.add(floor).map_err(|error| one_line(&error))?;
        let authorizer = Authorizer::new();
        Ok(Rules {
            set,
            names,
            authorizer,
        })
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// In the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mut all: Vec<(usize, &str)> =
            self.names.iter().map(|(id, n)| (place(id), &**n)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, name)| name)
    }

    fn refusal(&self, asked: &Asked) -> Option<String> {
        let Some(request) = request(asked) else {
            return Some("the policy of this node cannot be asked about this".to_owned());
        };
        let answer = self
            .authorizer
            .is_authorized(&request, &self.set, &Entities::empty());
        // Cedar passes over a rule that it cannot judge; here such a rule refuses.
        if let Some(error) = answer.diagnostics().errors().next() {
            return Some(format!(
                "the policy of this node cannot be judged: {}",
                one_line(error)
            ));
        }
        if answer.decision() == Decision::Allow {
            return None;
        }
        let by = answer
            .diagnostics()
            .reason()
            .filter_map(|id| self.names.get(id));
        let mut by: Vec<&str> = by.map(String::as_str).collect();
        by.sort_unstable();
        Some(format!(
            "the policy of this node refuses it: {}",
            by.join(", ")
        ))
    }
}

fn schema() -> Schema {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("it is part of the program");
    schema
}

/// Cedar numbers rules as they stand in the file, from 0.
fn place(id: &PolicyId) -> usize {
    let text = id.to_string();
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse().unwrap_or(usize::MAX)
}

fn name_of(rule: &Rule) -> String {
    match rule.annotation("id").filter(|name| !name.is_empty()) {
        Some(name) => name.chars().filter(|c| !c.is_control()).collect(),
        None => format!("rule {}", place(rule.id()).saturating_add(1)),
    }
}

fn one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

/// Every name is a literal or an id, so this does not fail; if it does, that refuses.
fn request(asked: &Asked) -> Option<Request> {
    let action = match asked.action {
        Action::Ask => "ask",
        Action::Serve => "serve",
        Action::Apply => "apply",
    };
    let source = match asked.source {
        Source::Own => "own",
        Source::Guest => "guest",
        Source::Autonomous => "autonomous",
        Source::People => "people",
    };
    let resource = match asked.model {
        Some(model) => uid("Model", model)?,
        None => uid("Config", "mesh")?,
    };
    let number = |n: u8| RestrictedExpression::new_long(i64::from(n));
    let now = [
        (
            "source",
            RestrictedExpression::new_entity_uid(uid("Source", source)?),
        ),
        ("tier", number(asked.tier as u8)),
        ("phase", number(asked.phase as u8)),
        ("halted", RestrictedExpression::new_bool(asked.is_halted)),
    ];
    let now = now.map(|(name, value)| (name.to_owned(), value));
    Request::new(
        uid("Node", asked.node)?,
        uid("Action", action)?,
        resource,
        Context::from_pairs(now).ok()?,
        None,
    )
    .ok()
}

fn uid(kind: &str, id: &str) -> Option<EntityUid> {
    let kind: EntityTypeName = kind.parse().ok()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

#[cfg(test)]
mod tests;
