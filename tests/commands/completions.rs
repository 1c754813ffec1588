//! `completions` and `man`, which know every command.

use std::fs;
use std::process::Command;

use crate::support::child::Program;

#[test]
fn each_shell_completes_each_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = output(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command} is missing");
        }
    }
}

#[test]
fn bash_completes_a_command_and_its_flags() {
    let script = output(&["completions", "bash"]);
    for (words, offered) in [("store", "store-key"), ("check --pr", "--probe"), ("completions z", "zsh")] {
        // The script says by `complete -F NAME` which function completes.
        let ask = "set -- $1; COMP_WORDS=(courier-token-broker $@); COMP_CWORD=$#; shift $(($# - 1)); \
                   named=$(complete -p courier-token-broker | grep -o '_[a-z_-]*broker' | head -1); \
                   $named courier-token-broker \"$1\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; echo \"${COMPREPLY[*]}\"";
        let mut bash = Command::new("bash");
        let ended =
            bash.args(["--norc", "-c", &format!("{script}\n{ask}"), "bash", words]).output().expect("bash runs");
        assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), offered, "{words}: {ended:?}");
    }
}

#[test]
fn man_writes_a_page_for_each_command() {
    let folder = tempfile::tempdir().expect("a folder");
    output(&["man", folder.path().to_str().expect("a path")]);
    let page = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a page");
    assert_eq!(page("courier-token-broker.1"), output(&["man"]));
    for command in commands() {
        let text = page(&format!("courier-token-broker-{command}.1"));
        assert!(text.contains(&format!(".TH courier-token-broker-{command} 1")), "{text}");
    }
    assert!(page("courier-token-broker.1").contains("COURIER_API_KEY"));
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = output(&["--help"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() >= 10, "{help}");
    names
}

#[track_caller]
fn output(arguments: &[&str]) -> String {
    let ended = Program::new(arguments).run();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    ended.stdout.iter().map(|line| format!("{line}\n")).collect()
}
