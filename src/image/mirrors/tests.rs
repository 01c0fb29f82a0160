use super::*;

fn urls(sources: &[Source]) -> Vec<&str> {
    sources.iter().map(|source| source.url.as_str()).collect()
}

fn read(host: &str, text: &str) -> Result<Vec<Source>, Error> {
    from_file(host, Path::new("/etc/certs.d/x/hosts.toml"), text)
}

#[test]
fn without_configuration_the_registry_itself_is_asked() {
    for (host, want, skip) in [
        ("docker.io", vec!["https://registry-1.docker.io/v2"], false),
        ("reg.example.com", vec!["https://reg.example.com/v2"], false),
        ("reg.example.com:5000", vec!["https://reg.example.com:5000/v2"], false),
        ("localhost", vec!["https://localhost/v2"], true),
        ("localhost:80", vec!["http://localhost/v2"], false),
        ("127.1.2.3:5000", vec!["http://127.1.2.3:5000/v2", "https://127.1.2.3:5000/v2"], true),
        ("[::1]:5000", vec!["http://[::1]:5000/v2", "https://[::1]:5000/v2"], true),
        ("localhost.evil.com:5000", vec!["https://localhost.evil.com:5000/v2"], false),
        ("[fd00::1]", vec!["https://[fd00::1]/v2"], false),
    ] {
        let sources = upstream(host, &TlsOptions::default()).unwrap();
        assert_eq!(urls(&sources), want, "{host}");
        assert_eq!(sources.last().unwrap().tls.skip_verify, skip, "{host}");
    }
}

#[test]
fn mirrors_are_asked_in_the_order_of_the_file() {
    let sources = read(
        "docker.io",
        r#"
        server = "https://up.example.com"
        ca = "up.pem"
        [host."https://z.example.com"]
          capabilities = ["pull"]
          ca = ["a.pem", "/abs/b.pem"]
          client = [["c.pem", "c.key"]]
        [host."https://z.example.com".header]
          x-one = "1"
          x-two = ["2", "3"]
        [host."http://a.example.com:5000/pfx"]
          skip_verify = true
          dial_timeout = "5s"
        [host."https://o.example.com/custom/path"]
          override_path = true
          client = "both.pem"
        "#,
    )
    .unwrap();
    let want = [
        "https://z.example.com/v2",
        "http://a.example.com:5000/pfx/v2",
        "https://o.example.com/custom/path",
        "https://up.example.com/v2",
    ];
    assert_eq!(urls(&sources), want);
    let [z, a, o, up] = sources.as_slice() else { panic!("four sources") };
    assert_eq!((z.resolve, z.pull, z.mirror), (false, true, true));
    assert_eq!(z.tls.ca, [Path::new("/etc/certs.d/x/a.pem"), Path::new("/abs/b.pem")]);
    let pair = ("/etc/certs.d/x/c.pem".into(), Some("/etc/certs.d/x/c.key".into()));
    assert_eq!(z.tls.client, Some(pair));
    assert_eq!(z.headers.get_all("x-two").iter().count(), 2);
    assert!(!format!("{:?}", z.headers).contains('3'), "values are secret");
    assert!(a.tls.skip_verify && a.resolve && a.pull);
    assert_eq!(o.tls.client, Some(("/etc/certs.d/x/both.pem".into(), None)));
    assert_eq!((up.mirror, up.tls.ca.len()), (false, 1));
}

#[test]
fn without_a_server_the_registry_itself_comes_last() {
    let sources = read("docker.io", "[host.\"https://m.io\"]\n").unwrap();
    assert_eq!(urls(&sources), ["https://m.io/v2", "https://registry-1.docker.io/v2"]);
    let sources = read("reg.io", "skip_verify = true\ncapabilities = [\"pull\"]").unwrap();
    assert_eq!((sources[0].tls.skip_verify, sources[0].resolve), (true, false));
}

