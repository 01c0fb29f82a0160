//! `images`, `rmi`: the images of the node.

use clap::Args;
use serde_json::{Value, json};
use tonic::Code;

use super::connect::Client;
use super::error::Error;
use super::print::Output;
use super::print::table::{Cell, Table};
use super::screen::Screen;
use crate::proto::podbay::v1::{Image, ListImagesRequest, RemoveImageRequest};

/// Number of digits of an image id in a table.
const SHORT: usize = 12;

/// What `images` takes.
#[derive(Debug, Clone, Args)]
pub struct ImagesArgs {
    /// Only the image with this name or id
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
    /// Show full ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Output format: json, yaml, name, jsonpath=... or custom-columns=...
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// What `rmi` takes.
#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    /// Image names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// Lists images.
pub async fn images(client: &mut Client, args: &ImagesArgs, screen: Screen) -> Result<(), Error> {
    let request = ListImagesRequest { image: args.image.clone().unwrap_or_default() };
    let mut images = client.images.list_images(request).await?.into_inner().images;
    images.sort_by(|a, b| (&a.tags, &a.id).cmp(&(&b.tags, &b.id)));
    let output = args.output.clone().unwrap_or_default();
    if matches!(output, Output::Name) {
        let names = images.iter().map(|image| image.tags.first().unwrap_or(&image.id));
        return screen.print(&names.map(|name| format!("{name}\n")).collect::<String>());
    }
    if !output.is_table() {
        let objects: Vec<_> = images.iter().map(object).collect();
        return screen.print(&output.objects(&objects, true).map_err(Error::Misuse)?);
    }
    let header = ["IMAGE", "TAG", "IMAGE ID", "SIZE"];
    let rows: Vec<_> = images.iter().flat_map(|image| rows(image, args.no_trunc)).collect();
    screen.print(&Table::new(header, screen.colours).rows(&rows))
}

fn object(image: &Image) -> Value {
    json!({
        "kind": "Image", "id": image.id, "repoTags": image.tags,
        "repoDigests": image.digests, "size": image.size, "pinned": image.pinned,
    })
}

/// A row for each name; one without a name if there is none.
fn rows(image: &Image, whole: bool) -> Vec<Vec<Cell>> {
    let id = image.id.trim_start_matches("sha256:");
    let id = if whole { image.id.as_str() } else { id.get(..SHORT).unwrap_or(id) };
    let row = |name: &str, tag: &str| -> Vec<Cell> {
        vec![name.into(), tag.into(), id.into(), size(image.size).into()]
    };
    if image.tags.is_empty() {
        let digest = image.digests.first().and_then(|name| name.split_once('@'));
        return vec![row(digest.map_or("<none>", |(name, _)| name), "<none>")];
    }
    let named = |name: &String| match name.rsplit_once(':') {
        // After the last colon there is a port if it contains a slash.
        Some((name, tag)) if !tag.contains('/') => row(name, tag),
        _ => row(name, "<none>"),
    };
    image.tags.iter().map(named).collect()
}

/// Formats bytes with three digits and a unit.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        value if unit == 0 => format!("{value}B"),
        value if value < 9.995 => format!("{value:.2}{}", units[unit]),
        value if value < 99.95 => format!("{value:.1}{}", units[unit]),
        value => format!("{value:.0}{}", units[unit]),
    }
}

/// Removes images; a failure does not keep others from being removed.
pub async fn remove(client: &mut Client, args: &RemoveArgs, screen: Screen) -> Result<(), Error> {
    let mut fault = None;
    for image in &args.images {
        let request = RemoveImageRequest { image: image.clone() };
        match client.images.remove_image(request).await {
            Ok(_) => screen.print(&format!("image {image} deleted\n"))?,
            Err(status) if status.code() == Code::Unavailable => return Err(status.into()),
            Err(status) => {
                if let Some(earlier) = fault.replace(Error::from(status)) {
                    screen.note(earlier.report().trim_end());
                }
            }
        }
    }
    fault.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let rows = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (12_345, "12.3kB"),
            (999_499, "999kB"),
            (999_500, "1.00MB"),
            (4_270_000_000, "4.27GB"),
            (u64::MAX, "18446744TB"),
        ];
        for (bytes, text) in rows {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn names_ports_and_digests() {
        let image = Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            tags: vec!["localhost:5000/a:1".to_owned(), "b:2".to_owned()],
            size: 1000,
            ..Image::default()
        };
        let short = "abababababab";
        let row = |name: &str, tag: &str| -> Vec<Cell> {
            vec![name.into(), tag.into(), short.into(), "1.00kB".into()]
        };
        assert_eq!(rows(&image, false), [row("localhost:5000/a", "1"), row("b", "2")]);
        let digest = vec!["c@sha256:0".to_owned()];
        let unnamed = Image { tags: vec![], digests: digest, ..image };
        assert_eq!(rows(&unnamed, false), [row("c", "<none>")]);
    }
}
