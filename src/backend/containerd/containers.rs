//! Container records (containerd's Containers service).

use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
    ListContainersRequest, UpdateContainerRequest,
};
use prost_types::Any;
use serde_json::Value;
use tonic::{Code, Status};

use super::client::Client;
use super::failure;
use super::types::{
    OWNER, OWNER_FILTER, OWNER_LABEL, RuncOptions, SPEC_URL, any_json, json_any, mask,
    shim_options, wire_map,
};
use crate::backend::{GoneIsFine, Result, RuntimeContainer};

/// Key of podbay's metadata in `Container.extensions`.
const EXTENSION: &str = "io.podbay.metadata";
/// Its type; the value is JSON.
const EXTENSION_URL: &str = "io.podbay.metadata/v1";

pub(super) async fn create(client: &Client, container: &RuntimeContainer) -> Result<()> {
    let message = CreateContainerRequest { container: Some(record(container)) };
    client
        .quick(
            || format!("create record of container {}", container.id),
            client.containers().create(client.request(message)),
        )
        .await?;
    Ok(())
}

pub(super) async fn get(client: &Client, id: &str) -> Result<RuntimeContainer> {
    let tried = || format!("get record of container {id}");
    let message = GetContainerRequest { id: id.to_owned() };
    let answer = client.quick(tried, client.containers().get(client.request(message))).await?;
    let record = answer.container.ok_or_else(|| failure::senseless(tried(), "no record in it"))?;
    Ok(read(record))
}

/// All records of podbay. Streamed one by one: on a busy node all records together exceed the size
/// of a message.
pub(super) async fn list(client: &Client) -> Result<Vec<RuntimeContainer>> {
    of_each(client, read).await
}

pub(super) async fn ids(client: &Client) -> Result<Vec<String>> {
    of_each(client, |record| record.id).await
}

async fn of_each<T>(client: &Client, read: impl Fn(Container) -> T) -> Result<Vec<T>> {
    let stream = list_stream(client, &read);
    let streamed = client.quick_stream(|| "list containers".to_owned(), stream).await;
    match streamed? {
        Some(records) => Ok(records),
        None => {
            let tried = || "list containers at once".to_owned();
            let all = client.request(ours());
            let answer = client.quick(tried, client.containers().list(all)).await?;
            Ok(answer.containers.into_iter().map(&read).collect())
        }
    }
}

/// `None` when the daemon does not support this call.
async fn list_stream<T>(
    client: &Client,
    read: &impl Fn(Container) -> T,
) -> std::result::Result<Option<Vec<T>>, Status> {
    let unknown = |status: &Status| status.code() == Code::Unimplemented;
    let mut stream = match client.containers().list_stream(client.request(ours())).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if unknown(&status) => return Ok(None),
        Err(status) => return Err(status),
    };
    let mut records = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => records.extend(message.container.map(read)),
            Ok(None) => return Ok(Some(records)),
            Err(status) if unknown(&status) => return Ok(None),
            Err(status) => return Err(status),
        }
    }
}

pub(super) async fn update_spec(client: &Client, id: &str, spec: &Value) -> Result<()> {
    let changed = Container {
        id: id.to_owned(),
        spec: Some(json_any(SPEC_URL, spec)),
        ..Container::default()
    };
    let message =
        UpdateContainerRequest { container: Some(changed), update_mask: mask(["spec".to_owned()]) };
    client
        .quick(
            || format!("update spec of container {id}"),
            client.containers().update(client.request(message)),
        )
        .await?;
    Ok(())
}

pub(super) async fn delete(client: &Client, id: &str) -> Result<()> {
    let message = DeleteContainerRequest { id: id.to_owned() };
    client
        .quick(
            || format!("delete record of container {id}"),
            client.containers().delete(client.request(message)),
        )
        .await
        .gone_is_fine()
}

fn ours() -> ListContainersRequest {
    ListContainersRequest { filters: vec![OWNER_FILTER.to_owned()] }
}

/// The record for a container. If containerd 2.0 or later finds a sandbox record with the id in
/// `sandbox` (the mark of the pod's pause task, see `holds`), it gives a new task to that pod's
/// shim without running the shim program, which would take most of the time of a container start.
fn record(container: &RuntimeContainer) -> Container {
    let mut labels = wire_map(&container.labels);
    labels.insert(OWNER_LABEL.to_owned(), OWNER.to_owned());
    let metadata = json_any(EXTENSION_URL, &container.extension);
    Container {
        id: container.id.clone(),
        labels,
        image: container.image.clone(),
        runtime: Some(Runtime {
            name: container.handler.runtime_type.clone(),
            options: shim_options(&container.handler, owner_of_streams(&container.spec)),
        }),
        spec: Some(json_any(SPEC_URL, &container.spec)),
        snapshotter: container.handler.snapshotter.clone(),
        snapshot_key: container.snapshot_key.clone().unwrap_or_default(),
        extensions: [(EXTENSION.to_owned(), metadata)].into(),
        sandbox: container.sandbox.clone().unwrap_or_default(),
        ..Container::default()
    }
}

