//! The environment of a container's process.

use super::{ContainerInput, Error, paths};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `PATH`, `TERM` (with a terminal), `HOSTNAME`, then the image's variables, then the caller's. A
/// later value replaces an earlier one of the same name in its place, so names are unique. `HOME`
/// is left to the OCI runtime, which looks it up in the container's own /etc/passwd.
pub(super) fn environment(input: &ContainerInput<'_>) -> Result<Vec<String>, Error> {
    if paths::has_control(input.hostname) {
        return Err(Error::invalid("hostname", "contains a control character"));
    }
    let mut env = Environment(vec![DEFAULT_PATH.to_owned()]);
    if input.config.tty {
        env.set("TERM", "TERM=xterm".to_owned());
    }
    env.set("HOSTNAME", format!("HOSTNAME={}", input.hostname));
    for entry in &input.image.env {
        let refused = |problem| Error::image("Env", format!("{entry:?} {problem}"));
        match entry.split_once('=') {
            // An entry without a value removes the variable.
            None => env.remove(entry),
            Some((name, value)) => {
                check_name(name).and_then(|()| check_value(name, value)).map_err(refused)?;
                env.set(name, entry.clone());
            }
        }
    }
    for (index, (name, value)) in input.config.envs.iter().enumerate() {
        let refused =
            |part: &str, problem| Error::invalid(format!("envs[{index}].{part}"), problem);
        check_name(name).map_err(|problem| refused("key", problem))?;
        check_value(name, value).map_err(|problem| refused("value", problem))?;
        env.set(name, format!("{name}={value}"));
    }
    Ok(env.0)
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("has an empty name")
    } else if name.contains('=') {
        Err("has an equals sign in its name")
    } else if paths::has_control(name) {
        Err("has a control character in its name")
    } else {
        Ok(())
    }
}

fn check_value(name: &str, value: &str) -> Result<(), &'static str> {
    if value.contains('\0') {
        Err("has a NUL in its value")
    } else if name == "HOME" && paths::has_control(value) {
        // Programs write HOME into line-based files such as /etc/passwd, where a line break would
        // add an entry of the author's choice. Other variables may contain line breaks.
        Err("has a control character in its value")
    } else {
        Ok(())
    }
}

struct Environment(Vec<String>);

impl Environment {
    fn position(&self, name: &str) -> Option<usize> {
        self.0
            .iter()
            .position(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    }

    fn set(&mut self, name: &str, entry: String) {
        match self.position(name) {
            Some(index) => self.0[index] = entry,
            None => self.0.push(entry),
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(index) = self.position(name) {
            self.0.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn env_of(fixture: &Fixture) -> Result<Vec<String>, Error> {
        environment(&fixture.input())
    }

    fn set(fixture: &mut Fixture, name: &str, value: &str) {
        fixture.config.envs.push((name.to_owned(), value.to_owned()));
    }

    #[test]
    fn later_values_replace_in_place() {
        let mut f = Fixture::new();
        f.config.tty = true;
        f.image.env = vec!["PATH=/bin".to_owned(), "A=1".to_owned(), "B=x=y".to_owned()];
        set(&mut f, "B", "2");
        set(&mut f, "HOSTNAME", "mine");
        set(&mut f, "A", "");
        let env = env_of(&f).unwrap();
        assert_eq!(env, ["PATH=/bin", "TERM=xterm", "HOSTNAME=mine", "A=", "B=2"]);
    }

    #[test]
    fn a_prefix_is_another_name() {
        let mut f = Fixture::new();
        f.image.env = vec!["AB=1".to_owned()];
        set(&mut f, "A", "2");
        assert!(env_of(&f).unwrap().ends_with(&["AB=1".to_owned(), "A=2".to_owned()]));
    }

    #[test]
    fn an_image_entry_without_a_value_removes() {
        let mut f = Fixture::new();
        f.image.env = vec!["A=1".to_owned(), "A".to_owned(), "PATH".to_owned()];
        assert_eq!(env_of(&f).unwrap(), ["HOSTNAME=web"]);
    }

    #[test]
    fn values_may_span_lines_except_home() {
        let mut f = Fixture::new();
        set(&mut f, "CERT", "line 1\nline 2\r\n");
        assert!(env_of(&f).is_ok());
        for value in ["/root\nevil:x:0:0::/:/bin/sh", "/root\r", "/root\0"] {
            let mut f = Fixture::new();
            set(&mut f, "HOME", value);
            let error = env_of(&f).unwrap_err();
            assert!(
                matches!(error, Error::Invalid { ref field, .. } if field == "envs[0].value"),
                "{value:?}: {error}"
            );
            let mut f = Fixture::new();
            f.image.env = vec![format!("HOME={value}")];
            assert!(matches!(env_of(&f), Err(Error::Image { field: "Env", .. })), "{value:?}");
        }
    }

    #[test]
    fn bad_names_and_nul_are_refused() {
        for (name, value, field) in [
            ("", "x", "envs[0].key"),
            ("A=B", "x", "envs[0].key"),
            ("A\nB", "x", "envs[0].key"),
            ("A\0", "x", "envs[0].key"),
            ("A", "x\0y", "envs[0].value"),
        ] {
            let mut f = Fixture::new();
            set(&mut f, name, value);
            let error = env_of(&f).unwrap_err();
            assert!(
                matches!(error, Error::Invalid { field: ref f, .. } if f == field),
                "{name:?}={value:?}: {error}"
            );
        }
    }

    #[test]
    fn a_host_name_with_a_line_break_is_refused() {
        let mut f = Fixture::new();
        f.hostname = "web\n127.0.0.1 bank".to_owned();
        assert!(matches!(env_of(&f), Err(Error::Invalid { field, .. }) if field == "hostname"));
    }
}
