//! The process of a container: command, directory, user, environment, limits.

use std::collections::BTreeSet;

use oci_spec::runtime::{Process, User};

use super::{ContainerInput, Error, apparmor, blank, capabilities, env, paths, resources, rlimits};

/// `process` of a container's spec.
pub(super) fn of_container(
    input: &ContainerInput<'_>,
    granted: &BTreeSet<String>,
) -> Result<Process, Error> {
    let security = &input.config.security;
    let score = resources::oom_score(input.config.resources.oom_score_adj, input.facts)?;
    let mut process = blank_process();
    process
        .set_terminal(Some(input.config.tty))
        .set_args(Some(arguments(input)?))
        .set_env(Some(env::environment(input)?))
        .set_cwd(working_dir(input)?.into())
        .set_user(user(input.user.uid, input.user.gid, &input.user.additional_gids))
        .set_capabilities(Some(capabilities::oci(granted)))
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_oom_score_adj(Some(score))
        .set_rlimits(rlimits::rlimits(&input.config.rlimits, input.settings, input.facts)?)
        .set_apparmor_profile(apparmor::profile(
            security.apparmor.as_ref(),
            security.privileged,
            input.facts,
            input.settings,
        )?);
    Ok(process)
}

/// A process with no field set.
pub(super) fn blank_process() -> Process {
    blank(r#"{"user":{},"cwd":"/"}"#)
}

pub(super) fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid);
    user.set_additional_gids((!groups.is_empty()).then(|| groups.to_vec()));
    user
}

/// The caller's command replaces the image's entrypoint and cmd; the caller's args alone replace
/// only cmd.
fn arguments(input: &ContainerInput<'_>) -> Result<Vec<String>, Error> {
    let (config, image) = (input.config, input.image);
    let mut args = if config.command.is_empty() {
        // An image clears its base image's entrypoint by setting one that consists of one empty
        // word.
        let cleared = image.entrypoint.len() == 1 && image.entrypoint[0].is_empty();
        let mut args = if cleared { Vec::new() } else { image.entrypoint.clone() };
        if config.args.is_empty() {
            args.extend_from_slice(&image.cmd);
        }
        args
    } else {
        config.command.clone()
    };
    args.extend_from_slice(&config.args);
    if args.is_empty() {
        return Err(Error::invalid("command", "no command specified, and the image has none"));
    }
    check_arguments("command", &args)?;
    Ok(args)
}

/// Refuses a NUL: to the kernel it would end the argument.
pub(super) fn check_arguments(field: &str, args: &[String]) -> Result<(), Error> {
    match args.iter().position(|arg| arg.contains('\0')) {
        Some(index) => Err(Error::invalid(format!("{field}[{index}]"), "contains a NUL")),
        None => Ok(()),
    }
}

/// The caller's directory, else the image's, else the root.
fn working_dir(input: &ContainerInput<'_>) -> Result<String, Error> {
    let (of_caller, of_image) = (&input.config.working_dir, &input.image.working_dir);
    if !of_caller.is_empty() {
        check_working_dir(of_caller).map_err(|problem| Error::invalid("working_dir", problem))
    } else if !of_image.is_empty() {
        check_working_dir(of_image).map_err(|problem| Error::image("WorkingDir", problem))
    } else {
        Ok("/".to_owned())
    }
}

/// Refuses working directories below /proc and /dev/fd: they may lead to a host directory that the
/// OCI runtime has open while it starts the container (CVE-2024-21626).
fn check_working_dir(path: &str) -> Result<String, String> {
    if let Some(problem) = paths::problem_of(path) {
        return Err(problem);
    }
    let cleaned = paths::clean(path);
    for door in ["/proc", "/dev/fd"] {
        if paths::is_within(&cleaned, door) {
            return Err(format!("{path:?} is below {door}, where no process can work safely"));
        }
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_of_caller_and_image() {
        for (command, args, entrypoint, cmd, expected) in [
            ("", "", "e1 e2", "c1", Some("e1 e2 c1")),
            ("", "a1", "e1", "c1", Some("e1 a1")),
            ("x1 x2", "", "e1", "c1", Some("x1 x2")),
            ("x1", "a1", "e1", "c1", Some("x1 a1")),
            ("", "", "", "c1 c2", Some("c1 c2")),
            ("", "a1", "", "c1", Some("a1")),
            ("", "", "e1", "", Some("e1")),
            ("", "", "", "", None),
        ] {
            let mut f = Fixture::new();
            f.config.command = words(command);
            f.config.args = words(args);
            f.image.entrypoint = words(entrypoint);
            f.image.cmd = words(cmd);
            match (arguments(&f.input()), expected) {
                (Ok(got), Some(expected)) => assert_eq!(got, words(expected)),
                (Err(Error::Invalid { field, problem }), None) => {
                    assert_eq!(field, "command");
                    assert!(problem.contains("no command specified"));
                }
                (other, _) => panic!("{command:?} {args:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_empty_word_as_entrypoint_is_none() {
        let mut f = Fixture::new();
        f.config.command.clear();
        f.image.entrypoint = vec![String::new()];
        f.image.cmd = words("c1");
        assert_eq!(arguments(&f.input()), Ok(words("c1")));
    }

    #[test]
    fn a_nul_in_an_argument_is_refused() {
        let mut f = Fixture::new();
        f.config.command = vec!["a".to_owned(), "b\0c".to_owned()];
        assert!(matches!(arguments(&f.input()), Err(Error::Invalid { field, .. })
                if field == "command[1]"));
    }

    #[test]
    fn the_working_directory_of_caller_then_image_then_root() {
        for (caller, image, expected) in
            [("", "", "/"), ("", "/app", "/app"), ("/w//x/", "/app", "/w/x"), ("/..", "", "/")]
        {
            let mut f = Fixture::new();
            f.config.working_dir = caller.to_owned();
            f.image.working_dir = image.to_owned();
            assert_eq!(working_dir(&f.input()).unwrap(), expected);
        }
    }

    #[test]
    fn working_directories_that_lead_out_are_refused() {
        for bad in [
            "app",
            "./app",
            "/proc/self/fd/7",
            "/proc/self/fd/8/../../../etc",
            "//proc/./thread-self/cwd",
            "/x/../proc/1/root",
            "/proc",
            "/dev/fd/9",
            "/a\nb",
            "/a\0",
        ] {
            let mut f = Fixture::new();
            f.config.working_dir = bad.to_owned();
            assert!(
                matches!(working_dir(&f.input()), Err(Error::Invalid { field, .. })
                    if field == "working_dir"),
                "{bad:?}"
            );
            let mut f = Fixture::new();
            f.image.working_dir = bad.to_owned();
            assert!(
                matches!(working_dir(&f.input()), Err(Error::Image { field: "WorkingDir", .. })),
                "{bad:?}"
            );
        }
    }
}
