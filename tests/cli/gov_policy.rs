//! The operator's file of rules, before a node goes by it and when one does.

use crate::gov::Table;
use serde_json::json;

const RULES: &str = "\
@id(\"nothing-leaves\") forbid (principal, action == Action::\"ask\", resource);
forbid (principal, action == Action::\"serve\", resource) when { context.phase > 2 };
";

#[test]
fn a_file_of_rules_is_checked_before_the_node_goes_by_it() {
    let table = Table::new();
    let none = table.gov(&["policy", "check"]);
    assert!(none.works().contains("is not there"), "{none:?}");
    let example = table.gov(&["policy", "example"]);
    std::fs::write(table.path("example"), example.works()).unwrap();
    let good = table.gov(&["policy", "check", "example", "--json"]).json();
    assert_eq!((&good["there"], &good["rules"]), (&json!(true), &json!([])));

    let own = table.node.path().join("policy.cedar");
    std::fs::write(&own, RULES).unwrap();
    let good = table.gov(&["policy", "check", "--json"]).json();
    assert_eq!(good["file"], own.to_str().unwrap());
    assert_eq!(good["rules"], json!(["nothing-leaves", "rule 2"]));
    let good = table.gov(&["policy", "check"]);
    assert!(good.works().contains("2 rules"), "{good:?}");
    table
        .gov(&["policy", "check", "elsewhere"])
        .fails(4, &["there is no elsewhere"]);
    for (text, why) in [
        ("permit (principal, action, resource);", "can only forbid"),
        (
            "forbid (principal, action == Action::\"aks\", resource);",
            "rule 1",
        ),
        ("forbid (principal", "cannot be used"),
    ] {
        std::fs::write(table.path("bad"), text).unwrap();
        table
            .gov(&["policy", "check", "bad"])
            .fails(3, &[why, "quorate gov policy example"]);
    }
}

#[test]
fn doctor_says_whether_the_rules_can_be_used() {
    let table = Table::new();
    table.found("solo", &["ada"], &[]);
    let own = table.node.path().join("policy.cedar");
    for (text, level) in [(None, "ok"), (Some(RULES), "ok"), (Some("forbid"), "fail")] {
        if let Some(text) = text {
            std::fs::write(&own, text).unwrap();
        }
        let doctor = table.node.run(&["doctor", "--json"]).out;
        let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap();
        let checks = doctor["checks"].as_array().unwrap();
        let check = checks
            .iter()
            .find(|check| check["name"] == "policy")
            .unwrap();
        assert_eq!(check["level"], level, "{check}");
    }
}
