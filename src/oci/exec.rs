//! Processes started in a running container.

use serde_json::{Value, json};

use super::{Error, process};

/// The OCI process of an exec: the container's own process with another command. It has the
/// container's user, environment, limits and capabilities, never more.
///
/// # Errors
/// [`Error::Invalid`] for an empty command or a NUL in it; [`Error::StoredSpec`] when the record
/// contains no process.
pub fn exec_process(spec: &Value, command: &[String], tty: bool) -> Result<Value, Error> {
    if command.is_empty() {
        return Err(Error::invalid("cmd", "no command specified"));
    }
    process::check_arguments("cmd", command)?;
    let mut stored = spec
        .get("process")
        .and_then(Value::as_object)
        .cloned()
        .ok_or(Error::StoredSpec("process"))?;
    stored.insert("args".to_owned(), json!(command));
    stored.insert("terminal".to_owned(), json!(tty));
    // They belong only to the container's first process.
    for key in ["commandLine", "consoleSize"] {
        stored.remove(key);
    }
    if let Some(sets) = stored.get_mut("capabilities").and_then(Value::as_object_mut) {
        for set in ["inheritable", "ambient"] {
            sets.insert(set.to_owned(), json!([]));
        }
    }
    if tty {
        add_term(stored.entry("env").or_insert_with(|| json!([])));
    }
    Ok(Value::Object(stored))
}

fn add_term(env: &mut Value) {
    if let Some(env) = env.as_array_mut() {
        let has_term = |entry: &Value| entry.as_str().is_some_and(|text| text.starts_with("TERM="));
        if !env.iter().any(has_term) {
            env.push(json!("TERM=xterm"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::super::{container_spec, spec_json};
    use super::*;

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn only_the_command_differs_from_the_container() {
        let f = Fixture::new();
        let spec = spec_json(&container_spec(&f.input()).unwrap());
        let exec = exec_process(&spec, &command(&["ls", "-l"]), false).unwrap();
        let mut expected = spec["process"].clone();
        expected["args"] = json!(["ls", "-l"]);
        assert_eq!(exec, expected);
        // The runtime must be able to parse it.
        serde_json::from_value::<oci_spec::runtime::Process>(exec).unwrap();
    }

    #[test]
    fn a_terminal_sets_term_once() {
        let with = |env: Value| {
            let spec = json!({"process": {"env": env, "consoleSize": {"height": 1, "width": 2}}});
            exec_process(&spec, &command(&["sh"]), true).unwrap()
        };
        let exec = with(json!(["A=1"]));
        assert_eq!(exec["env"], json!(["A=1", "TERM=xterm"]));
        assert_eq!(exec["terminal"], json!(true));
        assert!(exec.get("consoleSize").is_none());
        assert_eq!(with(json!(["TERM=dumb"]))["env"], json!(["TERM=dumb"]));
    }

    #[test]
    fn inheritable_and_ambient_are_empty_whatever_was_stored() {
        let spec = json!({"process": {"capabilities": {
            "bounding": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]
        }}});
        let exec = exec_process(&spec, &command(&["sh"]), false).unwrap();
        assert_eq!(
            exec["capabilities"],
            json!({"bounding": ["CAP_KILL"], "inheritable": [], "ambient": []})
        );
    }

    #[test]
    fn bad_commands_and_records_are_refused() {
        let spec = json!({"process": {}});
        assert!(matches!(exec_process(&spec, &[], false), Err(Error::Invalid { .. })));
        let nul = exec_process(&spec, &command(&["a", "\0"]), false);
        assert!(matches!(nul, Err(Error::Invalid { field, .. }) if field == "cmd[1]"));
        let broken = exec_process(&json!({}), &command(&["a"]), false);
        assert!(matches!(broken, Err(Error::StoredSpec("process"))));
    }
}
