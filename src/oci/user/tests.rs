use proptest::prelude::*;

use super::*;

const PASSWD: &str = "\
# comment
root:x:0:0:root:/root:/bin/sh

app:x:1000:100:App,,,:/home/app:/bin/sh
4294967296:x:0:0:root by name:/:/bin/sh
-1:x:0:0::/:/bin/sh
wrapped:x:4294967296:0::/:/bin/sh
signed:x:-5:0::/:/bin/sh
words:x:zero:0::/:/bin/sh
short:x:7
nohome:x:1001:101
evil:x:1002:102::relative:/bin/sh
";
const GROUP: &str = "\
root:x:0:
users:x:100:
wheel:x:10:root,app
app:x:1000:app
audio:x:29:app,other
bad:x:99999999999:app
open:x:30
";

fn files() -> UserFiles {
    UserFiles { passwd: Some(PASSWD.into()), group: Some(GROUP.into()) }
}

fn image(user: &str) -> UserRequest<'_> {
    UserRequest { image_user: user, ..UserRequest::default() }
}

fn resolved(request: &UserRequest<'_>) -> (u32, u32, Vec<u32>) {
    let user = resolve(request, &files()).unwrap();
    (user.uid, user.gid, user.additional_gids)
}

#[test]
fn users_of_images() {
    for (text, expected) in [
        ("", (0, 0, vec![0, 10])),
        ("root", (0, 0, vec![0, 10])),
        ("0", (0, 0, vec![0, 10])),
        ("app", (1000, 100, vec![10, 29, 100])),
        ("1000", (1000, 100, vec![10, 29, 100])),
        ("1000:", (1000, 100, vec![10, 29, 100])),
        ("1000:5", (1000, 5, vec![5, 10, 29])),
        ("app:wheel", (1000, 10, vec![10, 29])),
        ("4242", (4242, 0, vec![0])),
        ("4242:users", (4242, 100, vec![100])),
        ("2147483647:2147483647", (MAX_ID, MAX_ID, vec![MAX_ID])),
        ("nohome", (1001, 101, vec![101])),
    ] {
        assert_eq!(resolved(&image(text)), expected, "{text:?}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_and_never_names() {
    for bad in [
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+1",
        "1:4294967296",
        "1:-1",
        "app:2147483648",
    ] {
        let error = resolve(&image(bad), &files()).unwrap_err();
        assert!(matches!(error, Error::Image { field: "User", .. }), "{bad}: {error}");
    }
}

#[test]
fn malformed_users_are_refused() {
    for bad in [":", ":5", "a:b:c", "a b", "a\nb", "a\0", "a/b", "app:\n"] {
        let error = resolve(&image(bad), &files()).unwrap_err();
        assert!(matches!(error, Error::Image { field: "User", .. }), "{bad:?}: {error}");
    }
}

#[test]
fn broken_entries_are_nobody_and_not_root() {
    for name in ["wrapped", "signed", "words", "short", "nobody", "Root"] {
        assert_eq!(
            resolve(&image(name), &files()),
            Err(Error::UnknownUser(name.to_owned())),
            "{name}"
        );
    }
    for name in ["bad", "nothing"] {
        let user = format!("app:{name}");
        assert_eq!(resolve(&image(&user), &files()), Err(Error::UnknownGroup(name.to_owned())));
    }
    let nothing = UserFiles::default();
    assert_eq!(resolve(&image("app"), &nothing), Err(Error::UnknownUser("app".to_owned())));
    assert_eq!(resolve(&image("7"), &nothing).unwrap().gid, 0);
}

#[test]
fn the_caller_wins_over_the_image() {
    let request = UserRequest { run_as_user: Some(0), ..image("app") };
    assert_eq!(resolved(&request).0, 0);
    let request = UserRequest { run_as_username: Some("app"), ..image("root") };
    assert_eq!(resolved(&request), (1000, 100, vec![10, 29, 100]));
    let request =
        UserRequest { run_as_user: Some(1000), run_as_username: Some("root"), ..image("") };
    assert_eq!(resolved(&request).0, 1000);
    let request = UserRequest { run_as_username: Some("1000"), ..image("") };
    assert_eq!(resolved(&request).0, 1000);
    let request = UserRequest { run_as_username: Some(""), ..image("app") };
    assert_eq!(resolved(&request).0, 1000);
    // The image's group applies only to the image's user.
    let request = UserRequest { run_as_user: Some(4242), ..image("app:wheel") };
    assert_eq!(resolved(&request), (4242, 0, vec![0]));
    // A malformed USER does not matter when the caller names another user.
    let request = UserRequest { run_as_user: Some(4242), ..image("-1") };
    assert_eq!(resolved(&request).0, 4242);
}

#[test]
fn groups_of_image_and_caller_by_policy() {
    use SupplementalGroupsPolicy::{Merge, Strict};
    for (policy, group, supplemental, expected) in [
        (Merge, None, &[][..], vec![10, 29, 100]),
        (Merge, None, &[500, 10][..], vec![10, 29, 100, 500]),
        (Merge, Some(7), &[500][..], vec![7, 10, 29, 500]),
        (Strict, None, &[][..], vec![100]),
        (Strict, None, &[500][..], vec![100, 500]),
        (Strict, Some(7), &[500][..], vec![7, 500]),
    ] {
        let request = UserRequest {
            run_as_user: Some(1000),
            run_as_group: group,
            supplemental_groups: supplemental,
            policy,
            ..UserRequest::default()
        };
        assert_eq!(resolved(&request).2, expected, "{policy:?} {group:?} {supplemental:?}");
    }
}

#[test]
fn bad_requests_are_refused_by_field() {
    let big = 2_147_483_648;
    for (request, expected) in [
        (UserRequest { run_as_user: Some(big), ..image("") }, "run_as_user"),
        (UserRequest { run_as_group: Some(1), ..image("app") }, "run_as_group"),
        (
            UserRequest { run_as_user: Some(1), run_as_group: Some(u32::MAX), ..image("") },
            "run_as_group",
        ),
        (UserRequest { run_as_username: Some("a:b"), ..image("") }, "run_as_username"),
        (UserRequest { run_as_username: Some("4294967296"), ..image("") }, "run_as_username"),
        (UserRequest { run_as_username: Some("a\nb"), ..image("") }, "run_as_username"),
        (UserRequest { supplemental_groups: &[1, big], ..image("") }, "supplemental_groups[1]"),
    ] {
        let error = resolve(&request, &files()).unwrap_err();
        assert!(
            matches!(error, Error::Invalid { ref field, .. }
                if *field == format!("{SECURITY}.{expected}")),
            "{request:?}: {error}"
        );
    }
}

#[test]
fn the_home_is_absolute_and_one_line() {
    let home = |user: &str| resolve(&image(user), &files()).unwrap().home;
    assert_eq!(home("app").as_deref(), Some("/home/app"));
    assert_eq!(home("nohome"), None);
    assert_eq!(home("evil"), None);
    assert_eq!(home("4242"), None);
    let files = UserFiles { passwd: Some(b"a:x:1:1::/a\0b:/sh".to_vec()), group: None };
    assert_eq!(resolve(&image("a"), &files).unwrap().home, None);
}

#[test]
fn files_are_asked_for_only_when_needed() {
    use SupplementalGroupsPolicy::{Merge, Strict};
    for (policy, user, uid, gid, needed) in [
        (Merge, "0", None, None, true),
        (Strict, "", None, None, false),
        (Strict, "0", None, None, true),
        (Strict, "0:0", None, None, false),
        (Strict, "app", None, None, true),
        (Strict, "1:users", None, None, true),
        (Strict, "app", Some(1), Some(1), false),
        (Strict, "app", Some(1), None, true),
        (Merge, "-1", None, None, false),
    ] {
        let request = UserRequest { policy, run_as_user: uid, run_as_group: gid, ..image(user) };
        assert_eq!(needs_files(&request), needed, "{request:?}");
        if !needed {
            assert_eq!(
                resolve(&request, &UserFiles::default()).ok().map(|u| (u.uid, u.gid)),
                resolve(&request, &files()).ok().map(|u| (u.uid, u.gid)),
            );
        }
    }
}

proptest! {
    #[test]
    fn hostile_files_and_users_never_panic(
        passwd in proptest::collection::vec(any::<u8>(), 0..400),
        group in proptest::collection::vec(any::<u8>(), 0..400),
        user in "\\PC{0,20}",
    ) {
        let files = UserFiles { passwd: Some(passwd), group: Some(group) };
        if let Ok(found) = resolve(&image(&user), &files) {
            prop_assert!(found.additional_gids.contains(&found.gid));
            prop_assert!(found.additional_gids.is_sorted());
            prop_assert!(found.uid <= MAX_ID && found.gid <= MAX_ID);
        }
    }

    #[test]
    fn root_is_only_who_says_so(
        line in "[a-z0-9+-]{0,6}:x:[0-9+-]{0,12}:[0-9]{0,12}:[a-z:]{0,9}",
        user in "[a-z0-9+-]{1,12}",
    ) {
        let files = UserFiles { passwd: Some(line.clone().into_bytes()), group: None };
        if let Ok(found) = resolve(&image(&user), &files)
            && found.uid == 0
        {
            let fields: Vec<&str> = line.split(':').collect();
            let zero = |text: &str| !text.is_empty() && text.bytes().all(|b| b == b'0');
            prop_assert!(zero(&user) || (fields[0] == user && zero(fields[2])));
        }
    }
}
