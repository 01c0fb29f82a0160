//! Choice of the default container.

use serde_json::Value;

use super::apply::object;
use super::connect::Client;
use super::get;
use super::print::{items, text};
use super::scope::Namespace;
use super::screen::Screen;

/// Annotation that names it.
const DEFAULT: &str = "kubectl.kubernetes.io~1default-container";

/// The container in the annotation, else the first; and kubectl's message if there was a choice.
pub fn default_of(pod: &Value) -> (String, Option<String>) {
    let named = text(pod, &format!("/metadata/annotations/{DEFAULT}"));
    if !named.is_empty() {
        return (named.to_owned(), None);
    }
    let all = names(pod);
    let first = items(pod, "/spec/containers").first();
    let first = first.map(|container| text(container, "/name")).unwrap_or_default().to_owned();
    let shown: Vec<_> = all.iter().map(|(name, kind)| format!("{name}{kind}")).collect();
    let said = (all.len() > 1)
        .then(|| format!("Defaulted container {first:?} out of: {}", shown.join(", ")));
    (first, said)
}

/// Names and kinds of all containers, for messages: apps, init containers, ephemeral ones.
fn names(pod: &Value) -> Vec<(&str, &'static str)> {
    let lists =
        [("containers", ""), ("initContainers", " (init)"), ("ephemeralContainers", " (ephem)")];
    let of = |(list, kind): (&str, &'static str)| {
        let list = items(pod, &format!("/spec/{list}"));
        list.iter().map(move |container| (text(container, "/name"), kind)).collect::<Vec<_>>()
    };
    lists.into_iter().flat_map(of).collect()
}

/// The named container. If none is named the result is empty, since the agent knows the default
/// too, and the caller is told which one it is.
pub async fn chosen(
    client: &mut Client,
    namespace: &Namespace,
    pod: &str,
    named: Option<&str>,
    screen: Screen,
) -> String {
    if let Some(named) = named {
        return named.to_owned();
    }
    // Problems with the pod are reported by the call itself.
    if let Ok(Some(pod)) = get::pod(client, namespace, pod).await
        && let Ok(pod) = object(&pod)
        && let (_, Some(said)) = default_of(&pod)
    {
        screen.note(&said);
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_container_is_meant_and_told_where_there_are_others() {
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(default_of(&one), ("a".to_owned(), None));
        let mut many = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "e"}]}});
        let said = "Defaulted container \"a\" out of: a, b, i (init), e (ephem)".to_owned();
        assert_eq!(default_of(&many), ("a".to_owned(), Some(said)));
        many["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(default_of(&many), ("b".to_owned(), None));
    }
}
