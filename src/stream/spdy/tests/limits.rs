//! Clients that exceed limits or send invalid data.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{connect, control, syn_stream, words};
use crate::stream::spdy::{Connection, Limits};

/// A client that sends endless PINGs without reading answers is no longer read.
#[tokio::test]
async fn a_flood_of_pings_waits_for_its_reader() {
    let (client, _incoming, _run) = connect(Limits::default());
    let (mut read, mut write) = tokio::io::split(client.io);
    let ping = control(6, 0, &words(&[1])).repeat(1_000);
    let flood = async {
        let mut sent = 0_u64;
        loop {
            write.write_all(&ping).await.unwrap();
            sent += 1_000;
            assert!(sent < 1_000_000, "no end of PINGs is taken");
        }
    };
    let long = async {
        for _ in 0..100_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = flood => {}
        () = long => {}
    }
    // Once it reads, it is served again.
    let mut answers = vec![0; 12 * 10_000];
    let more = async {
        let _ = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                write.write_all(&ping).await.unwrap();
            }
        })
        .await;
    };
    tokio::select! {
        result = read.read_exact(&mut answers) => assert!(result.is_ok()),
        () = more => panic!("no answers"),
    }
}

/// Feeds bytes to a connection that accepts and echoes all streams, until all were read.
async fn feed(bytes: &[u8]) {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (connection, mut incoming) = Connection::server(near, Limits::default());
    let echo = async {
        let mut streams = Vec::new();
        while let Some(new) = incoming.next().await {
            let mut stream = new.accept();
            let _ = stream.write_all(b"hello").await;
            streams.push(stream);
        }
    };
    let client = async {
        let _ = far.write_all(bytes).await;
        let _ = far.shutdown().await;
        let _ = far.read_to_end(&mut Vec::new()).await;
    };
    let all = async { tokio::join!(connection.run(), echo, client) };
    let done = tokio::time::timeout(Duration::from_secs(20), all).await;
    done.expect("a connection whose client has closed ends").0.ok();
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![4 => 0u32..10, 1 => any::<u32>()];
    let values = prop::collection::vec(prop_oneof![3 => 0u32..10, 1 => any::<u32>()], 0..5);
    prop_oneof![
        (0u16..12, any::<u8>(), values).prop_map(|(kind, flags, values)| control(
            kind,
            flags,
            &words(&values)
        )),
        (id.clone(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..100)).prop_map(
            |(id, fin, data)| {
                let head = words(&[id & !(1 << 31), u32::from(fin) << 24 | data.len() as u32]);
                [head, data].concat()
            }
        ),
        // Stored header blocks, which need no compression state.
        (id, any::<u8>()).prop_map(|(id, flags)| {
            let block = [0, 4, 0, !4, !0, 0, 0, 0, 0, 0, 0, 0, !0, !0];
            control(1, flags & 3, &syn_stream(id, &block))
        }),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

/// Adds a first stream that starts the zlib stream, so that later blocks can be valid.
fn begun(frames: Vec<Vec<u8>>) -> Vec<u8> {
    let block = [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2, 0, 4, 0, !4, !0, 0, 0, 0, 0, 0, 0, 0, !0, !0];
    [control(1, 0, &syn_stream(1, &block)), frames.concat()].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bytes_hang_a_connection(frames in prop::collection::vec(frame(), 0..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(feed(&begun(frames)));
    }
}
