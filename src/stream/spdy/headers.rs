//! Header blocks: zlib with SPDY's dictionary, in one zlib stream per connection and direction.

use std::sync::LazyLock;

use flate2::{Decompress, FlushDecompress, Status};

use super::{Limits, Violation};

/// First part of the dictionary: words, each preceded by its length (SPDY/3 section 2.6.10.1).
#[rustfmt::skip]
const WORDS: [&str; 65] = [
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset",
    "accept-encoding", "accept-language", "accept-ranges", "age", "allow", "authorization",
    "cache-control", "connection", "content-base", "content-encoding", "content-language",
    "content-length", "content-location", "content-md5", "content-range", "content-type",
    "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "last-modified", "location",
    "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range", "referer",
    "retry-after", "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
    "vary", "via", "warning", "www-authenticate", "method", "get", "status", "200 OK",
    "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin",
];

/// Second part of the dictionary: plain text.
const TEXT: &str = "\
    1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045\
    05203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request40\
    1 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 \
    Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, W\
    ed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/x\
    ml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sd\
    chcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Adler-32 of the dictionary, its id in a zlib stream.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let word = |word: &&str| [&(word.len() as u32).to_be_bytes()[..], word.as_bytes()].concat();
    let mut bytes: Vec<u8> = WORDS.iter().flat_map(word).collect();
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
});

/// The headers of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header; `name` is lower-case, as are all names on the wire.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Invalid headers that decompress correctly; they end their stream, not the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeaders {
    /// Names must be lower-case.
    #[error("a header name is empty or not in lower case")]
    Name,
    /// Each name must occur once, with all its values.
    #[error("a header name twice")]
    Twice,
    /// Longer than [`Limits::stream_header_bytes`]; headers are stored until the stream is
    /// accepted.
    #[error("too many bytes of headers for one stream")]
    Long,
    /// Not UTF-8, which Kubernetes clients always use.
    #[error("a header that is not UTF-8")]
    Text,
}

/// The decompression state, created at the first headers.
#[derive(Debug, Default)]
pub struct Inflater(Option<Decompress>);

impl Inflater {
    /// Decompresses one block, which ends with a flush, to at most `limit` bytes.
    fn inflate(&mut self, block: &[u8], limit: usize) -> Result<Vec<u8>, Violation> {
        let zlib = self.0.get_or_insert_with(|| Decompress::new(true));
        let mut plain = Vec::new();
        let start = zlib.total_in();
        loop {
            let rest = &block[(zlib.total_in() - start) as usize..];
            let before = (rest.len(), plain.len());
            // At most one byte more than the limit is decompressed.
            plain.reserve_exact(before.1.clamp(512, 256 << 10).min(limit + 1 - before.1));
            match zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(Violation::Compression),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    zlib.set_dictionary(&DICTIONARY).map_err(|_| Violation::Compression)?;
                    continue;
                }
                Err(_) => return Err(Violation::Compression),
            }
            if plain.len() > limit {
                return Err(Violation::HeaderBytes(limit));
            }
            let left = block.len() - (zlib.total_in() - start) as usize;
            if left == 0 && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if (left, plain.len()) == before {
                return Err(Violation::Compression);
            }
        }
    }
}

/// Decompresses and parses a header block.
pub(super) fn parse(
    inflater: &mut Inflater,
    block: &[u8],
    limits: &Limits,
) -> Result<Result<Headers, BadHeaders>, Violation> {
    let plain = inflater.inflate(block, limits.header_bytes)?;
    let mut rest = plain.as_slice();
    let count = number(&mut rest)?;
    if count as usize > limits.headers {
        return Err(Violation::HeaderCount(count));
    }
    let mut fields = Vec::new();
    for _ in 0..count {
        fields.push((field(&mut rest)?, field(&mut rest)?));
    }
    if !rest.is_empty() {
        return Err(Violation::HeaderBlock);
    }
    Ok(checked(&fields, limits))
}

fn checked(fields: &[(&[u8], &[u8])], limits: &Limits) -> Result<Headers, BadHeaders> {
    let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits.stream_header_bytes {
        return Err(BadHeaders::Long);
    }
    let mut names = std::collections::HashSet::with_capacity(fields.len());
    let mut headers = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| BadHeaders::Text);
        let (name, value) = (text(name)?, text(value)?);
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(BadHeaders::Name);
        }
        if !names.insert(name) {
            return Err(BadHeaders::Twice);
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    Ok(Headers(headers))
}

fn number(rest: &mut &[u8]) -> Result<u32, Violation> {
    let (bytes, after) = rest.split_first_chunk().ok_or(Violation::HeaderBlock)?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes))
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Violation> {
    let length = number(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Violation::HeaderBlock)?;
    *rest = after;
    Ok(bytes)
}

/// An empty header block, the only kind that this server sends. It is stored rather than
/// compressed: that is valid zlib without a compressor, which would keep 256 KiB per connection.
/// `first` starts the zlib stream.
pub(super) fn empty_block(first: bool) -> Vec<u8> {
    let mut block = Vec::with_capacity(20);
    if first {
        // zlib header: deflate, 32 KiB window, preset dictionary.
        block.extend_from_slice(&[0x78, 0x20]);
        block.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
    }
    // A stored block with the count 0, then an empty block: the flush that makes a reader output
    // what it has.
    block.extend_from_slice(&[0, 4, 0, !4, !0, 0, 0, 0, 0]);
    block.extend_from_slice(&[0, 0, 0, !0, !0]);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_spdy_3() {
        assert_eq!(DICTIONARY.len(), 1423);
        let mut zlib = flate2::Compress::new(flate2::Compression::default(), true);
        assert_eq!(zlib.set_dictionary(&DICTIONARY).unwrap(), DICTIONARY_ID);
    }
}
