//! Starting sessions: the URLs returned by the CRI, and the external client.

use std::process::Stdio;

use podbay::proto::runtime::v1 as cri;
use serde_json::Value;
use tonic::Status;

use crate::rig::{LivePod, Rig, SOON};
use crate::support::builders::Container;
use crate::support::{parts, wait_until};

/// Runs a subcommand of client-go's test client and returns what it tells.
pub async fn client(subcommand: &str, url: &str, flags: &[&str]) -> Value {
    let child = tokio::process::Command::new(parts().join("streaming-client"))
        .args([subcommand, "-url", url])
        .args(flags)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = child.await.expect("streaming-client: run scripts/setup.sh test");
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// URLs of sessions.
impl Rig {
    pub async fn exec_url(&self, id: &str, script: &str, tty: bool) -> String {
        let request = cri::ExecRequest {
            container_id: id.into(),
            cmd: ["sh", "-c", script].map(str::to_owned).into(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        self.runtime().exec(request).await.expect("Exec").into_inner().url
    }

    pub async fn attach_url(&self, id: &str, stdin: bool, tty: bool) -> String {
        let request =
            cri::AttachRequest { container_id: id.into(), stdin, tty, stdout: true, stderr: !tty };
        self.runtime().attach(request).await.expect("Attach").into_inner().url
    }

    pub async fn forward_url(&self, pod: &LivePod, ports: &[u16]) -> Result<String, Status> {
        let port = ports.iter().map(|&port| port.into()).collect();
        let request = cri::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port };
        Ok(self.runtime().port_forward(request).await?.into_inner().url)
    }

    /// A container that serves a page on port 8080 of its pod's localhost.
    pub async fn launch_web(&self, pod: &LivePod) -> String {
        let script = "mkdir /www; echo 'hello from the pod' > /www/index.html; \
                      exec httpd -f -p 127.0.0.1:8080 -h /www";
        let id = self.launch(pod, &Container::script("web", &self.image, script)).await;
        let fetch = ["wget", "-q", "-O-", "http://127.0.0.1:8080/index.html"];
        wait_until(SOON, "the page is served", async || {
            self.try_exec(&id, &fetch, 10).await.is_ok_and(|done| done.exit_code == 0)
        })
        .await;
        id
    }
}
