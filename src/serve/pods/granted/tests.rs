use super::*;
use crate::serve::Role;

/// Pods that do not exist: every authorized call gets an error that says so.
struct Empty;

fn none() -> Error {
    Error::NotFound(PodKey::new("reached", "it"))
}

#[async_trait]
impl Face for Empty {
    async fn apply(&self, _: Apply) -> Result<Applied, Error> {
        Err(none())
    }
    async fn delete(&self, _: Delete) -> Result<Vec<PodView>, Error> {
        Err(none())
    }
    fn get(&self, _: &PodKey) -> Result<PodView, Error> {
        Err(none())
    }
    fn list(&self, _: &Selector) -> Result<Listing, Error> {
        Err(none())
    }
    fn watch(&self, _: Selector, _: Option<Revision>) -> Result<Watch, Error> {
        Err(none())
    }
    fn explain(&self, _: &PodKey) -> Result<Explanation, Error> {
        Err(none())
    }
    fn events(&self, _: Selector, _: bool) -> Result<Events, Error> {
        Err(none())
    }
    async fn logs(&self, _: &PodKey, _: LogOptions) -> Result<LogLines, Error> {
        Err(none())
    }
    fn target(&self, _: &PodKey, _: Option<&str>) -> Result<Target, Error> {
        Err(none())
    }
    fn sandbox(&self, _: &PodKey) -> Result<PodId, Error> {
        Err(none())
    }
    async fn restart_container(&self, _: &PodKey, _: &str) -> Result<(), Error> {
        Err(none())
    }
    async fn admit(&self, _: Apply) -> Result<Vec<Admission>, Error> {
        Err(none())
    }
    async fn node(&self) -> Result<NodeView, Error> {
        Err(none())
    }
}

fn team() -> Granted {
    let namespaces = Some(Arc::new(BTreeSet::from(["team".to_owned()])));
    Granted { face: Arc::new(Empty), grant: Grant { role: Role::Operate, namespaces } }
}

/// Whether a call passed the authorization.
fn reached<T>(answer: Result<T, Error>) -> bool {
    match answer.err() {
        Some(Error::NotFound(_)) => true,
        Some(Error::Forbidden(_)) => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_call_about_pods_asks_the_grant() {
    let face = team();
    for (namespace, allowed) in [("team", true), ("other", false), ("", false)] {
        let key = PodKey::new(namespace, "web");
        let selector = Selector { namespace: namespace.to_owned(), ..Default::default() };
        let delete = Delete { selector: selector.clone(), ..Default::default() };
        let answers = [
            reached(face.delete(delete).await),
            reached(face.get(&key)),
            reached(face.list(&selector)),
            reached(face.watch(selector.clone(), None)),
            reached(face.explain(&key)),
            reached(face.events(selector, true)),
            reached(face.logs(&key, LogOptions::default()).await),
            reached(face.target(&key, None)),
            reached(face.sandbox(&key)),
            reached(face.restart_container(&key, "main").await),
        ];
        assert_eq!(answers, [allowed; 10], "{namespace:?}");
    }
    assert!(reached(face.node().await));
}

#[tokio::test]
async fn no_object_of_a_manifest_slips_in() {
    let face = team();
    let object = |kind: &str, namespace: &str| {
        format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{name: {}, namespace: {namespace}}}\n",
            kind.to_lowercase()
        )
    };
    for (manifest, default, allowed) in [
        (object("ConfigMap", "team"), "", true),
        (object("Secret", "team"), "other", true),
        (object("Secret", "other"), "team", false),
        (object("ConfigMap", "team") + "---\n" + &object("Secret", "other"), "", false),
        (object("ConfigMap", "\"\""), "team", true),
        (object("ConfigMap", "\"\""), "", false),
    ] {
        let namespace = default.to_owned();
        let request = Apply { manifest: manifest.clone(), namespace, ..Default::default() };
        assert_eq!(reached(face.apply(request.clone()).await), allowed, "{manifest}");
        assert_eq!(reached(face.admit(request).await), allowed, "{manifest}");
    }
}
