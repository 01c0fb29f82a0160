//! Pods as they go over the wire, made once for all who are told of them.

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;

use super::convert;
use crate::locks::Mutex;
use crate::pod::PodView;
use crate::proto::podbay::v1;

/// News are fresh when they are told; those who are slower pay for themselves.
const KEPT: usize = 32;

/// The last pods that were shown. Writing a pod as JSON costs far more than copying the text.
#[derive(Default)]
pub(super) struct Shown(Mutex<VecDeque<(Arc<k8s::Pod>, Arc<v1::Pod>)>>);

impl Shown {
    /// How many are kept.
    #[cfg(test)]
    pub fn written(&self) -> usize {
        self.0.lock().len()
    }

    /// A pod, outwards. The same object is known by its place in memory, which nobody else has
    /// while it is kept here.
    pub fn pod(&self, view: &PodView) -> v1::Pod {
        let same = |kept: &v1::Pod| {
            let revision = kept.revision.as_ref();
            revision.is_some_and(|kept| kept.number == view.revision.number)
        };
        let mut last = self.0.lock();
        let found = last.iter().find(|(pod, kept)| Arc::ptr_eq(pod, &view.pod) && same(kept));
        if let Some((_, kept)) = found {
            let kept = Arc::clone(kept);
            drop(last);
            return (*kept).clone();
        }
        // Under the lock: others who ask now want the same one.
        let made = Arc::new(convert::pod(view));
        last.push_back((Arc::clone(&view.pod), Arc::clone(&made)));
        if last.len() > KEPT {
            last.pop_front();
        }
        drop(last);
        (*made).clone()
    }
}