/// Owner of the pipes of a container's process, so that the process can reopen them (/dev/stdout).
/// The OCI runtime changes the owner itself, except in a user namespace: there it cannot, because
/// the pipes' owner is not mapped.
fn owner_of_streams(spec: &Value) -> (u32, u32) {
    let on_host = |kind: &str, id: &str| {
        let mappings = spec["linux"][kind].as_array()?;
        let id = spec["process"]["user"][id].as_u64()?;
        let number = |mapping: &Value, name: &str| mapping[name].as_u64().unwrap_or_default();
        let mapping = mappings.iter().find(|mapping| {
            let first = number(mapping, "containerID");
            (first..first + number(mapping, "size")).contains(&id)
        })?;
        let id = id - number(mapping, "containerID") + number(mapping, "hostID");
        u32::try_from(id).ok()
    };
    (
        on_host("uidMappings", "uid").unwrap_or_default(),
        on_host("gidMappings", "gid").unwrap_or_default(),
    )
}

/// The container of a record. An unreadable part becomes JSON null, so that a bad record hides
/// neither itself nor others.
fn read(record: Container) -> RuntimeContainer {
    let runtime = record.runtime.unwrap_or_default();
    let mut handler = RuncOptions::handler(runtime.name, runtime.options.as_ref());
    handler.snapshotter = record.snapshotter;
    let json = |part: &str, any: Option<&Any>| {
        let tried = || format!("read {part} of container {}", record.id);
        any.map_or(Value::Null, |any| {
            any_json(tried, any).unwrap_or_else(|error| {
                tracing::warn!(
                    container = record.id,
                    part,
                    "cannot read container record: {error}"
                );
                Value::Null
            })
        })
    };
    let spec = json("spec", record.spec.as_ref());
    let extension = json("metadata", record.extensions.get(EXTENSION));
    RuntimeContainer {
        image: record.image,
        labels: record.labels.into_iter().filter(|(key, _)| key != OWNER_LABEL).collect(),
        sandbox: Some(record.sandbox).filter(|sandbox| !sandbox.is_empty()),
        handler,
        spec,
        snapshot_key: Some(record.snapshot_key).filter(|key| !key.is_empty()),
        extension,
        id: record.id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::RuntimeHandler;

    fn container() -> RuntimeContainer {
        RuntimeContainer {
            id: "a1".into(),
            image: "example.test/x:1".into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            sandbox: Some("pod".to_owned()),
            handler: RuntimeHandler {
                runtime_type: "io.containerd.runc.v2".into(),
                binary: "crun".into(),
                snapshotter: "overlayfs".into(),
                ..RuntimeHandler::default()
            },
            spec: serde_json::json!({"ociVersion": "1.0.2"}),
            snapshot_key: Some("a1".into()),
            extension: serde_json::json!({"attempt": 3}),
        }
    }

    #[test]
    fn what_is_stored_is_read_back() {
        assert_eq!(read(record(&container())), container());
    }

    #[test]
    fn a_record_is_marked_as_ours_and_names_its_pod() {
        let record = record(&container());
        assert_eq!(record.labels.get(OWNER_LABEL).map(String::as_str), Some(OWNER));
        assert_eq!(record.sandbox, "pod");
        assert_eq!(record.spec.unwrap().type_url, SPEC_URL);
    }

    #[test]
    fn streams_belong_to_the_user_on_the_host() {
        let spec = serde_json::json!({
            "process": {"user": {"uid": 1000, "gid": 50}},
            "linux": {
                "uidMappings": [{"containerID": 0, "hostID": 200_000, "size": 65536}],
                "gidMappings": [{"containerID": 0, "hostID": 300_000, "size": 65536}],
            },
        });
        assert_eq!(owner_of_streams(&spec), (201_000, 300_050));
        assert_eq!(owner_of_streams(&serde_json::json!({"process": {"user": {"uid": 7}}})), (0, 0));
        let mut container = container();
        container.spec = spec;
        let options = record(&container).runtime.unwrap().options.unwrap();
        let options: RuncOptions = super::super::types::decode(&options).unwrap();
        assert_eq!((options.io_uid, options.io_gid), (201_000, 300_050));
    }

    #[test]
    fn an_unreadable_part_hides_nothing_else() {
        let mut broken = record(&container());
        broken.spec.as_mut().unwrap().value = b"{".to_vec();
        broken.extensions.clear();
        let expected =
            RuntimeContainer { spec: Value::Null, extension: Value::Null, ..container() };
        assert_eq!(read(broken), expected);
    }
}
