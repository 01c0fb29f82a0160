//! Nobody keeps others out.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

use super::super::HANDSHAKE;
use super::world::{Caller, LIMIT, World};
use crate::lifecycle::crowd;

const ENDLESS: &str = "/podbay.v1.Pods/RestartContainer";
const GET: &str = "/podbay.v1.Pods/Get";

#[tokio::test]
async fn a_crowd_of_silent_strangers_keeps_nobody_out() {
    let world = World::start().await;
    let mut crowd = crowd::connect(world.address, 5_000).await;
    // Some leave in the middle of the handshake.
    for _ in 0..1_000 {
        let gone = TcpStream::connect(world.address).await.unwrap();
        gone.set_zero_linger().unwrap();
    }
    let begun = tokio::time::Instant::now();
    world.caller("view").await.call("/podbay.v1.Pods/Get").await.unwrap();
    assert!(begun.elapsed() < HANDSHAKE / 2, "{:?}", begun.elapsed());
    // The oldest ones were dropped.
    let ended = timeout(LIMIT, crowd[0].read(&mut [0])).await.expect("dropped");
    assert_eq!(ended.unwrap_or(0), 0);
    world.stop().await;
}

#[tokio::test]
async fn one_caller_cannot_take_all_calls() {
    let world = World::start().await;
    let Caller(channel) = world.caller("operate").await;
    let call = async || Caller(channel.clone()).call(ENDLESS).await;
    // Those within its share do not end, so the first to end is the one too many.
    let mut calls: FuturesUnordered<_> = (0..257).map(|_| call()).collect();
    let refused = timeout(LIMIT / 2, calls.next()).await.expect("one too many");
    let refused = refused.expect("a call").expect_err("one too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.message(), "256 calls of yours are in flight");
    world.caller("view").await.call(GET).await.unwrap();
    drop(calls);
    world.until(async || Caller(channel.clone()).call(GET).await.is_ok()).await;
    world.stop().await;
}
