//! Devices by the Container Device Interface.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use podbay::proto::runtime::v1 as cri;
use serde_json::json;

use crate::rig::Rig;
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;

fn write(path: &Path, content: &str, mode: u32) {
    std::fs::write(path, content).expect("a spec file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}

fn with(name: &str, image: &str, devices: &[&str]) -> Container {
    let mut container = Container::waiting(name, image);
    container.config.cdi_devices =
        devices.iter().map(|&name| cri::CdiDevice { name: name.into() }).collect();
    container
}

pub async fn cdi_devices_are_given(line: Line) {
    let mut env = TestEnv::start(line).await;
    let (dir, shared, marks) = (env.file("cdi"), env.file("shared"), env.file("marks"));
    for folder in [&dir, &shared, &marks] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    env.add_config(&format!("[cdi]\nspec_dirs = [{shared:?}, {dir:?}]"));
    let rig = Rig::start_in(env).await;
    let hook = rig.env().file("hook.sh");
    write(&hook, "#!/bin/sh\necho \"$MARK\" >> \"$1\"\n", 0o755);
    let spec = json!({
        "cdiVersion": "0.7.0", "kind": "v.com/dev",
        "containerEdits": {"env": ["OF_FILE=1"], "additionalGids": [4711]},
        "devices": [{"name": "null2", "containerEdits": {
            "env": ["OF_DEVICE=1"],
            "deviceNodes": [{"path": "/dev/null2", "hostPath": "/dev/null", "permissions": "rw"}],
            "mounts": [{"hostPath": marks, "containerPath": "/marks", "options": ["rbind", "ro"]}],
            "hooks": [{"hookName": "createRuntime", "path": hook, "env": ["MARK=made"],
                       "args": ["hook", marks.join("mark")]}],
        }}],
    });
    write(&dir.join("dev.json"), &spec.to_string(), 0o644);
    let hostile = spec.to_string().replace("null2", "hostile");
    write(&dir.join("hostile.json"), &hostile, 0o666);
    write(&shared.join("shared.json"), &hostile.replace("hostile", "shared"), 0o644);

    let pod = rig.run(rig.pod_spec("cdi")).await;
    let id = rig.launch(&pod, &with("c", &rig.image, &["v.com/dev=null2"])).await;
    let seen =
        rig.exec(&id, "echo $OF_FILE$OF_DEVICE; id -G; echo x > /dev/null2; cat /marks/mark");
    assert_eq!(seen.await, "11\n0 4711\nmade");
    rig.exec(&id, "! touch /marks/new 2>/dev/null").await;
    rig.exec(&id, "test -c /dev/null2").await;

    // By annotation, and of a file that was written meanwhile.
    write(
        &dir.join("late.yaml"),
        "cdiVersion: '0.5.0'\nkind: late.com/x\ndevices:\n- name: a\n  containerEdits: {env: [LATE=1]}\n",
        0o644,
    );
    let mut container = with("late", &rig.image, &[]);
    container.config.annotations.insert("cdi.k8s.io/x".into(), "late.com/x=a".into());
    let id = rig.launch(&pod, &container).await;
    assert_eq!(rig.exec(&id, "echo $LATE").await, "1");

    // Hooks run as root: nobody else may have written them.
    for (device, words) in [
        ("v.com/dev=hostile", "writable by users other than its owner"),
        ("v.com/dev=shared", "writable by users other than its owner"),
        ("v.com/dev=none", "unresolvable CDI devices v.com/dev=none"),
    ] {
        let refused = rig.create(&pod, &with("bad", &rig.image, &[device])).await;
        let refused = refused.expect_err(device);
        assert!(refused.message().contains(words), "{refused}");
    }
    rig.finish().await;
}
