//! Exec, Attach and PortForward: which requests get a URL. The sessions are tested elsewhere.

use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{Answer, container, pod, refused};
use super::world::{Agent, World};

fn exec_of(id: &str) -> cri::ExecRequest {
    let (container_id, cmd) = (id.to_owned(), vec!["true".to_owned()]);
    cri::ExecRequest { container_id, cmd, stdout: true, ..Default::default() }
}

fn attach_to(id: &str, tty: bool) -> cri::AttachRequest {
    cri::AttachRequest { container_id: id.into(), stdout: true, tty, ..Default::default() }
}

async fn exec(agent: &Agent, request: cri::ExecRequest) -> Answer<String> {
    Ok(agent.cri.clone().exec(request).await?.into_inner().url)
}

async fn attach(agent: &Agent, request: cri::AttachRequest) -> Answer<String> {
    Ok(agent.cri.clone().attach(request).await?.into_inner().url)
}

async fn forward(agent: &Agent, id: &str, port: Vec<i32>) -> Answer<String> {
    let request = cri::PortForwardRequest { pod_sandbox_id: id.into(), port };
    Ok(agent.cri.clone().port_forward(request).await?.into_inner().url)
}

#[tokio::test]
async fn what_runs_has_urls() {
    let world = World::new();
    let agent = world.agent().await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.launch(&pod_id, "app", &["run"]).await;
    let url = exec(&agent, exec_of(&id)).await.unwrap();
    assert!(url.starts_with("http://127.0.0.1:1/exec/"), "{url}");
    let short = exec(&agent, exec_of(&id[..12])).await.unwrap();
    assert_ne!(short, url, "each has its own");
    let url = attach(&agent, attach_to(&id, false)).await.unwrap();
    assert!(url.starts_with("http://127.0.0.1:1/attach/"), "{url}");
    let url = forward(&agent, &pod_id, vec![80]).await.unwrap();
    assert!(url.starts_with("http://127.0.0.1:1/portforward/"), "{url}");
    forward(&agent, &pod_id, Vec::new()).await.unwrap();
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let world = World::new();
    let agent = world.agent().await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.launch(&pod_id, "app", &["run"]).await;
    let invalid = Code::InvalidArgument;
    let none = cri::ExecRequest { stdout: false, ..exec_of(&id) };
    refused(exec(&agent, none).await, invalid, "one of stdin, stdout, or stderr must be set");
    let both = cri::ExecRequest { tty: true, stderr: true, ..exec_of(&id) };
    refused(exec(&agent, both).await, invalid, "tty and stderr cannot both be true");
    let nothing = cri::ExecRequest { cmd: Vec::new(), ..exec_of(&id) };
    refused(exec(&agent, nothing).await, invalid, "cmd");
    refused(exec(&agent, exec_of("")).await, invalid, "container_id");
    let none = cri::AttachRequest { stdout: false, ..attach_to(&id, false) };
    refused(attach(&agent, none).await, invalid, "one of stdin, stdout, or stderr must be set");
    refused(attach(&agent, attach_to(&id, true)).await, invalid, "tty");
    refused(attach(&agent, attach_to("", false)).await, invalid, "container_id");
    refused(forward(&agent, "", vec![80]).await, invalid, "pod_sandbox_id");
    for port in [0, -1, 65536] {
        refused(forward(&agent, &pod_id, vec![80, port]).await, invalid, "port[1]");
    }
}

#[tokio::test]
async fn what_does_not_run_has_none() {
    let world = World::new();
    let agent = world.agent().await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    let (missing, wrong) = (Code::NotFound, Code::FailedPrecondition);
    refused(exec(&agent, exec_of("0123")).await, missing, "0123");
    refused(attach(&agent, attach_to("0123", false)).await, missing, "0123");
    refused(forward(&agent, "0123", vec![80]).await, missing, "0123");
    let id = agent.create(&pod_id, &container("app", &["run"])).await.unwrap();
    refused(exec(&agent, exec_of(&id)).await, wrong, &id);
    refused(attach(&agent, attach_to(&id, false)).await, wrong, &id);
    agent.start(&id).await.unwrap();
    exec(&agent, exec_of(&id)).await.unwrap();
    agent.stop(&id, 0).await.unwrap();
    refused(exec(&agent, exec_of(&id)).await, wrong, &id);
    agent.stop_pod(&pod_id).await.unwrap();
    refused(forward(&agent, &pod_id, vec![80]).await, wrong, &pod_id);
}

#[tokio::test]
async fn a_thousand_urls_may_wait() {
    let world = World::new();
    let agent = world.agent().await;
    let pod_id = agent.run(&pod(&world, "web")).await.unwrap();
    for _ in 0..1000 {
        forward(&agent, &pod_id, Vec::new()).await.unwrap();
    }
    let one_more = forward(&agent, &pod_id, Vec::new()).await;
    refused(one_more, Code::ResourceExhausted, "maximum number of in-flight requests exceeded");
}

#[tokio::test]
async fn the_hosts_network_can_be_closed_to_port_forward() {
    for allowed in [true, false] {
        let mut world = World::new();
        world.host_network_port_forward = allowed;
        let agent = world.agent().await;
        let mut config = pod(&world, "node");
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options =
            Some(cri::NamespaceOption { network: 2, ..Default::default() });
        let host = agent.run(&config).await.unwrap();
        let own = agent.run(&pod(&world, "own")).await.unwrap();
        forward(&agent, &own, vec![80]).await.unwrap();
        match allowed {
            true => drop(forward(&agent, &host, vec![80]).await.unwrap()),
            false => refused(
                forward(&agent, &host, vec![80]).await,
                Code::PermissionDenied,
                "streaming.host_network_port_forward",
            ),
        }
    }
}
