use serde_json::{Value, json};

use super::*;

fn digest(fill: char) -> String {
    format!("sha256:{}", fill.to_string().repeat(64))
}

fn config_descriptor() -> Value {
    json!({"mediaType": OCI_CONFIG, "digest": digest('c'), "size": 10})
}

fn layer() -> Value {
    json!({"mediaType": format!("{OCI_LAYER}+gzip"), "digest": digest('1'), "size": 5})
}

fn image(layers: Value) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_descriptor(),
           "layers": layers})
}

fn parse_value(media_type: &str, value: &Value) -> Result<Document, Malformed> {
    parse(media_type, value.to_string().as_bytes())
}

fn entry(platform: &str) -> Value {
    let mut parts = platform.split('/');
    json!({"mediaType": OCI_MANIFEST, "digest": digest('a'), "size": 7, "platform": {
        "os": parts.next(), "architecture": parts.next(), "variant": parts.next()}})
}

#[test]
fn hostile_manifests_are_refused() {
    let with = |field: &str, value: Value| {
        let mut manifest = image(json!([layer()]));
        manifest[field] = value;
        manifest
    };
    let layer_with = |field: &str, value: Value| {
        let mut layer = layer();
        layer[field] = value;
        image(json!([layer]))
    };
    let cases = [
        ("both", with("manifests", json!([entry("linux/amd64")]))),
        ("schema 1", with("schemaVersion", json!(1))),
        ("fsLayers", with("fsLayers", json!([{"blobSum": digest('1')}]))),
        ("another own type", with("mediaType", json!(DOCKER_MANIFEST))),
        ("index as manifest", with("mediaType", json!(OCI_INDEX))),
        ("null config", with("config", Value::Null)),
        ("config is a list", with("config", json!([]))),
        ("null layers", image(Value::Null)),
        ("null layer", image(json!([null]))),
        ("10000 layers", image(json!(vec![layer(); 10_000]))),
        ("501 layers", image(json!(vec![layer(); MAX_LAYERS + 1]))),
        ("path digest", layer_with("digest", json!("sha256:../../x"))),
        ("short digest", layer_with("digest", json!("sha256:abc"))),
        ("upper-case digest", layer_with("digest", json!(format!("sha256:{}", "A".repeat(64))))),
        ("unknown algorithm", layer_with("digest", json!(format!("sha512:{}", "a".repeat(128))))),
        ("no digest", layer_with("digest", Value::Null)),
        ("negative size", layer_with("size", json!(-1))),
        ("huge size", layer_with("size", json!(u64::MAX))),
        ("size as text", layer_with("size", json!("5"))),
        ("sum overflows", {
            let mut huge = layer();
            huge["size"] = json!(i64::MAX);
            image(json!([huge, huge]))
        }),
        ("unknown layer type", layer_with("mediaType", json!("application/x-sh"))),
        ("manifest as layer", layer_with("mediaType", json!(OCI_MANIFEST))),
        ("artifact config", {
            let mut artifact = image(json!([]));
            artifact["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
            artifact
        }),
        ("large config", {
            let mut large = image(json!([]));
            large["config"]["size"] = json!(MAX_CONFIG + 1);
            large
        }),
        ("a list", json!([])),
        ("null", Value::Null),
    ];
    for (name, manifest) in cases {
        let error = parse_value(OCI_MANIFEST, &manifest).expect_err(name);
        assert!(error.0.len() < 200, "{name}: {error}");
    }
    for bad in ["", "{", "[[[", "\u{0}", "{\"layers\":[],\"layers\":[]}"] {
        assert!(parse(OCI_MANIFEST, bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(parse(OCI_MANIFEST, &[b'['; 100_000]).is_err(), "deep nesting");
    let padded = format!("{}{}", image(json!([])), " ".repeat(MAX_MANIFEST));
    assert!(parse(OCI_MANIFEST, padded.as_bytes()).unwrap_err().0.contains("larger"));
    for other in ["application/json", "application/vnd.docker.distribution.manifest.v1+prettyjws"] {
        assert!(parse_value(other, &image(json!([]))).is_err(), "{other}");
    }
}

#[test]
fn good_manifests_are_read() {
    for n in [0, 1, 127] {
        let Document::Manifest(manifest) =
            parse_value(OCI_MANIFEST, &image(json!(vec![layer(); n]))).unwrap()
        else {
            panic!("no manifest")
        };
        assert_eq!((manifest.layers.len(), manifest.config.size), (n, 10));
    }
    for kind in ["nondistributable.v1.tar+gzip", "v1.tar+zstd", "v1.tar"] {
        assert!(is_layer(&format!("application/vnd.oci.image.layer.{kind}")), "{kind}");
    }
    assert!(is_layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"));
}

#[test]
fn types_must_agree() {
    let body = |own: Option<&str>| json!({"mediaType": own}).to_string();
    let found = |header, own| media_type(header, body(own).as_bytes()).ok();
    assert_eq!(found(Some("a/b; charset=utf-8"), Some("a/b")).as_deref(), Some("a/b"));
    assert_eq!(found(Some("a/b"), None).as_deref(), Some("a/b"));
    assert_eq!(found(None, Some("a/b")).as_deref(), Some("a/b"));
    assert_eq!(found(Some("a/b"), Some("a/c")), None);
    assert_eq!(found(None, None), None);
}

#[test]
fn an_index_offers_what_can_run() {
    let mut attestation = entry("linux/amd64");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut odd = entry("linux/amd64");
    odd["mediaType"] = json!("text/plain");
    let bare = json!({"mediaType": OCI_INDEX, "digest": digest('b'), "size": 3});
    let index = json!({"schemaVersion": 2, "manifests": [
        attestation, odd, entry("unknown/unknown"), bare, entry("linux/arm/v6"),
        entry("linux/arm/v7"), entry("linux/arm64"), entry("windows/amd64")]});
    let Document::Index(entries) = parse_value(OCI_INDEX, &index).unwrap() else {
        panic!("no index")
    };
    let chosen = |os: &str, arch: &str, variant: &str| {
        choose(&entries, &Platform::new(os, arch, variant)).map(|entry| entry.position)
    };
    assert_eq!(entries.iter().map(|e| e.position).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    assert_eq!(chosen("linux", "arm64", ""), Some(6));
    assert_eq!(chosen("linux", "arm", "v7"), Some(5));
    assert_eq!(chosen("linux", "arm", "v6"), Some(4));
    assert_eq!(chosen("linux", "amd64", ""), Some(3), "the one without a platform");
    assert_eq!(choose(&entries[1..], &Platform::new("linux", "s390x", "")), None);
    assert_eq!(index_labels(&entries[3])["containerd.io/gc.ref.content.m.6"], digest('a'));
}

#[test]
fn configurations_must_fit_the_manifest() {
    let Document::Manifest(manifest) =
        parse_value(OCI_MANIFEST, &image(json!([layer(), layer()]))).unwrap()
    else {
        panic!("no manifest")
    };
    let rootfs = |ids: Value| {
        json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": ids}})
    };
    let parse = |value: &Value| parse_config(&manifest, value.to_string().as_bytes());
    for (name, bad) in [
        ("null", Value::Null),
        ("no rootfs", json!({})),
        ("too few", rootfs(json!([digest('1')]))),
        ("too many", rootfs(json!(vec![digest('1'); 3]))),
        ("no digest", rootfs(json!(["x", "y"]))),
        (
            "other rootfs",
            json!({"rootfs": {"type": "vhd", "diff_ids": [digest('1'), digest('2')]}}),
        ),
    ] {
        assert!(parse(&bad).is_err(), "{name}");
    }
    let mut good = rootfs(json!([digest('1'), digest('2')]));
    assert_eq!(parse(&good).unwrap().image, ImageConfig::default());
    good["config"] = json!({"User": "1000:x", "Env": null, "Cmd": ["sh"],
        "Volumes": {"/b": {}, "/a": {}}, "Labels": {"k": "v", "n": null}, "Unknown": 1});
    let read = parse(&good).unwrap();
    assert_eq!(
        (read.image.user.as_str(), read.image.cmd.as_slice()),
        ("1000:x", &["sh".into()][..])
    );
    assert_eq!(read.image.volumes, ["/a", "/b"]);
    assert_eq!(read.image.labels["n"], "");
    assert_eq!(read.platform.unwrap().to_string(), "linux/amd64");
}

#[test]
fn chain_ids_follow_the_specification() {
    let ids: Vec<Digest> = ['1', '2'].map(|c| Digest::try_from(digest(c)).unwrap()).into();
    let chains = chain_ids(&ids);
    let second = Digest::of(format!("{} {}", digest('1'), digest('2')).as_bytes());
    assert_eq!(chains, [ids[0].clone(), second]);
    assert!(chain_ids(&[]).is_empty());
}

#[test]
fn snapshots_inherit_only_their_annotations() {
    let annotations = StringMap::from([
        ("containerd.io/snapshot/remote".into(), "1".into()),
        ("containerd.io/snapshot/uidmapping".into(), "0:0:1".into()),
        ("containerd.io/snapshot/big".into(), "x".repeat(5000)),
        ("containerd.io/restart.loguri".into(), "binary:///bin/sh".into()),
    ]);
    let digest = Digest::try_from(digest('1')).unwrap();
    let layer = Descriptor { media_type: OCI_LAYER.into(), digest, size: 1, annotations };
    assert_eq!(
        snapshot_labels(&layer),
        StringMap::from([("containerd.io/snapshot/remote".into(), "1".into())])
    );
}
