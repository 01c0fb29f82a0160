//! Pods from a URL.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Serves each answer once, the last one repeatedly.
async fn server(answers: Vec<(&'static str, String)>) -> (Url, tokio::task::JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        for turn in 0.. {
            let (status, body) = &answers[turn.min(answers.len() - 1)];
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\
                 location: http://127.0.0.1:1/\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    let url = format!("http://user:geheim@{address}/pods?token=geheim");
    (url.parse().expect("an address"), task)
}

#[tokio::test]
async fn an_address_is_asked_again_and_again() {
    let (url, _server) = server(vec![
        ("200 OK", pod("a", "i:1")),
        ("500 Broken", String::new()),
        ("302 Found", String::new()),
        ("200 OK", "half: [".to_owned()),
        ("200 OK", pod("a", "i:2")),
        ("200 OK", "x".repeat((10 << 20) + 1)),
    ])
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let house = House::of(dir, Some(url), Vec::new());
    house.wants(&[("a", "i:1")]).await;
    let second = house.wants(&[("a", "i:2")]).await;
    let given = &second[&PodKey::new("default", "a")];
    assert_eq!(given.source, Source::Http);
    let faults = || house.statics.faults();
    let too_long = || faults().iter().any(|(_, why)| why.contains("more than the 10485760 bytes"));
    until(too_long, || format!("{:?}", faults())).await;
    assert!(!format!("{:?} {given:?}", faults()).contains("geheim"), "secrets are not shown");
    assert_eq!(house.told.borrow().as_ref().map(BTreeMap::len), Some(1), "the last good one stays");
}

#[tokio::test]
async fn an_address_can_say_that_there_are_no_pods() {
    let (url, _server) = server(vec![
        ("200 OK", pod("a", "i:1")),
        ("200 OK", String::new()),
        ("200 OK", "apiVersion: v1\nkind: PodList\n".to_owned()),
        ("200 OK", "{\"apiVersion\": \"v1\", \"kind\": \"PodList\", \"items\": []}".to_owned()),
    ])
    .await;
    let house = House::of(tempfile::tempdir().expect("a folder"), Some(url), Vec::new());
    house.wants(&[("a", "i:1")]).await;
    // Neither an empty text nor a list that is cut off ends its pods.
    let fault = || house.statics.faults().iter().any(|(_, why)| why.contains("no object"));
    until(fault, || format!("{:?}", house.statics.faults())).await;
    house.wants(&[]).await;
    house.is_content().await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_does_not_hold_up_the_folder() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/pods", listener.local_addr().expect("an address"));
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a.yaml"), pod("a", "i:1")).expect("written");
    let begin = Instant::now();
    let house = House::of(dir, Some(url.parse().expect("an address")), Vec::new());
    house.wants(&[("a", "i:1")]).await;
    let (_connection, _) = listener.accept().await.expect("a request");
    house.put("a.yaml", &pod("a", "i:2"));
    house.wants(&[("a", "i:2")]).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "the server was waited for");
}
