//! `port-forward`: local ports that lead into a pod. Each connection is a separate call, so a
//! failing one does not affect others.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::apply::object;
use super::connect::Client;
use super::error::Error;
use super::print::{items, number, text};
use super::scope::{Namespace, pod_name};
use super::screen::Screen;
use crate::proto::podbay::v1::{
    PortForwardRequest, PortForwardResponse, PortForwardStart, Protocol, port_forward_request,
    port_forward_response,
};

/// Bytes of a connection per message; also the maximum datagram size.
const PIECE: usize = 64 << 10;

/// Maximum number of UDP flows per port; further senders are ignored until a flow is idle.
const FLOWS: usize = 256;

/// A UDP flow ends after this time without a datagram.
const IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// What `port-forward` takes.
#[derive(Debug, Clone, Args)]
pub struct ForwardArgs {
    /// NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: String,
    /// PORT, LOCAL:REMOTE or :REMOTE (a free local port), with /udp appended for UDP; REMOTE may
    /// be the name of a container port
    #[arg(value_name = "PORTS", required = true)]
    pub ports: Vec<Ports>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Local address to listen on; may be repeated
    #[arg(
        long, value_name = "IP", default_values = ["127.0.0.1"], value_parser = here,
        value_delimiter = ','
    )]
    pub listen: Vec<IpAddr>,
}

/// Parses an address of this machine.
pub(super) fn here(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        text => text.parse().map_err(|_| format!("{text:?} is not an IP address")),
    }
}

/// A local port and one in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// `None` for the same number as in the pod, 0 for a free one.
    local: Option<u16>,
    remote: Port,
    udp: bool,
}

/// A port of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    Number(u16),
    /// A name defined in a container.
    Name(String),
}

impl Ports {
    /// The number of the port in the pod.
    fn in_pod(&self, pod: &Value) -> Result<u16, Error> {
        let name = match &self.remote {
            Port::Number(number) => return Ok(*number),
            Port::Name(name) => name,
        };
        let lists = ["/spec/containers", "/spec/initContainers"];
        let containers = lists.into_iter().flat_map(|list| items(pod, list));
        let mut ports = containers.flat_map(|container| items(container, "/ports"));
        let is_udp = |port: &Value| text(port, "/protocol") == "UDP";
        let found = ports.find(|port| text(port, "/name") == name && is_udp(port) == self.udp);
        let number = found.and_then(|port| u16::try_from(number(port, "/containerPort")).ok());
        let kind = if self.udp { " of UDP" } else { "" };
        number.ok_or_else(|| {
            Error::Misuse(format!("the pod does not have a port{kind} named {name:?}"))
        })
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, udp) = match text.rsplit_once('/') {
            Some((ports, protocol)) => match protocol.to_ascii_lowercase().as_str() {
                "tcp" => (ports, false),
                "udp" => (ports, true),
                other => return Err(format!("{other:?} is neither tcp nor udp")),
            },
            None => (text, false),
        };
        let (local, remote) = match ports.split_once(':') {
            Some((local, remote)) => (Some(local), remote),
            None => (None, ports),
        };
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
            _ => Err(format!("{text:?} is not a port from 1 to 65535")),
        };
        let local = match local {
            Some("") => Some(0),
            Some(local) => Some(port(local)?),
            None => None,
        };
        let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let named = remote.contains(|c: char| c.is_ascii_lowercase())
            && remote.len() <= 15
            && remote.chars().all(name)
            && !remote.starts_with('-');
        let remote =
            if named { Port::Name(remote.to_owned()) } else { Port::Number(port(remote)?) };
        Ok(Self { local, remote, udp })
    }
}

/// The pod that connections are forwarded to.
#[derive(Clone)]
struct Goal {
    client: Client,
    namespace: String,
    pod: String,
    screen: Screen,
}

