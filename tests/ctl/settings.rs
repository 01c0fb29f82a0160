//! `podbay config`, as a person at a shell runs it.

use std::process::{Command, Output};

const GOOD: &str = "root = \"/srv/podbay\"\n[logs]\nmax_line = 8192\n";

fn podbay(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podbay"));
    command.args(args).env_clear().envs(variables.iter().copied());
    command.output().expect("it runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn show_tells_where_each_value_comes_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("podbay.toml");
    std::fs::write(&file, GOOD).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let variables = [("PODBAY_STATE", "/run/other")];
    let shown =
        podbay(&["config", "show", "--config", file, "--cri-socket", "/run/x.sock"], &variables);
    assert_eq!((shown.status.code(), err(&shown).as_str()), (Some(0), ""));
    let text = out(&shown);
    for (value, origin) in [
        ("root = \"/srv/podbay\"", file),
        ("state = \"/run/other\"", "PODBAY_STATE"),
        ("socket = \"/run/x.sock\"", "--cri-socket"),
        ("max_line = 8192", file),
        ("namespace = \"podbay\"", "default"),
    ] {
        let line = text.lines().find(|line| line.starts_with(value));
        let line = line.unwrap_or_else(|| panic!("no {value} in:\n{text}"));
        assert!(line.contains(origin), "{origin} is not in {line:?}");
    }
    // What is shown is a configuration.
    let again = folder.path().join("again.toml");
    std::fs::write(&again, &text).expect("a file");
    let checked = podbay(&["config", "check", again.to_str().expect("UTF-8")], &[]);
    assert_eq!((checked.status.code(), out(&checked).as_str()), (Some(0), "ok\n"));
}

#[test]
fn check_lists_every_fault_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("podbay.toml");
    let text = "root = \"relative\"\n[network]\ndefault_bridge = \"far too long for it\"\n\
                [logs]\nmax_line = 1\n[no_such_table]\nx = 1\n";
    std::fs::write(&file, text).expect("a file");
    let checked = podbay(&["config", "check", file.to_str().expect("UTF-8")], &[]);
    assert_eq!((checked.status.code(), out(&checked).as_str()), (Some(1), ""));
    let told = err(&checked);
    for fault in ["root", "network.default_bridge", "logs.max_line", "no_such_table"] {
        assert!(told.contains(fault), "{fault} is missing in:\n{told}");
    }
    let missing = podbay(&["config", "check", "/nonexistent/podbay.toml"], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("/nonexistent/podbay.toml"), "{}", err(&missing));
    let shown = podbay(&["config", "show", "--config", file.to_str().expect("UTF-8")], &[]);
    assert_eq!((shown.status.code(), out(&shown).as_str()), (Some(2), ""));
}
