//! Lists as streams: every item once, in messages of limited size, then the end.

use prost::Message;
use tonic::codegen::BoxStream;

/// Maximum number of item bytes in one message: far below the 4 MiB that clients accept by default,
/// and enough for most lists to fit in one message.
const MAX_BYTES: usize = 1 << 20;

/// Streams `items` in messages of at most [`MAX_BYTES`] and at most `most` items. A larger item is
/// sent alone. Without items there is no message.
pub(super) fn batches<I, M>(
    items: impl Iterator<Item = I> + Send + 'static,
    most: usize,
    message: impl Fn(Vec<I>) -> M + Send + 'static,
) -> BoxStream<M>
where
    I: Message + 'static,
    M: Send + 'static,
{
    let messages = Batches { items: items.peekable(), most }.map(move |batch| Ok(message(batch)));
    Box::pin(futures::stream::iter(messages))
}

struct Batches<T: Iterator> {
    items: std::iter::Peekable<T>,
    most: usize,
}

impl<I: Message, T: Iterator<Item = I>> Iterator for Batches<T> {
    type Item = Vec<I>;

    fn next(&mut self) -> Option<Vec<I>> {
        let first = self.items.next()?;
        let mut size = first.encoded_len();
        let mut batch = vec![first];
        while batch.len() < self.most {
            let fits = |item: &I| size + item.encoded_len() <= MAX_BYTES;
            let Some(item) = self.items.next_if(fits) else { break };
            size += item.encoded_len();
            batch.push(item);
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tonic::Status;

    use super::*;
    use crate::proto::runtime::v1;

    fn item(number: usize, size: usize) -> v1::PodIp {
        let digits = number.to_string();
        v1::PodIp { ip: "0".repeat(size.saturating_sub(digits.len())) + &digits }
    }

    async fn sizes(items: Vec<v1::PodIp>) -> Vec<usize> {
        let message = |additional_ips| v1::PodSandboxNetworkStatus {
            additional_ips,
            ..v1::PodSandboxNetworkStatus::default()
        };
        let all: Vec<Result<_, Status>> =
            batches(items.into_iter(), usize::MAX, message).collect().await;
        let messages: Vec<_> = all.into_iter().map(Result::unwrap).collect();
        for (index, ip) in messages.iter().flat_map(|m| &m.additional_ips).enumerate() {
            assert_eq!(ip.ip.parse(), Ok(index), "in order, every one once");
        }
        assert!(messages.iter().all(|m| m.encoded_len() < 4 << 20));
        messages.iter().map(|m| m.additional_ips.len()).collect()
    }

    #[tokio::test]
    async fn items_are_split_by_size() {
        assert_eq!(sizes(Vec::new()).await, [0; 0]);
        assert_eq!(sizes((0..1000).map(|n| item(n, 64)).collect()).await, [1000]);
        let (half, whole) = (MAX_BYTES / 2 - 16, MAX_BYTES + 1);
        let uneven = [half, half, 100, whole, 1, half, half];
        let items = uneven.into_iter().enumerate().map(|(n, size)| item(n, size)).collect();
        assert_eq!(sizes(items).await, [2, 1, 1, 3]);
    }

    #[tokio::test]
    async fn every_item_comes_once_in_messages_that_are_not_too_large() {
        async fn split(names: Vec<String>) -> Vec<Vec<String>> {
            let items = names
                .into_iter()
                .map(|name| v1::ContainerAttributes { id: name, ..Default::default() });
            let ids = |batch: Vec<v1::ContainerAttributes>| {
                batch.into_iter().map(|item| item.id).collect::<Vec<_>>()
            };
            batches(items, 128, ids).map(|batch| batch.expect("a batch")).collect().await
        }
        assert!(split(Vec::new()).await.is_empty());
        let many: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        let got = split(many.clone()).await;
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [128, 128, 44]);
        assert_eq!(got.concat(), many);
        let half = "x".repeat(MAX_BYTES / 2 + 1);
        let huge = "y".repeat(MAX_BYTES * 2);
        let got = split(vec![half.clone(), half.clone(), huge, "z".into()]).await;
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 1]);
    }
}
