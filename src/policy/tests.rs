use super::*;

const ADA: &str = "12D3KooWAda";

fn guest<'a>(node: &'a str, model: &'a str) -> Asked<'a> {
    Asked {
        action: Action::Serve,
        source: Source::Guest,
        node,
        model: Some(model),
        tier: Tier::ReadOnly,
        phase: Phase::Suggest,
        is_halted: false,
    }
}

fn own(model: &str) -> Asked<'_> {
    Asked {
        action: Action::Ask,
        source: Source::Own,
        ..guest(ADA, model)
    }
}

fn change(tier: Tier, source: Source) -> Asked<'static> {
    Asked {
        action: Action::Apply,
        source,
        model: None,
        tier,
        ..guest(ADA, "")
    }
}

fn policy(text: &str) -> Policy {
    Policy::Rules(Box::new(Rules::parse(text).unwrap()))
}

/// Every question that a node can ask.
fn all() -> Vec<Asked<'static>> {
    let tiers = [
        Tier::ReadOnly,
        Tier::Suggest,
        Tier::SandboxTest,
        Tier::DeployMinor,
        Tier::DeployMajor,
    ];
    let mut all = Vec::new();
    for phase in Phase::ALL {
        for is_halted in [false, true] {
            for asked in [
                own("a"),
                guest(ADA, "a"),
                guest("", "quoted \"\\ \u{1f600}\n"),
            ] {
                all.push(Asked {
                    phase,
                    is_halted,
                    ..asked
                });
            }
            for tier in tiers {
                for source in [Source::People, Source::Autonomous] {
                    all.push(Asked {
                        phase,
                        is_halted,
                        ..change(tier, source)
                    });
                }
            }
        }
    }
    all
}

#[test]
fn without_rules_nothing_more_is_refused() {
    for policy in [Policy::Nothing, policy(""), policy(EXAMPLE)] {
        for asked in all() {
            assert_eq!(policy.refusal(&asked), None, "{asked:?}");
        }
    }
}

/// The rules of the example are off; they hold when they are on.
#[test]
fn every_rule_of_the_example_can_be_switched_on() {
    let on = |line: &str| {
        let rule = ["//@", "//forbid", "//when", "//unless"];
        let is_rule = rule.iter().any(|begin| line.starts_with(begin));
        line.strip_prefix("//")
            .filter(|_| is_rule)
            .unwrap_or(line)
            .to_owned()
            + "\n"
    };
    let text: String = EXAMPLE.lines().map(on).collect();
    let rules = Rules::parse(&text).unwrap();
    let names: Vec<&str> = rules.names().collect();
    let five = [
        "people-only",
        "friends-only",
        "not-that-model",
        "nothing-leaves",
        "no-major",
    ];
    assert_eq!(names, five);
    let policy = Policy::Rules(Box::new(rules));
    let why = |asked: &Asked| policy.refusal(asked).unwrap_or_default();
    assert_eq!(policy.refusal(&guest(ADA, "a")), None, "a friend");
    assert!(why(&guest("12D3KooWEve", "a")).ends_with(": friends-only"));
    let both = why(&guest("12D3KooWEve", "big:8b"));
    assert!(both.ends_with(": friends-only, not-that-model"), "{both}");
    let stream = Asked {
        source: Source::Autonomous,
        ..guest(ADA, "a")
    };
    assert!(why(&stream).ends_with(": people-only"));
    assert!(why(&own("a")).ends_with(": nothing-leaves"));
    assert_eq!(
        policy.refusal(&change(Tier::DeployMinor, Source::People)),
        None
    );
    assert!(why(&change(Tier::DeployMajor, Source::People)).ends_with(": no-major"));
    assert!(why(&change(Tier::DeployMinor, Source::Autonomous)).ends_with(": no-major"));
}

#[test]
fn a_rule_sees_what_it_is_told_and_refuses_nothing_else() {
    let seen = [
        ("action == Action::\"ask\"", "true", 8),
        ("action == Action::\"serve\"", "true", 16),
        ("action == Action::\"apply\"", "true", 80),
        ("action", "context.phase == 3", 26),
        ("action", "context.halted", 52),
        ("action", "context.tier == 4", 16),
        ("action", "context.tier < 3", 72),
        ("action", "context.source == Source::\"autonomous\"", 40),
        ("action", "context.source == Source::\"own\"", 8),
        ("action", "principal == Node::\"12D3KooWAda\"", 96),
        ("action", "resource == Model::\"a\"", 16),
        ("action", "resource == Config::\"mesh\"", 80),
    ];
    for (action, when, n) in seen {
        let policy = policy(&format!(
            "forbid (principal, {action}, resource) when {{ {when} }};"
        ));
        let refused = all()
            .iter()
            .filter(|asked| policy.refusal(asked).is_some())
            .count();
        assert_eq!(refused, n, "{action} {when}");
    }
}

