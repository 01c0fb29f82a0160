//! Pods in wire form, converted once for all recipients.

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;

use super::convert;
use crate::locks::Mutex;
use crate::pod::PodView;
use crate::proto::podbay::v1;

/// How many pods are cached. Events are usually sent soon; slow recipients cause a new conversion.
const KEPT: usize = 32;

/// The last converted pods. Converting a pod to JSON costs far more than copying the text.
#[derive(Default)]
pub(super) struct Shown(Mutex<VecDeque<(Arc<k8s::Pod>, Arc<v1::Pod>)>>);

impl Shown {
    /// Number of cached pods.
    #[cfg(test)]
    pub fn written(&self) -> usize {
        self.0.lock().len()
    }

    /// Converts a pod. The object is identified by its address, which is unique while it is cached.
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
        // Converted under the lock, since concurrent callers want the same pod.
        let made = Arc::new(convert::pod(view));
        last.push_back((Arc::clone(&view.pod), Arc::clone(&made)));
        if last.len() > KEPT {
            last.pop_front();
        }
        drop(last);
        (*made).clone()
    }
}
