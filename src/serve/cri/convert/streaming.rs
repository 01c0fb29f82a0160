//! Parses requests for streaming URLs.

use super::{Invalid, Result, Within, exec_command, refuse, required_id};
use crate::proto::runtime::v1;
use crate::stream::Streams;

/// Container, command and streams of an `Exec`.
pub fn exec(request: v1::ExecRequest) -> Result<(String, Vec<String>, Streams)> {
    let v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    let id = required_id("container_id", container_id)?;
    let streams = streams(Streams { stdin, stdout, stderr, tty })?;
    Ok((id, exec_command(cmd)?, streams))
}

/// Container and streams of an `Attach`.
pub fn attach(request: v1::AttachRequest) -> Result<(String, Streams)> {
    let v1::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let id = required_id("container_id", container_id)?;
    Ok((id, streams(Streams { stdin, stdout, stderr, tty })?))
}

/// Pod and ports of a `PortForward`; no ports are fine, since SPDY clients name them later.
pub fn port_forward(request: v1::PortForwardRequest) -> Result<(String, Vec<u16>)> {
    let v1::PortForwardRequest { pod_sandbox_id, port } = request;
    let id = required_id("pod_sandbox_id", pod_sandbox_id)?;
    let number = |(index, number): (usize, i32)| {
        let number = u16::try_from(number).ok().filter(|number| *number > 0);
        number.ok_or_else(|| Invalid::new("", "must be 1 to 65535")).item("port", index)
    };
    Ok((id, port.into_iter().enumerate().map(number).collect::<Result<_>>()?))
}

/// CRI requires at least one stream, and no stderr with a terminal, which merges both outputs.
fn streams(streams: Streams) -> Result<Streams> {
    let Streams { stdin, stdout, stderr, tty } = streams;
    refuse("stderr", tty && stderr, "tty and stderr cannot both be true")?;
    let none = !stdin && !stdout && !stderr;
    refuse("stdin", none, "one of stdin, stdout, or stderr must be set")?;
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> v1::ExecRequest {
        let (container_id, cmd) = ("abc".to_owned(), vec!["true".to_owned()]);
        v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }
    }

    #[test]
    fn streams_fit_together() {
        for n in 0..16 {
            let [stdin, stdout, stderr, tty] = [1, 2, 4, 8].map(|bit| n & bit != 0);
            let good = (stdin || stdout || stderr) && !(tty && stderr);
            let request = request(stdin, stdout, stderr, tty);
            let attached =
                v1::AttachRequest { container_id: "abc".into(), stdin, tty, stdout, stderr };
            let expected = Streams { stdin, stdout, stderr, tty };
            assert_eq!(exec(request).ok().map(|parts| parts.2), good.then_some(expected), "{n}");
            assert_eq!(attach(attached).ok().map(|parts| parts.1), good.then_some(expected), "{n}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |request| exec(request).expect_err("an error").to_string();
        let good = || request(true, true, true, false);
        assert!(
            error(v1::ExecRequest { container_id: String::new(), ..good() })
                .starts_with("container_id: ")
        );
        assert!(error(v1::ExecRequest { cmd: Vec::new(), ..good() }).starts_with("cmd: "));
        let nul = vec!["a".to_owned(), "b\0".to_owned()];
        assert!(error(v1::ExecRequest { cmd: nul, ..good() }).starts_with("cmd[1]: "));
        assert!(error(v1::ExecRequest { tty: true, ..good() }).starts_with("stderr: "));
        assert!(attach(v1::AttachRequest::default()).is_err());
        let forward =
            |port| port_forward(v1::PortForwardRequest { pod_sandbox_id: "p".into(), port });
        assert_eq!(forward(vec![1, 65535]), Ok(("p".to_owned(), vec![1, 65535])));
        assert_eq!(forward(Vec::new()), Ok(("p".to_owned(), Vec::new())));
        for bad in [0, -1, 65536] {
            let error = forward(vec![80, bad]).expect_err("an error").to_string();
            assert_eq!(error, "port[1]: must be 1 to 65535");
        }
        assert!(port_forward(v1::PortForwardRequest::default()).is_err());
    }
}
