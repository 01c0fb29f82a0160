//! Reads the entries of a tar archive one by one.

use bytes::{Bytes, BytesMut};

use super::MAX_ENTRIES;
use super::header::{self, BLOCK, Extended, Kind, MAX_PATH, Raw};
use super::input::Input;
use crate::image::Error;

/// Maximum size of an extended header: names, times, and attributes that are ignored.
const MAX_PAX: u64 = 64 << 10;
/// Maximum number of bytes after the end-of-archive marker; writers pad their last record.
const MAX_TAIL: u64 = 16 << 20;

/// A kind of entry that is processed.
pub(super) enum Entry {
    /// A file of this size, whose bytes are read with [`Entries::body`].
    File { path: String, size: u64 },
    /// Another name of a file.
    Link { path: String, target: String },
}

/// A tar archive being read.
pub(super) struct Entries {
    input: Input,
    count: usize,
    /// Unread bytes of the current body.
    left: u64,
    /// Unread padding after the current body.
    fill: u64,
}

impl Entries {
    pub fn new(input: Input) -> Self {
        Self { input, count: 0, left: 0, fill: 0 }
    }

    /// The next file or link; directories are skipped. Discards the unread rest of the previous
    /// body.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut extended = Extended::default();
        loop {
            self.skip().await?;
            let mut block = [0; BLOCK];
            match self.input.exact(&mut block).await? {
                // Some writers omit the end-of-archive marker.
                0 if extended == Extended::default() => return Ok(None),
                BLOCK => {}
                _ => return Err(Error::bad_archive("it is truncated")),
            }
            let raw = header::parse(&block).map_err(Error::bad_archive)?;
            let Raw::Of(kind, mut fields) = raw else {
                self.tail().await?;
                return Ok(None);
            };
            self.count += 1;
            if self.count > MAX_ENTRIES {
                return Err(Error::bad_archive(format!("it has over {MAX_ENTRIES} entries")));
            }
            if matches!(kind, Kind::File | Kind::Folder | Kind::Link) {
                fields.path = extended.path.take().unwrap_or(fields.path);
                fields.target = extended.target.take().unwrap_or(fields.target);
                fields.size = extended.size.take().unwrap_or(fields.size);
            }
            self.left = fields.size;
            self.fill = fields.size.wrapping_neg() % BLOCK as u64;
            match kind {
                Kind::Folder | Kind::Link if fields.size > 0 => {
                    return Err(Error::bad_archive("an entry that is not a file has data"));
                }
                Kind::Folder => {
                    header::clean(&fields.path).map_err(Error::bad_archive)?;
                }
                Kind::File => {
                    let path = named(&fields.path)?;
                    return Ok(Some(Entry::File { path, size: fields.size }));
                }
                Kind::Link => {
                    let path = named(&fields.path)?;
                    let target = header::lead(&path, &fields.target);
                    let target = target.map_err(Error::bad_archive)?;
                    return Ok(Some(Entry::Link { path, target }));
                }
                Kind::LongName => once(&mut extended.path, self.long().await?)?,
                Kind::LongLink => once(&mut extended.target, self.long().await?)?,
                Kind::Pax => self.pax(&mut extended).await?,
                Kind::PaxGlobal => {
                    let global = self.whole(MAX_PAX).await?;
                    if header::pax(&global).map_err(Error::bad_archive)? != Extended::default() {
                        return Err(Error::bad_archive("one name or size for all entries"));
                    }
                }
            }
        }
    }

    /// The next bytes of the current file; `None` at its end.
    pub async fn body(&mut self) -> Result<Option<Bytes>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        let piece = self.input.piece(self.left).await?;
        let piece = piece.ok_or_else(|| Error::bad_archive("it is truncated"))?;
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }

    /// The complete current file, of at most `most` bytes.
    pub async fn whole(&mut self, most: u64) -> Result<Bytes, Error> {
        if self.left > most {
            return Err(Error::bad_archive(format!("a document is larger than {most} bytes")));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.body().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    async fn pax(&mut self, extended: &mut Extended) -> Result<(), Error> {
        let body = self.whole(MAX_PAX).await?;
        let found = header::pax(&body).map_err(Error::bad_archive)?;
        found.path.map_or(Ok(()), |path| once(&mut extended.path, path))?;
        found.target.map_or(Ok(()), |target| once(&mut extended.target, target))?;
        found.size.map_or(Ok(()), |size| once(&mut extended.size, size))
    }

    /// A long name stored as a body; trailing zeros are removed.
    async fn long(&mut self) -> Result<Vec<u8>, Error> {
        let mut name = self.whole(2 * MAX_PATH as u64).await?.to_vec();
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    async fn skip(&mut self) -> Result<(), Error> {
        while self.body().await?.is_some() {}
        while self.fill > 0 {
            // The very last block may be truncated.
            let Some(piece) = self.input.piece(self.fill).await? else { break };
            self.fill -= piece.len() as u64;
        }
        self.fill = 0;
        Ok(())
    }

    /// Reads to the end of the upload, so that the sender gets a result instead of a reset
    /// connection.
    async fn tail(&mut self) -> Result<(), Error> {
        let mut left = MAX_TAIL;
        while let Some(piece) = self.input.piece(u64::MAX).await? {
            let rest = left.checked_sub(piece.len() as u64);
            left = rest.ok_or_else(|| Error::bad_archive("it continues after its end"))?;
        }
        Ok(())
    }
}

fn named(raw: &[u8]) -> Result<String, Error> {
    match header::clean(raw) {
        Ok(path) if path.is_empty() => Err(Error::bad_archive("an entry has no name")),
        cleaned => cleaned.map_err(Error::bad_archive),
    }
}

/// Fails on a repeated field: different readers would use different ones.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Error> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::bad_archive("an entry is described twice")),
    }
}
