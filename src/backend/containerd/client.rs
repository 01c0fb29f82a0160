//! The connection: two lazily connected channels; the namespace on every call, a deadline on every
//! unary one.
//!
//! Bulk content has its own channel, so that an upload which fills its connection's window does not
//! block small calls.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::Options;
use super::failure;
use crate::backend::{CallDeadlines, Error, ErrorKind, Lease, Result};

/// containerd sends messages of up to 16 MiB (tonic's default limit is 4); a higher limit costs
/// nothing until it is used.
const MESSAGE_LIMIT: usize = 32 << 20;
/// HTTP/2 windows for received data: memory that a peer may fill before we read.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

const NAMESPACE_HEADER: &str = "containerd-namespace";
const LEASE_HEADER: &str = "containerd-lease";

/// Talks to one containerd in one namespace.
pub(super) struct Client {
    calls: Channel,
    bulk: Channel,
    address: PathBuf,
    namespace: String,
    namespace_header: MetadataValue<Ascii>,
    deadlines: CallDeadlines,
}

macro_rules! service {
    ($($(#[$doc:meta])* $name:ident: $kind:ident over $channel:ident,)*) => {
        $($(#[$doc])*
        pub(super) fn $name(&self) -> $kind<Channel> {
            $kind::new(self.$channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
        })*
    };
}

impl Client {
    pub(super) fn new(options: Options) -> Result<Self> {
        let Options { address, namespace, deadlines } = options;
        let bad = || {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("namespace {namespace:?}: not 1 to 76 of A-Z a-z 0-9 with single . _ -"),
            )
        };
        if !is_identifier(&namespace) {
            return Err(bad());
        }
        let namespace_header = namespace.parse().map_err(|_| bad())?;
        let channel = || {
            let address = address.clone();
            // The URI only fills the :authority header; the connector dials the socket.
            Endpoint::from_static("http://containerd.localhost")
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .connect_with_connector_lazy(tower::service_fn(move |_| {
                    let address = address.clone();
                    async move { dial(&address).await.map(TokioIo::new) }
                }))
        };
        let (calls, bulk) = (channel(), channel());
        Ok(Self { calls, bulk, address, namespace, namespace_header, deadlines })
    }

    service! {
        version: VersionClient over calls,
        introspection: IntrospectionClient over calls,
        containers: ContainersClient over calls,
        tasks: TasksClient over calls,
        snapshots: SnapshotsClient over calls,
        leases: LeasesClient over calls,
        images: ImagesClient over calls,
        events: EventsClient over calls,
        diff: DiffClient over calls,
        sandboxes: StoreClient over calls,
        /// Small calls about blobs.
        content: ContentClient over calls,
        /// The bytes of blobs.
        bulk_content: ContentClient over bulk,
    }

    pub(super) fn address(&self) -> &Path {
        &self.address
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The time limit of task and snapshot operations.
    pub(super) fn slow_limit(&self) -> Duration {
        self.deadlines.slow
    }

    /// A request in podbay's namespace.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(NAMESPACE_HEADER, self.namespace_header.clone());
        request
    }

    /// A request whose new objects are added to the lease.
    pub(super) fn leased<T>(&self, message: T, lease: &Lease) -> Result<Request<T>> {
        let id = lease.0.parse().map_err(|_| {
            Error::new(ErrorKind::InvalidArgument, format!("lease id {:?}", lease.0))
        })?;
        let mut request = self.request(message);
        request.metadata_mut().insert(LEASE_HEADER, id);
        Ok(request)
    }

    /// A call with the limit of reads and record changes.
    pub(super) async fn quick<T>(
        &self,
        tried: impl FnOnce() -> String,
        call: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        within(self.deadlines.quick, tried, unwrapped(call)).await
    }

    /// A call with the limit of task and snapshot operations.
    pub(super) async fn slow<T>(
        &self,
        tried: impl FnOnce() -> String,
        call: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        within(self.deadlines.slow, tried, unwrapped(call)).await
    }

    /// A streamed answer, completely received within the quick limit.
    pub(super) async fn quick_stream<T>(
        &self,
        tried: impl FnOnce() -> String,
        read: impl Future<Output = std::result::Result<T, Status>>,
    ) -> Result<T> {
        within(self.deadlines.quick, tried, read).await
    }

    /// A call without a time limit.
    pub(super) async fn endless<T>(
        &self,
        tried: impl FnOnce() -> String,
        call: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        unwrapped(call).await.map_err(|status| failure::of(tried(), status))
    }
}

/// Connects; an error names the address.
async fn dial(address: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", address.display())))
}

async fn unwrapped<T>(
    call: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> std::result::Result<T, Status> {
    call.await.map(Response::into_inner)
}

/// Awaits `call` for at most `limit`. After that the call is dropped, which resets its HTTP/2
/// stream; the daemon may still complete the operation.
pub(super) async fn within<T>(
    limit: Duration,
    tried: impl FnOnce() -> String,
    call: impl Future<Output = std::result::Result<T, Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(failure::of(tried(), status)),
        Err(_) => Err(failure::late(tried(), limit)),
    }
}

/// containerd's own rule for identifiers, namespaces among them.
fn is_identifier(text: &str) -> bool {
    (1..=76).contains(&text.len())
        && text
            .split(['.', '_', '-'])
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &std::path::Path, deadlines: CallDeadlines) -> Client {
        Client::new(Options { address: address.into(), namespace: "podbay".into(), deadlines })
            .unwrap()
    }

    #[test]
    fn identifiers_are_containerds() {
        for good in ["podbay", "k8s.io", "a-b_c.d", &"a".repeat(76)] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", ".a", "a..b", "a-", "a b", "a\n", "é", &"a".repeat(77)] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_bad_namespace_is_refused_by_name() {
        let options = Options {
            address: "/nowhere".into(),
            namespace: "a b".into(),
            deadlines: CallDeadlines::default(),
        };
        let error = Client::new(options).err().unwrap();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("namespace"), "{error}");
    }

    #[tokio::test]
    async fn an_absent_daemon_is_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        let client = client(&dir.path().join("absent.sock"), CallDeadlines::default());
        for _ in 0..2 {
            let call = client.version().version(client.request(())).await;
            let error = failure::of("ask".into(), call.err().unwrap());
            assert_eq!(error.kind, ErrorKind::Unavailable);
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("absent.sock"), "{cause}");
        }
    }

    #[tokio::test]
    async fn a_mute_daemon_runs_into_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("mute.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&address).unwrap();
        let brief = Duration::from_millis(50);
        let client = client(&address, CallDeadlines { quick: brief, slow: brief });
        let ask = client.quick(|| "ask".into(), client.version().version(client.request(()))).await;
        assert_eq!(ask.err().unwrap().kind, ErrorKind::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_connection_cut_in_mid_call_is_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("cut.sock");
        let listener = tokio::net::UnixListener::bind(&address).unwrap();
        let client = client(&address, CallDeadlines::default());
        let cut = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut preface = [0; 24];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut preface).await.unwrap();
        };
        let mut version = client.version();
        let ask = client.quick(|| "ask".into(), version.version(client.request(())));
        let ((), answer) = tokio::join!(cut, ask);
        assert_eq!(answer.err().unwrap().kind, ErrorKind::Unavailable);
    }
}
