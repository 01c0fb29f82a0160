//! The service as a tonic trait: each RPC parses, makes one call, converts.

use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Measure, Places, Shown, about, convert, page};
use crate::pod::Face;
use crate::proto::podbay::v1::*;
use crate::serve::Subject;
use crate::serve::status::bad_field;
use crate::stream::Sessions;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = Answer<BoxStream<T>>;

/// The service of whole pods.
#[derive(Clone)]
pub struct Pods {
    pub(super) face: Arc<dyn Face>,
    pub(super) sessions: Arc<dyn Sessions>,
    pub(super) meters: Arc<dyn Measure>,
    pub(super) node: Arc<str>,
    pub(super) shown: Arc<Shown>,
    pub(super) places: Places,
    /// What the call is about; set in the copy that serves a single call.
    pub(super) subject: Subject,
}

impl Pods {
    fn list(&self, request: ListRequest) -> Result<ListResponse, Status> {
        let listing = self.face.list(&convert::selector(request.selector))?;
        let page = page::page(listing, request.limit, &request.continue_token)?;
        Ok(ListResponse {
            pods: page.pods.iter().map(|view| self.shown.pod(view)).collect(),
            revision: Some(convert::revision(page.revision)),
            continue_token: page.token,
            remaining: page.remaining.try_into().unwrap_or(u64::MAX),
        })
    }

    fn explain(&self, request: ExplainRequest) -> Result<ExplainResponse, Status> {
        let key = convert::key(request.namespace, request.name)?;
        let explanation = self.face.explain(&key)?;
        Ok(ExplainResponse {
            pod: Some(self.shown.pod(&explanation.view)),
            waits: explanation.waits.into_iter().map(convert::wait).collect(),
        })
    }
}

#[tonic::async_trait]
impl pods_server::Pods for Pods {
    async fn apply(&self, request: Request<ApplyRequest>) -> Answer<ApplyResponse> {
        let pods = self.named(&request)?;
        let request = convert::apply(request.into_inner())?;
        let dry_run = request.dry_run;
        let applied = pods.face.apply(request).await?;
        // The names of pods may be generated.
        if !(applied.pods.is_empty() && applied.objects.is_empty()) {
            pods.subject.set(about::applied(&applied, dry_run));
        }
        Ok(Response::new(convert::applied(&applied)))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        let face = self.named(&request)?.face;
        let ended = face.delete(convert::delete(request.into_inner())?).await?;
        let pods = ended.iter().map(|view| self.shown.pod(view)).collect();
        Ok(Response::new(DeleteResponse { pods }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<GetResponse> {
        let face = self.named(&request)?.face;
        let GetRequest { namespace, name } = request.into_inner();
        let view = face.get(&convert::key(namespace, name)?)?;
        Ok(Response::new(GetResponse { pod: Some(self.shown.pod(&view)) }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        self.named(&request)?.list(request.into_inner()).map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Stream<WatchResponse> {
        self.named(&request)?.watch(request.into_inner()).map(Response::new)
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Stream<LogsResponse> {
        self.named(&request)?.logs(request.into_inner()).await.map(Response::new)
    }

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Stream<ExecResponse> {
        self.granted(&request)?.exec(request.into_inner()).await.map(Response::new)
    }

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Stream<AttachResponse> {
        self.granted(&request)?.attach(request.into_inner()).await.map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<PortForwardRequest>>,
    ) -> Stream<PortForwardResponse> {
        self.granted(&request)?.port_forward(request.into_inner()).await.map(Response::new)
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Answer<StatsResponse> {
        let pods = self.named(&request)?;
        let selector = convert::selector(request.into_inner().selector);
        pods.stats(&selector).await.map(Response::new)
    }

    async fn watch_stats(&self, request: Request<WatchStatsRequest>) -> Stream<WatchStatsResponse> {
        self.named(&request)?.watch_stats(request.into_inner()).map(Response::new)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Stream<EventsResponse> {
        self.named(&request)?.events(request.into_inner()).map(Response::new)
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainResponse> {
        self.named(&request)?.explain(request.into_inner()).map(Response::new)
    }

    async fn restart_container(
        &self,
        request: Request<RestartContainerRequest>,
    ) -> Answer<RestartContainerResponse> {
        let face = self.named(&request)?.face;
        let RestartContainerRequest { namespace, name, container } = request.into_inner();
        let key = convert::key(namespace, name)?;
        if container.is_empty() {
            return Err(bad_field("container", "must be given"));
        }
        face.restart_container(&key, &container).await?;
        Ok(Response::new(RestartContainerResponse {}))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Answer<AdmitResponse> {
        let face = self.named(&request)?.face;
        let admissions = face.admit(convert::admit(request.into_inner())?).await?;
        let pods = admissions.into_iter().map(convert::admission).collect();
        Ok(Response::new(AdmitResponse { pods }))
    }

    async fn get_node(&self, request: Request<GetNodeRequest>) -> Answer<GetNodeResponse> {
        let node = Some(convert::node(&self.named(&request)?.face.node().await?));
        Ok(Response::new(GetNodeResponse { node }))
    }
}
