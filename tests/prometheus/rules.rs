//! The rules by promtool, and against runbooks and tests.

use std::collections::BTreeSet;
use std::process::Command;

use super::{path, read};

pub const RULES: &str = "config/prometheus/rules.yml";
const TESTS: &str = "tests/prometheus/rules_test.yml";

/// The names of the alerts, in the order of the file.
pub fn alerts() -> Vec<String> {
    names(RULES, "      - alert: ")
}

fn names(file: &str, before: &str) -> Vec<String> {
    read(file).lines().filter_map(|line| line.strip_prefix(before)).map(str::to_owned).collect()
}

/// The metrics of the broker in the rules.
pub fn metrics() -> impl Iterator<Item = String> {
    metrics_in(&read(RULES)).into_iter()
}

/// The broker's metrics in a text with queries. Recorded series have a colon in their names.
pub fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_of_name = |one: char| one.is_ascii_alphanumeric() || matches!(one, '_' | ':');
    let words = text.split(|one| !is_of_name(one)).filter(|word| word.starts_with("courier_token_broker_"));
    let parts = ["_bucket", "_sum", "_count"];
    words.map(|word| parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word).to_owned()).collect()
}

#[test]
fn promtool_accepts_the_files_and_every_alert_passes_its_tests() {
    let prometheus = "config/prometheus/prometheus.yml";
    for arguments in [
        &["check", "config", prometheus][..],
        &["check", "rules", "--lint=all", "--lint-fatal", RULES],
        &["test", "rules", TESTS],
    ] {
        let mut promtool = Command::new("promtool");
        let ended =
            promtool.args(arguments).current_dir(path("")).output().expect("promtool is installed: see tests/run");
        let text = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{arguments:?}: {text}");
    }
}

#[test]
fn every_alert_has_a_test_and_a_link_to_its_runbook() {
    let alerts = alerts();
    assert_eq!(names(TESTS, "  - name: "), alerts);
    let (rules, tests) = (read(RULES), read(TESTS));
    let links: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    let expected: Vec<_> = alerts.iter().map(|alert| format!("docs/runbooks.md#{}", alert.to_lowercase())).collect();
    assert_eq!(links, expected);
    for (alert, test) in alerts.iter().zip(tests.split("\n  - name: ").skip(1)) {
        for part in ["\"bad", "\"good", &format!("alertname=\"{alert}\"")] {
            assert!(test.contains(part), "the test of {alert} has no {part}");
        }
    }
}

#[test]
fn operations_page_lists_every_alert() {
    let page = read("docs/operations.md");
    let (_, table) = page.split_once("\n## Alerts\n").expect("the table");
    let linked = table.split("](runbooks.md#").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned);
    let expected = alerts().into_iter().map(|alert| alert.to_lowercase());
    assert_eq!(linked.collect::<BTreeSet<_>>(), expected.collect());
}

#[test]
fn every_runbook_says_what_it_means_what_users_see_where_to_look_and_what_to_change() {
    let page = read("docs/runbooks.md");
    let sections: Vec<_> = page.split("\n## ").skip(1).collect();
    let names: Vec<_> = sections.iter().filter_map(|section| section.lines().next()).map(str::to_owned).collect();
    assert_eq!(names, alerts());
    let exported = exported();
    for section in sections {
        let mut rest = section;
        for part in ["**Meaning.** ", "**Users see.** ", "**Look at.**\n\n1. ", "\n2. ", "\n3. ", "**Change.** "] {
            let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in {section}"));
            rest = after;
        }
        // A metric is named like the table's rows, with its labels.
        for quoted in section.split('`').skip(1).step_by(2) {
            let name = quoted.split('{').next().unwrap_or_default();
            let is_metric = quoted.contains('{')
                || ["_total", "_seconds", "_ratio", "_state"].iter().any(|end| name.ends_with(end));
            assert!(
                !is_metric || name.starts_with("process_") || exported.contains(name),
                "there is no metric {quoted}"
            );
        }
    }
}

/// The metrics of the table in `docs/operations.md`, which a test compares with the code.
pub fn exported() -> BTreeSet<String> {
    let page = read("docs/operations.md");
    let (_, table) = page.split_once("\n## Metrics\n").expect("the table");
    let rows = table.lines().take_while(|line| !line.starts_with("## ")).filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split('|').next().unwrap_or_default().to_owned());
    cells
        .flat_map(|cell| {
            cell.split(['`', ',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}
