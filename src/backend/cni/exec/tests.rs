use super::*;
use crate::backend::cni::testing::{Plugins, alive, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

fn run(plugins: &Plugins, kind: &str, limit: Duration) -> Result<Vec<u8>, Failure> {
    let runner = Runner::new(vec![plugins.dir().to_owned()]);
    let call = Call {
        verb: Verb::Add,
        container: "c1",
        netns: Some(Path::new("/n")),
        if_name: "eth0",
        args: "A=1",
    };
    runner.run(kind, &call, b"{\"x\":1}", limit)
}

#[test]
fn passes_the_parameters_and_returns_the_answer() {
    let plugins = Plugins::new();
    plugins.add(
        "echo",
        "cat; echo \" $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH\"",
    );
    let answer = String::from_utf8(run(&plugins, "echo", LIMIT).unwrap()).unwrap();
    let path = plugins.dir().display();
    assert_eq!(answer, format!("{{\"x\":1}} ADD c1 /n eth0 A=1 {path}\n"));
}

#[test]
fn a_config_larger_than_a_pipe_reaches_a_plugin_that_answers_first() {
    let plugins = Plugins::new();
    plugins.add("slow", "echo '{}'; wc -c >&2; exit 3");
    let runner = Runner::new(vec![plugins.dir().to_owned()]);
    let call = Call::about_no_pod(Verb::Status);
    let error = runner.run("slow", &call, &vec![b' '; 300_000], LIMIT).unwrap_err();
    assert!(error.to_string().contains("300000"), "{error}");
}

#[test]
fn a_json_error_is_decoded() {
    let plugins = Plugins::new();
    plugins.add("bad", r#"echo '{"code":11,"msg":"busy","details":"later"}'; exit 1"#);
    let error = run(&plugins, "bad", LIMIT).unwrap_err();
    assert_eq!(error.to_string(), "plugin \"bad\" failed (code 11): busy; later");
}

#[test]
fn a_garbage_error_tells_the_end_of_stderr_within_the_limit() {
    let plugins = Plugins::new();
    plugins
        .add("bad", "head -c 200000 /dev/zero | tr '\\0' y >&2; printf 'the end\\n' >&2; exit 7");
    let error = run(&plugins, "bad", LIMIT).unwrap_err().to_string();
    assert!(error.contains("exit status: 7"), "{error}");
    assert!(error.len() <= TEXT_LIMIT + 100, "{}", error.len());
    plugins.add("silent", "exit 9");
    let error = run(&plugins, "silent", LIMIT).unwrap_err().to_string();
    assert_eq!(error, "plugin \"silent\" failed: exit status: 9");
    plugins.add("crash", "kill -SEGV $$");
    let error = run(&plugins, "crash", LIMIT).unwrap_err().to_string();
    assert!(error.contains("signal: 11"), "{error}");
}

#[test]
fn a_time_out_kills_the_grandchild_too() {
    let plugins = Plugins::new();
    let pids = plugins.dir().join("pids");
    plugins.add("hang", &format!("sleep 1000 & echo $$ $! > {}; wait", pids.display()));
    let started = Instant::now();
    let error = run(&plugins, "hang", Duration::from_secs(3)).unwrap_err();
    assert!(matches!(error, Failure::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < LIMIT);
    for pid in fs::read_to_string(pids).unwrap().split_whitespace() {
        wait_until("the plugin's processes are gone", || !alive(pid));
    }
}

#[test]
fn a_child_that_holds_stdout_is_not_waited_for() {
    let plugins = Plugins::new();
    let pid = plugins.dir().join("pid");
    plugins.add("daemon", &format!("sleep 1000 & echo $! > {}; echo '{{}}'", pid.display()));
    let started = Instant::now();
    assert_eq!(run(&plugins, "daemon", LIMIT).unwrap(), b"{}\n");
    assert!(started.elapsed() < LIMIT);
    let pid = fs::read_to_string(pid).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn endless_output_is_cut_off() {
    let plugins = Plugins::new();
    plugins.add("yes", "exec yes");
    let error = run(&plugins, "yes", LIMIT).unwrap_err();
    assert!(matches!(error, Failure::TooMuchOutput { .. }), "{error}");
}

#[test]
fn only_plain_names_are_found_and_nothing_everybody_may_write() {
    let plugins = Plugins::new();
    let sub = plugins.dir().join("a");
    fs::create_dir(&sub).unwrap();
    for bad in ["../../bin/sh", "/bin/sh", "a/b", "..", ".", "", "a\0b"] {
        let error = run(&plugins, bad, LIMIT).unwrap_err();
        assert!(matches!(error, Failure::BadName(_)), "{bad}: {error}");
    }
    for missing in ["missing", "a"] {
        let error = run(&plugins, missing, LIMIT).unwrap_err();
        assert!(matches!(error, Failure::Missing { .. }), "{missing}: {error}");
    }
    plugins.add("open", "exit 0");
    let path = plugins.dir().join("open");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(run(&plugins, "open", LIMIT).unwrap_err(), Failure::Unsafe { .. }));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(run(&plugins, "open", LIMIT).unwrap_err(), Failure::Missing { .. }));
}

#[test]
fn a_binary_that_cannot_be_executed_says_so() {
    let plugins = Plugins::new();
    let path = plugins.dir().join("text");
    fs::write(&path, "no program").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let error = run(&plugins, "text", LIMIT).unwrap_err();
    assert!(matches!(error, Failure::Execute { .. }), "{error}");
}

#[test]
fn a_plugin_has_no_descriptor_but_its_three() {
    super::super::inherited::close_on_exec().unwrap();
    let plugins = Plugins::new();
    plugins.add("fds", "ls /proc/$$/fd; exit 0");
    let listed = String::from_utf8(run(&plugins, "fds", LIMIT).unwrap()).unwrap();
    // 10 and above: the range in which shells keep their own script open.
    let strays: Vec<&str> =
        listed.split_whitespace().filter(|fd| !["0", "1", "2"].contains(fd)).collect();
    assert!(strays.iter().all(|fd| ["10", "255"].contains(fd)), "{strays:?}");
}