#[test]
fn broken_files_are_reported_without_their_content() {
    for bad in [
        "server = [",
        "[host.\"ftp://x\"]",
        "[host.\"https://u:S3CRET@x\"]",
        "[host.\"https://x?sig=S3CRET\"]",
        "[host.\"https://x\".header]\nauthorization = \"S3CRET\\n\"",
        "[host.\"https://x\".header]\nauthorization = \"S3CRET",
        "[host.\"https://x\"]\ncapabilities = [\"pull\", \"fetch\"]",
        "[host.\"https://x\"]\ndial_timeout = \"soon\"",
        "[host.\"https://x\"]\nskip_verify = \"S3CRET\"",
    ] {
        let error = read("x.io", bad).expect_err(bad).to_string();
        assert!(error.contains("hosts.toml") && !error.contains("S3CRET"), "{error}");
    }
}

#[test]
fn a_host_has_its_own_limit_for_connecting() {
    let text = "server = \"https://x.io\"\ndial_timeout = \"3s\"\n\
                [host.\"https://a\"]\ndial_timeout = \"250ms\"\n\
                [host.\"https://b\"]\ndial_timeout = \"0s\"\n\
                [host.\"https://c\"]\n";
    let sources = read("x.io", text).unwrap();
    let limits: Vec<_> = sources.iter().map(|source| source.tls.dial_timeout).collect();
    let millis = |millis| Some(std::time::Duration::from_millis(millis));
    assert_eq!(limits, [millis(250), None, None, millis(3000)]);
}

#[tokio::test]
async fn folders_are_searched_as_containerd_does() {
    let root = tempfile::tempdir().unwrap();
    let first = root.path().join("first");
    let second = root.path().join("second");
    let put = |path: PathBuf, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put(second.join("reg.io_5000_/hosts.toml"), "server = \"https://under\"");
    put(second.join("reg.io:5000/hosts.toml"), "server = \"https://colon\"");
    put(second.join("_default/hosts.toml"), "[host.\"https://any\"]");
    put(second.join("certs.io/ca.crt"), "");
    put(second.join("certs.io/me.cert"), "");
    let folders = [first.clone(), second.clone()];
    let found = async |host: &str| sources(&folders, host).await.unwrap();
    assert_eq!(urls(&found("reg.io:5000").await), ["https://under/v2"]);
    assert_eq!(urls(&found("x.io").await), ["https://any/v2", "https://x.io/v2"]);
    let certs = found("certs.io").await;
    assert_eq!(certs[0].tls.ca, [second.join("certs.io/ca.crt")]);
    let pair = (second.join("certs.io/me.cert"), Some(second.join("certs.io/me.key")));
    assert_eq!(certs[0].tls.client, Some(pair));
    put(first.join("x.io/hosts.toml"), "nonsense");
    assert!(sources(&folders, "x.io").await.is_err());
}

#[test]
fn an_endpoint_on_another_host_is_a_proxy() {
    for (registry, server, proxy) in [
        ("reg.io", "https://reg.io", false),
        ("reg.io", "https://reg.io:443/v2", false),
        ("reg.io:443", "https://reg.io", false),
        ("reg.io:80", "http://reg.io", false),
        ("reg.io:5000", "https://reg.io:5000", false),
        ("[::1]:5000", "http://[::1]:5000", false),
        ("docker.io", "https://registry-1.docker.io", false),
        ("docker.io", "https://mirror.io", true),
        ("reg.io", "https://registry-1.docker.io", true),
        ("reg.io", "https://proxy.io/reg", true),
        ("reg.io", "https://reg.io:5000", true),
        ("reg.io:5000", "https://reg.io", true),
        ("reg.io:443", "http://reg.io", true),
    ] {
        let sources = read(registry, &format!("server = {server:?}")).unwrap();
        assert_eq!(sources[0].is_proxy(registry), proxy, "{registry} {server}");
    }
}
