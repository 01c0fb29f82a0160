//! Headers of tar entries. Pure.
//!
//! Fields are parsed by the `tar` crate. Its archive reader is not used: it blocks a thread for
//! each byte it waits for, and reads extended headers of any length into memory.

use tar::{EntryType, Header};

/// Size of a header; bodies are padded to a multiple of it.
pub(super) const BLOCK: usize = 512;
/// Maximum length of an entry's name or a link's target, in bytes.
pub(super) const MAX_PATH: usize = 1024;

/// A parsed header block.
pub(super) enum Raw {
    /// The end-of-archive marker.
    End,
    /// An entry, or an extension of the next one.
    Of(Kind, Fields),
}

/// The type of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
    /// The body is the name of the next entry.
    LongName,
    /// The body is the link target of the next entry.
    LongLink,
    /// The body has PAX records for the next entry.
    Pax,
    /// The body has PAX records for all later entries.
    PaxGlobal,
}

/// The fields that are used.
pub(super) struct Fields {
    pub path: Vec<u8>,
    pub target: Vec<u8>,
    pub size: u64,
}

/// Reads a header.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Raw, &'static str> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(Raw::End);
    }
    let header = Header::from_byte_slice(block);
    // The checksum counts its own field as spaces.
    let own = 148..156;
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u32::from(if own.contains(&at) { b' ' } else { *byte }))
        .sum();
    if header.cksum().ok() != Some(sum) {
        return Err("it is not a tar archive, or is damaged");
    }
    let path = header.path_bytes().into_owned();
    let kind = match header.entry_type() {
        // Old archives without entry types mark directories by a trailing slash.
        EntryType::Regular if path.ends_with(b"/") => Kind::Folder,
        EntryType::Regular => Kind::File,
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink => Kind::Link,
        EntryType::GNULongName => Kind::LongName,
        EntryType::GNULongLink => Kind::LongLink,
        EntryType::XHeader => Kind::Pax,
        EntryType::XGlobalHeader => Kind::PaxGlobal,
        EntryType::Link => return Err("hard links are not supported"),
        EntryType::GNUSparse => return Err("sparse files are not supported"),
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            return Err("devices are not supported");
        }
        _ => return Err("entries of an unknown type are not supported"),
    };
    let size = header.entry_size().ok().filter(|size| *size <= i64::MAX as u64);
    let size = size.ok_or("the size of an entry is invalid")?;
    if size > 0 && matches!(kind, Kind::Folder | Kind::Link) {
        return Err("an entry that is not a file has data");
    }
    let target = header.link_name_bytes().unwrap_or_default().into_owned();
    Ok(Raw::Of(kind, Fields { path, target, size }))
}

/// Values from extended headers for the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub target: Option<Vec<u8>>,
    pub size: Option<u64>,
}

/// Parses the body of a PAX header: records of `LENGTH KEY=VALUE\n`; only the length says where a
/// record ends.
pub(super) fn pax(mut body: &[u8]) -> Result<Extended, &'static str> {
    const MALFORMED: &str = "an extended header is malformed";
    let mut extended = Extended::default();
    while !body.is_empty() {
        let space = body.iter().take(20).position(|byte| *byte == b' ').ok_or(MALFORMED)?;
        let length = std::str::from_utf8(&body[..space]).ok().and_then(number).ok_or(MALFORMED)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= body.len());
        let (record, rest) = body.split_at(length.ok_or(MALFORMED)?);
        let record = record.get(space + 1..).and_then(|text| text.strip_suffix(b"\n"));
        let record = record.ok_or(MALFORMED)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.path = Some(value.to_owned()),
            b"linkpath" => extended.target = Some(value.to_owned()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(number);
                extended.size = Some(size.ok_or(MALFORMED)?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err("sparse files are not supported"),
            // Times, owners and attributes do not matter: no files are created.
            _ => {}
        }
        body = rest;
    }
    Ok(extended)
}

/// A decimal number that fits a size.
fn number(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = plain.then(|| text.parse::<u64>().ok()).flatten();
    number.filter(|number| *number <= i64::MAX as u64)
}

/// An entry's name without redundant parts: `./a//b/` becomes `a/b`. Empty for the root.
pub(super) fn clean(raw: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(raw).map_err(|_| "a name is not valid UTF-8")?;
    if text.len() > MAX_PATH {
        return Err("a name is too long");
    }
    if text.chars().any(char::is_control) {
        return Err("a name has control characters");
    }
    if text.starts_with('/') {
        return Err("a name is an absolute path");
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("a name leads out of the archive"),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The entry in the same archive that a link points to.
pub(super) fn lead(link: &str, target: &[u8]) -> Result<String, &'static str> {
    let text =
        std::str::from_utf8(target).map_err(|_| "the target of a link is not valid UTF-8")?;
    if text.len() > MAX_PATH || text.starts_with('/') || text.chars().any(char::is_control) {
        return Err("a link leads out of the archive");
    }
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or("a link leads out of the archive")?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_or_refused() {
        for (raw, want) in
            [("a", "a"), ("./a//b/", "a/b"), ("./", ""), ("a/./b", "a/b"), ("a/..b/c", "a/..b/c")]
        {
            assert_eq!(clean(raw.as_bytes()).as_deref(), Ok(want), "{raw}");
        }
        let long = "a/".repeat(MAX_PATH);
        for raw in ["/a", "../a", "a/../../b", "a/..", "a\nb", "a\0b", long.as_str()] {
            assert!(clean(raw.as_bytes()).is_err(), "{raw:?}");
        }
        assert!(clean(b"\xff").is_err());
    }

    #[test]
    fn links_stay_inside() {
        for (link, target, want) in [
            ("a/layer.tar", "../b/layer.tar", "b/layer.tar"),
            ("a/layer.tar", "../b.tar", "b.tar"),
            ("a", "b", "b"),
        ] {
            assert_eq!(lead(link, target.as_bytes()).as_deref(), Ok(want), "{link} {target}");
        }
        for (link, target) in [("a/l", "../../b"), ("l", "../b"), ("l", "/etc/passwd")] {
            assert!(lead(link, target.as_bytes()).is_err(), "{link} {target}");
        }
    }

    #[test]
    fn pax_records_end_where_their_length_says() {
        let found = pax(b"16 comment=a\n=b\n9 path=a\n12 size=123\n").unwrap();
        let path = Some(b"a".to_vec());
        assert_eq!(found, Extended { path, target: None, size: Some(123) });
        for bad in [
            "8 path=a\n",
            "11 path=a\n",
            "99 path=a\n",
            "-1 path=a\n",
            " path=a\n",
            "8 path\n\n",
            "12 size=-12\n",
            "29 size=99999999999999999999\n",
            "22 GNU.sparse.major=1\n",
            "10 path=a",
        ] {
            assert!(pax(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