/// Forwards until interrupted.
pub async fn forward(client: &mut Client, args: &ForwardArgs, screen: Screen) -> Result<(), Error> {
    let goal = Goal {
        client: client.clone(),
        namespace: args.namespace.of(client),
        pod: args.pod.clone(),
        screen,
    };
    // A missing pod is reported at once, not at the first connection.
    let pod = super::get::pod(client, &args.namespace, &args.pod).await?.unwrap_or_default();
    let pod = object(&pod)?;
    let mut listeners = JoinSet::new();
    for ports in &args.ports {
        let remote = ports.in_pod(&pod)?;
        for address in &args.listen {
            let address = SocketAddr::new(*address, ports.local.unwrap_or(remote));
            let fault = || Error::local(format!("listen on {address}"));
            let goal = goal.clone();
            let bound = if ports.udp {
                let socket = UdpSocket::bind(address).await.map_err(fault())?;
                let bound = socket.local_addr().map_err(fault())?;
                listeners.spawn(udp(socket, remote, goal));
                bound
            } else {
                let listener = TcpListener::bind(address).await.map_err(fault())?;
                let bound = listener.local_addr().map_err(fault())?;
                listeners.spawn(tcp(listener, remote, goal));
                bound
            };
            let protocol = if ports.udp { "/udp" } else { "" };
            screen.print(&format!("Forwarding from {bound}{protocol} -> {remote}\n"))?;
        }
    }
    match listeners.join_next().await {
        Some(Ok(Err(error))) => Err(error),
        _ => Err(Error::Failed("all listeners have stopped".to_owned())),
    }
}

/// Accepts TCP connections; an error of one is reported and does not affect others.
async fn tcp(listener: TcpListener, remote: u16, goal: Goal) -> Result<(), Error> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Cancel-safe: a connection not accepted yet stays in the backlog.
            taken = listener.accept() => {
                let (stream, _) = taken.map_err(Error::local("accept a connection"))?;
                goal.screen.note(&format!("Handling connection for {remote}"));
                let mut goal = goal.clone();
                connections.spawn(async move {
                    if let Err(error) = connection(stream, remote, &mut goal).await {
                        goal.screen.note(error.report().trim_end());
                    }
                });
            }
            // Only collects finished tasks.
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Forwards one TCP connection until both sides have ended.
async fn connection(stream: TcpStream, remote: u16, goal: &mut Goal) -> Result<(), Error> {
    let (mut from, mut to) = stream.into_split();
    let (sender, mut answers) = goal.open(remote, Protocol::Tcp).await?;
    let outward = async {
        let mut piece = vec![0; PIECE];
        // Dropped at the end, which closes this direction.
        let sender = sender;
        loop {
            match from.read(&mut piece).await {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    if sender.send(data(&piece[..length])).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(Error::local("read from a connection")(error)),
            }
        }
    };
    let inward = async {
        while let Some(answer) = answers.message().await? {
            if let Some(port_forward_response::Output::Data(data)) = answer.output {
                to.write_all(&data).await.map_err(Error::local("write to a connection"))?;
            }
        }
        // The local client learns that no more data will come.
        let _ = to.shutdown().await;
        Ok(())
    };
    let mut outward = std::pin::pin!(outward);
    let mut inward = std::pin::pin!(inward);
    tokio::select! {
        // Cancel-safe: a direction keeps its state in its future, which the other branch continues.
        done = &mut outward => { done?; inward.await }
        // The pod has closed the connection: further data would be discarded.
        done = &mut inward => done,
    }
}

