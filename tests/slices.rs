//! Slices over a real bus, and without one, of a fake systemd.

mod support;

use podbay::backend::linux::Slices;
use podbay::backend::{CgroupVersion, ErrorKind};
use podbay::model::resources::CgroupLimits;
use support::logind::Bus;
use support::systemd::Systemd;

const NAME: &str = "kubepods-pod1.slice";
const V2: CgroupVersion = CgroupVersion::V2;

fn slices(bus: &Bus) -> Slices {
    Slices { bus: Some(bus.address.clone()), direct: Some("/nowhere".into()) }
}

fn limits(memory: Option<i64>) -> CgroupLimits {
    CgroupLimits { cpu_shares: 1024, cpu_quota: Some(50_000), memory, ..CgroupLimits::default() }
}

#[tokio::test]
async fn a_slice_keeps_its_limits_until_it_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::start(folder.path()).await;
    let systemd = Systemd::serve(&bus, "done").await;
    keeps_its_limits(&slices(&bus), &systemd).await;
}

#[tokio::test]
async fn systemd_is_reached_without_a_bus() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = format!("unix:path={}", folder.path().join("none").display());
    let socket = folder.path().join("private");
    let systemd = Systemd::serve_directly(&socket, "done").await;
    let slices = Slices { bus: Some(nowhere), direct: Some(socket) };
    keeps_its_limits(&slices, &systemd).await;
}

async fn keeps_its_limits(slices: &Slices, systemd: &Systemd) {
    let shown = |name: &str| systemd.property(NAME, name).expect("the unit");
    slices.make(NAME, &limits(Some(64 << 20)), V2).await.expect("made");
    assert_eq!(shown("MemoryMax"), "uint64 67108864");
    assert_eq!(shown("CPUWeight"), "uint64 39");
    assert_eq!(shown("CPUQuotaPerSecUSec"), "uint64 500000");
    assert_eq!(shown("DefaultDependencies"), "false");
    slices.make(NAME, &limits(None), V2).await.expect("changed");
    assert_eq!(shown("MemoryMax"), "uint64 18446744073709551615");
    slices.stop(NAME).await.expect("stopped");
    assert_eq!(systemd.property(NAME, "MemoryMax"), None);
    slices.stop(NAME).await.expect("a missing one is fine");
}

#[tokio::test]
async fn a_failed_job_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::start(folder.path()).await;
    let _systemd = Systemd::serve(&bus, "dependency").await;
    let error = slices(&bus).make(NAME, &limits(None), V2).await.expect_err("it failed");
    assert!(error.to_string().contains("dependency"), "{error}");
    assert!(error.to_string().contains(NAME), "{error}");
    assert!(slices(&bus).stop(NAME).await.is_err());
}

#[tokio::test]
async fn a_host_without_systemd_is_recognized() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = format!("unix:path={}", folder.path().join("none").display());
    let direct = Some(folder.path().join("none either"));
    let nobody = Slices { bus: Some(nowhere), direct }.stop(NAME).await;
    assert_eq!(nobody.expect_err("no bus").kind, ErrorKind::Unsupported);
    let bus = Bus::start(folder.path()).await;
    let nobody = slices(&bus).make(NAME, &limits(None), V2).await;
    assert_eq!(nobody.expect_err("no systemd").kind, ErrorKind::Unsupported);
}
