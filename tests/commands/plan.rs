//! `plan`: reports for traces and workloads.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::refusals::is_refused;
use crate::support::child::{Ended, Program, settings};

/// Five requests of three users.
const TRACE: &str = "time,user\n1000,ann\n1001,bob\n1002,ann\n90000,cleo\n90000.5,ann\n";

fn folder(trace: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("trace.csv"), trace).expect("it is written");
    folder
}

/// Runs `plan` with the folder's trace, and `FOLDER` in the arguments replaced.
fn plan(folder: &Path, arguments: &[&str]) -> Ended {
    let trace = folder.join("trace.csv");
    let folder = folder.to_str().expect("text");
    let arguments = arguments.iter().map(|argument| argument.replace("FOLDER", folder));
    Program::new(["plan".as_ref(), "--trace".as_ref(), trace.as_os_str()]).arguments(arguments).run()
}

fn office(arguments: &[&str]) -> Ended {
    Program::new(["plan", "--workload", "office", "--users", "20", "--days", "3"]).arguments(arguments).run()
}

#[track_caller]
fn json(ended: &Ended) -> Value {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    serde_json::from_str(&ended.stdout.join("\n")).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[test]
fn invalid_value_is_refused_in_one_line() {
    let folder = folder(TRACE);
    for (flag, value, wanted) in [
        ("--lifetime", "0s", "from 1s to 400d"),
        ("--lifetime", "401d", "from 1s to 400d"),
        ("--lifetime", "1500ms", "whole seconds"),
        ("--floor", "NaN", "from 0 to 0.95"),
        ("--floor", "-0.1", "from 0 to 0.95"),
        ("--floor", "0.96", "from 0 to 0.95"),
        ("--budget", "0", "from 0.001 to 100000"),
        ("--budget", "-1", "from 0.001 to 100000"),
        ("--budget", "inf", "from 0.001 to 100000"),
        ("--latency", "61m", "from 0s to 1h"),
        ("--extra-calls", "-0.1", "from 0 to 10"),
        ("--extra-calls", "10.1", "from 0 to 10"),
        ("--extra-calls", "nan", "from 0 to 10"),
        ("--brokers", "0", "from 1 to 1000"),
        ("--brokers", "1001", "from 1 to 1000"),
        ("--disorder", "500d", "from 0s to 400d"),
        ("--path", "api", "must begin with /"),
        ("--path", "/api?x", "have no query"),
        ("--user-field", "", "must be a field's name or number"),
        ("--plot", "FOLDER/none/x.svg", "No such file or directory"),
        ("--plot", "FOLDER", "is no file's name"),
        ("--plot", "..", "is no file's name"),
    ] {
        is_refused("plan", &plan(folder.path(), &[flag, value]), &[&format!("{flag}: "), wanted]);
    }
    for burst in ["0", "1000001"] {
        let ended = plan(folder.path(), &["--budget", "5", "--burst", burst]);
        is_refused("plan", &ended, &["--burst: ", "from 1 to 1000000"]);
    }
    for (flag, value, wanted) in [
        ("--users", "0", "from 1"),
        ("--days", "0", "from 1"),
        ("--users", "4000000000", "from 1"),
        ("--days", "4000000000", "from 1"),
    ] {
        let ended = Program::new(["plan", "--workload", "office", flag, value]).run();
        is_refused("plan", &ended, &[&format!("{flag}: "), wanted]);
    }
    let ended = plan(folder.path(), &["--brokers", "2", "--plot", "FOLDER/x.svg"]);
    is_refused("plan", &ended, &["--plot: ", "leave out --brokers"]);
    let ended = plan(folder.path(), &["--brokers", "4", "--budget", "0.002"]);
    is_refused("plan", &ended, &["--brokers: the budget of each must be a number from 0.001"]);
    is_refused("plan", &Program::new(["plan", "--workload", "factory"]).run(), &["--workload: ", "office"]);
    let too_many = ["plan", "--workload", "office", "--users", "200000000", "--days", "36500"];
    is_refused("plan", &Program::new(too_many).run(), &["--workload office: "]);
}

#[test]
fn file_that_is_no_trace_is_named() {
    let folder = folder(TRACE);
    for (name, content) in [("empty", &b""[..]), ("json", b"{\"time\": 5}\n"), ("binary", b"\xff\xfe\x00\n\x1b[0m")] {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("it is written");
        let path = path.to_str().expect("text");
        is_refused("plan", &Program::new(["plan", "--trace", path]).run(), &[&format!("{path}: ")]);
    }
    let [missing, odd] = ["missing.csv", "two\nlines"].map(|name| folder.path().join(name));
    let missing = missing.to_str().expect("text");
    is_refused("plan", &Program::new(["plan", "--trace", missing]).run(), &[missing, "no such file"]);
    is_refused("plan", &Program::new(["plan", "--trace", odd.to_str().expect("text")]).run(), &["two\u{fffd}lines"]);
    let directory = folder.path().to_str().expect("text");
    is_refused("plan", &Program::new(["plan", "--trace", directory]).run(), &[&format!("{directory}: is a directory")]);
    is_refused("plan", &Program::new(["plan", "--trace", "-"]).run(), &["standard input: "]);
}

#[test]
fn limits_of_a_trace_are_flags() {
    let folder = folder("1000,ann\nbroken\n900,bob\n");
    assert_eq!(json(&plan(folder.path(), &["--json"]))["requests"], 2);
    is_refused("plan", &plan(folder.path(), &["--broken-lines", "0"]), &["trace.csv: "]);
    is_refused("plan", &plan(folder.path(), &["--disorder", "10s"]), &["trace.csv: "]);
}

#[test]
fn json_report_has_the_given_settings() {
    let folder = folder(TRACE);
    let report = json(&plan(folder.path(), &["--json", "--lifetime", "1h", "--budget", "2.5"]));
    assert_eq!((&report["requests"], &report["users"]), (&5.into(), &3.into()));
    let given = ["lifetime_seconds", "floor", "budget", "burst", "latency_seconds", "extra_calls", "span_seconds"];
    let given = given.map(|key| report[key].as_f64().unwrap_or_default());
    assert_eq!(given, [3600.0, 0.5, 2.5, 3.0, 0.15, 0.15, 89_000.5]);
    assert!(report["leaves_out"].as_array().is_some_and(|list| list.len() > 4), "{report:#}");
}

#[test]
fn recommended_settings_pass_check() {
    for arguments in [
        &["--lifetime", "40d", "--floor", "0.6", "--budget", "0.002"][..],
        &["--lifetime", "1h", "--extra-calls", "0.3"],
        &[],
    ] {
        let recommended = &json(&office(&[arguments, &["--json"]].concat()))["recommended"];
        let text = recommended["settings"].as_str().expect("a text");
        let file = settings(text);
        let check = Program::new(["check", "--config"]).arguments([file.path()]);
        let check = check.keys("key", "0123456789abcdef").run();
        assert_eq!((check.code, check.stderr.as_str()), (Some(0), ""), "{text}");
        let (summary, shown) = check.stdout.split_last().expect("lines");
        assert!(summary.starts_with("OK: "), "{summary}");
        let holds: toml::Table = shown.join("\n").parse().expect("TOML");
        assert_eq!(holds["refresh"]["mode"].as_str(), recommended["mode"].as_str(), "{text}");
        let budget = &holds["workspaces"]["default"]["budget"];
        assert_eq!(budget["requests_per_second"].as_float(), recommended["requests_per_second"].as_f64(), "{text}");
        assert_eq!(budget["burst"].as_integer(), recommended["burst"].as_i64(), "{text}");
        // No table is repeated, and the whole output is TOML.
        let shown = office(arguments).stdout;
        let start = shown.iter().position(|line| line == "Settings:").expect("the settings") + 2;
        let end = shown.iter().position(|line| line == "Left out:").expect("an end") - 1;
        assert_eq!(shown[start..end].join("\n"), text.trim_end());
    }
}

#[test]
fn requests_are_selected_by_path_and_user_field() {
    let folder = folder(
        "10.0.0.1 - ann [17/May/2015:10:05:03 +0000] \"GET /api/token?x HTTP/1.1\" 200 5\n\
         10.0.0.1 - - [17/May/2015:10:05:04 +0000] \"GET /api/token HTTP/1.1\" 200 5\n\
         10.0.0.1 - bob [17/May/2015:10:05:05 +0000] \"GET /logo.png HTTP/1.1\" 200 5\n",
    );
    for (arguments, requests, users) in [
        (&[][..], 3, 3),
        (&["--path", "/api/"], 2, 2),
        (&["--user-field", "user"], 2, 2),
        (&["--user-field", "address"], 3, 1),
        (&["--path", "/api/token", "--user-field", "user"], 1, 1),
    ] {
        let report = json(&plan(folder.path(), &[arguments, &["--json"]].concat()));
        assert_eq!((&report["requests"], &report["users"]), (&requests.into(), &users.into()), "{arguments:?}");
    }
    let shown = plan(folder.path(), &["--user-field", "address"]).stdout;
    assert!(shown[0].contains("3 requests of 1 address in"), "{shown:?}");
    assert!(shown.iter().any(|line| line.contains("every URL of the log counts (see --path)")), "{shown:?}");
    is_refused(
        "plan",
        &plan(folder.path(), &["--path", "/other"]),
        &["trace.csv: no request", "(with other paths: 3)"],
    );
    is_refused("plan", &plan(folder.path(), &["--user-field", "account"]), &["trace.csv: ", "\"address\" or \"user\""]);
}

#[test]
fn trace_is_read_from_standard_input() {
    let folder = folder(TRACE);
    let mut from_file = json(&plan(folder.path(), &["--json"]));
    let trace = folder.path().join("trace.csv");
    let line = "exec \"$0\" plan --trace - --json < \"$1\"";
    let program = Program::of(Command::new("sh")).arguments(["-c", line, env!("CARGO_BIN_EXE_courier-token-broker")]);
    let mut from_input = json(&program.arguments([trace]).run());
    assert_eq!(from_input["source"], "standard input");
    for report in [&mut from_file, &mut from_input] {
        report["source"] = Value::Null;
    }
    assert_eq!(from_file, from_input);
}

#[test]
fn fleet_is_compared_with_one_broker() {
    let [without, mut one, mut fleet] = [&["--json"][..], &["--json", "--brokers", "1"], &["--json", "--brokers", "4"]]
        .map(|flags| json(&office(flags)));
    assert_eq!(without, one);
    let rows = fleet["fleet"].take();
    assert_eq!(fleet["brokers"], 4);
    let rows: Vec<_> = rows.as_array().expect("a list").iter().map(|row| (&row["mode"], &row["sharing"])).collect();
    let modes = ["off", "used", "learned"].map(Value::from);
    let both = [false, true].map(Value::from);
    let wanted: Vec<_> = modes.iter().flat_map(|mode| both.iter().map(move |sharing| (mode, sharing))).collect();
    assert_eq!(rows, wanted);
    // The rest is as for one broker.
    for report in [&mut one, &mut fleet] {
        for key in ["brokers", "fleet", "leaves_out"] {
            report[key] = Value::Null;
        }
    }
    assert_eq!(fleet, one);
    let shown = office(&["--brokers", "4"]).stdout;
    let rows =
        shown.iter().filter(|line| line.starts_with("learned, 4 alone ") || line.starts_with("learned, 4 sharing "));
    assert_eq!(rows.count(), 2, "{shown:?}");
}

#[test]
fn workload_depends_on_its_seed_alone() {
    let [first, same, other] = ["1", "1", "2"].map(|seed| json(&office(&["--json", "--seed", seed])));
    assert_eq!(first, same);
    assert_ne!(first["span_seconds"], other["span_seconds"]);
}

#[test]
fn plot_is_an_svg_written_atomically() {
    let folder = folder(TRACE);
    let picture = folder.path().join("curve.svg");
    fs::write(&picture, "what was there before").expect("it is written");
    let ended = plan(folder.path(), &["--plot", "FOLDER/curve.svg", "--extra-calls", "0.3"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let last_line = format!("The plot is in {}.", picture.display());
    assert_eq!(ended.stdout.last(), Some(&last_line));
    let svg = fs::read_to_string(&picture).expect("text");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!(svg.matches("<text ").count(), svg.matches("</text>").count());
    for name in ["\nlearned, --extra-calls 0.05 to 1\n", "\noff\n", "\nused", "\nclairvoyant\n"] {
        assert!(svg.contains(name), "{name}: {svg}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
    // With --json the output is JSON alone.
    json(&plan(folder.path(), &["--json", "--plot", "FOLDER/curve.svg"]));
}

#[test]
fn failed_plan_keeps_the_old_plot() {
    let folder = folder("nonsense");
    is_refused("plan", &plan(folder.path(), &["--plot", "FOLDER/curve.svg"]), &["trace.csv: "]);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn closed_pipe_is_no_error() {
    let line = "{ sleep 0.3; \"$0\" plan --workload office --users 5 --days 2; echo $? >&2; } | true";
    let ended = Program::of(Command::new("sh")).arguments(["-c", line, env!("CARGO_BIN_EXE_courier-token-broker")]);
    assert_eq!(ended.run().stderr, "0\n");
}
