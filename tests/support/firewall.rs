//! Firewall rules of one test, identified by its subnet, bridge and network name.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

/// Rules of iptables, ip6tables and nftables that have one of these words.
pub fn rules(words: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for command in [&["iptables-save"][..], &["ip6tables-save"], &["nft", "list", "ruleset"]] {
        for line in output(command).lines().filter(|line| has_word(line, words)) {
            found.insert(format!("{}: {}", command[0], line.trim()));
        }
    }
    found
}

/// Removes such rules, and the chains that only they jump to. For the end of failed tests.
pub fn remove(words: &[String]) {
    for (save, restore) in
        [("iptables-save", "iptables-restore"), ("ip6tables-save", "ip6tables-restore")]
    {
        let script = removal_script(&output(&[save]), words);
        if script.is_empty() {
            continue;
        }
        let child = Command::new(restore)
            .args(["--noflush", "-w"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut child) = child {
            let written = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
            let ended = child.wait();
            if !matches!((written, ended), (Some(Ok(())), Ok(status)) if status.success()) {
                eprintln!("{restore} refused:\n{script}");
            }
        }
    }
}

fn removal_script(saved: &str, words: &[String]) -> String {
    let (mut script, mut table) = (String::new(), String::new());
    let (mut rules, mut chains) = (Vec::new(), BTreeSet::new());
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
        } else if let Some(rule) = line.strip_prefix("-A ").filter(|_| has_word(line, words)) {
            rules.push(format!("-D {rule}"));
            let jump = rule.split(" -j ").nth(1).and_then(|rest| rest.split(' ').next());
            // A plugin's own chains for one pod end in a hash; its shared chains do not.
            chains.extend(
                jump.filter(|name| name.starts_with("CNI-") && name.len() > 20).map(str::to_owned),
            );
            let own = rule.split(' ').next().unwrap_or_default();
            chains.extend(
                Some(own)
                    .filter(|name| name.starts_with("CNI-") && name.len() > 20)
                    .map(str::to_owned),
            );
        } else if line == "COMMIT" && !rules.is_empty() {
            script += &format!("*{table}\n{}\n", rules.join("\n"));
            script.extend(chains.iter().map(|chain| format!("-F {chain}\n")));
            script.extend(chains.iter().map(|chain| format!("-X {chain}\n")));
            script += "COMMIT\n";
            rules.clear();
            chains.clear();
        }
    }
    script
}

fn has_word(line: &str, words: &[String]) -> bool {
    words.iter().any(|word| line.contains(word.as_str()))
}

/// What a command prints; nothing when it is not installed.
fn output(command: &[&str]) -> String {
    let done = Command::new(command[0]).args(&command[1..]).stderr(Stdio::null()).output();
    done.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default()
}
