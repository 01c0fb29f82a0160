//! Selectors for events: by their own fields, and by those of their pods.

use k8s_openapi::api::core::v1::Pod;

use super::{Selection, split_unescaped, term};
use crate::pod::face::{Error, Selector};
use crate::pod::view::{Event, EventType};

/// The component that reports all events.
const COMPONENT: &str = "podbay";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Kind,
    Name,
    Namespace,
    Uid,
    Type,
    Reason,
    Component,
}

/// The fields of events, by path; all others are fields of pods.
const FIELDS: [(&str, Field); 7] = [
    ("involvedObject.kind", Field::Kind),
    ("involvedObject.name", Field::Name),
    ("involvedObject.namespace", Field::Namespace),
    ("involvedObject.uid", Field::Uid),
    ("type", Field::Type),
    ("reason", Field::Reason),
    ("reportingComponent", Field::Component),
];

/// A parsed selector for events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSelection {
    namespace: String,
    name: String,
    own: Vec<(Field, bool, String)>,
    /// Requirements on the pod; `None` if there are none.
    pod: Option<Selection>,
}

impl EventSelection {
    /// Parses a selector.
    ///
    /// # Errors
    /// [`Error::Argument`] with `selector.labels` or `selector.fields` as the field.
    pub fn parse(selector: &Selector) -> Result<Self, Error> {
        let fault = |message| Error::Argument { field: "selector.fields", message };
        let (mut own, mut of_pod) = (Vec::new(), Vec::new());
        for part in split_unescaped(&selector.fields).into_iter().filter(|part| !part.is_empty()) {
            let (path, equal, value) = term(part).map_err(fault)?;
            match FIELDS.iter().find(|(known, _)| *known == path) {
                Some((_, field)) => own.push((*field, equal, value)),
                None => of_pod.push(part),
            }
        }
        let asks = !selector.labels.is_empty() || !of_pod.is_empty();
        let pod = Selector { fields: of_pod.join(","), ..selector.clone() };
        Ok(Self {
            namespace: selector.namespace.clone(),
            name: selector.name.clone(),
            own,
            pod: asks.then(|| Selection::parse(&pod)).transpose()?,
        })
    }

    /// Whether an event matches; `pod` finds its pod.
    pub fn matches<P: AsRef<Pod>>(&self, event: &Event, pod: impl FnOnce() -> Option<P>) -> bool {
        let of = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        of(&self.namespace, &event.pod.namespace)
            && of(&self.name, &event.pod.name)
            && self.own.iter().all(|(field, equal, value)| (field.of(event) == value) == *equal)
            && self
                .pod
                .as_ref()
                .is_none_or(|selection| pod().is_some_and(|pod| selection.matches(pod.as_ref())))
    }
}

impl Field {
    fn of(self, event: &Event) -> &str {
        match self {
            Self::Kind => "Pod",
            Self::Name => &event.pod.name,
            Self::Namespace => &event.pod.namespace,
            Self::Uid => &event.uid,
            Self::Type => match event.kind {
                EventType::Normal => "Normal",
                EventType::Warning => "Warning",
            },
            Self::Reason => event.reason,
            Self::Component => COMPONENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodKey;

    fn event() -> Event {
        Event {
            number: 1,
            pod: PodKey::new("shop", "web"),
            uid: "u-1".to_owned(),
            container: None,
            kind: EventType::Warning,
            reason: "BackOff",
            message: String::new(),
            first: 0,
            last: 0,
            count: 1,
        }
    }

    fn selects(fields: &str) -> Result<bool, Error> {
        let selector = Selector { fields: fields.to_owned(), ..Selector::default() };
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".to_owned());
        let selection = EventSelection::parse(&selector)?;
        Ok(selection.matches(&event(), || Some(std::sync::Arc::new(pod))))
    }

    #[test]
    fn events_are_selected_by_their_own_fields_and_by_their_pods() {
        let table = [
            ("", true),
            ("involvedObject.kind=Pod,involvedObject.name=web", true),
            ("involvedObject.kind=Node", false),
            ("involvedObject.namespace=shop,involvedObject.uid=u-1", true),
            ("involvedObject.name!=web", false),
            ("type=Warning,reason=BackOff", true),
            ("type!=Normal", true),
            ("type=Normal", false),
            ("reason=Started", false),
            ("reportingComponent=podbay", true),
            ("reportingComponent=kubelet", false),
            ("metadata.name=web,type=Warning", true),
            ("metadata.name=other,type=Warning", false),
        ];
        for (fields, expected) in table {
            assert_eq!(selects(fields).expect(fields), expected, "{fields}");
        }
        for wrong in ["involvedObject.color=red", "type", "reason=a=b"] {
            assert!(matches!(selects(wrong), Err(Error::Argument { .. })), "{wrong}");
        }
    }

    #[test]
    fn an_event_of_a_pod_that_is_gone_has_its_own_fields_still() {
        let by = |fields: &str| {
            let selector = Selector { fields: fields.to_owned(), ..Selector::default() };
            let selection = EventSelection::parse(&selector).expect("a selection");
            selection.matches(&event(), || None::<std::sync::Arc<Pod>>)
        };
        assert!(by("involvedObject.name=web"));
        assert!(!by("status.phase=Running"));
    }
}