/// Receives datagrams; each sender has its own flow.
async fn udp(socket: UdpSocket, remote: u16, goal: Goal) -> Result<(), Error> {
    let socket = Arc::new(socket);
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut datagram = vec![0; PIECE];
    loop {
        tokio::select! {
            // Cancel-safe: a datagram is received completely or stays in the socket.
            taken = socket.recv_from(&mut datagram) => {
                let Ok((length, peer)) = taken else { continue };
                flows.retain(|_, flow| !flow.is_closed());
                if !flows.contains_key(&peer) && flows.len() < FLOWS {
                    goal.screen.note(&format!("Handling datagrams for {remote}"));
                    let (sender, receiver) = mpsc::channel(64);
                    flows.insert(peer, sender);
                    let (socket, mut goal) = (Arc::clone(&socket), goal.clone());
                    tasks.spawn(async move {
                        if let Err(error) = flow(&socket, peer, receiver, remote, &mut goal).await {
                            goal.screen.note(error.report().trim_end());
                        }
                    });
                }
                if let Some(flow) = flows.get(&peer) {
                    // A full queue drops datagrams, as networks do.
                    let _ = flow.try_send(datagram[..length].to_vec());
                }
            }
            // Only collects finished tasks.
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Forwards the datagrams of one sender until the pod ends the flow or it is idle.
async fn flow(
    socket: &UdpSocket,
    peer: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
    remote: u16,
    goal: &mut Goal,
) -> Result<(), Error> {
    let (sender, mut answers) = goal.open(remote, Protocol::Udp).await?;
    loop {
        tokio::select! {
            // Cancel-safe: datagrams are received completely on both sides.
            datagram = datagrams.recv() => match datagram {
                Some(datagram) if sender.send(data(&datagram)).await.is_ok() => {}
                _ => return Ok(()),
            },
            answer = answers.message() => match answer?.map(|answer| answer.output) {
                Some(Some(port_forward_response::Output::Data(data))) => {
                    let _ = socket.send_to(&data, peer).await;
                }
                Some(_) => {}
                None => return Ok(()),
            },
            // Restarts with each datagram.
            () = tokio::time::sleep(IDLE) => return Ok(()),
        }
    }
}

fn data(bytes: &[u8]) -> PortForwardRequest {
    PortForwardRequest { input: Some(port_forward_request::Input::Data(bytes.to_vec())) }
}

impl Goal {
    /// Connects to a port of the pod.
    async fn open(
        &mut self,
        port: u16,
        protocol: Protocol,
    ) -> Result<(mpsc::Sender<PortForwardRequest>, Streaming<PortForwardResponse>), Error> {
        let start = PortForwardStart {
            namespace: self.namespace.clone(),
            name: self.pod.clone(),
            port: port.into(),
            protocol: protocol.into(),
        };
        let (sender, receiver) = mpsc::channel(8);
        let start = port_forward_request::Input::Start(start);
        let _ = sender.try_send(PortForwardRequest { input: Some(start) });
        let requests = ReceiverStream::new(receiver).fuse();
        let answers = self.client.pods.port_forward(requests).await?.into_inner();
        Ok((sender, answers))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_read_and_refused() {
        let ports = |local, remote, udp| Ok(Ports { local, remote: Port::Number(remote), udp });
        assert_eq!("80".parse(), ports(None, 80, false));
        assert_eq!("8080:80".parse(), ports(Some(8080), 80, false));
        assert_eq!(":80/tcp".parse(), ports(Some(0), 80, false));
        assert_eq!("53:53/UDP".parse(), ports(Some(53), 53, true));
        for bad in
            ["", ":", "0", "80:", "80:0", "65536", "-1", "+80", "A", "80:81:82", "80/sctp", "a:80"]
        {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
        assert_eq!(here("localhost"), Ok(IpAddr::from([127, 0, 0, 1])));
        assert!(here("unix").is_err());
    }

    #[test]
    fn ports_are_found_by_their_names() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "http", "containerPort": 80},
        ]}]}});
        let find = |text: &str| text.parse::<Ports>().expect(text).in_pod(&pod);
        assert_eq!(find("8080:http").ok(), Some(80));
        assert_eq!(find("dns/udp").ok(), Some(53));
        assert_eq!(find("9:7").ok(), Some(7));
        let fault = find("dns").expect_err("of TCP").to_string();
        assert_eq!(fault, "the pod does not have a port named \"dns\"");
    }
}