#[test]
fn a_rule_that_cannot_be_judged_refuses() {
    let text =
        "forbid (principal, action, resource) when { context.phase + 9223372036854775807 < 0 };";
    let policy = policy(text);
    let at = |phase| {
        policy.refusal(&Asked {
            phase,
            ..guest(ADA, "a")
        })
    };
    assert_eq!(at(Phase::ReadOnly), None);
    let why = at(Phase::Suggest).unwrap();
    assert!(
        why.contains("cannot be judged") && why.contains("overflow"),
        "{why}"
    );
}

#[test]
fn what_would_allow_or_say_nothing_is_no_policy() {
    for (text, why) in [
        (
            "permit (principal, action, resource);",
            "rule 1 permits, and this file can only forbid",
        ),
        (
            "forbid (principal, action, resource); @id(\"door\") permit (principal, action, resource);",
            "door permits",
        ),
        (
            "forbid (principal == ?principal, action, resource);",
            "slot",
        ),
        (
            "forbid (principal, action, resource) when { context.teir > 3 };",
            "rule 1: ",
        ),
        (
            "forbid (principal, action == Action::\"aply\", resource);",
            "rule 1: ",
        ),
        (
            "forbid (principal, action, resource) when { context.source == Source::\"gest\" };",
            "rule 1: ",
        ),
        (
            "forbid (principal, action, resource) when { context.phase == \"1\" };",
            "rule 1: ",
        ),
        ("forbid (principal, action, resource)", "unexpected end"),
        ("allow everything", "unexpected"),
    ] {
        let refused = Rules::parse(text).unwrap_err();
        assert!(
            refused.contains(why) && !refused.contains('\n'),
            "{text}: {refused}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_used_refuses_everything_and_none_refuses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.cedar");
    assert!(Rules::read(&path).unwrap().is_none());
    assert_eq!(Policy::load(&path).refusal(&own("a")), None);
    let refused = |what: &str| {
        let failure = Rules::read(&path).unwrap_err();
        assert_eq!(failure.kind, Kind::Config, "{what}");
        let policy = Policy::load(&path);
        for asked in all() {
            let why = policy.refusal(&asked).expect(what);
            assert!(!why.contains("policy.cedar"), "strangers read it: {why}");
        }
        failure.message
    };
    let rule = "forbid (principal, action == Action::\"ask\", resource);\n";
    let spaces = " ".repeat(POLICY_BYTES_MAX - rule.len());
    fs::write(&path, format!("{rule}{spaces}")).unwrap();
    assert_eq!(
        Rules::read(&path).unwrap().unwrap().len(),
        1,
        "as long as it may be"
    );
    fs::write(&path, format!("{rule}{spaces} ")).unwrap();
    assert!(refused("too long").contains("longer"));
    fs::write(&path, rule.repeat(POLICY_RULES_MAX)).unwrap();
    assert_eq!(Rules::read(&path).unwrap().unwrap().len(), POLICY_RULES_MAX);
    fs::write(&path, rule.repeat(POLICY_RULES_MAX + 1)).unwrap();
    assert!(refused("too many").contains("rules"));
    fs::write(&path, [rule.as_bytes(), &[0xff]].concat()).unwrap();
    assert!(refused("no text").contains("no text"));
    fs::write(&path, &rule[..rule.len() / 2]).unwrap();
    refused("half of it");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused("a directory").contains("no file"));
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink(dir.path().join("gone"), &path).unwrap();
    refused("a link that leads nowhere");
}

/// What a node says fits what rules are checked against.
#[test]
fn every_question_fits_the_schema() {
    let schema = schema();
    for asked in all() {
        let request = request(&asked).unwrap();
        let (principal, action) = (request.principal().unwrap(), request.action().unwrap());
        let checked = Request::new(
            principal.clone(),
            action.clone(),
            request.resource().unwrap().clone(),
            request.context().unwrap().clone(),
            Some(&schema),
        );
        assert!(
            checked.is_ok(),
            "{asked:?}: {:?}",
            checked.err().map(|e| e.to_string())
        );
    }
}
