//! Lists as streams: every item once, in messages of bounded size, then the end.

use prost::Message;
use tonic::codegen::BoxStream;

/// Most bytes of items in one message: far below the 4 MiB that a client takes by default, and
/// large enough that most lists are one message.
const MAX_BYTES: usize = 1 << 20;

/// A stream of `items`, as many in each message as fit into [`MAX_BYTES`]. An item that is larger
/// goes alone. No items are no message.
pub(super) fn batches<I, M>(
    items: impl Iterator<Item = I> + Send + 'static,
    message: fn(Vec<I>) -> M,
) -> BoxStream<M>
where
    I: Message + 'static,
    M: Send + 'static,
{
    let messages = Batches { items: items.peekable() }.map(move |batch| Ok(message(batch)));
    Box::pin(futures::stream::iter(messages))
}

struct Batches<T: Iterator> {
    items: std::iter::Peekable<T>,
}

impl<I: Message, T: Iterator<Item = I>> Iterator for Batches<T> {
    type Item = Vec<I>;

    fn next(&mut self) -> Option<Vec<I>> {
        let first = self.items.next()?;
        let mut size = first.encoded_len();
        let mut batch = vec![first];
        while let Some(item) = self.items.next_if(|item| size + item.encoded_len() <= MAX_BYTES) {
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
        let all: Vec<Result<_, Status>> = batches(items.into_iter(), message).collect().await;
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
}
